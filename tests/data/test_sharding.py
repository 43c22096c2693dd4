"""Shards hold the site files as they are; kills, full disks and damage leave nothing half-made."""

import csv
import errno
import gzip
import hashlib
import json
import os
import resource
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr
from killed_shards import TINY_MB, killed
from tiny_store import TinyCompetition, prepare_as_before, tiny_samples, write_root

from cellsignal.common.errors import InputError, Interrupted
from cellsignal.common.files import write_json
from cellsignal.data import shard_writing, sharding, store_description
from cellsignal.data.pack import prepare
from cellsignal.data.sharding import write_shards
from cellsignal.data.store import Store

COMPETITION = TinyCompetition()
one_codec = pytest.mark.parametrize("made", ["zstd"], indirect=True)  # where both are the same


@pytest.fixture(scope="module", params=["zstd", "zstd before", "lz4", "raw"])
def made(request, tmp_path_factory):
    """(images, folder with the store `site`) of each codec; row 3 lacks a file."""
    folder = tmp_path_factory.mktemp("sharding")
    images = write_root(folder / "root")
    (folder / "root" / tiny_samples().files[3][2]).unlink()
    if request.param == "zstd before":
        prepare_as_before(folder / "root", folder / "site")
    else:
        prepare(COMPETITION, folder / "root", folder / "site", codec=request.param)
    return images, folder


@pytest.fixture
def site(made, tmp_path):
    """A copy of the store with a file a site."""
    shutil.copytree(made[1] / "site", tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def out(site, tmp_path):
    """A complete store of shards."""
    write_shards(site, tmp_path / "out", TINY_MB)
    return tmp_path / "out"


def content(path: Path) -> dict[str, object]:
    """Every file of a store by its name; of store.json what does not tell time and place."""
    found = {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }
    info = json.loads(found.pop("store.json"))
    info.pop("made_by")
    info["shards"].pop("made_from")
    return found | {"store.json": info}


def table_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(gzip.open(path / "shards.csv.gz", "rt")))


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


# what is written
# --------------------------------------------------------------------------------------------------


def test_shards_are_the_site_files_one_after_another(made, site, out):
    before = {p: p.read_bytes() for p in site.rglob("*") if p.is_file()}
    shard, offset, length = (zarr.open_group(out, mode="r")[n][:] for n in sharding_arrays())
    shards = table_of(out)
    plates = tiny_samples().groupby(["experiment", "plate"], sort=False).indices.values()
    assert sorted(p.name for p in (out / "shards").iterdir()) == sorted(s["file"] for s in shards)
    order = []
    for number, each in enumerate(shards):
        data = (out / "shards" / each["file"]).read_bytes()
        rows = [row for row in np.argsort(offset) if shard[row] == number and length[row]]
        assert data == b"".join((site / f"images/c.{row}.0.0.0").read_bytes() for row in rows)
        assert hashlib.sha256(data).hexdigest() == each["sha256"] and len(data) == int(
            each["bytes"]
        )
        assert each["file"].endswith(f"_{each['sha256'][:16]}") and len(rows) == int(each["sites"])
        assert all(int(offset[b]) == int(offset[a]) + int(length[a]) for a, b in pairwise(rows))
        assert len(data) <= 3000
        order += rows
    assert order == [row for rows in plates for row in rows if row != 3]
    assert length[3] == 0
    assert not (out / "images").exists()  # zarr would show it as black
    assert before == {p: p.read_bytes() for p in site.rglob("*") if p.is_file()}


def sharding_arrays():
    return ("shard", "offset", "length")


