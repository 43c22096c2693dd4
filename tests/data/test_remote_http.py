"""Stores on a web server of this machine: the same pixels through aiohttp, and its failures."""

import logging
import shutil

import numpy as np
import pytest
from range_server import serving
from remote_store import check_forks, pack_in_bands, read_in_bands

from cellsignal.common.errors import InputError
from cellsignal.common.places import RemoteFolder
from cellsignal.data import transfer
from cellsignal.data.store import Store, has_store

pytest.importorskip("aiohttp")
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    read_in_bands(monkeypatch, tmp_path / "cache", 0.001)


@pytest.fixture(scope="module", params=["zstd", "raw"])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("http")
    return pack_in_bands(folder, request.param), folder


@pytest.fixture
def server(made):
    with serving(made[1]) as server:
        yield server


def place(server, cache_gib=0.0):
    return RemoteFolder(f"{server.url}/store", cache_gib, 8)


def test_pixels_requests_and_bytes(made, server):
    images, folder = made
    store = Store.open(place(server))
    assert store.content_hash == Store.open(folder / "store").content_hash
    server.taken()
    for row in (0, 7):
        np.testing.assert_array_equal(store.read(row), images[row])
        size = (folder / f"store/images/c.{row}.0.0.0").stat().st_size
        assert server.taken() == [("bytes=0-", size)]
    np.testing.assert_array_equal(store.read(7, rows=(5, 7))[:, 5:7], images[7][:, 5:7])
    ((asked, sent),) = server.taken()
    assert asked != "bytes=0-" and sent < size
    if store.info["codec"] == "zstd":
        store.read(3, rows=(5, 7))
        (index, _), (_, sent) = server.taken()
        assert index == f"bytes=-{16 * 4 + 4}" and sent < size / 3


@pytest.mark.parametrize("step", [503, 500, 429, "cut", "short"])
def test_failures_that_pass(made, server, caplog, step):
    store = Store.open(place(server))
    store.read(5)
    server.taken()
    server.plan += [step, step]
    with caplog.at_level(logging.WARNING):
        got = store.read(5, rows=(5, 7))
    np.testing.assert_array_equal(got[:, 5:7], made[0][5][:, 5:7])
    assert len(server.taken()) == 3 and len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{server.url}/store/images/c.5.0.0.0: row 5: ")


def test_failures_that_last_are_one_line(made, server, monkeypatch):
    store = Store.open(place(server))
    url = f"{server.url}/store/images/c.5.0.0.0"
    for plan, text in (
        ([503] * 8, f"{url}: row 5: failed 8 times; the last time: "),
        (["cut"] * 8, f"{url}: row 5: failed 8 times; the last time: "),
        ([403], f"{url}: row 5: no access ("),
        ([404], f"{server.url}/store: row 5 holds no image ({url} is not there)"),
    ):
        server.plan[:] = plan
        with pytest.raises(InputError) as caught:
            store.read(5)
        assert str(caught.value).startswith(text) and "\n" not in str(caught.value)
        assert server.plan == []
    store.read(5)
    server.plan[:] = ["whole"]
    with pytest.raises(InputError, match="the server does not serve ranges of bytes"):
        store.read(5, rows=(5, 7))


def test_a_server_that_hangs_is_left(made, server, monkeypatch):
    monkeypatch.setattr(transfer, "SILENT_SECONDS", 0.25)
    store = Store.open(place(server))
    monkeypatch.setattr(transfer, "TRIES", 2)
    server.delay = 5
    with pytest.raises(InputError, match=r"row 2: failed 2 times; the last time: .*[Tt]imeout"):
        store.read(2)


def test_a_server_that_is_gone_is_one_line(made, monkeypatch):
    with serving(made[1]) as server:
        store = Store.open(place(server, cache_gib=1.0))
        kept = store.read(0)
    np.testing.assert_array_equal(store.read(0), kept)
    url = server.url
    for call in (lambda: store.read(1), lambda: Store.open(place(server))):
        with pytest.raises(InputError, match=f"{url}/store/.*: failed 8 times; the last") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_store_that_is_not_there(server):
    missing = RemoteFolder(f"{server.url}/other")
    assert not has_store(missing) and has_store(place(server))
    with pytest.raises(InputError, match="/other: there is no store"):
        Store.open(missing)


def test_forked_processes_read_on_and_the_first_one_too(made, server):
    """fsspec's thread is not in a forked process: without an own connection this would hang."""
    check_forks(Store.open(place(server)), made[0], (1, 2))


def test_the_store_can_be_copied_while_it_is_served(made, server, tmp_path):
    """As `aws s3 sync` leaves it: a plain copy of the folder."""
    shutil.copytree(made[1] / "store", tmp_path / "copy/store")
    with serving(tmp_path / "copy") as other:
        assert Store.open(place(other)).content_hash == Store.open(place(server)).content_hash
