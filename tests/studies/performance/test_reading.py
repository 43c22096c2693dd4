"""The reading benchmark runs on a few small sites, and its table says what was measured."""

import builtins
import os

import numpy as np
import pytest

from cellsignal.studies.performance import reading

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sites(simulated):
    from cellsignal.competitions.rxrx1.competition import RxRx1

    root = simulated("rxrx1")
    return [tuple(str(root / name) for name in files) for files in RxRx1().samples(root).files[:3]]


def test_every_reader_reads_and_is_compared(sites):
    pytest.importorskip("skimage")
    table = reading.bench_reading(sites, rounds=1)
    height = reading.cv2_read(sites[0]).shape[1]
    assert (
        table.reader[:2].tolist() == [reading.SKIMAGE, reading.CV2]
        and table.reader.is_unique
        and len(table) == 26
    )
    assert (table.ms > 0).all()
    np.testing.assert_allclose(table.x_cv2, table.ms[1] / table.ms)
    np.testing.assert_allclose(table.x_skimage * table.ms, table.ms[0])
    parts = table.reader.str.contains("rows of it")
    assert (table.disk.isna() == parts).all() and (table.disk[:2] == 1).all()
    raw = table[table.reader == f"cellsignal store, raw, {height} px"].iloc[0]
    pixels = len(sites) * reading.cv2_read(sites[0]).size
    png = sum(os.path.getsize(file) for site in sites for file in site)
    assert raw.disk == pytest.approx(pixels / png)
    text = reading.reading_text(table)
    assert (
        len(text.splitlines()) == 28
        and "nan" not in text
        and {line.count("|") for line in text.splitlines()} == {7}
    )


def test_without_scikit_image_its_row_says_so(sites, monkeypatch):
    original = builtins.__import__

    def absent(name, *arguments, **more):
        if name.startswith("skimage"):
            raise ImportError(name)
        return original(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    table = reading.bench_reading(sites[:1], rounds=1)
    assert np.isnan(table.ms[0]) and table.x_skimage.isna().all() and (table.ms[1:] > 0).all()
    assert f"{reading.SKIMAGE}: not installed" in reading.reading_text(table)


def test_processes_and_threads_are_counted(sites):
    table = reading.bench_reading_processes(sites, reads=5, rounds=1)
    assert table.workers.tolist() == ["process", "process", "thread", "thread"]
    assert table.codec.tolist() == ["zstd", "lz4"] * 2
    assert (table[["one", "two"]] > 0).all(axis=None)
    np.testing.assert_allclose(table.ratio, table.two / table.one)


def test_a_rate_counts_all_from_the_first_start_to_the_last_end():
    assert reading._rate([(10.0, 12.0), (10.5, 14.0)], 100) == 200 / 4
