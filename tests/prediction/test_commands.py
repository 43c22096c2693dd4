"""What `score` is given tells what is scored; the weights of `submit` are numbers."""

from argparse import Namespace

import pytest

from cellsignal.common.errors import InputError
from cellsignal.prediction import commands


class FileScored(Exception):
    """A submission file, not a config, is scored."""


@pytest.fixture
def score(monkeypatch, tmp_path):
    """Says whether words are scored as a submission, out of fold, or by a protocol's parts."""

    def find_competition(path, competition):
        raise FileScored

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cellsignal.evaluation.score.find_competition", find_competition)
    monkeypatch.setattr(commands, "_score_protocol", lambda arguments: "protocol")
    monkeypatch.setattr(commands, "_score_out_of_fold", lambda arguments: "out of fold")

    def kind_of(*words, answers=None):
        try:
            return commands.score(
                Namespace(sources=words, answers=answers, competition=None, against=None)
            )
        except FileScored:
            return "submission"

    return kind_of


@pytest.mark.parametrize("word", ["c.yaml", "c.yml", "p.npz", "run", "name"])
def test_configs_runs_and_predictions_are_scored_out_of_fold_or_by_answers(score, tmp_path, word):
    (tmp_path / "run").mkdir()
    assert score(word) == "out of fold" and score(word, answers="a.csv") == "protocol"
    assert score(word, "other") == "out of fold"


@pytest.mark.parametrize("word", ["there.csv", "absent.csv", "submission"])
def test_other_files_are_submissions_one_at_a_time_with_answers(score, tmp_path, word):
    for name in ("there.csv", "submission"):
        (tmp_path / name).write_text("id,target\n")
    assert score(word, answers="a.csv") == "submission"
    with pytest.raises(InputError, match=f"^{word}: a submission is scored by --answers"):
        score(word)
    with pytest.raises(InputError, match=r"^second\.csv: give one submission at a time"):
        score(word, "second.csv", answers="a.csv")


def test_a_weight_that_is_no_number_is_named():
    with pytest.raises(InputError, match=r"--weight: .*'heavy'"):
        commands.submit(Namespace(weight=["a=heavy"]))
