"""Tables of a remote store: fetched once, checked, and anew when the store or the copy changes."""

import json
import shutil

import numpy as np
import pytest
import zarr
from remote_store import Flaky
from tiny_store import TinyCompetition, write_root

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256
from cellsignal.common.places import as_place
from cellsignal.data import transfer
from cellsignal.data.pack import prepare
from cellsignal.data.store import Store, has_store, info_file
from cellsignal.data.store_files import hash_arrays

URL = "flaky://store"
PLACE = as_place(URL)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_root(folder / "root")
    prepare(TinyCompetition(), folder / "root", folder / "store")
    return folder


@pytest.fixture
def served(made, tmp_path, monkeypatch):
    """The folder that is served; requests are counted from 0."""
    shutil.copytree(made / "store", tmp_path / "served/store")
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.0)
    monkeypatch.setenv("CELLSIGNAL_CACHE", str(tmp_path / "cache"))
    Flaky.serve(tmp_path / "served")
    return tmp_path / "served/store"


def fetched():
    names = [name.removeprefix("store/") for name, *_ in Flaky.calls]
    Flaky.calls.clear()
    return names


def copies(tmp_path):
    return [path for path in (tmp_path / "cache/tables").iterdir() if path.name != "lengths"]


def test_tables_are_fetched_once(served, tmp_path):
    first = Store.open(URL)
    names = fetched()
    assert sorted(names) == sorted(set(names)) and "samples.csv.gz" in names
    assert not any(name.startswith("images/c.") for name in names)
    again = Store.open(PLACE)
    assert fetched() == ["store.json"]
    local = Store.open(served)
    for store in (first, again):
        assert store.samples.equals(local.samples) and store.info == local.info
        for name in ("mean", "sd", "checksum"):
            np.testing.assert_array_equal(getattr(store, name), getattr(local, name))
        assert store.content_hash == local.content_hash and str(store.path) == URL
    (copy,) = copies(tmp_path)
    assert sha256(info_file(PLACE)) == sha256(served / "store.json")
    assert copy.name.startswith("store-")


@pytest.mark.parametrize(
    "name", ["samples.csv.gz", "checksum/c/0", "mean/c/0/0", "images/zarr.json"]
)
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_copy_that_is_damaged_is_fetched_anew(served, tmp_path, name, how):
    Store.open(URL)
    (copy,) = copies(tmp_path)
    if how == "gone":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes((copy / name).read_bytes()[:-3])
    fetched()
    assert Store.open(URL).content_hash == Store.open(served).content_hash
    assert name in fetched() and copies(tmp_path) == [copy]


@pytest.mark.parametrize(
    "name", ["samples.csv.gz", "checksum/c/0", "images/zarr.json", "zarr.json"]
)
def test_damage_at_its_source_is_one_line_with_the_url(served, tmp_path, name):
    (served / name).write_bytes((served / name).read_bytes()[:-3])
    with pytest.raises(InputError) as caught:
        Store.open(URL)
    text = str(caught.value)
    assert text.startswith(URL) and "\n" not in text and str(tmp_path) not in text
    assert copies(tmp_path) == []


def test_a_store_that_was_packed_anew_is_another_copy(served, tmp_path):
    old = Store.open(URL)
    old.read(0)
    shutil.rmtree(served)
    write_root(tmp_path / "root2", seed=1)
    prepare(TinyCompetition(), tmp_path / "root2", served)
    new = Store.open(URL)
    assert len(copies(tmp_path)) == 2 and new.content_hash != old.content_hash
    np.testing.assert_array_equal(new.read(0), Store.open(served).read(0))
    assert (new.read(0) != old.read(0)).any()  # the old one's site was kept under its own name


def test_what_is_no_store_is_said(served, tmp_path):
    with pytest.raises(InputError, match=r"flaky://nothing: there is no store \(no store.json"):
        Store.open("flaky://nothing")
    assert not has_store(as_place("flaky://nothing")) and has_store(PLACE)
    info = json.loads((served / "store.json").read_text())
    (served / "store.json").write_text(json.dumps(info | {"complete": False}))
    with pytest.raises(InputError, match="flaky://store: packing is unfinished"):
        Store.open(URL)
    (served / "store.json").write_text("{}")
    with pytest.raises(InputError, match=r"flaky://store/store\.json: is not the description"):
        Store.open(URL)
    (served / "store.json").write_text(json.dumps(info))
    (served / "samples.csv.gz").unlink()
    with pytest.raises(
        InputError, match=r"flaky://store/samples\.csv\.gz: is not there; copy the whole"
    ):
        Store.open(URL)


def test_an_array_of_zeros_has_no_chunk_to_fetch(served):
    arrays = {name: zarr.open_array(served / name)[:] for name in ("mean", "sd", "checksum")}
    arrays |= {name: zarr.open_array(served / name)[:] for name in ("status", "stamp")}
    arrays["sd"] = np.zeros_like(arrays["sd"])
    zarr.open_group(served, mode="r+").create_array(
        "sd", data=arrays["sd"], chunks=arrays["sd"].shape, overwrite=True
    )
    assert not list((served / "sd").glob("c*"))
    info = json.loads((served / "store.json").read_text())
    (served / "store.json").write_text(json.dumps(info | {"arrays_digest": hash_arrays(arrays)}))
    assert not Store.open(URL).sd.any()


def test_no_access_is_said_with_what_to_do(served):
    Flaky.always["store.json"] = PermissionError("Forbidden")
    for call in (Store.open, has_store, info_file):
        with pytest.raises(InputError, match=r"flaky://store/store\.json: no access \(Forbidden"):
            call(PLACE)


def test_a_cache_that_cannot_be_written_is_named(served, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CELLSIGNAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot be written .* CELLSIGNAL_CACHE"):
        Store.open(URL)


def test_the_whole_image_array_can_be_opened_by_zarr(served):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.put(str(served), "memory://whole", recursive=True)
    store = Store.open("memory://whole")
    np.testing.assert_array_equal(store.read(3), Store.open(served).read(3))
