"""Bad input through the command line: exit status 2, one line that names the file, row or key, and
nothing lost.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from helpers import Workspace, cellsignal, contents, error_line, replace, tiny_config, write_config

from cellsignal.data.store import Store
from cellsignal.training import checkpoints
from cellsignal.training.checkpoints import load_checkpoint, save_checkpoint

LAST = "fold0/all/all/last.pt"
PREDICTIONS = "predictions/fold0_cell_type.npz"


@pytest.fixture
def raw(simulated, tmp_path) -> Path:
    """A copy of the simulated RxRx1's raw data, to be damaged by `replace` (the files are links)."""
    return Path(shutil.copytree(simulated("rxrx1"), tmp_path / "raw", copy_function=os.link))


@pytest.fixture(scope="module")
def scored(trained, tmp_path_factory) -> Workspace:
    """The trained workspace with a scored submission."""
    space = trained("rxrx1").copy(tmp_path_factory.mktemp("scored") / "work")
    assert cellsignal("submit", "config.yaml", "--out", "mine.csv", cwd=space.folder) == 0
    assert (
        cellsignal(
            "score",
            "mine.csv",
            "--answers",
            space.answers,
            "--leaderboard",
            "board.csv",
            cwd=space.folder,
        )
        == 0
    )
    return space


@pytest.fixture
def work(scored, tmp_path) -> Workspace:
    """A copy of it, to be damaged."""
    return scored.copy(tmp_path / "work")


