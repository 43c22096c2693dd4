"""Parts packed by themselves and merged are the store that is packed at once, to the byte; what is
missing, stale or of other settings is named.
"""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal, error_line, write_config
from hypothesis import given
from hypothesis import strategies as st
from tiny_store import TinyCompetition, tiny_samples, write_root

from cellsignal.cli import main
from cellsignal.common.errors import InputError
from cellsignal.data import parts
from cellsignal.data.pack import prepare
from cellsignal.data.parts import (
    Packing,
    Part,
    merge_parts,
    part_folder,
    parts_folder,
    positions_of,
    prepare_part,
)
from cellsignal.data.store import Store

COMPETITION = TinyCompetition()
ZSTD = Packing(codec="zstd")


def content(path: Path) -> dict[str, object]:
    """Every file of a store by its name; of store.json what does not tell time and place."""
    files = {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }
    info = json.loads(files.pop("store.json"))
    info.pop("made_by")
    return files | {"store.json": info}


@pytest.fixture
def root(tmp_path):
    """Eight wells of two sites on four plates."""
    write_root(tmp_path / "raw", 8)
    return tmp_path / "raw"


def without_links(link):
    """`os.link` of a file system that has none, for images alone: zarr uses links, too."""

    def refuse(source, target):
        if "/images/c." in str(target):
            raise OSError(errno.EPERM, "no links")
        return link(source, target)

    return refuse


def at_once(root: Path, packing: Packing = ZSTD) -> dict[str, object]:
    out = root.parent / "at_once"
    packing.prepare(COMPETITION, root, out)
    return content(out)


def pack_all(root: Path, total: int, packing: Packing = ZSTD) -> Path:
    out = root.parent / "store"
    for number in range(1, total + 1):
        prepare_part(COMPETITION, root, out, Part(number, total), packing)
    return out


@pytest.mark.parametrize(
    ("total", "packing"),
    [
        (3, ZSTD),
        pytest.param(1, ZSTD, marks=pytest.mark.slow),
        pytest.param(4, Packing(codec="raw"), marks=pytest.mark.slow),
        pytest.param(3, Packing(size=8), marks=pytest.mark.slow),
    ],
)
def test_merged_is_packed_at_once(root, total, packing):
    wanted = at_once(root, packing)
    out = pack_all(root, total, packing)
    assert not out.exists()
    report = merge_parts(COMPETITION, root, out, total, packing)
    assert content(out) == wanted and report.n_packed == 16 and not report.skipped
    assert not parts_folder(out).exists()
    store = Store.open(out)
    assert len(store.samples) == 16 and store.read(7).shape == store.shape
    # nothing is left to do
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    packing.prepare(COMPETITION, root, out)
    merge_parts(COMPETITION, root, out, total, packing)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


@pytest.mark.slow
def test_no_pixel_is_copied(root):
    out = pack_all(root, 2)
    inodes = {p.stat().st_ino for p in parts_folder(out).glob("*/images/c.*.0.0.0")}
    merge_parts(COMPETITION, root, out, 2, ZSTD)
    assert {p.stat().st_ino for p in out.glob("images/c.*.0.0.0")} == inodes and len(inodes) == 16


@pytest.mark.slow
def test_without_hard_links_files_are_renamed(root, monkeypatch):
    wanted, out = at_once(root), pack_all(root, 2)
    inodes = {p.stat().st_ino for p in parts_folder(out).glob("*/images/c.*.0.0.0")}

    monkeypatch.setattr(os, "link", without_links(os.link))
    merge_parts(COMPETITION, root, out, 2, ZSTD)
    assert content(out) == wanted
    assert {p.stat().st_ino for p in out.glob("images/c.*.0.0.0")} == inodes


