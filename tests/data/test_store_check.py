"""`verify --store` reads every site, of each kind of store, and names the damaged ones."""

from pathlib import Path

import pytest
from helpers import cellsignal, error_line
from remote_store import Flaky
from tiny_store import TinyCompetition, tiny_samples, write_root

from cellsignal.common.errors import InputError
from cellsignal.common.places import RemoteFolder
from cellsignal.data import transfer
from cellsignal.data.pack import prepare
from cellsignal.data.sharding import write_shards
from cellsignal.data.store import Store
from cellsignal.data.store_check import check_store, damage_text


@pytest.fixture(params=["site", "shards"])
def store(request, tmp_path, monkeypatch):
    write_root(tmp_path / "root")
    prepare(TinyCompetition(), tmp_path / "root", tmp_path / "site", codec="zstd")
    write_shards(tmp_path / "site", tmp_path / "shards", 3e-3)
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.0)
    monkeypatch.setenv("CELLSIGNAL_CACHE", str(tmp_path / "cache"))
    Flaky.serve(tmp_path)
    return tmp_path / request.param


def damage_row(store, row):
    """Flip a byte of a site; return its file, relative to the store."""
    shards = Store.open(store).shards
    place = (f"images/c.{row}.0.0.0", 0, 0) if shards is None else shards.place(row)
    data = bytearray((store / place[0]).read_bytes())
    data[place[1] + 50] ^= 4
    (store / place[0]).write_bytes(data)
    return place[0]


def test_a_whole_store_has_no_damage(store):
    assert check_store(store) == (12, [])
    assert damage_text(12, []) == "12 sites, 0 damaged"
    assert check_store(RemoteFolder(f"flaky://{store.name}")) == (12, [])


def test_damaged_sites_are_named_with_what_to_do(store, capsys):
    names = [damage_row(store, row) for row in (2, 9)]
    ids = tiny_samples().sample_id
    line = error_line(capsys, "verify", "--store", store, cwd=store.parent)
    assert line == f"{store}: 2 of 12 sites are damaged, listed above"
    assert cellsignal("verify", "--store", store, cwd=store.parent) == 2
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "12 sites, 2 damaged" and len(lines) == 2
    for text, name, row in zip(lines, names, (2, 9), strict=True):
        assert text.startswith(f"  {store / name}: row {row} ") and text.endswith(f"[{ids[row]}]")
        assert "delete that file and run `cellsignal prepare" in text


def test_lost_and_unreadable_files_are_named_with_what_to_do(store):
    opened = Store.open(store)
    file = Path(opened._sites.name(5))
    rows = [row for row in range(12) if opened._sites.name(row) == str(file)]
    file.unlink()
    damage = check_store(store)[1]
    assert [name for name, _ in damage] == tiny_samples().sample_id[rows].to_list()
    for _, message in damage:
        assert f"({file} is not there); run `cellsignal prepare" in message
    remote = check_store(RemoteFolder(f"flaky://{store.name}"))[1]
    assert len(remote) == len(rows) and all("; copy the store" in text for _, text in remote)
    file.mkdir()
    for (_, message), row in zip(check_store(store)[1], rows, strict=True):
        assert message == f"{file}: row {row} cannot be read (Is a directory)"


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_the_list_of_what_is_left_out_is_read(store, how):
    if how == "gone":
        (store / "left_out.csv.gz").unlink()
    else:
        (store / "left_out.csv.gz").write_bytes(b"damage")
    for place in (store, RemoteFolder(f"flaky://{store.name}")):
        with pytest.raises(InputError, match=rf"{store.name}/left_out.csv.gz: ") as caught:
            check_store(place)
        assert "\n" not in str(caught.value)


def test_a_remote_store_is_read_and_not_its_copies(store):
    place = RemoteFolder(f"flaky://{store.name}", 1.0)
    opened = Store.open(place)
    for row in range(12):
        opened.read(row)
    name = damage_row(store, 4)
    opened.read(4)  # from the copy
    ((sample_id, message),) = check_store(place)[1]
    assert sample_id == tiny_samples().sample_id[4]
    assert message.startswith(f"flaky://{store.name}/{name}: row 4 ")
    assert "copy" in message.rpartition(";")[2]


def test_what_goes_with_what(tmp_path, capsys):
    for words, why in (
        ((), "give a competition's id and --root, or --store"),
        (("rxrx1",), "give a competition's id and --root, or --store"),
        (("rxrx1", "--store", "x"), "leave out competition and --root"),
        (("--store", "x"), "there is no store"),
    ):
        assert why in error_line(capsys, "verify", *words, cwd=tmp_path)
