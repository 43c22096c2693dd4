import numpy as np
import pytest
from columns import flush_right

from cellsignal.evaluation.ladder import Step, ladder_table, ladder_text
from cellsignal.metrics.accuracy import Accuracy

STEPS = [
    Step("argmax", Accuracy.of(50, 100), 1 / 100),
    Step("plate groups", Accuracy.of(75, 100), 1 / 25, "sure"),
    Step("assignment", Accuracy.of(72, 100), 1 / 25),
]


def test_table_holds_the_gain_over_the_step_before():
    table = ladder_table(STEPS)
    assert table.score.tolist() == [0.5, 0.75, 0.72] and np.isnan(table.gain[0])
    assert table.gain[1:].tolist() == pytest.approx([0.25, -0.03])
    assert table.chance.tolist() == [0.01, 0.04, 0.04] and table.note.tolist() == ["", "sure", ""]
    assert (table.low < table.score).all() and (table.high > table.score).all()


def test_text_has_a_line_a_step():
    lines = ladder_text(STEPS).splitlines()
    assert (
        len(lines) == 6
        and lines[5].startswith("Wilson's intervals")
        and lines[3].startswith("plate groups    0.7500")
    )
    assert "+0.2500" in lines[3] and "-0.0300" in lines[4] and lines[3].endswith("sure")
    assert flush_right("\n".join(lines[:5])) == ["accuracy", "n", "gain"]


def test_no_steps_is_an_empty_table():
    assert ladder_table([]).empty and len(ladder_text([]).splitlines()) == 2
