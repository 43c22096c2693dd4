"""What `score` is given tells what is scored; the weights of `submit` are numbers."""

from argparse import Namespace

import pytest

from cellsignal.common.errors import InputError
from cellsignal.prediction import commands


class FileScored(Exception):
    """A submission file, not a config, is scored."""


@pytest.fixture
def score(monkeypatch, tmp_path):
    """Says whether a word is scored as a submission file or as a config or run."""

    def find_competition(path, competition):
        raise FileScored

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cellsignal.evaluation.score.find_competition", find_competition)
    monkeypatch.setattr(commands, "_score_protocol", lambda arguments: "protocol")

    def kind_of(word):
        try:
            return commands.score(Namespace(submission=word, competition=None))
        except FileScored:
            return "file"

    return kind_of


def test_configs_and_runs_are_scored_by_their_protocol_and_files_as_submissions(score, tmp_path):
    (tmp_path / "submission").write_text("id,target\n")
    (tmp_path / "there.csv").write_text("id,target\n")
    (tmp_path / "run").mkdir()
    words = ("c.yaml", "run", "name", "there.csv", "absent.csv", "submission")
    assert [score(word) for word in words] == ["protocol"] * 3 + ["file"] * 3


def test_a_weight_that_is_no_number_is_named():
    with pytest.raises(InputError, match=r"--weight: .*'heavy'"):
        commands.submit(Namespace(weight=["a=heavy"]))