def damage(path: Path, at: float = 0.5) -> None:
    """Turn over one byte."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 0xFF
    replace(path, bytes(content))


def cut(path: Path) -> None:
    content = path.read_bytes()
    replace(path, content[: len(content) * 2 // 3])


# images
# --------------------------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    replace(path, path.read_bytes()[:-40])


def missing(path: Path) -> None:
    path.unlink()


def sixteen_bit(path: Path) -> None:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint16) * 256
    replace(path, cv2.imencode(".png", image)[1].tobytes())


def half_size(path: Path) -> None:
    replace(
        path,
        cv2.imencode(".png", cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[::2, ::2])[1].tobytes(),
    )


def not_an_image(path: Path) -> None:
    replace(path, "<html>504 Gateway Timeout</html>")


def empty(path: Path) -> None:
    replace(path, b"")


def flipped_byte(path: Path) -> None:
    damage(path)


FAULTS = {
    truncated: "truncated PNG",
    missing: "no such image file",
    sixteen_bit: "16-bit image, 8-bit expected",
    half_size: "16x16 pixels, 32x32 expected",
    not_an_image: "is not a PNG",
    empty: "is empty or truncated",
    flipped_byte: "corrupt PNG",
}


def channel_file(root: Path, row: int, channel: int = 3) -> Path:
    from cellsignal.competitions import get_competition

    return root / get_competition("rxrx1").samples(root).files[row][channel - 1]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_bad_image_ends_prepare_by_name_where_none_is_allowed(raw, tmp_path, capsys, fault):
    bad = channel_file(raw, 0)
    fault(bad)
    config = write_config(tmp_path / "work", "rxrx1", raw)
    line = error_line(
        capsys, "prepare", config, "--set", "data.bad_site=refuse", cwd=tmp_path / "work"
    )
    assert str(bad) in line and FAULTS[fault] in line


def test_bad_images_are_left_out_listed_and_taken_in_once_mended(raw, simulated, tmp_path):
    rows = dict(zip(FAULTS, range(0, 21, 3), strict=True))
    for fault, row in rows.items():
        fault(channel_file(raw, row))
    config = write_config(tmp_path / "work", "rxrx1", raw)
    assert cellsignal("prepare", config, cwd=tmp_path / "work") == 0
    store = Store.open(tmp_path / "work" / "store")
    skipped = dict(store.skipped)
    samples = pd.read_csv(tmp_path / "work" / "store" / "samples.csv.gz")
    assert set(skipped) == set(samples.sample_id[list(rows.values())]) and not set(skipped) & set(
        store.samples.sample_id
    )
    assert len(store.samples) == len(samples) - len(rows)
    for fault, row in rows.items():
        assert (
            FAULTS[fault] in skipped[samples.sample_id[row]]
            and str(channel_file(raw, row)) in skipped[samples.sample_id[row]]
        )
    for row in rows.values():
        bad = channel_file(raw, row)
        bad.unlink(missing_ok=True)
        os.link(simulated("rxrx1") / bad.relative_to(raw), bad)
    assert cellsignal("prepare", config, cwd=tmp_path / "work") == 0
    assert len(Store.open(tmp_path / "work" / "store").samples) == len(samples)


def test_verify_lists_every_bad_image_in_one_run(raw, tmp_path, capsys):
    bad = {
        channel_file(raw, row): fault for row, fault in zip(range(0, 21, 3), FAULTS, strict=True)
    }
    for path, fault in bad.items():
        fault(path)
    assert cellsignal("verify", "rxrx1", "--root", raw, "--workers", 0, cwd=tmp_path) == 2
    out, err = capsys.readouterr()
    assert err == f"error: {raw}: {len(bad)} errors, listed above\n"
    for path, fault in bad.items():
        lines = [line for line in out.splitlines() if str(path.relative_to(raw)) in line]
        assert len(lines) == 1 and FAULTS[fault] in lines[0]
    assert cellsignal("verify", "rxrx1", "--root", raw.parent / "nowhere", cwd=tmp_path) == 2


def test_a_bad_first_image_of_bbbc021_is_one_bad_sample_like_any_other(simulated, tmp_path, capsys):
    raw = Path(shutil.copytree(simulated("bbbc021"), tmp_path / "raw", copy_function=os.link))
    first = raw / "images" / f"{pd.read_csv(raw / 'sample_submission.csv').image_id[0]}.png"
    first.unlink()
    config = write_config(tmp_path / "work", "bbbc021", raw)
    assert cellsignal("prepare", config, cwd=tmp_path / "work") == 0
    assert [sample for sample, _ in Store.open(tmp_path / "work" / "store").skipped] == [first.stem]
    line = error_line(
        capsys,
        "prepare",
        config,
        "--set",
        "data.bad_site=refuse",
        "--set",
        "data.store=other",
        cwd=tmp_path / "work",
    )
    assert str(first) in line


# metadata
# --------------------------------------------------------------------------------------------------


def doubled_id(frame):
    return pd.concat([frame, frame.iloc[[4]]]), "id_code"


def no_column(frame):
    return frame.drop(columns="sirna"), "no column 'sirna'"


def nan_label(frame):
    return frame.assign(sirna=frame.sirna.astype(float).where(frame.index != 6)), "row 8"


def text_label(frame):
    return frame.assign(sirna=frame.sirna.astype(object).where(frame.index != 6, "twelve")), "row 8"


def no_such_well(frame):
    return frame.assign(well=frame.well.where(frame.index != 6, "Z99")), "row 8"


@pytest.mark.parametrize("change", [doubled_id, no_column, nan_label, text_label, no_such_well])
@pytest.mark.parametrize("verb", ["prepare", "folds", "verify"])
def test_bad_metadata_is_refused_by_file_and_row(raw, tmp_path, capsys, change, verb):
    frame, named = change(pd.read_csv(raw / "train.csv"))
    replace(raw / "train.csv", frame.to_csv(index=False))
    config = write_config(tmp_path / "work", "rxrx1", raw)
    (tmp_path / "work" / "folds.csv").write_text("mine\n")
    words = {
        "prepare": ["prepare", config],
        "folds": ["folds", "rxrx1", "--root", raw, "--out", "folds.csv"],
        "verify": ["verify", "rxrx1", "--root", raw],
    }
    before = contents(tmp_path / "work")
    line = error_line(capsys, *words[verb], cwd=tmp_path / "work")
    assert line.startswith(f"{raw / 'train.csv'}:") and named in line
    assert contents(tmp_path / "work") == before


@pytest.mark.parametrize("name", ["train.csv", "test.csv", "test_controls.csv"])
@pytest.mark.parametrize("content", [None, "", "\x00\x01", "id_code\n"])
def test_a_table_that_is_none_is_refused_by_name(raw, tmp_path, capsys, name, content):
    (raw / name).unlink()
    if content is not None:
        (raw / name).write_text(content)
    assert str(raw / name) in error_line(capsys, "verify", "rxrx1", "--root", raw, cwd=tmp_path)


# commands and configs
# --------------------------------------------------------------------------------------------------


def test_an_unknown_competition_is_answered_with_the_nearest(prepared, tmp_path, capsys):
    space = prepared("rxrx1").copy(tmp_path / "work")
    for words in (
        ["download", "rxrx"],
        ["simulate", "rxrx"],
        ["verify", "rxrx", "--root", space.root],
        ["folds", "rxrx", "--root", space.root],
        ["prepare", "config.yaml", "--set", "competition=rxrx"],
        ["train", "config.yaml", "--set", "competition=rxrx"],
        [
            "score",
            space.root / "sample_submission.csv",
            "--answers",
            space.answers,
            "--competition",
            "rxrx",
        ],
    ):
        line = error_line(capsys, *words, cwd=space.folder)
        assert "'rxrx'" in line and "did you mean 'rxrx1'?" in line


@pytest.mark.parametrize(
    "override, named",
    [
        ("stages.0.epoch=3", ["stages.0.epoch", "did you mean 'epochs'?"]),
        ("stagez=3", ["stagez", "did you mean 'stages'?"]),
        ("model.backbone=resnet9000", ["resnet9000"]),
        ("stages.7.epochs=3", ["stages.7.epochs", "'7'"]),
        ("stages.0.epochs=many", ["stages.0.epochs", "'many'"]),
        ("stages.0.epochs=-1", ["stages.0.epochs"]),
        ("name=../elsewhere", ["name", "'../elsewhere'"]),
        ("stages.0.epochs", ["stages.0.epochs"]),
        ("folds.use=[5]", ["folds.csv", "5"]),
        ("data.sites=[9]", ["no training sample"]),
        ("stages.0.optimizer.lr=.nan", ["stages.0.optimizer.lr"]),
        ("predict.center_crop=1000", ["predict.center_crop", "1000", "32x32"]),
        ("stages.0.augment=[{name: random_crop, size: 64}]", ["64"]),
    ],
)
def test_a_wrong_key_is_named(prepared, tmp_path, capsys, override, named):
    space = prepared("rxrx1").copy(tmp_path / "work")
    before = contents(space.folder / "store", space.folder / "folds.csv")
    line = error_line(capsys, "train", "config.yaml", "--set", override, cwd=space.folder)
    assert all(word in line for word in named), line
    assert contents(space.folder / "store", space.folder / "folds.csv") == before


@pytest.mark.parametrize(
    "text", ["stages: [", "- a\n- b\n", "", "\x00", "name: x\nbase: nowhere.yaml\n"]
)
def test_a_config_that_is_none_is_named(tmp_path, capsys, text):
    (tmp_path / "config.yaml").write_text(text)
    assert ".yaml" in error_line(capsys, "train", "config.yaml", cwd=tmp_path)
    assert "none.yaml" in error_line(capsys, "train", "none.yaml", cwd=tmp_path)


def test_a_config_for_another_store_is_refused(prepared, tmp_path, capsys):
    space = prepared("rxrx1").copy(tmp_path / "work")
    other = prepared("bbbc021").folder / "store"
    line = error_line(
        capsys, "train", "config.yaml", "--set", f"data.store={other}", cwd=space.folder
    )
    assert str(other) in line and "'bbbc021'" in line and "'rxrx1'" in line
    before = contents(space.folder)
    line = error_line(capsys, "prepare", "config.yaml", "--set", "data.size=24", cwd=space.folder)
    assert "store" in line and "size: 32, now 24" in line
    assert contents(space.folder) == before


def test_a_store_that_is_missing_unfinished_or_damaged_is_named(prepared, tmp_path, capsys):
    space = prepared("rxrx1").copy(tmp_path / "work")
    store = space.folder / "store"
    for verb in ("train", "predict"):
        assert "nowhere: there is no store" in error_line(
            capsys, verb, "config.yaml", "--set", "data.store=nowhere", cwd=space.folder
        )
    assert "is not a store" in error_line(
        capsys, "train", "config.yaml", "--set", "data.store=.", cwd=space.folder
    )
    chunk = next((store / "images").glob("c.7.*"))
    damage(chunk)
    assert str(chunk) in error_line(capsys, "train", "config.yaml", cwd=space.folder)
    info = json.loads((store / "store.json").read_text())
    replace(store / "store.json", json.dumps(info | {"complete": False}))
    line = error_line(capsys, "train", "config.yaml", cwd=space.folder)
    assert str(store) in line and "packing is unfinished" in line
    replace(store / "store.json", "{")
    assert "store.json" in error_line(capsys, "train", "config.yaml", cwd=space.folder)


# folds
# --------------------------------------------------------------------------------------------------


def unknown_experiment(frame):
    return frame.assign(
        experiment=frame.experiment.replace(frame.experiment[0], "HUVEC-77")
    ), "'HUVEC-77'"


def missing_experiment(frame):
    return frame.iloc[1:], repr(frame.experiment[0])


def wrong_column(frame):
    return frame.rename(columns={"experiment": "experimemt"}), "'experimemt'"


def no_number(frame):
    return frame.assign(fold=frame.fold.astype(object).where(frame.index != 2, "two")), "row 4"


def all_in_one(frame):
    return frame.assign(fold=0), "fold 0"


@pytest.mark.parametrize(
    "change", [unknown_experiment, missing_experiment, wrong_column, no_number, all_in_one]
)
def test_a_fold_file_that_does_not_fit_is_refused(work, capsys, change):
    frame, named = change(pd.read_csv(work.folder / "folds.csv"))
    replace(work.folder / "folds.csv", frame.to_csv(index=False))
    before = contents(work.folder)
    for verb in ("train", "predict"):
        line = error_line(capsys, verb, "config.yaml", cwd=work.folder)
        assert line.startswith("folds.csv:") and named in line
    assert contents(work.folder) == before


# runs and checkpoints
# --------------------------------------------------------------------------------------------------


def test_a_run_folder_of_another_config_is_refused(work, capsys):
    before = contents(work.folder)
    line = error_line(
        capsys,
        "train",
        "config.yaml",
        "--set",
        "stages.0.epochs=3",
        "--set",
        "model.dropout=0.5",
        cwd=work.folder,
    )
    assert (
        "runs/tiny/seed0" in line
        and "stages.0.epochs: 2 -> 3" in line
        and "model.dropout: 0.0 -> 0.5" in line
    )
    assert contents(work.folder) == before


class Harmful:
    """A pickle that would write a file when loaded."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def foreign(path: Path) -> None:
    path.unlink()
    torch.save({"conv.weight": torch.zeros(3)}, path)


