"""The store against zarr, the pixels, and damage."""

import functools
import json
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd
import pytest
import zarr
from tiny_store import (
    CHANNELS,
    TinyCompetition,
    prepare_as_before,
    set_band,
    tiny_samples,
    write_root,
)

from cellsignal.common.errors import InputError
from cellsignal.competitions.samples import check_samples
from cellsignal.data.pack import pack, prepare
from cellsignal.data.store import Store
from cellsignal.data.store_files import parse_samples, read_gzip, samples_text, write_gzip
from cellsignal.images import read_png8


@pytest.fixture(scope="module", params=["zstd", "zstd before", "lz4", "raw"])
def made(request, tmp_path_factory):
    """(images, path of their store), of each codec; row 3 lacks a file, row 7 is black in one
    channel.
    """
    folder = tmp_path_factory.mktemp("store")
    images = write_root(folder / "root")
    images[7, 1] = 0
    images[8] = 0
    files = tiny_samples().files
    for row, channel in ((7, 1), (8, 0), (8, 1), (8, 2)):
        cv2.imwrite(str(folder / "root" / files[row][channel]), images[row, channel])
    (folder / "root" / files[3][2]).unlink()
    if request.param == "zstd before":
        prepare_as_before(folder / "root", folder / "out")
    else:
        prepare(TinyCompetition(), folder / "root", folder / "out", codec=request.param)
    return images, folder / "out"


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "copy")
    return tmp_path / "copy"


def test_pixels_and_statistics_are_those_of_the_files(made):
    images, path = made
    store = Store.open(path)
    assert (
        store.channels == CHANNELS
        and store.shape == (3, 16, 20)
        and store.source["competition"] == "tiny"
    )
    assert store.samples.row.tolist() == [row for row in range(12) if row != 3]
    for row in store.samples.row:
        np.testing.assert_array_equal(store.read(row), images[row])
        np.testing.assert_allclose(store.mean[row], images[row].mean((1, 2)), rtol=1e-6)
        np.testing.assert_allclose(store.sd[row], images[row].std((1, 2)), rtol=1e-6)
    assert np.isnan(store.mean[3]).all() and np.isnan(store.sd[3]).all()
    assert [sample_id for sample_id, _ in store.skipped] == ["exp-1_0_W01_s2"]


def test_any_zarr_reader_reads_it(made):
    images, path = made
    array = zarr.open_group(path, mode="r")["images"]
    info = Store.open(path).info
    kind = info["codec"] if info.get("joined") else f"{info['codec']} before"
    assert array.shape == (12, 3, 16, 20) and array.dtype == np.uint8
    assert (array.chunks, array.shards) == {
        "zstd": ((1, 3, 16, 20), (1, 3, 16, 20)),
        "lz4": ((1, 3, 16, 20), (1, 3, 16, 20)),
        "zstd before": ((1, 1, 16, 20), (1, 3, 16, 20)),
        "raw before": ((1, 3, 16, 20), None),
    }[kind]
    kept = [row for row in range(12) if row != 3]
    np.testing.assert_array_equal(array[:][kept], images[kept])
    np.testing.assert_array_equal(Store.open(path).images[5], images[5])
    assert zarr.open_group(path, mode="r")["status"][:].tolist() == [1, 1, 1, 2] + [1] * 8


def test_samples_come_back_as_they_were(made):
    store = Store.open(made[1])
    expected = tiny_samples().drop(index=3).reset_index(drop=True)
    pd.testing.assert_frame_equal(store.samples.drop(columns="row"), expected)


def test_the_content_hash_is_that_of_the_images_alone(tmp_path):
    write_root(tmp_path / "root")
    hashes = {}
    for codec in ("zstd", "lz4", "raw"):
        prepare(TinyCompetition(), tmp_path / "root", tmp_path / codec, codec=codec)
        hashes[codec] = Store.open(tmp_path / codec).content_hash
    assert (
        hashes["zstd"]
        == hashes["lz4"]
        == hashes["raw"]
        == pickle.loads(pickle.dumps(Store.open(tmp_path / "raw"))).content_hash
    )
    plane = tmp_path / "root" / tiny_samples().files[4][1]
    pixels = cv2.imread(str(plane), cv2.IMREAD_GRAYSCALE)
    pixels[3, 5] ^= 1
    cv2.imwrite(str(plane), pixels)
    prepare(TinyCompetition(), tmp_path / "root", tmp_path / "changed")
    plane.unlink()
    prepare(TinyCompetition(), tmp_path / "root", tmp_path / "missing")
    prepare(TinyCompetition(), tmp_path / "root", tmp_path / "small", size=16)
    others = {Store.open(tmp_path / name).content_hash for name in ("changed", "missing", "small")}
    assert len(others | {hashes["raw"]}) == 4


