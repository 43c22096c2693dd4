"""A store is of the inputs of now: what has changed is packed anew, and nothing that is right is
lost.
"""

import errno
import functools
import json
import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import zarr
from tiny_store import TinyCompetition, prepare_as_before, tiny_samples, write_root

from cellsignal.common.errors import InputError
from cellsignal.competitions import competition_ids, get_competition
from cellsignal.competitions.base import Competition
from cellsignal.competitions.sample_files import path_of
from cellsignal.data import renewal
from cellsignal.data import store_files as stored
from cellsignal.data.journal import read_journal
from cellsignal.data.pack import pack, prepare
from cellsignal.data.store import Store
from cellsignal.data.store_files import samples_text

COMPETITION = TinyCompetition()
CALIBRATED = [
    competition_id
    for competition_id in competition_ids()
    if type(get_competition(competition_id)).measure_plates is not Competition.measure_plates
]


class Counted(TinyCompetition):
    """Notes the sites that it reads."""

    def __init__(self):
        self.sites = []

    def read(self, root, files, shape=None):
        self.sites.append(files)
        return super().read(root, files, shape)


@pytest.fixture
def root(tmp_path):
    write_root(tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def packed(root, tmp_path):
    prepare(COMPETITION, root, tmp_path / "out")
    return tmp_path / "out"


def renew(root: Path, out: Path) -> list[tuple[str, ...]]:
    """Prepare again; returns the sites that were read."""
    competition = Counted()
    prepare(competition, root, out)
    return competition.sites


def rewrite(path: Path, value: int) -> None:
    """Another image of the same size in a file's place, later than the first."""
    shape = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).shape
    image = np.random.default_rng(value).integers(0, 256, shape, dtype=np.uint8)
    before = path.stat().st_mtime_ns
    cv2.imwrite(str(path), image)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def same_as_fresh(root: Path, out: Path, fresh: Path) -> None:
    """The store at `out` holds what a new store of the same root holds."""
    prepare(COMPETITION, root, fresh)
    a, b = Store.open(out), Store.open(fresh)
    assert (
        a.content_hash == b.content_hash and a.samples.equals(b.samples) and a.skipped == b.skipped
    )
    assert a.check() == [] and not (out / stored.NEXT).exists()
    for row in b.samples.row:
        np.testing.assert_array_equal(a.read(row), b.read(row))


def test_nothing_is_read_again_where_nothing_has_changed(root, packed):
    before = {path: path.stat().st_mtime_ns for path in packed.rglob("*")}
    assert renew(root, packed) == []
    assert before == {path: path.stat().st_mtime_ns for path in packed.rglob("*")}


def test_an_image_that_has_changed_is_packed_anew_alone(root, packed, tmp_path, caplog):
    files = tiny_samples().files
    rewrite(root / files[5][1], 1)
    assert renew(root, packed) == [files[5]]
    assert "image files have changed" in caplog.text and "1 of 12 sites" in caplog.text
    same_as_fresh(root, packed, tmp_path / "fresh")


def test_a_store_of_an_older_version_is_renewed_as_it_was_begun(root, tmp_path):
    files, out = tiny_samples().files, tmp_path / "out"
    prepare_as_before(root, out)
    kept = os.stat(out / "images/c.4.0.0.0").st_ino
    rewrite(root / files[5][1], 1)
    competition = Counted()
    prepare(competition, root, out, codec="zstd")
    assert competition.sites == [files[5]]
    assert os.stat(out / "images/c.4.0.0.0").st_ino == kept
    assert Store.open(out).images.chunks == (1, 1, 16, 20)
    same_as_fresh(root, out, tmp_path / "fresh")


def test_a_site_fetched_later_is_packed_and_the_others_are_not_read(root, tmp_path):
    files, out = tiny_samples().files, tmp_path / "out"
    (root / files[7][0]).rename(tmp_path / "later.png")
    prepare(COMPETITION, root, out)
    before = Store.open(out).content_hash
    (tmp_path / "later.png").rename(root / files[7][0])
    assert renew(root, out) == [files[7]]
    assert Store.open(out).content_hash != before
    same_as_fresh(root, out, tmp_path / "fresh")


