"""Every reader returns the same pixels, and the table says who is faster at how much disk."""

import numpy as np
import pandas as pd
import pytest

from cellsignal.cli import main
from cellsignal.studies.performance import readers, readers_bench, readers_page


@pytest.fixture(scope="module")
def sites(simulated):
    from cellsignal.competitions.rxrx1.competition import RxRx1

    root = simulated("rxrx1")
    return [tuple(str(root / name) for name in files) for files in RxRx1().samples(root).files[:3]]


def row(library, disk, milliseconds, codec="c"):
    times = {name: milliseconds for name in ("ordered", "random", "half", "quarter", "cold")}
    rates = {name: 100.0 for name in ("t1", "t2", "t4", "p1", "p2", "p4")}
    about = {"library": library, "codec": codec, "layout": "", "disk": disk}
    return about | times | {"least": milliseconds} | rates


def table_of(*rows):
    ours = [row("cv2", 1.0, 10.0)]
    for codec, disk, time in (("zstd", 1.2, 2.0), ("raw", 2.9, 0.5)):
        ours += [row("cellsignal", disk, time, codec)]
        ours += [row("cellsignal, a new buffer each", disk, time + 1.0, codec)]
    return pd.DataFrame([*ours, *rows])


def cells(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_verdict_compares_one_codec_at_no_more_disk():
    others = [row("tensorstore", 1.4, 3.0), row("zarrs", 1.4, 1.0), row("zarr-python", 1.1, 9.0)]
    text = readers_page.readers_text(table_of(*others))
    verdict = text[text.index("The verdict") :]
    assert "1 of 3 rows are met." in verdict
    ratios = ["1.50"] * 5 + ["1.00"] * 6
    assert cells(verdict, "| tensorstore") == (
        ["tensorstore", "c", "", "1.40", "zstd", "1.20", *ratios, "1.00", "yes"]
    )
    assert cells(verdict, "| zarrs")[4:8] == ["zstd", "1.20", "0.50", "0.50"]
    assert cells(verdict, "| zarrs")[-2:] == ["0.33", "**no**"]
    assert cells(verdict, "| zarr-python")[4] == "none"
    (line,) = [line for line in verdict.splitlines() if line.startswith("- zarrs, c")]
    assert line.startswith("- zarrs, c (disk 1.400) against zstd (1.200): whole 0.50; random sites")
    assert line.endswith("cold 0.50. With 107.1 % more disk ours is raw: whole 2.00.")
    ours = cells(text, "| cellsignal | zstd")
    assert ours[3:5] == ["1.20", "2"] and ours[9:11] == ["2", "5"]


def test_a_rate_decides_as_well_and_two_threads_are_set_against_one():
    slow = row("tensorstore", 1.4, 3.0) | {"t2": 180.0}
    text = readers_page.readers_text(table_of(slow))
    assert "0 of 1 rows are met." in text and ": 2 threads 0.56. With" in text
    assert "ours zstd 1.00, raw 1.00; the best of the others tensorstore 1.80." in text
    # of some ways alone
    columns = ["library", "codec", "layout", "disk", "t1", "t2", "t4"]
    text = readers_page.readers_text(table_of(slow)[columns])
    assert "0 of 1 rows are met." in text and "cold" not in text and "x cv2" not in text


@pytest.mark.parametrize(("minutes", "expected"), [(0, 2), (60, 5)])
def test_rounds_end_with_the_time(minutes, expected):
    assert list(readers_bench._rounds(5, 60 * minutes)) == list(range(expected))


@pytest.mark.slow
def test_every_reader_is_measured_and_the_page_is_whole(simulated, tmp_path):
    out = tmp_path / "readers.md"
    words = ["study", "readers", "--root", simulated("rxrx1"), "--sizes", "16", "--rounds", "1"]
    words += ["--libraries", "zarr-python", "--codecs", "lz4hc", "--ways", "single", "threads"]
    assert main([*map(str, words), "--minutes", "0", "--out", str(out)]) == 0
    text = out.read_text()
    assert "rows are met." in text and "    cellsignal study readers --root data/rxrx1" in text
    for codec in ("zstd", "lz4", "raw"):
        assert f"| cellsignal | {codec} |" in text
        assert f"| zarr-python | {codec} | the store of cellsignal |" in text


@pytest.mark.slow
def test_numbers_are_positive_and_of_the_ways_that_are_asked_for(sites):
    plan = readers_bench.Plan(("zarr-python",), ("lz4hc 9",), rounds=1, reads=4)
    table = readers_bench.bench_readers(sites, 16, plan)
    numbers = table.drop(columns=["library", "codec", "layout"])
    assert (numbers > 0).all().all() and np.isfinite(numbers.to_numpy()).all()
    assert table.disk[0] == 1 and set(table.codec) == {"PNG", "zstd", "lz4", "raw", "lz4hc 9"}
    plan = readers_bench.Plan(("zarr-python",), (), ("threads",), rounds=1, reads=4)
    assert [*readers_bench.bench_readers(sites, 16, plan).columns][4:] == ["t1", "t2", "t4"]


@pytest.mark.slow
def test_other_pixels_are_noticed(sites, tmp_path, monkeypatch):
    write = readers._write
    monkeypatch.setattr(
        readers, "_write", lambda images, *more: write([i + 1 for i in images], *more)
    )
    with pytest.raises(AssertionError, match="other pixels"):
        readers.write_sources(sites, tmp_path)