def harmful(path: Path) -> None:
    path.unlink()
    torch.save({"format": checkpoints.FORMAT, "model": Harmful(path.with_name("harm"))}, path)


def of_another_competition(path: Path) -> None:
    save_checkpoint(path, {**load_checkpoint(path), "competition": "bbbc021"})


@pytest.mark.parametrize(
    "change",
    [damage, cut, empty, foreign, harmful, of_another_competition],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("verb", ["train", "predict"])
def test_a_checkpoint_that_is_damaged_or_foreign_is_refused(work, capsys, verb, change):
    path = work.run_folder / LAST
    change(path)
    before = contents(work.folder)
    if verb == "predict":  # is made anew whatever lies there
        (work.run_folder / "predictions" / "fold0_all.npz").unlink()
        before = contents(work.folder)
    line = error_line(capsys, verb, "config.yaml", cwd=work.folder)
    assert "runs/tiny/seed0/fold0/all/all" in line
    if change in (damage, cut, empty, harmful):
        assert "last.pt: corrupt" in line
    assert "competition" in line or change is not of_another_competition
    assert not path.with_name("harm").exists()
    after = contents(work.folder)
    written = {"config.yaml", "provenance.json"}  # of the call, not of the training
    assert {k: v for k, v in after.items() if Path(k).name not in written} == {
        k: v for k, v in before.items() if Path(k).name not in written
    }


def test_predict_wants_every_checkpoint(work, capsys):
    (work.run_folder / LAST).unlink()
    (work.run_folder / "predictions" / "fold0_all.npz").unlink()
    line = error_line(capsys, "predict", "config.yaml", cwd=work.folder)
    assert LAST in line and "train first" in line


class FullDisk:
    """A disk that takes `room` more checkpoints; then its writer breaks off in the middle of one,
    as torch's own does.
    """

    def __init__(self, monkeypatch, room: int, how: str):
        self.room, self.save, self.fsync = room, torch.save, os.fsync
        if how == "while writing":
            monkeypatch.setattr(torch, "save", self.saving)
        else:
            monkeypatch.setattr(os, "fsync", self.syncing)

    def saving(self, state, path):
        self.room -= 1
        if self.room < 0:
            Path(path).write_bytes(b"half a checkpoint")
            raise RuntimeError(
                "[enforce fail at inline_container.cc:603] . unexpected pos 704 vs 598"
            )
        self.save(state, path)

    def syncing(self, handle):
        if ".pt." in os.readlink(f"/proc/self/fd/{handle}"):
            self.room -= 1
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.fsync(handle)


@pytest.mark.parametrize("how", ["while writing", "while flushing"])
@pytest.mark.parametrize("room", [0, 2])
def test_a_full_disk_leaves_the_last_good_checkpoint_and_the_same_command_goes_on(
    prepared, trained, tmp_path, monkeypatch, capsys, how, room
):
    space = prepared("rxrx1").copy(tmp_path / "work")
    config = write_config(
        space.folder, "rxrx1", space.root, stages=tiny_config("rxrx1", space.root)["stages"][:1]
    )
    with monkeypatch.context() as patched:
        FullDisk(patched, room, how)
        line = error_line(capsys, "train", config, cwd=space.folder)
    assert ".pt: could not be written" in line and "what was there before is untouched" in line
    last = space.run_folder / LAST
    assert not list(space.folder.rglob("*.tmp"))
    if room:  # epoch 1 wrote best.pt and last.pt
        state = load_checkpoint(last)
        assert state["progress"]["epoch"] >= 1 and not state["progress"]["finished"]
        assert "training is not finished" in error_line(capsys, "predict", config, cwd=space.folder)
    else:
        assert not last.exists()
    assert cellsignal("train", config, cwd=space.folder) == 0
    undisturbed, mine = (
        load_checkpoint(folder / LAST)["model"]
        for folder in (trained("rxrx1").run_folder, space.run_folder)
    )
    assert undisturbed.keys() == mine.keys() and all(
        torch.equal(values, mine[name]) for name, values in undisturbed.items()
    )


# predictions and submissions
# --------------------------------------------------------------------------------------------------


def test_submit_without_predictions_names_the_run(prepared, tmp_path, capsys):
    space = prepared("rxrx1").copy(tmp_path / "work")
    (space.folder / "mine.csv").write_text("precious\n")
    line = error_line(capsys, "submit", "config.yaml", "--out", "mine.csv", cwd=space.folder)
    assert "runs/tiny: no predictions" in line
    assert "nothing.npz" in error_line(
        capsys, "submit", "nothing.npz", "--out", "mine.csv", cwd=space.folder
    )
    assert (space.folder / "mine.csv").read_text() == "precious\n"


@pytest.mark.parametrize(
    "change", [damage, cut, empty, not_an_image, foreign], ids=lambda f: f.__name__
)
def test_a_damaged_predictions_file_is_refused(work, capsys, change):
    change(work.run_folder / PREDICTIONS)
    before = contents(work.folder)
    for verb in ("submit", "score"):
        line = error_line(
            capsys,
            verb,
            "config.yaml",
            *(["--out", "mine.csv"] if verb == "submit" else []),
            cwd=work.folder,
        )
        assert PREDICTIONS in line
    assert contents(work.folder) == before


@pytest.mark.parametrize(
    "words, named",
    [
        (["--weight", "tiny"], "--weight tiny"),
        (["--weight", "other=2"], "'other'"),
        (["--weight", "tiny/seed0=heavy"], "--weight"),
        (["--weight", "tiny/seed0=-1"], "weights"),
        (["--weight", "tiny/seed0=nan"], "weights"),
        (["--root", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_argument_of_submit_is_named(work, capsys, words, named):
    before = contents(work.folder)
    assert named in error_line(
        capsys, "submit", "config.yaml", "--out", "mine.csv", *words, cwd=work.folder
    )
    assert contents(work.folder) == before


def test_a_folder_or_a_file_in_the_way_is_named(work, capsys):
    (work.folder / "folder").mkdir()
    before = contents(work.folder)
    root, answers = work.root, work.answers
    for words, named in (
        (["submit", "config.yaml", "--out", "folder"], "folder"),
        (["submit", "config.yaml", "--out", "mine.csv/new.csv"], "mine.csv/new.csv"),
        (["submit", "config.yaml", "folder"], "folder"),
        (["train", "folder"], "folder"),
        (["train", "config.yaml", "--set", "folds.file=folder"], "folder"),
        (["train", "config.yaml", "--set", "runs=mine.csv"], "mine.csv"),
        (["train", "config.yaml", "--set", "data.store=mine.csv"], "mine.csv"),
        (["prepare", "config.yaml", "--set", "data.store=mine.csv"], "mine.csv"),
        (["prepare", "config.yaml", "--set", "data.store=mine.csv/store"], "mine.csv/store"),
        (
            ["prepare", "config.yaml", "--set", "data.root=mine.csv", "--set", "data.store=new"],
            "mine.csv",
        ),
        (
            ["folds", "rxrx1", "--root", root, "--splits", "2", "--out", "mine.csv/folds.csv"],
            "mine.csv/folds.csv",
        ),
        (["score", "folder", "--answers", answers], "folder"),
        (["score", "mine.csv", "--answers", "folder"], "folder"),
        (["score", "mine.csv", "--answers", answers, "--leaderboard", "folder"], "folder"),
        (
            ["score", "mine.csv", "--answers", answers, "--leaderboard", "mine.csv/board.csv"],
            "mine.csv/.board.csv.lock",
        ),
        (["simulate", "rxrx1", "--out", "mine.csv"], "mine.csv"),
        (["simulate", "rxrx1", "--out", "mine.csv/new"], "mine.csv/new"),
        (["folds", "rxrx1", "--root", root, "--out", "new_folds.csv", "--splits", "99"], "99"),
        (["folds", "rxrx1", "--root", root, "--out", "new_folds.csv", "--splits", "0"], "0"),
        (["folds", "rxrx1", "--root", root, "--out", "new_folds.csv", "--group", "files"], "files"),
        (
            ["folds", "rxrx1", "--root", root, "--out", "new_folds.csv", "--named", "second_place"],
            "second_place",
        ),
    ):
        line = error_line(capsys, *words, cwd=work.folder)
        assert named in line, (words, line)
    after = contents(work.folder)
    assert not {
        path
        for path in before
        if after.get(path) != before[path]
        and Path(path).name not in ("config.yaml", "provenance.json")
    }


def lacking(frame):
    return frame.drop(index=3), [frame.id_code[3]]


def surplus(frame):
    return pd.concat([frame, frame.head(1).assign(id_code="RPE-77_1_C05")]), ["RPE-77_1_C05"]


def doubled(frame):
    return pd.concat([frame, frame.iloc[[5]]]), [frame.id_code[5]]


def beyond(frame):
    return frame.assign(sirna=frame.sirna.where(frame.index != 2, 8)), [frame.id_code[2], "8"]


def negative(frame):
    return frame.assign(sirna=frame.sirna.where(frame.index != 2, -1)), [frame.id_code[2]]


def hollow(frame):
    return frame.assign(sirna=frame.sirna.astype(object).where(frame.index != 2, None)), [
        "mine.csv",
        "line 4",
    ]


def half(frame):
    return frame.assign(sirna=frame.sirna + 0.5), ["mine.csv", "line 2"]


def other_column(frame):
    return frame.rename(columns={"sirna": "siRNA"}), ["mine.csv", "siRNA"]


@pytest.mark.parametrize(
    "change", [lacking, surplus, doubled, beyond, negative, hollow, half, other_column]
)
def test_a_submission_that_would_be_refused_is_not_scored(work, capsys, change):
    frame, named = change(pd.read_csv(work.folder / "mine.csv"))
    replace(work.folder / "mine.csv", frame.to_csv(index=False))
    before = contents(work.folder)
    line = error_line(
        capsys,
        "score",
        "mine.csv",
        "--answers",
        work.answers,
        "--root",
        work.root,
        "--leaderboard",
        "board.csv",
        cwd=work.folder,
    )
    assert all(word in line for word in named), line
    assert {k: v for k, v in contents(work.folder).items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }


@pytest.mark.parametrize("content", [None, "", "\x00\x01", "id_code,sirna\n"])
def test_a_submission_that_is_no_table_is_named(work, capsys, content):
    (work.folder / "other.csv").write_text(content) if content is not None else None
    assert "other.csv" in error_line(
        capsys,
        "score",
        "other.csv",
        "--answers",
        work.answers,
        "--leaderboard",
        "board.csv",
        cwd=work.folder,
    )


def test_answers_that_do_not_fit_are_named(work, prepared, capsys):
    board = (work.folder / "board.csv").read_bytes()
    answers = pd.read_csv(work.answers)

    def line_for(frame: pd.DataFrame) -> str:
        frame.to_csv(work.folder / "answers.csv", index=False)
        return error_line(
            capsys,
            "score",
            "mine.csv",
            "--answers",
            "answers.csv",
            "--leaderboard",
            "board.csv",
            cwd=work.folder,
        )

    assert answers.id_code[4] in line_for(answers.drop(index=4))
    assert "HUVEC-88_1_C05" in line_for(
        answers.assign(id_code=answers.id_code.where(answers.index != 4, "HUVEC-88_1_C05"))
    )
    assert "answers.csv" in (line := line_for(answers.drop(columns="sirna"))) and "sirna" in line
    assert (
        "answers.csv"
        in (
            line := line_for(
                answers.assign(sirna=answers.sirna.astype(float).where(answers.index != 4))
            )
        )
        and "row 6" in line
    )
    assert "answers.csv" in line_for(answers.head(0))
    assert str(prepared("bbbc021").answers) in error_line(
        capsys, "score", "mine.csv", "--answers", prepared("bbbc021").answers, cwd=work.folder
    )
    assert "no.csv: no such file" in error_line(
        capsys, "score", "mine.csv", "--answers", "no.csv", cwd=work.folder
    )
    assert (work.folder / "board.csv").read_bytes() == board


def test_a_leaderboard_that_is_none_is_named_and_kept(work, capsys):
    (work.folder / "board.csv").write_text("my notes\n")
    words = ["score", "mine.csv", "--answers", work.answers, "--leaderboard", "board.csv"]
    line = error_line(capsys, *words, cwd=work.folder)
    assert line.startswith("board.csv: ") and "not a leaderboard" in line
    assert "board.csv" in error_line(
        capsys, "leaderboard", "--leaderboard", "board.csv", cwd=work.folder
    )
    assert (work.folder / "board.csv").read_text() == "my notes\n"
    assert "none.csv" in error_line(
        capsys, "leaderboard", "--leaderboard", "none.csv", cwd=work.folder
    )


# simulate and download
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, named",
    [
        (["--classes", 7], "classes is 7"),
        (["--set", "walls=3"], "'walls'"),
        (["--set", "sites=two"], "--set"),
        (["--size", 0], "size is 0"),
    ],
)
def test_simulate_names_a_wrong_number(tmp_path, capsys, words, named):
    assert named in error_line(
        capsys, "simulate", "rxrx1", "--out", tmp_path / "new", *words, cwd=tmp_path
    )
    assert not (tmp_path / "new").exists()


def test_simulate_writes_over_nothing(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("three years")
    before = contents(tmp_path)
    assert "full: is not empty" in error_line(
        capsys, "simulate", "rxrx1", "--out", "full", cwd=tmp_path
    )
    assert contents(tmp_path) == before


def test_download_without_credentials_says_where_they_go(tmp_path):
    """In a process of its own, for Kaggle's client looks for credentials when imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KAGGLE")}
    environment |= {"HOME": str(tmp_path), "KAGGLE_CONFIG_DIR": str(tmp_path / "kaggle")}
    (tmp_path / "kaggle").mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cellsignal.cli",
            "download",
            "rxrx1",
            "--out",
            str(tmp_path / "rxrx1"),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: rxrx1: no valid Kaggle credentials")
        and done.stderr.count("\n") == 1
    ), done.stderr
    assert "KAGGLE_API_TOKEN" in done.stderr and not (tmp_path / "rxrx1").exists()


def test_download_of_what_cannot_be_fetched_says_where_it_is(tmp_path, capsys):
    assert "https://github.com" in error_line(capsys, "download", "mitoreid", cwd=tmp_path)


def test_the_tiny_config_is_what_the_schema_takes(tmp_path):
    from cellsignal.config import load_config

    config = load_config(write_config(tmp_path, "rxrx1", tmp_path))
    assert (
        yaml.safe_load((tmp_path / "config.yaml").read_text()) == tiny_config("rxrx1", tmp_path)
        and config.stages[1].per == "cell_type"
    )