def test_a_table_that_grows_or_is_labelled_anew_keeps_the_images(root, tmp_path, caplog):
    files, out = tiny_samples().files, tmp_path / "out"
    few = tiny_samples().drop(index=[2, 3, 8]).reset_index(drop=True)
    (root / "samples.csv").write_text(samples_text(few))
    prepare(COMPETITION, root, out)
    grown = tiny_samples()
    grown.loc[4, "compound"] = "other"
    (root / "samples.csv").write_text(samples_text(grown))
    assert sorted(renew(root, out)) == sorted([files[2], files[3], files[8]])
    assert "number of samples: 9, now 12" in caplog.text
    same_as_fresh(root, out, tmp_path / "fresh")
    grown.loc[4, "compound"] = "another"
    (root / "samples.csv").write_text(samples_text(grown))
    assert renew(root, out) == []
    assert "was 'other', now 'another'" in caplog.text
    assert Store.open(out).samples["compound"][4] == "another"


def test_packed_sites_are_never_lost_without_a_word(root, packed, caplog):
    before = Store.open(packed).content_hash
    (root / "samples.csv").write_text(samples_text(tiny_samples(5)))
    with pytest.raises(
        InputError, match="holds 2 samples that the data no longer have, first exp-1_0_W05_s1"
    ):
        prepare(COMPETITION, root, packed)
    (root / "samples.csv").write_text(samples_text(tiny_samples()))
    (root / tiny_samples().files[3][0]).unlink()
    assert renew(root, packed) == []
    assert (
        "files of 1 packed sites are gone" in caplog.text
        and "kept as they were packed" in caplog.text
    )
    assert Store.open(packed).content_hash == before


@pytest.mark.parametrize("what", ["packing", "reading"])
def test_another_version_of_the_code_packs_all_anew(root, packed, monkeypatch, caplog, what):
    if what == "packing":
        monkeypatch.setattr(renewal, "PACKING", 2)
    else:
        monkeypatch.setattr(TinyCompetition, "reading", 2)
    assert len(renew(root, packed)) == 12
    assert f"changed: {what}" in caplog.text
    (root / tiny_samples().files[3][0]).unlink()
    monkeypatch.undo()
    with pytest.raises(
        InputError, match="1 packed sites are out of date and their image files are gone"
    ):
        renew(root, packed)


@pytest.mark.parametrize(("number", "told"), [(5, "a3, a4"), (6, "a3, a4 and 1 more")])
def test_five_changed_inputs_are_named_and_the_others_counted(root, packed, caplog, number, told):
    info = json.loads((packed / "store.json").read_text())
    info["made_from"] |= {f"a{i}": 0 for i in range(number)}
    (packed / "store.json").write_text(json.dumps(info))
    assert renew(root, packed) == []
    assert f"changed: a0, a1, a2, {told}. 0 of 12 sites are to be packed" in caplog.text


def test_a_store_of_before_stamps_is_taken_over(root, packed, tmp_path, caplog):
    shutil.rmtree(packed / "stamp")
    info = json.loads((packed / "store.json").read_text())
    del info["made_from"]
    arrays = _arrays_of(packed)
    info["arrays_digest"] = stored.hash_arrays(arrays)
    (packed / "store.json").write_text(json.dumps(info))
    assert renew(root, packed) == [] and "an earlier version made it" in caplog.text
    files = tiny_samples().files
    rewrite(root / files[5][1], 1)
    assert renew(root, packed) == [files[5]]
    same_as_fresh(root, packed, tmp_path / "fresh")


@pytest.mark.parametrize("after", [1, 3])
def test_the_old_store_is_whole_until_the_new_one_is(root, packed, tmp_path, after):
    """A renewal that is broken off leaves the old store; the next call goes on from there."""
    files, before = tiny_samples().files, Store.open(packed).content_hash
    for row in (1, 4, 6, 9):
        rewrite(root / files[row][0], row)

    class Broken(Counted):
        def read(self, root, files, shape=None):
            if len(self.sites) == after:
                raise KeyboardInterrupt
            return super().read(root, files, shape)

    with pytest.raises(KeyboardInterrupt):
        prepare(Broken(), root, packed)
    assert Store.open(packed).content_hash == before
    assert Store.open(packed).check() == []
    assert len(renew(root, packed)) == 4 - after
    same_as_fresh(root, packed, tmp_path / "fresh")


