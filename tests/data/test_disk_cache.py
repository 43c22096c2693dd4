"""The cache keeps its limit, throws out what was used least recently, and serves half of what half
of the sites can.
"""

import errno
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cellsignal.data import disk_cache
from cellsignal.data.disk_cache import BLOCK, DiskCache


def cache_of(tmp_path, blocks, seed=0):
    cache = DiskCache(tmp_path / "sites", blocks * BLOCK)
    cache._random.seed(seed)
    return cache


def names(tmp_path):
    files = (tmp_path / "sites").rglob("*")
    return {file.name for file in files if file.is_file() and file.name[0] != "."}


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_copy_is_read_back_and_dropped(tmp_path):
    cache = cache_of(tmp_path, 4)
    assert cache.read("a/1.0") is None
    cache.write("a/1.0", [b"one", np.arange(3, dtype=np.uint8)])
    assert cache.read("a/1.0").tobytes() == b"one\x00\x01\x02"
    cache.write("a/1.0", [b"two"])
    assert cache.read("a/1.0").tobytes() == b"two"
    cache.drop("a/1.0")
    cache.drop("a/1.0")
    assert cache.read("a/1.0") is None


def test_without_a_limit_nothing_is_written(tmp_path):
    cache = cache_of(tmp_path, 0)
    cache.write("a", [b"x"])
    assert cache.read("a") is None and not (tmp_path / "sites").exists()


def test_the_copies_used_least_recently_go_first(tmp_path):
    cache = cache_of(tmp_path, 10)
    for number in range(10):
        cache.write(f"k/{number}", [b"x" * BLOCK])
        age(cache.path(f"k/{number}"), 2 * disk_cache.UNUSED - 100 * number)
    assert len(names(tmp_path)) == 10
    assert cache.read("k/0") is not None  # used now: noted
    cache.write("k/new", [b"y" * BLOCK])
    # unused for a day, so the new one comes in; a twentieth is then free, rounded up to a block
    assert names(tmp_path) == {"0", "3", "4", "5", "6", "7", "8", "9", "new"}
    cache.write("k/too large", [b"z" * 11 * BLOCK])
    assert "too large" not in names(tmp_path)


def test_small_files_count_as_blocks_and_a_lower_limit_is_kept(tmp_path):
    cache = cache_of(tmp_path, 8)
    for number in range(30):
        cache.write(f"k/{number}", [b"small"])
    assert len(names(tmp_path)) <= 8
    lower = cache_of(tmp_path, 4)
    for number in range(30, 200):
        lower.write(f"k/{number}", [b"small"])
    assert len(names(tmp_path)) <= 4


def hits_of(cache, sites, epochs):
    order, hits = np.random.default_rng(1), []
    for _ in range(epochs):
        count = 0
        for site in order.permutation(sites):
            if cache.read(f"k/{site}") is not None:
                count += 1
            else:
                cache.write(f"k/{site}", [b"x"])
        hits.append(count / sites)
    return hits


def test_a_cache_of_half_the_sites_serves_nearly_half(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, "NOTED", -1)  # every use
    sites, half = 200, 100
    ours = hits_of(cache_of(tmp_path / "ours", half), sites, 6)
    assert ours[0] == 0
    monkeypatch.setattr(disk_cache, "SHARE", 1.0)  # all come in: plain LRU
    lru = hits_of(cache_of(tmp_path / "lru", half), sites, 6)
    expected = 0.5 + 0.5 * np.log(0.5)
    assert np.mean(ours[2:]) > 0.38
    assert abs(np.mean(lru[2:]) - expected) < 0.06


def test_a_full_disk_ends_the_keeping_with_one_warning(tmp_path, monkeypatch, caplog):
    cache = cache_of(tmp_path, 10)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.write("a", [b"x"])
    cache.write("b", [b"x"])
    (line,) = caplog.messages
    assert "No space left on device" in line and "fetched each time" in line
    assert names(tmp_path) == set() and not list((tmp_path / "sites").glob("*.tmp"))


def test_what_a_killed_process_left_goes(tmp_path):
    cache = cache_of(tmp_path, 2)
    cache.write("k/0", [b"x"])
    orphan, young = tmp_path / "sites/k/.host-1-1.tmp", tmp_path / "sites/k/.host-2-1.tmp"
    for file in (orphan, young):
        file.write_bytes(b"half")
    age(orphan, disk_cache.ORPHANED + 10)
    for number in range(1, 4):
        cache.write(f"k/{number}", [b"x"])
    assert young.exists() and not orphan.exists()


@pytest.mark.parametrize("text", [b"", b"nonsense", b"-0000000000000000001"])
def test_a_damaged_count_is_made_anew(tmp_path, text):
    cache = cache_of(tmp_path, 5)
    for number in range(3):
        cache.write(f"k/{number}", [b"x"])
    (tmp_path / "sites/.used").write_bytes(text)
    cache.write("k/3", [b"x"])
    assert int((tmp_path / "sites/.used").read_bytes()) == 4 * BLOCK
    assert len(names(tmp_path)) == 4


def _write_many(folder, first):
    cache = DiskCache(folder, 10 * BLOCK)

    def write(start):
        for number in range(start, start + 25):
            cache.write(f"k/{number}", [number.to_bytes(4, "little") * 100])
            copy = cache.read(f"k/{number}")
            assert copy is None or copy.tobytes() == number.to_bytes(4, "little") * 100

    with ThreadPoolExecutor(2) as threads:  # hands on what is raised, which a plain thread does not
        list(threads.map(write, (first, first + 100)))


def test_processes_and_threads_share_one_limit(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_write_many, args=(tmp_path / "sites", 1000 * number))
        for number in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    # six writers: a copy that is being written while another process counts is not seen
    assert 0 < len(names(tmp_path)) <= 10 + 6
    for name in names(tmp_path):
        assert (tmp_path / "sites/k" / name).read_bytes() == int(name).to_bytes(4, "little") * 100