@pytest.mark.slow
@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("at", ["link 5", "complete", "rename"])
def test_a_killed_merge_goes_on(root, monkeypatch, has_links, at):
    wanted, out = at_once(root), pack_all(root, 4)

    class Killed(BaseException):
        pass

    names, real = [], os.link if has_links else os.replace

    def name(source, target):
        if "/images/c." in str(target) and at == "link 5" and len(names) == 5:
            raise Killed
        names.append(target)
        return real(source, target)

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        if not has_links:
            patch.setattr(os, "link", without_links(os.link))
        patch.setattr(os, "link" if has_links else "replace", name)
        if at == "complete":
            patch.setattr(parts, "complete", kill)
        if at == "rename":
            patch.setattr(Path, "rename", kill)
        with pytest.raises(Killed):
            merge_parts(COMPETITION, root, out, 4, ZSTD)
    assert not out.exists()
    merge_parts(COMPETITION, root, out, 4, ZSTD)
    assert content(out) == wanted and not parts_folder(out).exists()


@pytest.mark.slow
def test_a_lost_worker_is_a_part_redone(root, monkeypatch):
    wanted, out = at_once(root), root.parent / "store"
    for number in (1, 2, 4):
        prepare_part(COMPETITION, root, out, Part(number, 4), ZSTD)
    with pytest.raises(InputError, match=r"store\.parts: 1 of 4 parts are not packed \(3\); run"):
        merge_parts(COMPETITION, root, out, 4, ZSTD)
    reads, read = [], TinyCompetition.read

    def stop_at_second(self, root, files, shape=None):
        reads.append(files)
        if len(reads) == 2:
            raise KeyboardInterrupt
        return read(self, root, files, shape)

    with monkeypatch.context() as patch:
        patch.setattr(TinyCompetition, "read", stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            prepare_part(COMPETITION, root, out, Part(3, 4), ZSTD)
    with pytest.raises(InputError, match="1 of 4 parts are not packed"):
        merge_parts(COMPETITION, root, out, 4, ZSTD)
    prepare_part(COMPETITION, root, out, Part(3, 4), ZSTD)
    merge_parts(COMPETITION, root, out, 4, ZSTD)
    assert content(out) == wanted


@pytest.mark.slow
def test_what_cannot_be_read_is_left_out_as_at_once(root):
    """One site, and all of a plate: its part is finished all the same."""
    samples = tiny_samples(8)
    plate = samples[(samples.experiment == "exp-1") & (samples.plate == "1")]
    for files in [*plate.files, samples.files[0]]:
        (root / files[1]).unlink()
    wanted, out = at_once(root), root.parent / "store"
    counts = [prepare_part(COMPETITION, root, out, Part(k, 4), ZSTD).n_packed for k in (1, 2, 3, 4)]
    assert sorted(counts) == [0, 3, 4, 4]
    report = merge_parts(COMPETITION, root, out, 4, ZSTD)
    assert content(out) == wanted and report.n_packed == 11 and len(report.skipped) == 5
    with pytest.raises(InputError, match=r"images/.*png: "):
        prepare_part(
            COMPETITION, root, root.parent / "other", Part(1, 4), replace(ZSTD, bad_site="refuse")
        )


@pytest.mark.slow
def test_other_settings_and_other_samples_are_refused(root):
    out = pack_all(root, 2)
    prepare_part(COMPETITION, root, root.parent / "raw_codec", Part(2, 2), Packing(codec="raw"))
    other = part_folder(root.parent / "raw_codec", Part(2, 2))
    mine = part_folder(out, Part(2, 2))
    mine.rename(mine.with_name("aside"))
    other.rename(mine)
    with pytest.raises(InputError, match="2-of-2: differs from part 1 in codec; delete that"):
        merge_parts(COMPETITION, root, out, 2, ZSTD)
    mine.rename(mine.with_name("other"))
    mine.with_name("aside").rename(mine)
    table = root / "samples.csv"
    table.write_text(table.read_text().replace("negative_control", "treatment"))
    with pytest.raises(InputError, match="1-of-2: was packed from other samples than there are"):
        merge_parts(COMPETITION, root, out, 2, ZSTD)
    assert not out.exists()


@pytest.mark.slow
def test_a_taken_place_is_refused_and_an_empty_one_filled(root, tmp_path):
    out = pack_all(root, 2)
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(InputError, match="neither empty nor a store"):
        merge_parts(COMPETITION, root, out, 2, ZSTD)
    (out / "mine.txt").unlink()
    merge_parts(COMPETITION, root, out, 2, ZSTD)
    assert len(Store.open(out).samples) == 16
    begun = tmp_path / "begun"
    prepare(COMPETITION, root, begun, codec="zstd")
    info = json.loads((begun / "store.json").read_text())
    (begun / "store.json").write_text(json.dumps(info | {"complete": False}))
    with pytest.raises(InputError, match="was begun without parts"):
        merge_parts(COMPETITION, root, begun, 2, ZSTD)


@pytest.mark.slow
def test_a_part_that_was_packed_again_between_two_merges(root, monkeypatch):
    out = pack_all(root, 2)

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(parts, "complete", kill)
        with pytest.raises(Killed):
            merge_parts(COMPETITION, root, out, 2, ZSTD)
    write_root(root.parent / "new", 8, seed=1)
    name = tiny_samples(8).files[3][0]
    (root / name).write_bytes((root.parent / "new" / name).read_bytes())
    for number in (1, 2):
        prepare_part(COMPETITION, root, out, Part(number, 2), ZSTD)
    merge_parts(COMPETITION, root, out, 2, ZSTD)
    assert content(out) == at_once(root)


@pytest.mark.slow
def test_a_changed_image_is_packed_again_after_merging(root):
    out = pack_all(root, 2)
    write_root(root.parent / "new", 8, seed=1)
    name = tiny_samples(8).files[3][0]
    (root / name).write_bytes((root.parent / "new" / name).read_bytes())
    merge_parts(COMPETITION, root, out, 2, ZSTD)
    assert content(out) == at_once(root)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1), st.integers(1, 6))