@pytest.mark.parametrize("step", range(len(renewal.PIECES) + 1))
def test_a_kill_while_the_new_store_takes_the_old_ones_place(root, packed, tmp_path, step):
    rewrite(root / tiny_samples().files[4][0], 1)
    child = os.fork()
    if not child:
        real, calls = os.replace, []

        def replace(source, target):
            if f"/{stored.NEXT}/" in str(source) and f"/{stored.NEXT}/" not in str(target):
                if len(calls) == step:
                    os._exit(9)
                calls.append(source)
            real(source, target)

        renewal.os.replace = replace
        prepare(COMPETITION, root, packed)
        os._exit(0 if step == len(renewal.PIECES) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (
        0 if step == len(renewal.PIECES) else 9
    )
    if step < len(renewal.PIECES):
        with pytest.raises(InputError, match="packing is unfinished"):
            Store.open(packed)
    assert renew(root, packed) == []
    same_as_fresh(root, packed, tmp_path / "fresh")


def _arrays_of(path: Path) -> dict[str, np.ndarray]:
    group = zarr.open_group(path, mode="r")
    return {name: np.asarray(group[name][:]) for name in stored.ARRAYS}


# places
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["link", "dangling link", "empty folder", "disk"])
def test_a_store_may_be_a_link_or_a_folder_that_is_there(root, tmp_path, place):
    out = tmp_path / "out"
    if place == "link":
        (tmp_path / "disk").mkdir()
        out.symlink_to("disk")
    elif place == "dangling link":
        out.symlink_to("disk")
    else:
        out.mkdir()
    if place == "disk":
        (out / "lost+found").mkdir()
    inode = out.stat().st_ino if out.exists() else None
    prepare(COMPETITION, root, out)
    assert out.is_symlink() == ("link" in place) and inode in (None, out.stat().st_ino)
    rewrite(root / tiny_samples().files[2][0], 3)
    prepare(COMPETITION, root, out)
    shutil.rmtree(tmp_path / "fresh", ignore_errors=True)
    same_as_fresh(root, out, tmp_path / "fresh")


def test_a_link_to_itself_is_one_line(root, tmp_path):
    store = tmp_path / "store"
    store.symlink_to(store)
    with pytest.raises(InputError, match="store: is a link that leads back to itself"):
        prepare(TinyCompetition(), root, store)