def test_reads_into_a_slice_of_a_batch(made):
    images, path = made
    store, batch = Store.open(path), np.full((4, 3, 16, 20), 9, np.uint8)
    assert store.read(5, out=batch[1]).base is batch
    np.testing.assert_array_equal(batch[1], images[5])
    assert (batch[[0, 2, 3]] == 9).all()
    strided = np.empty((16, 20, 3), np.uint8).transpose(2, 0, 1)
    for rows in ((0, 17), (-1, 4), (5, 5), (6, 5)):
        with pytest.raises(ValueError, match="rows must be"):
            store.read(5, rows=rows)
    for out in (np.empty((3, 20, 16), np.uint8), np.empty((3, 16, 20), np.float32), strided):
        with pytest.raises(ValueError, match="C-contiguous"):
            store.read(5, out=out)


def test_pickles_small_and_reads_in_other_processes(made, monkeypatch):
    images, path = made
    monkeypatch.chdir(path.parent)
    store = pickle.loads(pickle.dumps(Store.open("out")))
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(store.read(4), images[4])
    store.images[0]  # zarr's thread runs in the parent when it forks
    with multiprocessing.get_context("fork").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(store.read, (4,)).get(20), images[4])


@pytest.mark.parametrize("codec", ["zstd", "lz4", "raw"])
def test_some_rows_of_many_threads_at_once(tmp_path, monkeypatch, codec):
    set_band(monkeypatch, 8)
    images = write_root(tmp_path / "root", shape=(64, 20))
    samples = tiny_samples()
    read = functools.partial(TinyCompetition().read, tmp_path / "root")
    pack(
        samples,
        read,
        tmp_path / "out",
        channels=CHANNELS,
        source={"competition": "tiny"},
        codec=codec,
    )
    store = Store.open(tmp_path / "out")
    assert store.images.chunks[2] == (64 if codec == "raw" else 8)
    np.testing.assert_array_equal(store.images[:], images)

    def wrong(number: int) -> bool:
        rng = np.random.default_rng(number)
        row, (top, bottom) = int(rng.integers(12)), np.sort(rng.choice(65, 2, replace=False))
        found = store.read(row, np.full(store.shape, 9, np.uint8), (int(top), int(bottom)))
        return not np.array_equal(found[:, top:bottom], images[row, :, top:bottom])

    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(wrong, range(300)))


@pytest.mark.parametrize("made", ["raw"], indirect=True)
def test_a_raw_row_is_held_to_its_checksum_when_first_read(made, copy):
    images, chunk = made[0], copy / "images" / "c.5.0.0.0"
    good = chunk.read_bytes()
    wrong = good[:-1] + bytes([good[-1] ^ 1])
    store = Store.open(copy)
    chunk.write_bytes(wrong)
    with pytest.raises(InputError, match="row 5 holds other pixels"):
        store.read(5, rows=(0, 2))  # the damage is elsewhere
    chunk.write_bytes(good)
    # the first time all is read
    np.testing.assert_array_equal(store.read(5, rows=(0, 2)), images[5])
    chunk.write_bytes(wrong)
    np.testing.assert_array_equal(store.read(5, rows=(0, 2))[:, :2], images[5][:, :2])
    assert [row for row, _ in store.check()] == [5]
    with pytest.raises(InputError, match="row 5 holds other pixels"):
        pickle.loads(pickle.dumps(store)).read(5)


def test_forked_workers_share_what_they_know(made):
    store = Store.open(made[1])
    worker = multiprocessing.get_context("fork").Process(target=store.read, args=(4,))
    worker.start()
    worker.join(20)
    assert np.flatnonzero(store._seen).tolist() == ([4] if store.info["codec"] == "raw" else [])


@pytest.mark.parametrize("row", [3, 12, -1])
def test_a_row_without_an_image_is_refused(made, row):
    with pytest.raises(InputError, match=f"row {row} holds no image"):
        Store.open(made[1]).read(row)