def test_it_is_the_same_store(made, site, out):
    images, _ = made
    one, other = Store.open(site), Store.open(out)
    assert one.content_hash == other.content_hash and one.skipped == other.skipped
    assert one.samples.equals(other.samples) and other.check() == []
    for name in ("mean", "sd", "checksum"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for row in one.samples.row:
        np.testing.assert_array_equal(other.read(row), images[row])
        for top, bottom in ((0, 1), (5, 11), (15, 16)):
            some = other.read(row, rows=(top, bottom))[:, top:bottom]
            np.testing.assert_array_equal(some, images[row][:, top:bottom])
    for row in (3, 12, -1):
        with pytest.raises(InputError, match=rf"{out}: row {row} holds no image"):
            other.read(row)
    with pytest.raises(InputError, match=f"zarr cannot read a store of shards.*{site}"):
        _ = other.images


@one_codec
def test_an_earlier_version_refuses_it(out, monkeypatch):
    monkeypatch.setattr(store_description, "READABLE", (2, 3, 4))
    with pytest.raises(
        InputError, match=r"store format 5, this version reads 2, 3 and 4"
    ) as caught:
        Store.open(out)
    assert "\n" not in str(caught.value)


@one_codec
def test_the_default_is_one_shard_for_plates_as_small_as_these(site, tmp_path):
    report = write_shards(site, tmp_path / "one")
    assert (report.sites, report.shards, report.written) == (11, 1, 1)
    assert Store.open(tmp_path / "one").check() == []


@one_codec
def test_a_store_of_format_2_gives_shards_of_today(made, tmp_path):
    """Its table is a plain CSV, its list of skipped sites is in store.json, it has no stamps."""
    site = tmp_path / "old"
    shutil.copytree(made[1] / "site", site)
    info = json.loads((site / "store.json").read_text())
    expected = Store.open(site).skipped
    skipped = [{"sample_id": name, "message": why} for name, why in expected]
    (site / "samples.csv").write_bytes(gzip.decompress((site / "samples.csv.gz").read_bytes()))
    (site / "samples.csv.gz").unlink()
    (site / "left_out.csv.gz").unlink()
    for key in ("left_out", "left_out_sha256"):
        info.pop(key)
    write_json(site / "store.json", info | {"format": 2, "skipped": skipped})
    assert write_shards(site, tmp_path / "out", TINY_MB).written > 1
    assert Store.open(tmp_path / "out").skipped == Store.open(site).skipped == expected
    assert write_shards(site, tmp_path / "out").written == 0


# again
# --------------------------------------------------------------------------------------------------


@one_codec
def test_a_rerun_writes_nothing(site, out):
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in out.rglob("*")}
    assert write_shards(site, out).written == 0
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in out.rglob("*")} == before


@one_codec
def test_another_limit_writes_other_shards(site, out):
    names = {p.name for p in (out / "shards").iterdir()}
    report = write_shards(site, out, 1.0)
    assert report.shards == report.written == 1
    (left,) = (out / "shards").iterdir()
    assert left.name not in names and Store.open(out).check() == []


@one_codec
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_shard_that_is_lost_is_written_anew_and_no_other(site, out, damage):
    before = content(out)
    lost, *others = sorted((out / "shards").iterdir())
    inodes = {p: p.stat().st_ino for p in others}
    if damage == "gone":
        lost.unlink()
    else:
        lost.write_bytes(lost.read_bytes()[:-1])
    assert write_shards(site, out).written == 1
    assert content(out) == before and {p: p.stat().st_ino for p in others} == inodes


@one_codec
def test_what_has_changed_is_written_and_the_rest_is_kept(made, site, out):
    """An image of one plate is another one: the shards of other plates keep their files."""
    folder = site.parent / "root"
    shutil.copytree(made[1] / "root", folder)
    (site / "store.json").write_text(
        (site / "store.json").read_text().replace(str(made[1] / "root"), str(folder))
    )
    (out / "store.json").write_text(
        (out / "store.json").read_text().replace(str(made[1] / "root"), str(folder))
    )
    changed = tiny_samples().files[8][0]
    shutil.copyfile(folder / tiny_samples().files[9][0], folder / changed)
    prepare(COMPETITION, folder, site, codec=Store.open(site).info["codec"])
    before = {p.name: p.stat().st_ino for p in (out / "shards").iterdir()}
    report = write_shards(site, out)
    after = {p.name: p.stat().st_ino for p in (out / "shards").iterdir()}
    assert report.written == len(set(after) - set(before)) < report.shards
    assert all(before[name] == after[name] for name in set(before) & set(after))
    one, other = Store.open(site), Store.open(out)
    assert one.content_hash == other.content_hash and other.check() == []
    for row in one.samples.row:
        np.testing.assert_array_equal(one.read(row), other.read(row))


