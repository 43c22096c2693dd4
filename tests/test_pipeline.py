"""`cellsignal run`: all the steps in a row, and its pictures."""

import contextlib
import os
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import cellsignal, error_line, replace, tiny_config
from sklearn.metrics import accuracy_score

from cellsignal.common.errors import InputError
from cellsignal.config import load_config
from cellsignal.config.schema import Submit
from cellsignal.prediction.entry import open_entry
from cellsignal.prediction.plate_layout.apply import predict_labels
from cellsignal.report.run_report import shown_planes
from cellsignal.training.check import check_model_section


def test_a_clips_picture_shows_three_frames_of_each_channel():
    assert (
        shown_planes(3, 1) == [0, 1, 2]
        and shown_planes(48, 16) == [0, 8, 15, 16, 24, 31, 32, 40, 47]
        and shown_planes(2, 2) == [0, 1]
    )


@pytest.mark.parametrize("competition", [pytest.param("rxrx1", marks=pytest.mark.slow), "bbbc021"])
def test_run_goes_from_a_trained_state_to_leaderboard_and_pictures(
    trained, tmp_path, capsys, competition
):
    space = trained(competition).copy(tmp_path / "space")
    assert cellsignal("run", "config.yaml", "--answers", space.answers, cwd=space.folder) == 0
    out = capsys.readouterr().out
    for words in (
        "Out of fold",
        "Test: targets that no model saw",
        "(truth)",
        "(sample submission)",
        "chance",
        "95 % interval",
    ):
        assert words in out
    assert (space.folder / "submissions" / "tiny.csv").is_file() and (
        space.folder / "submissions" / "tiny.json"
    ).is_file()
    pictures = {
        path.stem: cv2.imread(str(path)) for path in (space.run_folder / "report").glob("*.png")
    }
    expected = {
        "learning_curves",
        "channels",
        "labels",
        "ladder_out_of_fold",
        "ladder_test",
        "confusion",
    } | ({"plates"} if competition == "rxrx1" else set())
    assert set(pictures) == expected
    assert all(min(image.shape[:2]) > 200 and image.std() > 5 for image in pictures.values())


def test_oof_and_audit_print_their_tables(trained, tmp_path, capsys):
    space = trained("rxrx1").copy(tmp_path / "space")
    capsys.readouterr()
    assert cellsignal("score", "config.yaml", cwd=space.folder) == 0
    assert "tiny/seed0" in capsys.readouterr().out
    assert cellsignal("study", "split-audit", "config.yaml", cwd=space.folder) == 0
    assert "unseen experiments" in capsys.readouterr().out


def test_several_seeds_are_several_runs(trained, tmp_path, capsys):
    space = trained("rxrx1").copy(tmp_path / "space")
    short = ["--set", "stages=[{name: all, epochs: 1, batch_size: 32}]", "--set", "name=seeds"]
    assert cellsignal("train", "config.yaml", *short, "--seeds", 3, 4, cwd=space.folder) == 0
    assert cellsignal("predict", "config.yaml", *short, "--seeds", 3, 4, cwd=space.folder) == 0
    files = sorted((space.folder / "runs/seeds").glob("seed*/predictions/*.npz"))
    assert [file.parts[-3] for file in files] == ["seed3", "seed4"]
    capsys.readouterr()
    assert cellsignal("score", *files, cwd=space.folder) == 0
    assert "all 2 merged" in capsys.readouterr().out


TEXTS = ("target_id", "plate", "true", "predicted")  # columns of wells.csv


@pytest.fixture
def without_test(plates, tmp_path):
    """A tiny RxRx1 without a test experiment, and a config on it, in the working folder."""
    raw = shutil.copytree(plates / "raw", tmp_path / "raw", copy_function=os.link)
    for name in ("test.csv", "test_controls.csv", "sample_submission.csv"):
        header = (raw / name).read_text().splitlines()[0]
        replace(raw / name, header + "\n")
    shutil.copy(plates / "folds.csv", tmp_path)
    config = tiny_config("rxrx1", "raw") | {
        "stages": [{"name": "all", "epochs": 1, "batch_size": 16}],
        "predict": {"tta": 1},
    }
    config["data"]["size"] = 24
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