@pytest.mark.parametrize("damage", ["flip", "cut", "add", "last", "empty", "foreign", "remove"])
def test_damage_is_an_error_when_read_and_named_by_check(copy, damage):
    chunk = copy / "images" / "c.5.0.0.0"
    data = bytearray(chunk.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    if damage == "last":  # of the compressed: in the index
        data[-9] ^= 1
    if damage == "add":
        data += b"."
    chunk.write_bytes({"cut": data[:40], "empty": b"", "foreign": b"no zstd"}.get(damage, data))
    if damage == "remove":
        chunk.unlink()
    store = Store.open(copy)
    for rows in (None, (0, 2)):
        with pytest.raises(InputError, match=r"c\.5\.0\.0\.0") as caught:
            store.read(5, rows=rows)
        assert "\n" not in str(caught.value) and (
            damage == "remove" or "run `cellsignal prepare` again" in str(caught.value)
        )
    assert [row for row, message in store.check() if "row 5" in message] == [5]
    assert store.check(rows=[0, 6]) == []


def test_check_finds_a_chunk_swapped_for_another(copy):
    shutil.copy(copy / "images" / "c.0.0.0.0", copy / "images" / "c.5.0.0.0")
    damaged = Store.open(copy).check()
    assert len(damaged) == 1 and damaged[0][0] == 5 and "other pixels" in damaged[0][1]


def test_what_is_no_store_is_named(tmp_path, copy):
    with pytest.raises(InputError, match=r"there is no store.*prepare"):
        Store.open(tmp_path / "nowhere")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "a.txt").write_text("a")
    with pytest.raises(InputError, match="is not a store"):
        Store.open(tmp_path / "foreign")
    (tmp_path / "foreign" / "store.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="is not the description"):
        Store.open(tmp_path / "foreign")
    (tmp_path / "foreign" / "store.json").write_text("{")
    with pytest.raises(InputError, match=r"store\.json"):
        Store.open(tmp_path / "foreign")


def _edit_info(path, **changes):
    info = json.loads((path / "store.json").read_text())
    (path / "store.json").write_text(json.dumps(info | changes))


def test_a_store_that_does_not_fit_its_description_is_refused(copy, tmp_path):
    def refused(change, match):
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(copy, tmp_path / "bad")
        change(tmp_path / "bad")
        with pytest.raises(InputError, match=match) as caught:
            Store.open(tmp_path / "bad")
        assert "\n" not in str(caught.value)

    refused(lambda p: _edit_info(p, format=99), "format 99")
    refused(
        lambda p: (p / "store.json").write_text('{"format": 1, "n": 3}'),
        "store format 1, this version reads 2, 3, 4 and 5; pack it anew",
    )
    refused(
        lambda p: _edit_info(
            p,
            codec={"raw": "zstd", "zstd": "lz4", "lz4": "zstd"}[
                json.loads((p / "store.json").read_text())["codec"]
            ],
        ),
        "not those",
    )
    info = json.loads((copy / "store.json").read_text())
    if info["codec"] != "raw":
        refused(lambda p: _edit_info(p, codec="zstd", joined=not info.get("joined")), "not those")
    refused(lambda p: _edit_info(p, shape=[16, 16]), "not those")
    refused(lambda p: _edit_info(p, n=11), "not those")
    table = read_gzip(copy / "samples.csv.gz").replace("W02", "W09")
    refused(
        lambda p: write_gzip(p / "samples.csv.gz", table), r"samples\.csv\.gz: is not the table"
    )
    refused(lambda p: (p / "samples.csv.gz").unlink(), r"samples\.csv\.gz: cannot be read")
    refused(lambda p: shutil.rmtree(p / "mean"), "damaged")
    refused(lambda p: shutil.rmtree(p / "images"), "damaged")
    refused(lambda p: (p / "zarr.json").write_text("{"), "damaged")

    def other_means(path):
        zarr.open_group(path, mode="r+")["mean"][0, 0] = 1.0

    refused(other_means, "not those")


def test_text_that_looks_like_nothing_survives(tmp_path):
    frame = tiny_samples()
    frame["cell_type"], frame["plate"] = "NA", "01"
    frame["compound"] = frame.compound.where(frame.index != 4, "null")
    frame["files"] = frame.files.map(lambda files: tuple(f"ü;| ,'{name}" for name in files))
    frame = check_samples(frame, "text")
    pd.testing.assert_frame_equal(parse_samples(samples_text(frame), "text"), frame)


@pytest.mark.real_data
def test_real_images_are_pixel_exact_and_not_much_larger_than_png(real_data, tmp_path):
    files = sorted(
        str(path.relative_to(real_data)) for path in (real_data / "rxrx1" / "train").rglob("*.png")
    )
    assert len(files) == 72
    sites = [tuple(files[start : start + 6]) for start in range(0, 72, 6)]
    samples = tiny_samples(6)
    samples["files"] = sites
    channels = ("w1", "w2", "w3", "w4", "w5", "w6")
    report = pack(
        samples,
        _RealReader(real_data),
        tmp_path / "out",
        channels=channels,
        source={"competition": "real"},
    )
    store = Store.open(tmp_path / "out")
    assert report.n_packed == 12 and not report.skipped and store.shape == (6, 512, 512)
    for row, names in enumerate(sites):
        expected = np.stack(
            [cv2.imread(str(real_data / name), cv2.IMREAD_UNCHANGED) for name in names]
        )
        np.testing.assert_array_equal(store.read(row), expected)
        np.testing.assert_array_equal(
            store.read(row, rows=(300, 400))[:, 300:400], expected[:, 300:400]
        )
        np.testing.assert_allclose(store.mean[row], expected.mean((1, 2)), rtol=1e-6)
        np.testing.assert_allclose(store.sd[row], expected.std((1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(store.images[11], expected)
    packed = sum(os.path.getsize(path) for path in (tmp_path / "out" / "images").glob("c.*"))
    assert packed < 1.3 * sum((real_data / name).stat().st_size for name in files)


class _RealReader:
    def __init__(self, root):
        self.root = root

    def __call__(self, files):
        return np.stack([read_png8(self.root / name) for name in files])
