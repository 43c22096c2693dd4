"""Every reader returns the same pixels, and the table says who is faster at how much disk."""

import numpy as np
import pandas as pd
import pytest

from cellsignal.studies.performance import readers, readers_bench


@pytest.fixture(scope="module")
def sites(simulated):
    from cellsignal.competitions.rxrx1.competition import RxRx1

    root = simulated("rxrx1")
    return [tuple(str(root / name) for name in files) for files in RxRx1().samples(root).files[:3]]


def row(library, disk, milliseconds, codec="c"):
    times = {name: milliseconds for name in ("ordered", "random", "half", "quarter", "cold")}
    rates = {name: 100.0 for name in ("t1", "t2", "t4", "p1", "p2")}
    return {"library": library, "codec": codec, "layout": "", "disk": disk} | times | rates


def test_the_verdict_compares_at_no_more_disk():
    rows = [row("cv2", 1.0, 10.0), row("cellsignal", 1.2, 2.0, "zstd")]
    rows += [row("cellsignal", 2.9, 0.5, "raw"), row("tensorstore", 1.4, 3.0)]
    rows += [row("zarrs", 1.4, 1.0), row("zarr-python", 1.1, 9.0)]
    text = readers_bench.readers_text(pd.DataFrame(rows))
    assert "For 1 of the 3 rows" in text and "tensorstore, c (disk" not in text
    assert "zarrs, c (disk 1.40) is faster: ordered 1 ms, ours 2; random 1 ms, ours 2" in text
    assert "zarr-python, c (disk 1.10) is faster: ordered 9 ms, ours inf" in text
    (ours,) = [line for line in text.splitlines() if line.startswith("| cellsignal | zstd")]
    assert [cell.strip() for cell in ours.split("|")][4:7] == ["1.20", "2", "5"]


@pytest.mark.slow
def test_every_reader_is_measured(sites):
    table = readers_bench.bench_readers(sites, 16, rounds=1, reads=2)
    assert set(table.library) >= {"cv2", "cellsignal", "zarr-python"}
    numbers = table.drop(columns=["library", "codec", "layout"])
    assert (numbers > 0).all().all() and np.isfinite(numbers.to_numpy()).all()
    assert table.disk[0] == 1


@pytest.mark.slow
def test_other_pixels_are_noticed(sites, tmp_path, monkeypatch):
    write = readers._write
    monkeypatch.setattr(
        readers, "_write", lambda images, *more: write([i + 1 for i in images], *more)
    )
    with pytest.raises(AssertionError, match="other pixels"):
        readers.write_sources(sites, tmp_path)
