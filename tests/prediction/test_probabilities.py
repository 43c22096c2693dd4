"""Probabilities of simulated predictions, whose true posterior is known."""

import json

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import answers_path
from cellsignal.config.schema import Submit
from cellsignal.metrics.reliability import calibration_error, faultless_error
from cellsignal.prediction.container import save_predictions
from cellsignal.prediction.entry import open_entry
from cellsignal.prediction.probabilities import out_of_fold_reliability, probabilities_path
from cellsignal.prediction.submit import make_submission

pytestmark = pytest.mark.slow

SIGNAL, SURENESS = 2.4, 3.0  # of the logits; how much too sure they are


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """A simulated RxRx1, the truth of its test wells, and one file of over-sure predictions."""
    folder = tmp_path_factory.mktemp("probabilities")
    competition = get_competition("rxrx1")
    size = {"classes": 80, "controls": 1, "size": 16}
    competition.simulate(folder / "raw", 5, train_experiments=2, test_experiments=2, **size)
    answers = competition.answers(answers_path(folder / "raw"))
    truth = dict(zip(answers.id_code, answers.sirna.astype(int), strict=True))
    samples = competition.samples(folder / "raw")
    samples = samples[(samples.role == "treatment") & (samples.site == samples.site.min())]
    label = samples.label.fillna(samples.target_id.map(truth)).to_numpy(int)
    classes = competition.classes(folder / "raw")
    noise = np.random.default_rng(1).normal(size=(len(samples), len(classes)))
    # normal noise and a signal: the posterior is the softmax of signal x values
    logits = SURENESS * SIGNAL * (noise + SIGNAL * np.eye(len(classes))[label])
    about = {"competition": "rxrx1", "classes": list(classes), "run": "r/seed0", "seed": 0}
    about |= {"stage": "all", "stage_index": 0, "fold": 0, "data_root": str(folder / "raw")}
    part = np.where(samples.split == "train", "oof", "test")
    logits = {"identity": logits}
    file = folder / "p.npz"
    save_predictions(file, samples, part, logits, about | {"fold_group": "experiment"})
    return file, truth


def written(screen, tmp_path, assignment):
    file, truth = screen
    entry = open_entry([file], Submit(assignment=assignment))
    make_submission(entry, tmp_path / "s.csv", probabilities=True)
    table = pd.read_csv(tmp_path / "s.probabilities.csv", dtype={"predicted": str})
    submission = pd.read_csv(tmp_path / "s.csv", dtype=str)
    about = json.loads((tmp_path / "s.json").read_text())["probabilities"]
    right = table.predicted.astype(int) == table.id_code.map(truth)
    return table, submission, about, right.to_numpy()


@pytest.mark.parametrize("assignment", ["none", "groups", "hungarian", "sinkhorn"])
def test_test_probabilities_come_true(screen, tmp_path, assignment):
    table, submission, about, right = written(screen, tmp_path, assignment)
    assert table.id_code.tolist() == submission.id_code.tolist()
    assert table.predicted.tolist() == submission.sirna.tolist()
    assert 0.4 < right.mean() < 0.98 and len(right) == 640
    # the standard error of a share is .02
    assert table.probability.mean() == pytest.approx(right.mean(), abs=0.05)
    stated = table.probability.to_numpy()
    assert calibration_error(stated, right) < faultless_error(stated) + 0.04
    result = about["reliability"]
    assert result["log_loss"] < result["log_loss_before"] and result["error_before"] > 0.05
    for first, *second in (*result["temperatures"], about["temperatures"]):
        assert 2.4 < first < 3.6 and all(0.7 < value < 1.6 for value in second)


def test_the_temperature_and_the_softmax_are_the_simulations(screen, tmp_path):
    table, _, about, _ = written(screen, tmp_path, "none")
    assert about["temperatures"] == [pytest.approx(SURENESS, rel=0.1)]
    assert "softmax over all classes" in about["meaning"]
    assert (table.margin >= 0).all() and (table.predicted != table.runner_up.astype(str)).all()


def test_an_assignment_can_go_against_the_likeliest_class(screen, tmp_path):
    table, _, about, _ = written(screen, tmp_path, "hungarian")
    assert "belief propagation" in about["meaning"] and (table.margin < 0).any()
    plate = table.id_code.str.rsplit("_", n=1).str[0]
    assert (table.groupby([plate, "predicted"]).size() == 1).all()
    assert (table.probability.groupby(plate).size() > 10).all()


def test_the_reliability_of_runs_is_printed(screen):
    text = out_of_fold_reliability(open_entry([screen[0]], Submit()))
    assert "fitted on half of the 8 experiments" in text and "calibration error" in text
    before, after = (float(line.split()[-1]) for line in text.splitlines()[2:4])
    assert before > 2 * after


def test_other_files_are_not_replaced(screen, tmp_path):
    (tmp_path / "s.probabilities.csv").write_text("my,notes\n1,2\n")
    entry = open_entry([screen[0]], Submit())
    with pytest.raises(InputError, match="is not the probabilities of a submission"):
        make_submission(entry, tmp_path / "s.csv", probabilities=True)
    assert not (tmp_path / "s.csv").exists()
    make_submission(entry, tmp_path / "s.csv", probabilities=True, force=True)
    assert probabilities_path(tmp_path / "s.csv").read_text().startswith("id_code,predicted,")


def test_probabilities_of_an_earlier_submission_are_said_to_be(screen, tmp_path, caplog):
    entry = open_entry([screen[0]], Submit())
    make_submission(entry, tmp_path / "s.csv", probabilities=True)
    assert "earlier submission" not in caplog.text
    make_submission(entry, tmp_path / "s.csv")
    assert "s.probabilities.csv: is of an earlier submission" in caplog.text


def test_without_out_of_fold_predictions_there_is_no_temperature(screen, tmp_path):
    file, _ = screen
    competition = get_competition("rxrx1")
    entry = open_entry([file], Submit())
    samples = entry.samples.set_index("sample_id").loc[entry.members[0].ids["sample_id"]]
    test = entry.members[0].ids["part"] == "test"
    logits = {"identity": entry.members[0].logits("identity")[test]}
    about = {key: entry.members[0].about[key] for key in entry.members[0].about}
    rows = samples[test].reset_index()
    save_predictions(tmp_path / "t.npz", rows, np.full(test.sum(), "test"), logits, about)
    alone = open_entry([tmp_path / "t.npz"], Submit())
    with pytest.raises(InputError, match="no out-of-fold predictions to fit a temperature on"):
        make_submission(alone, tmp_path / "s.csv", probabilities=True)
    assert competition.id == "rxrx1" and not (tmp_path / "s.csv").exists()