@pytest.mark.slow
def test_a_run_without_test_samples_ends_with_its_out_of_fold_score(without_test, capsys):
    assert cellsignal("run", "config.yaml", cwd=without_test) == 0
    out = capsys.readouterr().out
    board = pd.read_csv(without_test / "submissions" / "leaderboard.csv")
    (row,) = board[board.name == "tiny"].itertuples()
    assert set(board.kind) <= {"out of fold", "baseline"}
    assert (row.kind, row.name, row.note) == (
        "out of fold",
        "tiny",
        "out of fold: no test samples",
    ) and pd.isna(row.submission)
    entry = open_entry(
        sorted(without_test.glob("runs/tiny/seed0/predictions/*.npz")),
        Submit(),
        root=without_test / "raw",
    )
    groups = entry.competition.plate_groups(entry.samples)
    labels, _ = predict_labels(entry, targets := entry.merge(entry.final(), "oof"), groups)
    assert row.overall == accuracy_score(targets.label, labels) and row.overall_n == len(
        targets.label
    )
    assert "tiny, out of fold" in out and "no test samples: no submission" in out
    pictures = {path.stem for path in (without_test / "runs/tiny/seed0/report").glob("*.png")}
    assert {"learning_curves", "channels", "labels", "ladder_out_of_fold", "confusion"} <= pictures
    wells = pd.read_csv(
        without_test / "runs/tiny/seed0/report/wells.csv", dtype=dict.fromkeys(TEXTS, str)
    )
    assert wells.target_id.tolist() == list(targets.target_id)
    assert wells.predicted.tolist() == [entry.classes[label] for label in labels]
    assert wells.true.tolist() == [entry.classes[label] for label in targets.label]
    assert wells.right.mean() == row.overall and wells.plate.tolist() == list(targets.plate)
    shares = np.exp(targets.scores - np.logaddexp.reduce(targets.scores, axis=1)[:, None])
    assert wells.probability.to_numpy() == pytest.approx(
        shares[range(len(shares)), labels], abs=1e-4
    )
    assert [
        path.name
        for path in (without_test / "submissions").iterdir()
        if path.suffix in (".csv", ".json")
    ] == ["leaderboard.csv"]
    line = error_line(capsys, "submit", "config.yaml", cwd=without_test)
    assert "no test predictions, so there is nothing to submit; `cellsignal score`" in line
    assert cellsignal("run", "config.yaml", cwd=without_test) == 0
    again = pd.read_csv(without_test / "submissions" / "leaderboard.csv")
    assert again.name.tolist() == board.name.tolist()
    full = ["--set", "folds.use=[]", "--set", "folds.full=true", "--set", "name=full"]
    assert cellsignal("run", "config.yaml", *full, cwd=without_test) == 0  # nothing at all to score
    again = pd.read_csv(without_test / "submissions" / "leaderboard.csv")
    assert again.name.tolist() == board.name.tolist()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--set", "model.backbone=resnet19"], "model.backbone: no backbone 'resnet19'; near it: "),
        (["--set", "model.weights=no.pth"], "model.weights: no.pth: no such file of weights"),
        (["--set", "model.keep_time=true"], "model.keep_time: test_resnet has no such option"),
        (["--set", "model={backbone: lenet, neck: 8}"], "model.neck: lenet has no such option"),
        (["--answers", "no.csv"], "no.csv"),
    ],
)
def test_what_needs_no_store_is_refused_before_one_is_packed(without_test, capsys, words, line):
    before = {path.name for path in without_test.iterdir()}
    assert line in error_line(capsys, "run", "config.yaml", *words, cwd=without_test)
    # no store, no run folder, no fold table's note
    assert {path.name for path in without_test.iterdir()} == before


def test_a_run_folder_of_another_config_is_refused_before_a_store_is_packed(
    trained, tmp_path, capsys
):
    space = trained("rxrx1").copy(tmp_path / "space")
    words = ["run", "config.yaml", "--set", "model.backbone=lenet", "--set", "data.store=other"]
    assert "holds a run of another config" in error_line(capsys, *words, cwd=space.folder)
    assert not (space.folder / "other").exists()


def test_a_run_that_has_begun_does_not_ask_for_its_weights_again(trained, tmp_path):
    space = trained("rxrx1").copy(tmp_path / "space")
    config = load_config(space.folder / "config.yaml", ["model.weights=gone.pth"])
    with contextlib.chdir(space.folder):
        check_model_section(config)
        shutil.rmtree(space.run_folder)
        with pytest.raises(InputError, match=r"gone\.pth: no such file"):
            check_model_section(config)


@pytest.mark.slow
def test_a_run_replaces_its_own_submission_and_no_other(trained, tmp_path, capsys, caplog):
    space = trained("bbbc021").copy(tmp_path / "space")
    out = space.folder / "submissions" / "tiny.csv"
    board = space.folder / "submissions" / "leaderboard.csv"
    words = ["run", "config.yaml", "--answers", space.answers]
    assert cellsignal(*words, cwd=space.folder) == 0
    first = out.read_bytes()
    assert cellsignal(*words, cwd=space.folder) == 0
    assert (
        out.read_bytes() == first
        and "replaces" not in caplog.text
        and (pd.read_csv(board).kind == "submission").sum() == 1
    )
    assert (
        cellsignal(
            *words,
            "--set",
            "predict.tta=8",
            "--set",
            "submit.merge=probabilities",
            cwd=space.folder,
        )
        == 0
    )
    if out.read_bytes() != first:
        assert (
            "replaces the submission of tiny" in caplog.text
            and "replaced since; sha256 " in capsys.readouterr().out
        )
    kept = out.read_bytes()
    assert cellsignal(*words, "--set", "seed=5", cwd=space.folder) == 0
    assert out.read_bytes() == kept and out.with_stem("tiny_seed5").is_file()
    other = [
        "submit",
        *sorted(space.run_folder.glob("predictions/*.npz")),
        "--merge",
        "logits",
        "--pool",
        "well",
    ]
    out.write_text("image_id,moa\n")  # whatever lies there, its path is on the leaderboard
    assert "stands on submissions/leaderboard.csv as 'tiny'" in error_line(
        capsys, *other, "--out", out, cwd=space.folder
    )
    assert out.read_text() == "image_id,moa\n"
