"""`cellsignal baseline` on trained and untrained configs; `score` says whether the run beats them."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal, contents, error_line, replace

from cellsignal.prediction.container import load_predictions

pytestmark = pytest.mark.slow

LIGHT = ("--only", "chance", "majority", "position", "cells", "intensity", "--workers", "0")


@pytest.fixture(scope="module")
def space(trained, tmp_path_factory):
    space = trained("rxrx1").copy(tmp_path_factory.mktemp("baseline") / "rxrx1")
    assert cellsignal("baseline", "config.yaml", *LIGHT, cwd=space.folder) == 0
    return space


def test_scores_intervals_and_verdicts_are_kept(space):
    table = pd.read_csv(space.run_folder / "baselines.csv").set_index("name")
    assert list(table.index) == ["chance", "majority", "position", "cells", "intensity"]
    assert table.score["chance"] == pytest.approx(1 / 8, abs=1e-9) or table.score["chance"] > 0
    assert (table.difference == table.run_score - table.score).all() or np.allclose(
        table.difference, table.run_score - table.score
    )
    assert set(table.verdict) <= {"beats it", "is beaten", "not told apart", "no interval"}
    kept = json.loads((space.run_folder / "baselines.json").read_text())
    assert [item["name"] for item in kept["baselines"]] == list(table.index)
    member = load_predictions(space.run_folder / "baselines" / "position.npz")
    assert set(member.ids["part"]) == {"oof"} and len(member.classes) == len(
        load_predictions(next((space.run_folder / "predictions").glob("*.npz"))).classes
    )


def test_the_leaderboard_marks_them(space, capsys):
    board = pd.read_csv(space.folder / "submissions" / "leaderboard.csv")
    assert (board.kind == "baseline").sum() == 5
    assert board.overall[board.kind == "baseline"].between(0, 1).all()
    capsys.readouterr()
    assert cellsignal("leaderboard", "rxrx1", cwd=space.folder) == 0
    assert "[position, folds of tiny]" in capsys.readouterr().out


def test_score_shows_them_beside_the_run_and_writes_nothing(space, capsys):
    before = contents(space.folder)
    assert cellsignal("score", "config.yaml", cwd=space.folder) == 0
    out = capsys.readouterr().out
    assert "run - baseline" in out and "over experiments" in out and "tiny/seed0" in out
    assert contents(space.folder) == before


def test_what_is_up_to_date_is_not_measured_again(space):
    before = contents(space.run_folder / "baselines")
    assert cellsignal("baseline", "config.yaml", *LIGHT, cwd=space.folder) == 0
    assert contents(space.run_folder / "baselines") == before
    board = pd.read_csv(space.folder / "submissions" / "leaderboard.csv")
    assert (board.kind == "baseline").sum() == 5


def test_without_baselines_score_names_the_command(trained, capsys):
    space = trained("rxrx1")
    assert cellsignal("score", "config.yaml", cwd=space.folder) == 0
    assert "baselines: not measured; `cellsignal baseline CONFIG`" in capsys.readouterr().out


def test_baselines_of_something_else_are_not_shown(space, tmp_path, capsys):
    space = space.copy(tmp_path / "copy")
    path = space.run_folder / "baselines.json"
    text = path.read_text()
    state = json.loads(text)["baselines"][0]["state"]
    replace(path, text.replace(state, "0" * 64))
    assert cellsignal("score", "config.yaml", cwd=space.folder) == 0
    assert "were measured from something else" in capsys.readouterr().out
    replace(path, "{")
    assert cellsignal("score", "config.yaml", cwd=space.folder) == 0
    assert "baselines: not measured" in capsys.readouterr().out


def test_several_labels_before_any_training(prepared, tmp_path, capsys):
    space = prepared("idr0088_moa").copy(tmp_path / "copy")
    words = ("--only", "chance", "majority", "position", "intensity")
    assert cellsignal("baseline", "config.yaml", *words, cwd=space.folder) == 0
    out = capsys.readouterr().out
    assert "position" in out and "run - baseline" not in out
    table = pd.read_csv(space.run_folder / "baselines.csv").set_index("name")
    assert table.score.between(0, 1).all()
    assert table.score["majority"] >= table.score["chance"] - 1e-6


def test_clips(prepared, tmp_path, capsys):
    space = prepared("mitoreid").copy(tmp_path / "copy")
    words = ("--only", "majority", "intensity", "cells", "--workers", "0")
    assert cellsignal("baseline", "config.yaml", *words, cwd=space.folder) == 0
    table = pd.read_csv(space.run_folder / "baselines.csv").set_index("name")
    assert table.score[["majority", "intensity"]].between(0, 1).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only", "luck"), "--only luck: is no baseline; there are chance, majority, position"),
        (("--answers", "a.csv"), "--answers: is an option of --over-time"),
        (("--weights", "w.pth"), "w.pth: no such file"),
        (("--workers", "-1"), "--workers: a number from 0, not -1"),
        (("--nuclei", "9"), "--nuclei 9: there is no such channel"),
        (("--set", "data.store=none"), "none: there is no store; run `cellsignal prepare CONFIG`"),
    ],
)
def test_what_is_refused(prepared, capsys, words, message):
    space = prepared("rxrx1")
    before = contents(space.folder)
    assert message in error_line(capsys, "baseline", "config.yaml", *words, cwd=space.folder)
    assert contents(space.folder) == before
