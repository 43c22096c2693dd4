"""`cellsignal runs`: how far runs are, how two differ, and what is deleted."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from helpers import cellsignal, contents, error_line, replace
from sklearn.metrics import accuracy_score

from cellsignal.common.files import is_worked_in, work_in
from cellsignal.config import load_config
from cellsignal.prediction.container import load_predictions
from cellsignal.report.runs import read_out_of_fold, run_state

OTHER = ["--set", "name=other", "--set", "stages=[{name: all, epochs: 1, batch_size: 16}]"]


@pytest.fixture(scope="module")
def two_runs(trained, tmp_path_factory):
    """A workspace with the run `tiny`, and `other`, which has one stage and two seeds."""
    space = trained("rxrx1").copy(tmp_path_factory.mktemp("runs") / "space")
    for verb in ("train", "predict"):
        words = [verb, "config.yaml", *OTHER, "--seeds", 3, 4]
        assert cellsignal(*words, cwd=space.folder) == 0
    return space


def printed(capsys, *words, cwd) -> str:
    capsys.readouterr()
    assert cellsignal(*words, cwd=cwd) == 0
    return capsys.readouterr().out


def test_the_list_names_state_and_score_of_every_seed(two_runs, capsys):
    lines = printed(capsys, "runs", cwd=two_runs.folder).splitlines()[2:]
    assert [line.split()[:2] for line in lines] == [
        ["other/seed3", "finished"],
        ["other/seed4", "finished"],
        ["tiny/seed0", "finished"],
    ]
    (path,) = two_runs.folder.glob("runs/other/seed3/predictions/*.npz")
    members = load_predictions(path)
    rows = members.ids["part"] == "oof"
    logits = np.mean([members.logits(view)[rows].astype(float) for view in members.views], axis=0)
    score = re.search(r"finished +([\d.]+)", lines[0])[1]
    targets = {}
    for target, values, label in zip(
        members.ids["target_id"][rows], logits, members.label[rows], strict=True
    ):
        targets.setdefault(target, ([], label))[0].append(values)
    true = [label for _, label in targets.values()]
    predicted = [np.mean(values, axis=0).argmax() for values, _ in targets.values()]
    assert float(score) == pytest.approx(accuracy_score(true, predicted), abs=5e-5)
    assert "no runs" in printed(capsys, "runs", "--runs", "nowhere", cwd=two_runs.folder)


def test_a_run_that_stopped_says_where(two_runs, tmp_path, capsys):
    space = two_runs.copy(tmp_path / "space")
    (log,) = space.folder.glob("runs/other/seed3/fold0/all/all/log.csv")
    replace(log, "\n".join(log.read_text().splitlines()[:1]) + "\n")
    for path in log.parent.glob("*.pt"):
        path.unlink()
    shutil.rmtree(space.folder / "runs/other/seed4/fold0")
    shutil.rmtree(space.folder / "runs/tiny/seed0/fold0/cell_type")
    lines = printed(capsys, "runs", cwd=space.folder).splitlines()[2:]
    assert "stopped at fold0, all, epoch 0/1" in lines[0]
    assert "empty" in lines[1]
    assert "stopped at fold0, cell_type, epoch 0/1" in lines[2]


def test_a_comparison_pairs_the_targets_of_two_runs(two_runs, capsys):
    out = printed(capsys, "runs", "compare", "tiny", "other", cwd=two_runs.folder)
    assert "stages" in out and "  name: tiny -> other" in out
    first, second = (
        float(re.search(rf"^{name} +([\d.]+)", out, re.M)[1]) for name in ("tiny", "other")
    )
    difference = re.search(
        r"^other - tiny +([-+][\d.]+) +([-+][\d.]+) \.\. ([-+][\d.]+)", out, re.M
    )
    value, low, high = map(float, difference.groups())
    assert value == pytest.approx(second - first, abs=1e-4) and low <= value <= high
    assert "95 % interval over 4 experiments" in out
    same = printed(capsys, "runs", "compare", "tiny", "config.yaml", cwd=two_runs.folder)
    assert re.search(r"^config.yaml - tiny +\+0.0000 +none", same, re.M)


def test_several_labels_are_compared_by_average_precision(trained, capsys):
    folder = trained("idr0088_gpcr").folder
    out = printed(capsys, "runs", "compare", "tiny", "config.yaml", cwd=folder)
    assert re.search(r"^config.yaml - tiny +\+0.0000 +none", out, re.M)
    state = run_state(load_config(folder / "config.yaml"), trained("idr0088_gpcr").run_folder)
    assert state == "finished"


def test_only_the_named_run_is_deleted_and_only_on_a_yes(two_runs, tmp_path, capsys, monkeypatch):
    space = two_runs.copy(tmp_path / "space")
    others = contents(
        space.folder / "runs/tiny", space.folder / "store", space.folder / "folds.csv"
    )
    for answer in ("", "n", "no"):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        line = error_line(capsys, "runs", "delete", "other", cwd=space.folder)
        assert "is kept; --yes deletes it without asking" in line
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "y")
    assert cellsignal("runs", "delete", "other/seed4", cwd=space.folder) == 0
    assert len(asked) == 1 and "runs/other/seed4" in asked[0] and "MB" in asked[0]
    assert [path.name for path in (space.folder / "runs/other").iterdir()] == ["seed3"]
    assert cellsignal("runs", "delete", "other", "--yes", cwd=space.folder) == 0
    assert len(asked) == 1 and [path.name for path in (space.folder / "runs").iterdir()] == ["tiny"]
    assert others == contents(
        space.folder / "runs/tiny", space.folder / "store", space.folder / "folds.csv"
    )


@pytest.mark.parametrize("name", ["nowhere", "..", "../runs/tiny", "tiny/../tiny", "/", "tiny/x"])
def test_what_is_no_run_is_not_deleted(two_runs, capsys, name):
    line = error_line(capsys, "runs", "delete", name, "--yes", cwd=two_runs.folder)
    assert line.startswith(f"{name}: no such run in runs")
    assert (two_runs.folder / "runs/tiny/seed0/config.yaml").is_file()


def test_a_linked_run_is_not_followed(two_runs, tmp_path, capsys):
    space = two_runs.copy(tmp_path / "space")
    (space.folder / "runs/linked").symlink_to(two_runs.folder / "runs/tiny")
    assert "is a link" in error_line(capsys, "runs", "delete", "linked", "--yes", cwd=space.folder)
    assert (two_runs.folder / "runs/tiny/seed0/config.yaml").is_file()


def test_a_run_that_goes_on_is_running_and_not_deleted(two_runs, tmp_path, capsys):
    space = two_runs.copy(tmp_path / "space")
    with work_in(space.run_folder):
        assert "running" in printed(capsys, "runs", cwd=space.folder).splitlines()[-1]
        line = error_line(capsys, "runs", "delete", "tiny", "--yes", cwd=space.folder)
        assert "the run is going on; stop it first" in line
    assert (space.run_folder / "config.yaml").is_file() and not is_worked_in(space.run_folder)


@pytest.mark.slow
def test_training_says_that_it_goes_on(two_runs, tmp_path):
    space = two_runs.copy(tmp_path / "space")
    words = ["train", "config.yaml", "--set", "name=long", "--set", "stages.0.epochs=5000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cellsignal", *words], cwd=space.folder, stderr=subprocess.DEVNULL
    )
    folder = space.folder / "runs/long/seed0"
    try:
        for _ in range(600):
            if (folder / "fold0/all/all/log.csv").is_file():
                break
            time.sleep(0.1)
        assert is_worked_in(folder)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(60)
    assert not is_worked_in(folder)
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    config = load_config(folder / "config.yaml")
    assert re.fullmatch(r"stopped at fold0, all, epoch \d+/5000", run_state(config, folder)), tree


def test_out_of_fold_predictions_of_another_state_are_not_scored(
    two_runs, tmp_path, capsys, monkeypatch
):
    space = two_runs.copy(tmp_path / "space")
    for path in space.folder.glob("runs/other/seed3/predictions/*.npz"):
        path.unlink()
    lines = printed(capsys, "runs", cwd=space.folder).splitlines()[2:]
    assert lines[0].split()[1] == "finished" and " .. " not in lines[0]
    assert " .. " in lines[2] or "one group" in lines[2]
    config = load_config(space.folder / "runs/tiny/seed0/config.yaml")
    monkeypatch.chdir(space.folder)
    assert read_out_of_fold([config]).group == "experiment"