def test_a_whole_store_that_cannot_be_written_is_up_to_date(root, tmp_path, monkeypatch):
    """On a read-only file system even the removal of what is not there is refused."""
    before = prepare(TinyCompetition(), root, tmp_path / "store")

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("unlink", "write_bytes", "write_text"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(os, "replace", refuse)
    assert prepare(TinyCompetition(), root, tmp_path / "store") == before


def test_a_link_to_nowhere_is_one_line(root, tmp_path):
    (tmp_path / "out").symlink_to("not/mounted")
    with pytest.raises(InputError, match=r"is a link to .*not/mounted, which cannot be made"):
        prepare(COMPETITION, root, tmp_path / "out")


# calibration
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(simulated, tmp_path):
    """competition id -> a copy of its simulated root."""

    @functools.cache
    def copy_of(competition_id: str) -> Path:
        return Path(shutil.copytree(simulated(competition_id), tmp_path / competition_id))

    return copy_of


def part_of(competition: Competition, root: Path, place: Path) -> Path:
    """A root that has the same tables, and the images of every second well only, controls first."""
    samples = competition.samples(root)
    shutil.copytree(root, place)
    wells = samples.sort_values(["role", "well_id"]).groupby("plate").well_id.unique()
    left_out = {well for plate in wells for well in plate[1::2]}
    for files in samples.files[samples.well_id.isin(left_out)]:
        for name in files:
            (place / path_of(name)).unlink(missing_ok=True)
    return place


def test_there_are_competitions_that_measure_plates():
    assert set(CALIBRATED) >= {"bbbc021_full", "cpjump1", "cpjump1_course"}


@pytest.mark.slow
@pytest.mark.parametrize("same_store", [True, False])
@pytest.mark.parametrize("competition_id", CALIBRATED)
def test_half_a_data_set_and_then_the_rest_gives_the_pixels_of_the_whole(
    competition_id, whole, tmp_path, caplog, same_store
):
    competition, root = get_competition(competition_id), whole(competition_id)
    late = part_of(competition, root, tmp_path / "late")
    first = tmp_path / "first"
    prepare(competition, late, first)
    half = Store.open(first)
    shutil.copytree(root, late, dirs_exist_ok=True)
    caplog.clear()
    second = first if same_store else tmp_path / "second"
    prepare(competition, late, second)
    prepare(competition, root, tmp_path / "fresh")
    a, b = Store.open(second), Store.open(tmp_path / "fresh")
    assert len(half.samples) < len(b.samples)
    assert a.content_hash == b.content_hash and a.check() == []
    assert a.info["made_from"] == b.info["made_from"], "the calibrations' hashes, too"
    if same_store:
        assert "its calibration is measured anew; changed: number of planes" in caplog.text
        assert "changed: calibration." in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("competition_id", CALIBRATED)
def test_a_changed_plane_is_noticed_and_a_touched_one_changes_nothing(
    competition_id, whole, tmp_path
):
    competition, root = get_competition(competition_id), whole(competition_id)
    out, samples = tmp_path / "out", competition.samples(root)
    prepare(competition, root, out)
    before = Store.open(out).content_hash
    plane = root / path_of(samples.files[0][0])
    later = time.time_ns() + 10**9
    os.utime(plane, ns=(later, later))
    prepare(competition, root, out)
    assert Store.open(out).content_hash == before
    other = root / path_of(samples.files[len(samples) // 2][0])
    shutil.copyfile(other, plane)
    os.utime(plane, ns=(later + 1, later + 1))
    prepare(competition, root, out)
    prepare(competition, root, tmp_path / "fresh")
    assert Store.open(out).content_hash == Store.open(tmp_path / "fresh").content_hash != before


@pytest.mark.slow
@pytest.mark.parametrize("competition_id", CALIBRATED)
def test_pack_holds_no_image_of_two_calibrations(competition_id, whole, tmp_path):
    """Broken off in the first packing, then the rest of the images comes: sites of a plate measured
    anew are packed anew.
    """
    competition, root = get_competition(competition_id), whole(competition_id)
    late = part_of(competition, root, tmp_path / "late")

    class Broken(type(competition)):
        number = 0

        def read(self, *arguments, **more):
            type(self).number += 1
            if self.number == 6:
                raise KeyboardInterrupt
            return super().read(*arguments, **more)

    with pytest.raises(KeyboardInterrupt):
        prepare(Broken(), late, tmp_path / "out")
    assert len(read_journal(tmp_path / "out")[0]) == 5
    shutil.copytree(root, late, dirs_exist_ok=True)
    prepare(competition, late, tmp_path / "out")
    prepare(competition, root, tmp_path / "fresh")
    assert Store.open(tmp_path / "out").content_hash == Store.open(tmp_path / "fresh").content_hash


def test_without_stamps_a_second_call_reads_nothing(root, tmp_path):
    """`pack` alone knows no files to watch: its source is taken to be the same."""
    more = {"channels": COMPETITION.channels, "source": {}, "shape": (16, 20)}
    pack(tiny_samples(), functools.partial(COMPETITION.read, root), tmp_path / "out", **more)
    rewrite(root / tiny_samples().files[2][0], 3)
    pack(tiny_samples(), _refuse, tmp_path / "out", **more)
    assert Store.open(tmp_path / "out").check() == []


def _refuse(files):
    raise AssertionError(f"{files} are read again")
