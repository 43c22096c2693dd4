"""Numbers that no study can run with are refused in one line, before anything is packed."""

import pytest
from helpers import error_line

CASES = [
    ("readers", "--rounds", "0"),
    ("neighbours", "--rounds", "0"),
    ("epoch", "--workers", "0"),
    ("epoch", "--sizes", "0"),
    ("relations", "--simulations", "0"),
    ("neighbours", "--seconds", "-1"),
    ("neighbours", "--seconds", "nan"),
    ("ablation", "config.yaml", "--answers", "answers.csv", "--processes", "0"),
]


@pytest.mark.parametrize("words", CASES)
def test_a_number_below_one_is_refused(tmp_path, capsys, words):
    line = error_line(capsys, "study", *words, cwd=tmp_path)
    assert line == f"{words[-2]} {words[-1]}: give 1 or more"
