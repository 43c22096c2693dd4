"""Remote sites have the local store's pixels, for few requests, and survive what fails."""

import logging
import pickle
import shutil
import threading

import numpy as np
import pytest
import torch
from remote_store import Flaky, check_forks, pack_in_bands, read_in_bands

from cellsignal.common.errors import InputError
from cellsignal.common.places import RemoteFolder
from cellsignal.config.augment import Blur, RandomCrop
from cellsignal.data import remote, store_files, transfer
from cellsignal.data.dataset import SiteDataset, read_rows
from cellsignal.data.draws import Recipe
from cellsignal.data.feed import feed
from cellsignal.data.store import Store
from cellsignal.data.transforms import Transform

URL = "flaky://store"
BANDS = 4  # of 4 rows each


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Sites of four bands, no waits, a cache of its own."""
    read_in_bands(monkeypatch, tmp_path / "cache")


@pytest.fixture(scope="module", params=["zstd", "zstd before", "lz4", "raw"])
def made(request, tmp_path_factory):
    """(images, folder of the store `store`) of each codec."""
    folder = tmp_path_factory.mktemp("remote")
    return pack_in_bands(folder, request.param), folder


@pytest.fixture
def images(made, tmp_path):
    shutil.copytree(made[1] / "store", tmp_path / "served" / "store")
    Flaky.serve(tmp_path / "served")
    return made[0]


def opened(cache_gib=1.0, requests=8):
    return Store.open(RemoteFolder(URL, cache_gib, requests))


def file_of(row):
    return Flaky.root / f"store/images/c.{row}.0.0.0"


def damage(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 0xFF
    file.write_bytes(data)


def copies(row, tmp_path):
    return sorted((tmp_path / "cache/sites").glob(f"*/0/{row}.*"))


def test_whole_sites_cost_a_request_each_and_then_none(images):
    store, local = opened(), Store.open(Flaky.root / "store")
    Flaky.taken()
    for row in range(12):
        np.testing.assert_array_equal(store.read(row), images[row])
    assert Flaky.taken() == [
        (f"store/images/c.{row}.0.0.0", file_of(row).stat().st_size) for row in range(12)
    ]
    for again in (store, opened(), pickle.loads(pickle.dumps(store))):
        np.testing.assert_array_equal(again.read(5), images[5])
    assert Flaky.taken() == []
    assert store.content_hash == local.content_hash
    assert store.samples.equals(local.samples)
    np.testing.assert_array_equal(store.mean, local.mean)


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
@pytest.mark.parametrize("rows", [(0, 1), (3, 5), (4, 16), (15, 16), (0, 16)])
def test_some_rows_are_those_of_the_local_store(images, rows, cache_gib):
    store = opened(cache_gib)
    for row in range(12):
        for _ in range(2):  # a raw row's first read is of the whole of it
            got = store.read(row, rows=rows)
            np.testing.assert_array_equal(
                got[:, rows[0] : rows[1]], images[row][:, rows[0] : rows[1]]
            )


def test_a_crop_asks_for_the_index_and_its_bands_alone(images):
    store = opened()
    if store.info["codec"] == "raw":
        pytest.skip("not of raw")
    layout = store_files.layout_in(store.info)
    Flaky.taken()
    store.read(2, rows=(5, 7))
    (_, index), (_, band) = Flaky.taken()
    assert index == 16 * layout.frames * BANDS + 4 and 0 < band < file_of(2).stat().st_size / 3
    # the index is noted, the band is kept
    store.read(2, rows=(4, 9))
    ((_, other),) = Flaky.taken()
    assert 0 < other < file_of(2).stat().st_size / 3
    store.read(2, rows=(4, 12))
    assert Flaky.taken() == []
    # the noted index serves another process, too
    fresh = opened(cache_gib=0.0)
    Flaky.taken()
    np.testing.assert_array_equal(fresh.read(2, rows=(12, 14))[:, 12:14], images[2][:, 12:14])
    assert len(Flaky.taken()) == 1
    assert layout.bands == BANDS


def test_a_crop_of_raw_pixels_asks_for_each_channel_or_for_all(images, monkeypatch):
    store = opened(cache_gib=0.0)
    if store.info["codec"] != "raw":
        pytest.skip("of raw")
    store.read(4)  # held to its checksum
    Flaky.taken()
    store.read(4, rows=(2, 6))
    assert Flaky.taken() == [("store/images/c.4.0.0.0", 2 * 320 + 4 * 20)]
    monkeypatch.setattr(remote, "GAP", 200)
    np.testing.assert_array_equal(store.read(4, rows=(2, 6))[:, 2:6], images[4][:, 2:6])
    assert Flaky.taken() == [("store/images/c.4.0.0.0", 4 * 20)] * 3


@pytest.mark.parametrize("how", ["flipped", "cut", "empty"])
def test_a_damaged_copy_is_fetched_anew(images, tmp_path, how):
    store = opened()
    store.read(1)
    files = copies(1, tmp_path)
    assert len(files) == (1 if store.info["codec"] == "raw" else BANDS)
    if how == "flipped":
        damage(files[0], 40)
    else:
        files[0].write_bytes(files[0].read_bytes()[:30] if how == "cut" else b"")
    before = file_of(1).read_bytes()
    Flaky.taken()
    again = opened()
    for reader in (again, opened()):
        np.testing.assert_array_equal(reader.read(1), images[1])
    assert len(Flaky.taken()) == 1
    assert copies(1, tmp_path) == files and file_of(1).read_bytes() == before


def test_lengths_that_were_noted_wrongly_are_put_right(images, tmp_path):
    store = opened(cache_gib=0.0)
    if store.info["codec"] == "raw":
        pytest.skip("not of raw")
    store.read(2, rows=(0, 4))
    store.read(3, rows=(0, 4))
    (noted,) = (tmp_path / "cache/tables").glob("*/lengths")
    size = 4 * (1 if store.info.get("joined") else 3) * BANDS + 4
    data = noted.read_bytes()
    noted.write_bytes(data[: 2 * size] + data[3 * size : 4 * size] + data[3 * size :])
    for _ in range(2):
        np.testing.assert_array_equal(store.read(2, rows=(8, 12))[:, 8:12], images[2][:, 8:12])
    assert noted.read_bytes() == data
    damage(noted, 3 * size + 1)  # its checksum shows it
    np.testing.assert_array_equal(store.read(3, rows=(8, 12))[:, 8:12], images[3][:, 8:12])
    assert noted.read_bytes() == data


# what fails
# --------------------------------------------------------------------------------------------------


def test_what_passes_is_tried_again_and_logged_once(images, caplog):
    store = opened()
    Flaky.plan += [TimeoutError("no answer"), ConnectionResetError("reset"), OSError("503"), "ok"]
    Flaky.plan += [7, "ok"] if store.info["codec"] != "raw" else []
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(store.read(0), images[0])
        Flaky.plan += [TimeoutError()]
        np.testing.assert_array_equal(store.read(1), images[1])
    (line,) = caplog.messages
    assert line == (f"{URL}/images/c.0.0.0.0: row 0: no answer; trying again, which is logged once")


def test_a_server_that_is_gone_is_given_up_after_some_tries(images):
    store = opened()
    Flaky.always["c.3.0.0.0"] = ConnectionRefusedError("refused")
    Flaky.taken()
    with pytest.raises(InputError) as caught:
        store.read(3)
    assert (
        str(caught.value)
        == f"{URL}/images/c.3.0.0.0: row 3: failed 8 times; the last time: refused"
    )
    assert len(Flaky.taken()) == transfer.TRIES == 8


def test_no_access_and_no_file_are_said_at_once(images):
    store = opened()
    Flaky.always["c.3.0.0.0"] = PermissionError("Forbidden")
    Flaky.taken()
    with pytest.raises(
        InputError, match=rf"{URL}/images/c.3.0.0.0: row 3: no access \(Forbidden; "
    ):
        store.read(3)
    assert len(Flaky.taken()) == 1
    file_of(4).unlink()
    with pytest.raises(
        InputError, match=rf"{URL}: row 4 holds no image \({URL}/images/c.4.0.0.0 is"
    ):
        store.read(4)
    assert len(Flaky.taken()) == 1


def test_damage_at_its_source_is_fetched_twice_and_never_kept(images, tmp_path):
    store = opened()
    damage(file_of(6), 50)
    Flaky.taken()
    with pytest.raises(InputError) as caught:
        store.read(6)
    text = str(caught.value)
    assert text.startswith(f"{URL}/images/c.6.0.0.0: row 6 ") and "\n" not in text
    assert text.endswith("pack the site anew where the store was made, and copy its file again")
    assert len(Flaky.taken()) == 2 and copies(6, tmp_path) == []
    assert store.check(np.array([5, 6]))[0][0] == 6


def test_bytes_damaged_on_the_way_are_fetched_once_more(images, monkeypatch):
    store = opened()
    whole = Flaky._answer
    broken = iter([True])

    def once_damaged(self, path, start, end):
        data = bytearray(whole(self, path, start, end))
        if next(broken, False):
            data[60] ^= 1
        return bytes(data)

    monkeypatch.setattr(Flaky, "_answer", once_damaged)
    np.testing.assert_array_equal(store.read(8), images[8])


@pytest.mark.parametrize("rows", [None, (5, 7)])
def test_a_truncated_file_is_one_line(images, rows):
    store = opened()
    data = file_of(9).read_bytes()
    if rows:
        store.read(9, rows=rows)
        shutil.rmtree(remote.cache_folder() / "sites", ignore_errors=True)
    file_of(9).write_bytes(data[:100])
    with pytest.raises(InputError) as caught:
        store.read(9, rows=rows)
    assert str(caught.value).startswith(f"{URL}/images/c.9.0.0.0: row 9 is damaged (")


def test_a_server_without_ranges_is_named(images, monkeypatch):
    store = opened(cache_gib=0.0)
    store.read(2)
    monkeypatch.setattr(
        Flaky, "cat_file", lambda self, path, start=None, end=None: file_of(2).read_bytes()
    )
    monkeypatch.setattr(remote, "GAP", 0)
    with pytest.raises(InputError, match="the server does not serve ranges of bytes"):
        store.read(2, rows=(5, 7))


# threads and processes
# --------------------------------------------------------------------------------------------------


def dataset_of(store, augmentation):
    n = len(store.samples)
    shift = np.random.default_rng(1).uniform(50, 200, (n, 3))
    return SiteDataset(store, np.arange(n), shift, shift / 4, augmentation, 5)


def batches_of(dataset, workers):
    keys = [[(0, int(i)) for i in part] for part in np.arange(12).reshape(3, 4)]
    return [batch.images.clone() for batch in feed(dataset, keys, workers, torch.device("cpu"))]


def test_requests_wait_side_by_side_whatever_the_workers(images):
    """No request is answered before others wait beside it."""
    recipe = Recipe((RandomCrop(name="random_crop", size=9),), 3, (16, 20))
    expected = batches_of(dataset_of(Store.open(Flaky.root / "store"), recipe), 0)
    store = opened(cache_gib=0.0, requests=12)
    for row in range(12):  # of raw rows the check; of zstd the noted index
        store.read(row)
    Flaky.barrier = threading.Barrier(4)
    got = batches_of(dataset_of(store, recipe), 1)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert store.threads(1) == 12 and store.threads(20) == 20 and store.threads(0) == 0
    Flaky.barrier = threading.Barrier(6)
    np.testing.assert_array_equal(read_rows(store, np.arange(12), 1.0), images)


def test_worker_processes_open_their_own_connections(images):
    transform = Transform((Blur(name="blur", p=1),), 3)
    expected = batches_of(dataset_of(Store.open(Flaky.root / "store"), transform), 0)
    store = opened()
    store.read(0)
    got = batches_of(dataset_of(store, transform), 2)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_forked_process_reads_on(images):
    check_forks(opened(cache_gib=0.0), images, (1,))