# kills
# --------------------------------------------------------------------------------------------------


@pytest.mark.torture
@one_codec
@pytest.mark.parametrize("begun", ["empty", "other shards"])
def test_a_kill_at_any_rename_leaves_whole_files_and_a_rerun_finishes(site, tmp_path, begun):
    write_shards(site, tmp_path / "whole", TINY_MB)
    expected = content(tmp_path / "whole")
    step = 0
    while True:
        out = tmp_path / f"killed{step}"
        if begun == "other shards":
            write_shards(site, out, 1.0)
        if not killed(site, out, step):
            break
        for shard in (out / "shards").glob("[!.]*"):
            data = shard.read_bytes()
            assert shard.name.endswith(hashlib.sha256(data).hexdigest()[:16])
        try:
            assert Store.open(out).check() == []  # the old one, whole
            assert begun == "other shards"
        except InputError as error:
            assert step == 0 or "run `cellsignal prepare" in str(error)
        kept = {p.name: p.stat().st_ino for p in (out / "shards").glob("[!.]*")}
        write_shards(site, out, TINY_MB)
        assert content(out) == expected
        now = {p.name: p.stat().st_ino for p in (out / "shards").iterdir()}
        if step > 1:  # all but one, which may not be in the journal yet
            same = [name for name in kept if now.get(name) == kept[name]]
            ours = [name for name in kept if name in now]
            assert len(same) >= len(ours) - 1
        shutil.rmtree(out)
        step += 1
    assert step > 15
    assert content(out) == expected


@one_codec
def test_prepare_finishes_what_a_kill_has_left(made, site, tmp_path):
    """Whoever comes first moves all pieces of the new store to their places, and loses none."""
    write_shards(site, tmp_path / "whole", TINY_MB)
    swaps = 0
    for step in range(20, 80, 3):
        out = tmp_path / str(step)
        if not killed(site, out, step):
            break
        if not (out / ".next/store.json").exists():
            continue
        swaps += 1
        prepare(COMPETITION, made[1] / "root", out, codec="zstd")
        assert content(out) == content(tmp_path / "whole")
    assert swaps > 2


@one_codec
def test_a_journal_that_is_torn_costs_one_shard(site, tmp_path):
    out = tmp_path / "out"
    write_shards(site, tmp_path / "whole", TINY_MB)
    assert killed(site, out, 4)  # store.json and three shards are there
    assert len(list((out / "shards").glob("[!.]*"))) == 3
    (out / "journal").write_bytes((out / "journal").read_bytes()[:-3])
    with pytest.raises(InputError, match=f"{out}: its shards are not all written; run"):
        Store.open(out)
    report = write_shards(site, out, TINY_MB)
    assert report.written == report.shards - 2
    assert content(out) == content(tmp_path / "whole")


@one_codec
def test_out_of_time_keeps_whole_shards(site, tmp_path, monkeypatch):
    monkeypatch.setenv("CELLSIGNAL_DEADLINE", "1")
    with pytest.raises(Interrupted, match=r"1 of \d shards"):
        write_shards(site, tmp_path / "out", TINY_MB)
    monkeypatch.delenv("CELLSIGNAL_DEADLINE")
    report = write_shards(site, tmp_path / "out", TINY_MB)
    assert report.written == report.shards - 1 and Store.open(tmp_path / "out").check() == []


# what is refused
# --------------------------------------------------------------------------------------------------


