"""What a page knows of a run is what its files say."""

import contextlib
import json
import re

import numpy as np
import pandas as pd
import pytest
from pages import Page
from sklearn.metrics import accuracy_score

from cellsignal.common.errors import InputError
from cellsignal.report.html.comparison import comparison
from cellsignal.report.html.page import page
from cellsignal.report.html.sections import confusions
from cellsignal.report.html.sections.reliability import calibration_error, confidence_of
from cellsignal.report.html.sections.results_files import audit, baselines, best_baseline, quality
from cellsignal.report.html.view import RunView

pytestmark = pytest.mark.slow


@pytest.fixture
def opened(submitted):
    """A function (word) -> its view, within the workspace."""
    with contextlib.chdir(submitted.folder):
        yield lambda word: RunView.open(word, submitted.answers)


def labels(submitted, name):
    """The true and the submitted label of each test well."""
    submission = pd.read_csv(submitted.folder / "submissions" / name).sort_values("id_code")
    answers = pd.read_csv(submitted.answers).sort_values("id_code")
    assert (answers.id_code.to_numpy() == submission.id_code.to_numpy()).all()
    return answers.sirna.to_numpy(), submission.sirna.to_numpy()


@pytest.mark.parametrize(
    ("word", "name"), [("submissions/both.csv", "both.csv"), ("tiny", "tiny.csv")]
)
def test_outcomes_are_those_of_the_submission(opened, submitted, word, name):
    outcome = opened(word).outcomes["test"]
    true, said = labels(submitted, name)
    classes = np.array(outcome.classes, int)
    np.testing.assert_array_equal(classes[outcome.predicted], said)
    np.testing.assert_array_equal(classes[outcome.truth.values], true)
    value, low, _ = outcome.clustered("experiment")
    assert value == pytest.approx(accuracy_score(true, said)) and not low > value
    first = outcome.targets.experiment == outcome.targets.experiment[0]
    expected = (outcome.targets.scores.argmax(1) == outcome.truth.values)[first].mean()
    assert outcome.score(first).value == pytest.approx(expected)


def test_a_view_finds_its_two_parts_and_the_test_set_comes_first(opened):
    view = opened("tiny")
    assert view.parts == ["test", "oof"] and view.outcome.part == "test"
    view.answers_file = None
    assert RunView.open("tiny").parts == ["oof"]
    with pytest.raises(InputError, match="no epoch has ended yet"):
        _ = RunView("x", [view.config.model_copy(update={"name": "x"})]).logs


def test_paired_differences_are_those_of_the_outcomes(opened):
    views = [opened("tiny"), opened("other")]
    text = Page(page("t", "l", [comparison(views)])).text
    right = [view.outcomes["test"].right.mean() for view in views]
    found = re.search(r"other − tiny\ntest\n(\d+)\n([+-][\d.]+)", text)
    assert int(found[1]) == len(views[0].outcomes["test"].right)
    assert float(found[2]) == pytest.approx(right[1] - right[0], abs=5e-5)


def test_baselines_are_shown_with_what_they_know_and_the_runs_difference(
    opened, tmp_path, monkeypatch
):
    view = opened("tiny")
    monkeypatch.setattr(type(view), "folders", [tmp_path / "seed0"])
    (tmp_path / "seed0").mkdir()
    head = "name,title,score,low,high,targets,reason,file,run_score,difference,difference_low,"
    rows = "cells,the number of cells,0.25,0.10449,0.4,8,,b.npz,0.75,0.5,0.41234,0.6,beats it\n"
    rows += "imagenet,,,,,,no weights,,,,,,\n"
    (tmp_path / "seed0" / "baselines.csv").write_text(f"{head}difference_high,verdict\n{rows}")
    cells = Page(baselines(view)).text.split("\n")
    place = cells.index("cells")
    shown = ["the number of cells", "0.250", "0.104 to 0.400", "0.750", "0.500", "0.412 to 0.600"]
    assert cells[place + 1 : place + 8] == [*shown, "beats it"]
    assert "not measured: no weights" in cells and "b.npz" not in cells


def test_the_matrix_to_zoom_into_holds_every_well(opened, submitted):
    matrix = confusions._matrix(opened("tiny").outcomes["test"], None)
    data = json.loads(re.search(r'json">(.*?)</script>', matrix)[1])
    cells = np.array(data["cells"]).reshape(-1, 3)
    true, said = labels(submitted, "tiny.csv")
    expected = pd.crosstab(true, said)
    for row, column, count in cells:
        names = [int(data["names"][place]) for place in (row, column)]
        assert expected.loc[names[0], names[1]] == count
    assert cells[:, 2].sum() == len(true)


def test_results_of_other_commands_are_shown_as_they_lie_there(
    opened, submitted, tmp_path, monkeypatch
):
    view = opened("tiny")
    monkeypatch.setattr(type(view), "folders", [tmp_path / "seed0"])
    (tmp_path / "seed0").mkdir()
    with pytest.raises(InputError, match="not measured: `cellsignal audit tiny"):
        audit(view)
    assert best_baseline(view) is None
    finding = {"check": "shared <wells>", "severity": "fail", "count": 3, "examples": ["a", "b"]}
    content = {"passed": False, "findings": [finding]}
    (tmp_path / "seed0" / "audit.json").write_text(json.dumps(content))
    rows = "name,accuracy\nposition only,0.31\nmajority,0.125\n"
    (tmp_path / "baselines.csv").write_text(rows)
    (tmp_path / "baselines.json").write_text('{"baselines": [{"name": "x", "score": 0.9}]}')
    (tmp_path / "seed0" / "qc").mkdir()
    (tmp_path / "seed0" / "qc" / "plates.csv").write_text("plate,focus\nP1,0.5\n")
    assert "P1" in quality(view)
    (tmp_path / "seed0" / "qc.json").write_text("not json")
    text = Page(audit(view)).text
    assert "shared <wells>" in text and "failed" in text and "a; b" in text
    assert "position only" in baselines(view) and best_baseline(view) == ("position only", 0.31)
    with pytest.raises(InputError, match=r"qc\.json: is not JSON"):
        quality(view)


def test_calibration_error_by_hand_and_of_stated_probabilities(opened):
    confidence = np.array([0.95, 0.95, 0.15, 0.15])
    assert calibration_error(confidence, np.array([1, 1, 0, 0], bool)) == pytest.approx(0.1)
    assert calibration_error(confidence, np.array([0, 0, 0, 0], bool)) == pytest.approx(0.55)
    stated, right = confidence_of(opened("tiny").outcomes["test"])
    assert ((stated >= 1 / 8) & (stated <= 1)).all() and right.dtype == bool
