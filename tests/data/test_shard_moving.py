"""Moving a store into shards loses no site, whenever it is killed, and needs no room for both."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from killed_shards import TINY_MB, killed
from tiny_store import TinyCompetition, tiny_samples, write_root

from cellsignal.common.errors import InputError
from cellsignal.data import sharding
from cellsignal.data.pack import prepare
from cellsignal.data.sharding import write_shards
from cellsignal.data.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(images, folder with the stores `site` and `whole`, of shards); row 3 lacks a file."""
    folder = tmp_path_factory.mktemp("moving")
    images = write_root(folder / "root")
    (folder / "root" / tiny_samples().files[3][2]).unlink()
    prepare(TinyCompetition(), folder / "root", folder / "site", codec="zstd")
    write_shards(folder / "site", folder / "whole", TINY_MB)
    return images, folder


@pytest.fixture
def site(made, tmp_path):
    shutil.copytree(made[1] / "site", tmp_path / "site")
    return tmp_path / "site"


def names(store: Path) -> set[str]:
    return {path.name for path in (store / "shards").iterdir()}


def check(made, out: Path) -> None:
    images, folder = made
    store = Store.open(out)
    assert store.content_hash == Store.open(folder / "site").content_hash
    assert names(out) == names(folder / "whole") and store.check() == []
    for row in store.samples.row:
        np.testing.assert_array_equal(store.read(row), images[row])


def test_a_store_is_moved(made, site, tmp_path):
    out = tmp_path / "out"
    report = write_shards(site, out, TINY_MB, move=True)
    check(made, out)
    assert report.written == report.shards > 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    again = write_shards(site, out, move=True)  # it is there
    assert (again.sites, again.shards, again.bytes) == (report.sites, report.shards, report.bytes)
    assert again.written == 0
    with pytest.raises(InputError, match=f"{site}: there is no store"):
        write_shards(site, out)


def test_room_for_the_largest_shard_is_enough(made, site, tmp_path, monkeypatch):
    largest = max(path.stat().st_size for path in (made[1] / "whole/shards").iterdir())
    usage = shutil.disk_usage(tmp_path)
    free = {"bytes": largest - 1}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free["bytes"]))
    with pytest.raises(InputError, match="are free"):
        write_shards(site, tmp_path / "out", TINY_MB, move=True)
    assert Store.open(site).check() == []
    free["bytes"] = largest
    write_shards(site, tmp_path / "out", TINY_MB, move=True)
    check(made, tmp_path / "out")


def test_a_store_behind_a_link_is_moved(made, site, tmp_path):
    (tmp_path / "link").symlink_to(site)
    write_shards(tmp_path / "link", tmp_path / "out", TINY_MB, move=True)
    check(made, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_shards_that_were_there_are_looked_at_before_their_sites_go(made, site, tmp_path):
    """A damaged one is written anew, from the sites that are still there."""
    out = tmp_path / "out"
    write_shards(site, out, TINY_MB)
    shard = sorted((out / "shards").iterdir())[1]
    data = bytearray(shard.read_bytes())
    data[9] ^= 1
    shard.write_bytes(data)
    assert write_shards(site, out, move=True).written == 1
    check(made, out)
    assert not site.exists()


def bytes_of_all_sites(made, site: Path, out: Path) -> None:
    """Every site's file is in its folder or in a whole shard."""
    shards = [path.read_bytes() for path in (out / "shards").glob("[!.]*")]
    for path, data in zip((out / "shards").glob("[!.]*"), shards, strict=True):
        assert path.name.endswith(hashlib.sha256(data).hexdigest()[:16])
    for row in Store.open(made[1] / "site").samples.row:
        data = (made[1] / f"site/images/c.{row}.0.0.0").read_bytes()
        file = site / f"images/c.{row}.0.0.0"
        assert (file.is_file() and file.read_bytes() == data) or any(data in s for s in shards)


@pytest.mark.torture
@pytest.mark.parametrize("call", ["replace", "unlink", "rmdir"])
def test_a_kill_at_any_moment_loses_no_site_and_a_rerun_finishes(made, tmp_path, call):
    step = 0
    while True:
        folder = tmp_path / str(step)
        site, out = folder / "site", folder / "out"
        shutil.copytree(made[1] / "site", site)
        if not killed(site, out, step, call, move=True):
            break
        bytes_of_all_sites(made, site, out)
        write_shards(site, out, TINY_MB, move=True)
        check(made, out)
        assert sorted(path.name for path in folder.iterdir()) == ["out"]
        shutil.rmtree(folder)
        step += 1
    check(made, out)
    assert step > 3


def test_one_kill_goes_on_without_the_sites_that_are_moved(made, site, tmp_path):
    out = tmp_path / "out"
    assert killed(site, out, 4, move=True)  # store.json and three shards are there
    left = len(list((site / "images").glob("c.*")))
    assert left < 11
    bytes_of_all_sites(made, site, out)
    with pytest.raises(InputError, match=r"holds no image \(.* is not there\)"):
        Store.open(site).read(0)
    with pytest.raises(InputError, match=f"{out}: .* were moved into other shards.*--shard-mb"):
        write_shards(site, out, 1.0, move=True)
    bytes_of_all_sites(made, site, out)
    rest = len(names(made[1] / "whole")) - 3  # which stays where it is, too
    assert write_shards(site, out).written == rest > 0
    check(made, out)
    assert len(list((site / "images").glob("c.*"))) == left
    write_shards(site, out, move=True)
    check(made, out)
    assert not site.exists()


def test_a_shard_lost_in_between_is_said(made, site, tmp_path):
    out = tmp_path / "out"
    assert killed(site, out, 4, move=True)
    first = Store.open(made[1] / "whole").shards.place(0)[0]
    (out / first).unlink()
    with pytest.raises(InputError, match="is not there; run `cellsignal prepare`") as caught:
        write_shards(site, out, move=True)
    assert "\n" not in str(caught.value)
    prepare(TinyCompetition(), made[1] / "root", site, codec="zstd")  # packs anew what was moved
    write_shards(site, out, move=True)
    check(made, out)


def test_who_reads_or_packs_meanwhile_is_refused(site, tmp_path):
    with sharding.locked(site), pytest.raises(InputError, match="another process is packing"):
        write_shards(site, tmp_path / "out", move=True)
    with sharding.reading(site, alone=False), pytest.raises(InputError, match="another process"):
        write_shards(site, tmp_path / "out", move=True)
    assert Store.open(site).check() == []


def test_a_store_that_cannot_be_removed_is_refused_before_anything_is_written(
    site, tmp_path, monkeypatch
):
    access = os.access
    for folder in (site / "images", site, site.parent):
        monkeypatch.setattr(os, "access", lambda p, mode, f=folder: p != f and access(p, mode))
        with pytest.raises(InputError, match=f"^{folder}: nothing can be deleted there"):
            write_shards(site, tmp_path / "out", move=True)
        assert not (tmp_path / "out").exists()