@one_codec
def test_a_full_disk_is_one_line_and_can_go_on(site, tmp_path):
    """Really refused by the kernel: no file may pass 2 kB here."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written .*run again to go on") as caught:
            write_shards(site, tmp_path / "out", TINY_MB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value) and not list((tmp_path / "out/shards").glob(".*"))
    write_shards(site, tmp_path / "out", TINY_MB)
    assert Store.open(tmp_path / "out").check() == []


@one_codec
def test_a_disk_full_elsewhere_is_one_line(site, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for module, name in ((shard_writing, "journal_line"), (sharding.stored, "write_arrays")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, full)
            with pytest.raises(InputError, match="No space left on device"):
                write_shards(site, tmp_path / "out", TINY_MB)
    write_shards(site, tmp_path / "out", TINY_MB)
    assert Store.open(tmp_path / "out").check() == []


@one_codec
def test_free_space_is_checked_before_anything_is_written(site, out, tmp_path, monkeypatch):
    size = sum(p.stat().st_size for p in (out / "shards").iterdir())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size - 1))
    with pytest.raises(InputError, match=r"new: the shards still to be written take .* are free"):
        write_shards(site, tmp_path / "new", TINY_MB)
    assert not (tmp_path / "new/shards").exists()
    lost = sorted((out / "shards").iterdir())[0]
    lost.unlink()
    assert write_shards(site, out).written == 1  # only what is missing counts
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size))
    write_shards(site, tmp_path / "new", TINY_MB)


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "swapped"])
def test_a_damaged_site_is_never_copied(site, tmp_path, how):
    file, other = site / "images/c.5.0.0.0", site / "images/c.6.0.0.0"
    good = file.read_bytes()
    if how == "flipped":
        flip(file, 40)
    elif how == "cut":
        file.write_bytes(good[:-1])
    elif how == "swapped":
        shutil.copyfile(other, file)
    else:
        file.unlink()
    with pytest.raises(InputError) as caught:
        write_shards(site, tmp_path / "out", TINY_MB)
    text = str(caught.value)
    assert text.startswith(str(file)) and "\n" not in text and "`cellsignal prepare`" in text
    with pytest.raises(InputError):
        Store.open(tmp_path / "out")
    file.write_bytes(good)
    write_shards(site, tmp_path / "out", TINY_MB)
    assert Store.open(tmp_path / "out").check() == []


@one_codec
def test_places_that_are_refused(site, out, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    shutil.copytree(site, tmp_path / "other")
    (tmp_path / "link").symlink_to(site)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    itself = "is, holds or lies in the store that is copied"
    for place, why in (
        (site, itself),
        (site / "shards", itself),
        (tmp_path, itself),
        (tmp_path / "link", itself),
        (tmp_path / "loop", "is a link that leads back to itself"),
        (tmp_path / "full", "is neither empty nor a store"),
        (tmp_path / "other", "is a store with a file a site"),
    ):
        with pytest.raises(InputError, match=f"{place}: {why}") as caught:
            write_shards(site, place)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=f"{out}: is made of shards already.*{site}"):
        write_shards(out, tmp_path / "new")
    with pytest.raises(InputError, match="there is no store"):
        write_shards(tmp_path / "nothing", tmp_path / "new")
    info = json.loads((site / "store.json").read_text())
    write_json(site / "store.json", info | {"complete": False})
    with pytest.raises(InputError, match="packing is unfinished"):
        write_shards(site, tmp_path / "new")
    for megabytes in (0.0, -1.0, float("nan"), float("inf"), 1e6):
        with pytest.raises(InputError, match=r"--shard-mb .*above 0 and below 1,000,000"):
            write_shards(site, tmp_path / "new", megabytes)
    assert not (tmp_path / "new").exists()


@one_codec
def test_shards_of_another_store_are_not_mixed(made, out, tmp_path):
    _, folder = made
    codec = Store.open(out).info["codec"]
    prepare(COMPETITION, folder / "root", tmp_path / "small", size=8, codec=codec)
    before = content(out)
    with pytest.raises(InputError, match=f"{out}: this store was made with another size"):
        write_shards(tmp_path / "small", out)
    assert content(out) == before


@one_codec
def test_who_packs_meanwhile_is_refused(site, out):
    with sharding.locked(site), pytest.raises(InputError, match=f"{site}: another process"):
        write_shards(site, out)
    with sharding.locked(out), pytest.raises(InputError, match=f"{out}: another process"):
        write_shards(site, out)


# damage of what was written
# --------------------------------------------------------------------------------------------------


def test_a_flipped_byte_is_one_damaged_site(out):
    place = Store.open(out).shards.place(6)
    flip(out / place[0], place[1] + 30)
    store = Store.open(out)
    ((row, message),) = store.check()
    assert row == 6 and message.startswith(f"{out}/{place[0]}: row 6 ")
    assert f"run `cellsignal prepare CONFIG --shards {out}` to write it anew" in message
    with pytest.raises(InputError, match="row 6"):
        store.read(6)
    store.read(5)


def test_a_truncated_shard_is_its_last_sites(out):
    store = Store.open(out)
    file = store.shards.place(6)[0]
    rows = [row for row in store.samples.row if store.shards.place(row)[0] == file]
    last = max(rows, key=lambda row: store.shards.place(row)[1])
    (out / file).write_bytes((out / file).read_bytes()[:-1])
    assert [row for row, _ in store.check()] == [last]
    with pytest.raises(InputError, match=rf"row {last} is damaged"):
        store.read(last)
    (out / file).unlink()
    assert sorted(row for row, _ in store.check()) == sorted(rows)
    with pytest.raises(InputError, match=rf"row {last} holds no image \({out}/{file} is not there"):
        store.read(last)


@pytest.mark.parametrize("name", ["shard", "offset", "length"])
def test_changed_places_are_refused_when_the_store_is_opened(out, name):
    group = zarr.open_group(out, mode="r+")
    values = group[name][:]
    values[[5, 6]] = values[[6, 5]] if name == "offset" else values[5] + 1
    group.create_array(name, data=values, chunks=values.shape, overwrite=True)
    with pytest.raises(InputError, match=r"not those that store\.json describes"):
        Store.open(out)


@one_codec
@pytest.mark.parametrize("how", ["gone", "cut", "other"])
def test_a_damaged_table_of_shards_is_refused_and_written_anew(site, out, how):
    file, before = out / "shards.csv.gz", content(out)
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-4])
    else:
        text = gzip.decompress(file.read_bytes()).replace(b",2,", b",1,", 1)
        file.write_bytes(gzip.compress(text + b"\n"))
    with pytest.raises(InputError, match=rf"{file}: ") as caught:
        Store.open(out)
    assert "\n" not in str(caught.value)
    write_shards(site, out)
    assert content(out) == before


@one_codec
@pytest.mark.parametrize(
    "lost", ["offset", "checksum", "zarr.json", "samples.csv.gz", "left_out.csv.gz"]
)
@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_lost_arrays_and_tables_are_written_anew_and_no_shard(site, out, lost, how):
    before = content(out)
    written = {p: p.stat().st_ino for p in (out / "shards").iterdir()}
    piece = out / lost
    if how == "damaged":
        file = piece if piece.is_file() else next(p for p in piece.rglob("0") if p.is_file())
        file.write_bytes(b"damage")
    elif piece.is_dir():
        shutil.rmtree(piece)
    else:
        piece.unlink()
    assert write_shards(site, out).written == 0
    assert content(out) == before and Store.open(out).check() == []
    assert written == {p: p.stat().st_ino for p in (out / "shards").iterdir()}


@one_codec
def test_strangers_among_the_shards_are_left_alone(site, out):
    (out / "shards/folder").mkdir()
    (out / "shards/notes.txt").write_text("mine")
    (out / "shards/.sync-conflict").write_text("mine")
    write_shards(site, out, 1e-9)
    assert (out / "shards/notes.txt").read_text() == "mine"
    assert len(list((out / "shards").iterdir())) == 11 + 3
    assert Store.open(out).check() == []


@one_codec
def test_current_shards_may_lie_where_nothing_can_be_written(site, out, monkeypatch):
    def refuse(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("unlink", "rename", "replace", "rmdir", "write_bytes", "write_text"):
        monkeypatch.setattr(Path, name, refuse)
    for name in ("unlink", "rename", "replace"):
        monkeypatch.setattr(os, name, refuse)
    assert write_shards(site, out).written == 0
