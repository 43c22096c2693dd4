"""`cellsignal tune` from the command line, on a small simulated RxRx1."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import cellsignal, error_line

from cellsignal.config import load_config
from cellsignal.prediction.container import load_predictions

SPACE = """
stages.all.optimizer.lr: {low: 1.0e-4, high: 2.0e-2, log: true}
stages.all.batch_size: {choices: [8, 16]}
"""


@pytest.fixture(scope="module")
def workspace(plates, tmp_path_factory):
    """Eight training experiments in four folds, of which two are left out; and a space."""
    folder = tmp_path_factory.mktemp("tune")
    (folder / "plates").symlink_to(plates)
    words = ["folds", "rxrx1", "--root", "plates/raw", "--splits", 4, "--out", "folds.csv"]
    assert cellsignal(*words, cwd=folder) == 0
    tree = {
        "name": "tiny",
        "competition": "rxrx1",
        "data": {"root": "plates/raw", "store": "plates/store", "workers": 0},
        "folds": {"file": "folds.csv"},
        "model": {"backbone": "test_resnet"},
        "stages": [{"name": "all", "epochs": 2, "batch_size": 8, "optimizer": {"lr": 2e-4}}],
        "predict": {"tta": 1},
        "submit": {"assignment": "none"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    (folder / "space.yaml").write_text(SPACE)
    return folder


def work_in_copy(workspace: Path, to: Path) -> Path:
    to.mkdir()
    for name in ("config.yaml", "space.yaml", "folds.csv"):
        shutil.copy(workspace / name, to)
    (to / "plates").symlink_to(workspace / "plates")
    return to


TUNE = ("tune", "config.yaml", "--space", "space.yaml")


def test_without_optuna_one_line_says_what_to_install(workspace, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    line = error_line(capsys, *TUNE, cwd=workspace)
    assert "needs the package optuna" in line and '".[tune]"' in line
    assert not (workspace / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--trials", 0), "--trials 0: give 1 or more"),
        (("--halving", 1), "--halving 1: give 2 or more, or 0"),
        (("--hours", "nan"), "--hours nan: give a number of hours above 0"),
        (("--folds", 9), "--folds: the fold table has the folds [0, 1, 2, 3], not 9"),
        (("--set", "stages.all.epoch=3"), "did you mean 'epochs'?"),
        (("--set", "folds.file=no.csv"), "no.csv: there is no fold table"),
        (("--set", "data.store=nowhere"), "there is no store; run `cellsignal prepare"),
        (("--set", "model.backbone=resnet19"), "resnet19"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_trains(
    workspace, tmp_path, capsys, words, message
):
    pytest.importorskip("optuna")
    folder = work_in_copy(workspace, tmp_path / "space")
    assert message in error_line(capsys, *TUNE, *words, cwd=folder)
    assert not list(folder.glob("runs/*/seed*")) and not list(folder.glob("runs/*/journal.log"))


def test_a_wrong_space_names_its_file_and_key(workspace, tmp_path, capsys):
    pytest.importorskip("optuna")
    folder = work_in_copy(workspace, tmp_path / "space")
    (folder / "space.yaml").write_text("model.dropot: {low: 0, high: 1}")
    line = error_line(capsys, *TUNE, cwd=folder)
    assert line.startswith("space.yaml: model.dropot: 0: ") and "'dropout'" in line
    assert not (folder / "runs").exists()


@pytest.fixture(scope="module")
def searched(workspace, tmp_path_factory):
    """A search of five trials, and what it printed."""
    pytest.importorskip("optuna")
    folder = work_in_copy(workspace, tmp_path_factory.mktemp("searched") / "space")
    words = [*TUNE, "--trials", "5", "--confirm-seeds", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "cellsignal", *words], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


def accuracy_by_target(folder: Path, run: str, seed: int, folds) -> dict[str, float]:
    """Out-of-fold accuracy of each target, from the files of logits alone."""
    logits, labels = {}, {}
    for fold in folds:
        file = folder / f"runs/{run}/seed{seed}/predictions/fold{fold}_all.npz"
        member = load_predictions(file)
        for row in np.flatnonzero(member.ids["part"] == "oof"):
            target = member.ids["target_id"][row]
            values = member.logits(member.views[0])[row].astype(np.float32)
            logits.setdefault(target, []).append(values)
            labels[target] = member.label[row]
    return {t: float(np.mean(v, axis=0).argmax() == labels[t]) for t, v in logits.items()}


@pytest.mark.slow
def test_the_gain_is_measured_on_groups_that_the_search_never_saw(searched):
    folder, out, err = searched
    facts = json.loads((folder / "runs/tiny_tune/gain.json").read_text())
    best = facts["trial"]
    table = pd.read_csv(folder / "runs/tiny_tune/trials.csv")
    finished = table[(table.state == "finished") & (table.trial != "base")]
    assert int(finished.sort_values("score", ascending=False).trial.iloc[0]) == best
    name = f"tiny_trial{best:03d}"
    sums = {}
    for run in ("tiny_base", name):
        right = accuracy_by_target(folder, run, 0, (0, 1))
        sums[run] = np.mean(list(right.values()))
    assert facts["in_search_optimistic"]["difference"] == pytest.approx(
        sums[name] - sums["tiny_base"], abs=1e-9
    )
    assert "optimistic" in out
    differences = []
    for seed in (1, 2):
        first, second = (
            accuracy_by_target(folder, f"{run}_confirm", seed, (2, 3))
            for run in ("tiny_base", name)
        )
        assert set(first) == set(second)
        differences.append(np.mean(list(second.values())) - np.mean(list(first.values())))
    again = facts["measured_again"]
    assert again["difference"] == pytest.approx(np.mean(differences), abs=1e-9)
    assert list(facts["by_seed"].values()) == pytest.approx(differences, abs=1e-9)
    assert again["units"] == 4 and facts["units_left_out_of_the_search"]
    left_out = pd.read_csv(folder / "folds.csv").query("fold >= 2").experiment
    search = pd.read_csv(folder / "runs/tiny_tune/search_folds.csv")
    assert set(search.experiment[search.fold == -2]) == set(left_out)
    assert {target.rpartition("_")[0].rpartition("_")[0] for target in first} == set(left_out)
    winner = load_config(folder / "runs/tiny_tune/winner.yaml")
    assert winner.name == "tiny_tuned" and str(winner.folds.file) == "folds.csv"
    assert winner.folds.use is None and winner.seed == 0
    row = table[table.trial == str(best)].iloc[0]
    assert winner.stages[0].optimizer.lr == row["stages.all.optimizer.lr"]
    assert "next: cellsignal run runs/tiny_tune/winner.yaml" in err


@pytest.mark.slow
def test_trials_are_runs_and_the_same_command_trains_nothing_again(searched, capsys):
    folder, out, _ = searched
    capsys.readouterr()
    assert cellsignal("runs", cwd=folder) == 0
    listed = capsys.readouterr().out
    for number in range(5):
        assert f"tiny_trial{number:03d}/seed0" in listed
    files = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/seed*/fold*/**/*.pt")}
    assert cellsignal(*TUNE, "--trials", 5, "--confirm-seeds", 2, cwd=folder) == 0
    assert capsys.readouterr().out == out
    now = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/seed*/fold*/**/*.pt")}
    assert now == files and files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seed", 1), "is a search with another seed"),
        (("--folds", 0), "is a search with another division.search"),
        (("--halving", 3), "is a search with another halving"),
        (
            ("--set", "stages.all.epochs=3"),
            "is a search of another config (stages.0.epochs: 2 -> 3)",
        ),
        (("--set", "predict.tta=2"), "is a search of another config (predict.tta: 1 -> 2)"),
    ],
)
def test_another_search_in_the_same_folder_is_refused(searched, capsys, words, message):
    folder, _, _ = searched
    line = error_line(capsys, *TUNE, *words, cwd=folder)
    assert message in line and "give --name" in line


@pytest.mark.slow
def test_another_space_is_refused_and_a_name_starts_anew(searched, capsys, tmp_path):
    folder, _, _ = searched
    other = tmp_path / "other.yaml"
    other.write_text(SPACE.replace("2.0e-2", "1.0e-2"))
    words = ["tune", "config.yaml", "--space", other]
    line = error_line(capsys, *words, cwd=folder)
    assert "another space.stages.all.optimizer.lr.high" in line
    words += ["--name", "second", "--trials", 1, "--folds", 0, "--confirm-seeds", 0]
    assert cellsignal(*words, "--halving", 0, cwd=folder) == 0
    assert (folder / "runs/second_trial000/seed0/config.yaml").is_file()
    shutil.rmtree(folder / "runs/second_tune")
    line = error_line(capsys, *words, "--halving", 0, cwd=folder)
    assert "is a run of no search that is here" in line


@pytest.mark.slow
def test_a_journal_that_lost_its_trials_is_refused_and_nothing_changes(searched, capsys, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(searched[0], folder, symlinks=True)
    journal = folder / "runs/tiny_tune/journal.log"
    lines = journal.read_text().splitlines(keepends=True)
    for content in ("", lines[0], "".join(lines[: len(lines) // 2])):
        journal.write_text(content)
        before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*_trial*/**/*")}
        line = error_line(capsys, *TUNE, "--trials", 5, cwd=folder)
        assert "journal.log: was cut short" in line and "put the whole journal back" in line
        assert before == {path: path.stat().st_mtime_ns for path in before}
    journal.unlink()
    assert "journal.log: is gone" in error_line(capsys, *TUNE, cwd=folder)


def wait_for(condition, seconds=90):
    for _ in range(10 * seconds):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited too long")


@pytest.mark.torture
def test_a_killed_search_goes_on_to_the_same_trials(searched, workspace, tmp_path):
    """Killed in the second fold of a trial: no finished training is done again, the broken one
    goes on from its checkpoint, and the table is that of a search that was never stopped.
    """
    folder = work_in_copy(workspace, tmp_path / "space")
    words = [sys.executable, "-m", "cellsignal", *TUNE, "--trials", "5", "--confirm-seeds", "2"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(words, cwd=folder, stderr=subprocess.DEVNULL, env=environment)
    broken = folder / "runs/tiny_trial000/seed0/fold1/all/all/log.csv"
    try:
        wait_for(broken.is_file)
    finally:
        process.kill()
        process.wait()
    done = {
        path: path.stat().st_mtime_ns
        for path in folder.glob("runs/*/seed0/fold*/all/all/last.pt")
        if len((path.parent / "log.csv").read_text().splitlines()) == 3
        and path.parent != broken.parent
    }
    assert len(done) >= 3  # the base's two folds, the first of the trial
    resumed = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())
    assert re.search(r"seed 0 fold 1 stage all: resumes in epoch \d", resumed.stderr) or re.search(
        r"fold 1 stage all epoch 2/2", resumed.stderr
    )
    tables = [pd.read_csv(f / "runs/tiny_tune/trials.csv") for f in (searched[0], folder)]
    pd.testing.assert_frame_equal(*(table.drop(columns="hours") for table in tables))
    gains = [
        json.loads((f / "runs/tiny_tune/gain.json").read_text()) for f in (searched[0], folder)
    ]
    assert gains[0]["measured_again"] == gains[1]["measured_again"]


@pytest.mark.torture
def test_two_workers_share_the_trials_and_stop_on_a_signal(workspace, tmp_path):
    pytest.importorskip("optuna")
    folder = work_in_copy(workspace, tmp_path / "space")
    words = [sys.executable, "-m", "cellsignal", *TUNE, "--trials", "4", "--processes", "2"]
    words += ["--confirm-seeds", "1"]
    process = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: list(folder.glob("runs/tiny_trial*/seed0/fold*/all/all/log.csv")))
    finally:
        process.send_signal(signal.SIGTERM)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "Traceback" not in err
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(folder / "runs/tiny_tune/trials.csv")
    assert list(table.trial) == ["base", "0", "1", "2", "3"]
    assert set(table.state.str.split().str[0]) <= {"finished", "stopped"}
    assert "worker 0" in done.stderr and "worker 1" in done.stderr


@pytest.mark.slow
def test_a_time_budget_stops_with_status_75(workspace, tmp_path):
    pytest.importorskip("optuna")
    folder = work_in_copy(workspace, tmp_path / "space")
    assert cellsignal(*TUNE, "--trials", 50, "--max-hours", 0.002, cwd=folder) == 75
    assert not (folder / "runs/tiny_tune/winner.yaml").exists()
    lines = (folder / "runs/tiny_tune/journal.log").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)


@pytest.mark.slow
def test_too_few_folds_to_leave_any_out_are_dealt_anew(workspace, tmp_path, capsys):
    """Two folds: the winner is measured on folds of another draw, which the text says."""
    pytest.importorskip("optuna")
    folder = work_in_copy(workspace, tmp_path / "space")
    words = ["folds", "rxrx1", "--root", "plates/raw", "--splits", 2, "--out", "two.csv"]
    assert cellsignal(*words, cwd=folder) == 0
    words = [*TUNE, "--trials", 3, "--halving", 0, "--confirm-seeds", 1]
    capsys.readouterr()
    assert cellsignal(*words, "--set", "folds.file=two.csv", cwd=folder) == 0
    out = capsys.readouterr().out
    facts = json.loads((folder / "runs/tiny_tune/gain.json").read_text())
    assert not facts["units_left_out_of_the_search"] and facts["measured_again"]["units"] == 8
    assert "folds of another draw. Still a little optimistic" in out
    tables = [pd.read_csv(folder / name) for name in ("two.csv", "runs/tiny_tune/fresh_folds.csv")]
    parts = [{frozenset(g) for _, g in table.groupby("fold").experiment} for table in tables]
    assert parts[0] != parts[1] and len(parts[1]) == 2
    name = f"tiny_trial{facts['trial']:03d}_confirm"
    means = [
        np.mean(list(accuracy_by_target(folder, run, 1, (0, 1)).values()))
        for run in ("tiny_base_confirm", name)
    ]
    difference = facts["measured_again"]["difference"]
    assert difference == pytest.approx(means[1] - means[0], abs=1e-9)


@pytest.mark.slow
def test_several_labels_are_searched_by_average_precision(prepared, tmp_path, capsys):
    pytest.importorskip("optuna")
    space = prepared("idr0088_gpcr").copy(tmp_path / "space")
    (space.folder / "space.yaml").write_text("stages.all.optimizer.lr: {low: 1.0e-3, high: 3.0e-3}")
    words = [*TUNE, "--trials", 2, "--halving", 0, "--confirm-seeds", 0]
    assert cellsignal(*words, cwd=space.folder) == 0
    capsys.readouterr()
    assert cellsignal("score", "tiny_trial001", cwd=space.folder) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv(space.folder / "runs/tiny_tune/trials.csv")
    assert f"{table.score[2]:.4f}" in printed  # the figure of `cellsignal score`