def test_plates_are_dealt_whole_and_once(plates, total):
    samples = pd.DataFrame(plates, columns=["experiment", "plate"]).astype(str)
    number = len(set(plates))
    if total > number:
        with pytest.raises(InputError, match=f"{total} parts: there are only {number} plates"):
            positions_of(samples, Part(1, total))
        return
    dealt = [positions_of(samples, Part(k, total)) for k in range(1, total + 1)]
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(plates)))
    counts = [len({plates[i] for i in part}) for part in dealt]
    assert sum(counts) == number and max(counts) - min(counts) <= 1


@pytest.mark.parametrize("word", ["3", "0/4", "5/4", "1/0", "a/b", "1/2/3", "-1/4", "1.5/2", ""])
def test_a_wrong_part_is_refused(word):
    with pytest.raises(InputError, match="write K/N"):
        Part.parse(word)
    assert str(Part.parse("3/51")) == "3/51"
    assert Part.parse("1/1000000").total == 1_000_000  # the number of plates is the limit


@pytest.mark.slow
def test_the_command(simulated, tmp_path, capsys, monkeypatch):
    root = simulated("rxrx1")
    config = write_config(tmp_path, "rxrx1", root)
    assert cellsignal("prepare", config, "--set", "data.store=at_once", cwd=tmp_path) == 0
    line = error_line(capsys, "prepare", config, "--merge", 2, cwd=tmp_path)
    assert "2 of 2 parts are not packed (1, 2)" in line
    monkeypatch.chdir(tmp_path)
    for part, following in (("1/2", "--part 2/2"), ("2/2", "--merge 2")):
        assert main(["prepare", str(config), "--part", part]) == 0
        assert capsys.readouterr().err.splitlines()[-1].endswith(following)
    assert cellsignal("prepare", config, "--merge", 2, cwd=tmp_path) == 0
    assert content(tmp_path / "store") == content(tmp_path / "at_once")
    assert "write K/N" in error_line(capsys, "prepare", config, "--part", "3/2", cwd=tmp_path)
    assert "1 or more" in error_line(capsys, "prepare", config, "--merge", 0, cwd=tmp_path)
    line = error_line(capsys, "prepare", config, "--part", "1/1000000", cwd=tmp_path)
    assert line.startswith("1000000 parts: there are only")
