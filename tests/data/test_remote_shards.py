"""Sites in remote shards: the local store's pixels, a request a site, the same cache and failures."""

import logging
import shutil

import numpy as np
import pytest
from range_server import serving
from remote_store import Flaky, check_forks, pack_in_bands, read_in_bands

from cellsignal.common.errors import InputError
from cellsignal.common.places import RemoteFolder
from cellsignal.data import remote
from cellsignal.data.sharding import write_shards
from cellsignal.data.store import Store, has_store, info_file
from cellsignal.data.store_files import read_info

BANDS = 4
URL = "flaky://store"


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Sites of four bands, no waits, a cache of its own."""
    read_in_bands(monkeypatch, tmp_path / "cache")


@pytest.fixture(scope="module", params=["zstd", "lz4", "raw"])
def made(request, tmp_path_factory):
    """(images, folder of the stores `site` and `store`, which is of shards) of each codec."""
    folder = tmp_path_factory.mktemp("shards")
    images = pack_in_bands(folder, request.param, "site")
    with pytest.MonkeyPatch.context() as patch:
        read_in_bands(patch, folder / "cache")
        write_shards(folder / "site", folder / "store", 3e-3)
    return images, folder


@pytest.fixture
def images(made, tmp_path):
    shutil.copytree(made[1] / "store", tmp_path / "served" / "store")
    Flaky.serve(tmp_path / "served")
    return made[0]


@pytest.fixture
def zstd(images):
    if read_info(Flaky.root / "store")["codec"] == "raw":
        pytest.skip("of zstd")
    return images


def opened(cache_gib=1.0):
    return Store.open(RemoteFolder(URL, cache_gib, 8))


def place_of(row):
    """(file, offset, length) of a site, by the local store."""
    return Store.open(Flaky.root / "store").shards.place(row)


def damage(row, position):
    file, offset, _ = place_of(row)
    data = bytearray((Flaky.root / "store" / file).read_bytes())
    data[offset + position] ^= 0xFF
    (Flaky.root / "store" / file).write_bytes(data)


def ranges():
    """(file, start, end) of the requests for sites since the last call."""
    calls = [(n.removeprefix("store/"), a, b) for n, a, b, _ in Flaky.calls if "/shards/" in n]
    Flaky.calls.clear()
    return calls


def test_the_tables_come_once_and_no_images_are_looked_for(images):
    store = opened()
    names = [name for name, *_ in Flaky.calls]
    assert len(names) == len(set(names)) and "store/shards.csv.gz" in names
    assert not [name for name in names if "/images" in name or "/shards/" in name]
    Flaky.calls.clear()
    again = opened()
    assert [name for name, *_ in Flaky.calls] == ["store/store.json"]
    local = Store.open(Flaky.root / "store")
    for one in (store, again):
        assert one.content_hash == local.content_hash and one.samples.equals(local.samples)
        assert has_store(one.path) and one.skipped == local.skipped
    copy = info_file(store.path).parent
    (copy / "shards.csv.gz").write_bytes(b"cut")
    assert opened().content_hash == local.content_hash  # fetched anew


def test_whole_sites_cost_a_request_each_and_then_none(images):
    store = opened()
    ranges()
    for row in range(12):
        np.testing.assert_array_equal(store.read(row), images[row])
    places = [place_of(row) for row in range(12)]
    assert ranges() == [(file, start, start + length) for file, start, length in places]
    np.testing.assert_array_equal(opened().read(5), images[5])
    assert ranges() == []
    with pytest.raises(InputError, match=f"{URL}: row 12 holds no image"):
        store.read(12)


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
@pytest.mark.parametrize("along", [0, 2**20])
@pytest.mark.parametrize("rows", [(0, 1), (3, 5), (4, 16), (0, 16)])
def test_some_rows_are_those_of_the_local_store(images, monkeypatch, rows, cache_gib, along):
    monkeypatch.setattr(remote, "ALONG", along)
    store = opened(cache_gib)
    for row in range(12):
        for _ in range(2):  # a raw row's first read is of the whole of it
            got = store.read(row, rows=rows)[:, rows[0] : rows[1]]
            np.testing.assert_array_equal(got, images[row][:, rows[0] : rows[1]])


def test_a_crop_is_one_request_the_first_time_and_each_time(zstd):
    """The whole site, whose index comes with it; then the bands alone, as all is known of it."""
    store = opened(cache_gib=0.0)
    file, start, length = place_of(2)
    ranges()
    store.read(2, rows=(5, 7))
    assert ranges() == [(file, start, start + length)]
    for first in (4, 12):
        store.read(2, rows=(first, first + 2))
        ((name, low, high),) = ranges()
        assert name == file and start <= low < high < start + length
        assert high - low < length / 3
    # the index is noted for other processes, too
    fresh = opened(cache_gib=0.0)
    ranges()
    fresh.read(2, rows=(0, 2))
    assert len(ranges()) == 1


def test_what_came_along_is_kept(zstd):
    store = opened()
    store.read(2, rows=(5, 7))
    ranges()
    np.testing.assert_array_equal(store.read(2), zstd[2])
    assert ranges() == []


def test_a_large_site_is_asked_for_its_index_first(zstd, monkeypatch):
    monkeypatch.setattr(remote, "ALONG", 0)
    store = opened()
    file, start, length = place_of(2)
    ranges()
    store.read(2, rows=(5, 7))
    (index, (name, low, high)) = ranges()
    size = 16 * BANDS + 4
    assert index == (file, start + length - size, start + length)
    assert name == file and start <= low < high < start + length / 2


def test_a_band_that_came_along_damaged_is_not_kept(zstd):
    damage(2, 5)  # in the first band
    store = opened()
    np.testing.assert_array_equal(store.read(2, rows=(12, 16))[:, 12:], zstd[2][:, 12:])
    with pytest.raises(InputError, match=rf"{URL}/shards/.*: row 2 is damaged \(rows 0 to 4"):
        store.read(2, rows=(0, 2))
    damage(2, 5)  # mended
    np.testing.assert_array_equal(store.read(2), zstd[2])


def test_damage_at_its_source_is_fetched_twice_and_says_what_to_do(images):
    damage(6, 50)
    store = opened()
    ranges()
    with pytest.raises(InputError) as caught:
        store.read(6)
    text = str(caught.value)
    assert text.startswith(f"{URL}/{place_of(6)[0]}: row 6 ") and "\n" not in text
    assert "`cellsignal verify --store`" in text and text.endswith("copy that file again")
    assert len(ranges()) == 2
    assert [row for row, _ in store.check()] == [6]


def test_a_shard_cut_in_the_bucket_is_its_last_sites(images):
    store = opened()
    file, *_ = place_of(6)
    path = Flaky.root / "store" / file
    rows = [row for row in range(12) if place_of(row)[0] == file]
    last = max(rows, key=lambda row: place_of(row)[1])
    path.write_bytes(path.read_bytes()[:-1])
    for row in rows[:-1]:
        store.read(row)
    with pytest.raises(InputError, match=rf"{URL}/{file}: row {last} is damaged \(.* bytes came"):
        store.read(last)
    path.unlink()
    with pytest.raises(InputError, match=rf"row {last} holds no image \({URL}/{file} is not there"):
        store.read(last)


def test_what_passes_is_tried_again(images, caplog):
    store = opened()
    Flaky.plan += [TimeoutError("no answer"), 7, ConnectionResetError("reset"), "ok"]
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(store.read(0), images[0])
    (line,) = caplog.messages
    assert line.startswith(f"{URL}/{place_of(0)[0]}: row 0: no answer; trying again")
    Flaky.always[place_of(3)[0]] = PermissionError("Forbidden")
    with pytest.raises(InputError, match=r"row 3: no access \(Forbidden"):
        store.read(3)


def test_shards_written_anew_are_another_store(made, images):
    store = opened()
    store.read(0)
    shutil.rmtree(Flaky.root / "store")
    write_shards(made[1] / "site", Flaky.root / "store", 1.0)
    other = opened()
    assert other.shards.files != store.shards.files
    for row in range(12):
        np.testing.assert_array_equal(other.read(row), images[row])


def test_over_http_by_ranges_alone(made):
    pytest.importorskip("aiohttp")
    images, folder = made
    with serving(folder) as server:
        store = Store.open(RemoteFolder(f"{server.url}/store", 0.0))
        server.taken()
        for row in range(12):
            np.testing.assert_array_equal(store.read(row), images[row])
        places = [Store.open(folder / "store").shards.place(row) for row in range(12)]
        assert server.taken() == [
            (f"bytes={start}-{start + length - 1}", length) for _, start, length in places
        ]
        server.plan += [503, "cut", "short"]
        np.testing.assert_array_equal(store.read(1), images[1])
        server.plan += ["whole"]
        with pytest.raises(InputError, match="the server does not serve ranges of bytes"):
            store.read(1)
        check_forks(store, images, (1, 2))
