"""`prepare` over a store of shards: nothing to do, or one line that says what is to be done."""

import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import cellsignal, error_line, write_config
from tiny_store import TinyCompetition, tiny_samples, write_root

from cellsignal.cli import main
from cellsignal.common.errors import InputError
from cellsignal.config import load_config
from cellsignal.data.pack import prepare
from cellsignal.data.parts import Packing, Part, merge_parts, parts_folder, prepare_part
from cellsignal.data.sharding import write_shards
from cellsignal.data.store import Store
from cellsignal.data.store_files import samples_text

COMPETITION = TinyCompetition()


@pytest.fixture
def root(tmp_path):
    """Row 3 lacks a file."""
    write_root(tmp_path / "root")
    (tmp_path / "root" / tiny_samples().files[3][2]).unlink()
    return tmp_path / "root"


@pytest.fixture
def out(root, tmp_path):
    prepare(COMPETITION, root, tmp_path / "site")
    write_shards(tmp_path / "site", tmp_path / "out", 3e-3)
    return tmp_path / "out"


def files_of(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_what_is_current_is_left_as_it_is(root, out, tmp_path):
    before = files_of(out)
    assert prepare(COMPETITION, root, out) == prepare(COMPETITION, root, tmp_path / "site")
    assert files_of(out) == before


class Measuring(TinyCompetition):
    """Measures plates anew each time, and notes what it had measured before."""

    def calibrate(self, root, folder, workers=0):
        folder.mkdir(exist_ok=True)
        file = folder / "plate"
        self.before = file.read_text() if file.exists() else None
        file.write_text(f"{self.before}+")
        return self


def test_plates_are_measured_in_a_copy(root, out, tmp_path):
    prepare(Measuring(), root, tmp_path / "site")
    shutil.rmtree(out)
    write_shards(tmp_path / "site", out, 3e-3)
    before = files_of(out)
    competition = Measuring()
    prepare(competition, root, out)
    assert competition.before == "None+" == (out / "calibration/plate").read_text()
    change_an_image(root)
    with pytest.raises(InputError, match="its shards are out of date"):
        prepare(competition, root, out)
    assert files_of(out) == before


def change_an_image(root):
    file = root / tiny_samples().files[8][0]
    cv2.imwrite(str(file), np.full((16, 20), 7, np.uint8))
    return f"image files have changed, first of {tiny_samples().sample_id[8]}"


def add_samples(root):
    write_root(root.parent / "more", 7)
    for file in (root.parent / "more/images").iterdir():
        if not (root / "images" / file.name).exists():
            shutil.copyfile(file, root / "images" / file.name)
    shutil.copyfile(root.parent / "more/samples.csv", root / "samples.csv")
    return "another number of samples: 12, now 14"


def change_a_label(root):
    samples = tiny_samples()
    samples.loc[samples.well_id == samples.well_id[4], "label"] = 1
    (root / "samples.csv").write_text(samples_text(samples))
    return "another samples table: label of "


@pytest.mark.parametrize("change", [change_an_image, add_samples, change_a_label])
def test_what_has_changed_is_said_and_the_two_commands_mend_it(root, out, tmp_path, change):
    why, before = change(root), files_of(out)
    with pytest.raises(InputError, match=f"{out}: its shards are out of date.*{why}") as caught:
        prepare(COMPETITION, root, out)
    text = str(caught.value)
    assert f"--set data.store={tmp_path / 'site'}" in text and f"--shards {out}" in text
    assert files_of(out) == before
    prepare(COMPETITION, root, tmp_path / "site")
    write_shards(tmp_path / "site", out)
    report = prepare(COMPETITION, root, out)
    assert report.n_packed == len(Store.open(out).samples) >= 11
    one, other = Store.open(tmp_path / "site"), Store.open(out)
    assert one.content_hash == other.content_hash and one.samples.equals(other.samples)


def test_samples_that_are_gone_are_refused_as_ever(root, out):
    (root / "samples.csv").write_text(samples_text(tiny_samples(5)))
    with pytest.raises(InputError, match="holds 2 samples that the data no longer have"):
        prepare(COMPETITION, root, out)


@pytest.mark.parametrize("size", [8, 32])
def test_another_size_is_refused(root, out, size):
    before = files_of(out)
    with pytest.raises(InputError, match=f"{out}: this store was made with another size: None"):
        prepare(COMPETITION, root, out, size=size)
    assert files_of(out) == before


@pytest.mark.parametrize("how", ["gone", "cut", "unfinished"])
def test_lost_shards_are_named(root, out, tmp_path, how):
    shard = sorted((out / "shards").iterdir())[0]
    if how == "gone":
        shard.unlink()
    elif how == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        info = (out / "store.json").read_text()
        (out / "store.json").write_text(info.replace('"complete": true', '"complete": false'))
    line = {
        "gone": f"{shard}: is not there",
        "cut": rf"{shard}: has \d+ bytes, \d+ were written",
        "unfinished": f"{out}: its shards are not all written",
    }[how]
    with pytest.raises(InputError, match=rf"^{line}; run `cellsignal prepare.*--shards {out}"):
        prepare(COMPETITION, root, out)
    write_shards(tmp_path / "site", out)
    prepare(COMPETITION, root, out)
    assert Store.open(out).check() == []


@pytest.mark.parametrize("how", ["gone", "damaged"])
@pytest.mark.parametrize("lost", ["samples.csv.gz", "left_out.csv.gz"])
def test_prepare_writes_lost_tables_of_site_files_anew(root, tmp_path, lost, how):
    site = tmp_path / "site"
    prepare(COMPETITION, root, site)
    before = {p: p.read_bytes() for p in site.rglob("*") if p.is_file()}
    (site / lost).unlink()
    if how == "damaged":
        (site / lost).write_bytes(b"damage")
    with pytest.raises(InputError, match=f"{lost}: cannot be read .*; run `cellsignal prepare` ag"):
        _ = Store.open(site).skipped
    assert prepare(COMPETITION, root, site).n_packed == 11
    assert {p: p.read_bytes() for p in site.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("lost", ["samples.csv.gz", "shards.csv.gz", "offset", "left_out.csv.gz"])
def test_lost_tables_and_arrays_are_said_and_written_anew(root, out, tmp_path, lost):
    before = files_of(out)
    for how in ("gone", "damaged"):
        if (out / lost).is_dir():
            shutil.rmtree(out / lost)
        else:
            (out / lost).unlink()
        if how == "damaged":
            (out / lost).write_bytes(b"damage")
        with pytest.raises(InputError, match=r"damaged|cannot be read") as caught:
            prepare(COMPETITION, root, out)
        assert "--shards` again" in str(caught.value) and "\n" not in str(caught.value)
        write_shards(tmp_path / "site", out)
        assert files_of(out).keys() == before.keys() and Store.open(out).check() == []
        assert prepare(COMPETITION, root, out).n_packed == 11


def test_parts_are_not_packed_for_shards(root, out, tmp_path):
    for call in (
        lambda: prepare_part(COMPETITION, root, out, Part(1, 2), Packing()),
        lambda: merge_parts(COMPETITION, root, out, 2, Packing()),
    ):
        with pytest.raises(InputError, match=f"{out}: is made of shards; parts are.*site"):
            call()
    assert not parts_folder(out).exists()


@pytest.mark.slow
def test_the_commands(simulated, tmp_path, capsys, monkeypatch):
    """prepare, prepare --shards twice, verify --store, and prepare of the shards."""
    write_config(tmp_path, "rxrx1", simulated("rxrx1"))
    words = ("prepare", "config.yaml")
    line = error_line(capsys, *words, "--shards", "many", cwd=tmp_path)
    assert "store: there is no store" in line
    assert cellsignal(*words, cwd=tmp_path) == 0
    assert cellsignal(*words, "--shards", "many", "--shard-mb", "0.1", cwd=tmp_path) == 0
    assert len(list((tmp_path / "many/shards").iterdir())) > 2
    before = files_of(tmp_path / "many")
    assert cellsignal(*words, "--shards", "many", cwd=tmp_path) == 0
    assert cellsignal(*words, "--set", "data.store=many", cwd=tmp_path) == 0
    assert files_of(tmp_path / "many") == before
    capsys.readouterr()
    for place in ("store", "many"):
        assert cellsignal("verify", "--store", place, cwd=tmp_path) == 0
        assert capsys.readouterr().out.endswith("sites, 0 damaged\n")
    for more, why in (
        (("--shard-mb", "3"), "--shard-mb: goes with --shards"),
        (("--move",), "--move: goes with --shards"),
        (("--shards", "many", "--shard-mb", "0"), "--shard-mb 0: give the megabytes"),
        (("--shards", "s3://b/x"), "shards s3://b/x: takes a local path, no URL"),
        (("--shards", "x", "--set", "data.store=many"), "is made of shards already"),
        (("--shards", "x", "--set", "data.store=s3://b/x"), "is read only"),
        (("--set", "data.store=many", "--set", "data.size=16"), "made with another size"),
    ):
        assert why in error_line(capsys, *words, *more, cwd=tmp_path)
    assert not (tmp_path / "x").exists() and not (tmp_path / "s3:").exists()
    capsys.readouterr()
    words = (*words, "--set", "data.store=store")
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--shards", "a: [b] #c", "--shard-mb", "0.1"]) == 0
    command = shlex.split(capsys.readouterr().err.rpartition("next: ")[2])
    assert command[:3] == ["cellsignal", "train", "config.yaml"]
    (change,) = command[4:]
    stored_at = load_config(tmp_path / "config.yaml", [change]).data.store
    assert stored_at == Path("a: [b] #c")
    assert cellsignal(*words, "--shards", "many", "--move", cwd=tmp_path) == 0
    assert not (tmp_path / "store").exists()
    assert cellsignal("verify", "--store", "many", cwd=tmp_path) == 0
