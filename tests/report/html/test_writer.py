"""`cellsignal report`: one page of any run at any time, whose figures are the true ones."""

import re
import shutil

import pandas as pd
import pytest
import yaml
from helpers import cellsignal, error_line
from pages import read_page
from sklearn.metrics import accuracy_score

from cellsignal.common.files import work_in
from cellsignal.report.html.sections.registry import SECTIONS

pytestmark = pytest.mark.slow

# one is there only where `profiles classify` was run
TITLES = [title for title, anchor, _ in SECTIONS if anchor != "classified"]


def report(space, *words, expect=0):
    out = space.folder / "page.html"
    assert cellsignal("report", *words, "--out", out, cwd=space.folder) == expect
    return read_page(out)


def card(page, name):
    """The figure on a card of the summary."""
    return float(re.search(rf"\n{name}\n([\d.]+)\n", page.text)[1])


def test_the_scores_are_those_of_the_submission_and_of_the_answers(submitted):
    page = report(submitted, "tiny", "--answers", submitted.answers)
    submission = pd.read_csv(submitted.folder / "submissions" / "tiny.csv").sort_values("id_code")
    answers = pd.read_csv(submitted.answers).sort_values("id_code")
    expected = accuracy_score(answers.sirna, submission.sirna)
    assert card(page, "Test accuracy") == pytest.approx(expected, abs=5.1e-4)
    assert all(title in page.text for title in TITLES)
    assert card(page, "Chance") == pytest.approx(1 / 8)
    assert "What would be cheating" in page.text and "tiny" in page.text
    sections = {"summary", "steps", "slices", "plates", "confusion", "reliability", "extremes"}
    assert sections <= set(page.ids)
    # the part that is missing says what makes it
    assert "cellsignal embed tiny" in page.text and "cellsignal audit tiny" in page.text


def test_without_answers_the_page_lies_with_the_run_and_shows_what_is_out_of_fold(
    submitted, capsys
):
    capsys.readouterr()
    assert cellsignal("report", "tiny", cwd=submitted.folder) == 0
    path = submitted.folder / capsys.readouterr().out.strip()
    assert path == submitted.run_folder / "report" / "report.html"
    page = read_page(path)
    assert "Test accuracy" not in page.text and "Out-of-fold accuracy" in page.text
    assert "going on" not in page.text


def test_a_run_that_is_trained_alone_has_curves_and_lines_for_the_rest(prepared, trained, tmp_path):
    space = trained("rxrx1").copy(tmp_path / "space")
    shutil.rmtree(space.run_folder / "predictions")
    with work_in(space.run_folder):
        page = report(space, "tiny")
    assert "The run is going on" in page.text and "seed 0: running" in page.text
    assert "no predictions yet: cellsignal predict tiny" in page.text
    assert "Validation accuracy" in page.text and "Out-of-fold accuracy" not in page.text
    assert any(alt.startswith("Learning curves of tiny/seed0") for alt in page.alts)
    space = prepared("rxrx1").copy(tmp_path / "fresh")
    page = report(space, "config.yaml")
    assert "no epoch has ended yet: cellsignal train tiny" in page.text
    assert "State: not begun" in page.text and all(title in page.text for title in TITLES)


def test_predictions_of_another_config_are_refused_in_a_line(submitted, tmp_path):
    space = submitted.copy(tmp_path / "space")
    (space.folder / "other.yaml").write_text(
        yaml.safe_dump(
            yaml.safe_load((space.folder / "config.yaml").read_text()) | {"predict": {"tta": 4}}
        )
    )
    page = report(space, "other.yaml")
    assert "was made with predict.tta" in page.text and "Out-of-fold accuracy" not in page.text


@pytest.mark.slow
def test_runs_side_by_side_have_the_paired_difference_of_their_outcomes(submitted):
    assert cellsignal("report", "tiny", "other", cwd=submitted.folder) == 0
    page = read_page(submitted.folder / "runs" / "report_tiny+other.html")
    scores = [
        float(value) for value in re.findall(r"\n(?:tiny|other)\nout of fold\n+([\d.]+)", page.text)
    ]
    found = re.search(r"other − tiny\nout of fold\n(\d+)\n([+-][\d.]+)", page.text)
    assert float(found[2]) == pytest.approx(scores[1] - scores[0], abs=2e-4)
    assert "stages" in page.text and "run1-summary" in page.ids and "run2-summary" in page.ids
    assert len(set(page.ids)) == len(page.ids)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "is not a config"),
        (["submissions/none.csv"], "no such submission"),
        (["tiny", "--answers", "none.csv"], "none.csv"),
        (["folds.csv"], "folds.json: is not there"),
    ],
)
def test_what_cannot_be_reported_is_one_line(submitted, capsys, words, message):
    assert message in error_line(capsys, "report", *words, cwd=submitted.folder)
