"""`cellsignal baseline --over-time`: hand-made features of clips, on queries and on held-out drugs."""

import pytest
from helpers import cellsignal, error_line


@pytest.mark.slow
def test_it_scores_queries_and_held_out_drugs(prepared, capsys):
    space = prepared("mitoreid")
    for words in (["--answers", space.answers], []):
        capsys.readouterr()
        words = ("config.yaml", "--over-time", *words)
        assert cellsignal("baseline", *words, cwd=space.folder) == 0
        printed = capsys.readouterr().out
        assert "random forest" in printed and "mean" in printed


def test_stills_are_refused(prepared, capsys):
    assert "stills" in error_line(
        capsys, "baseline", "config.yaml", "--over-time", cwd=prepared("bbbc021").folder
    )
