import dataclasses
import math

import numpy as np
import pytest

from cellsignal.cli import main
from cellsignal.studies.coverage.page import coverage_page
from cellsignal.studies.coverage.simulated_units import (
    CASES,
    Coverage,
    bootstrap_ends,
    draw_accuracy,
    draw_paired,
    draw_precision,
    measure_case,
    measure_macro,
    of_ends,
)


@pytest.mark.parametrize("draw", [draw_accuracy, draw_precision])
def test_units_are_drawn_around_the_truth(draw):
    draws = draw(0.7, 0.1, (200, 200), 40, 50, np.random.default_rng(0))
    assert draws.truth == 0.7 and draws.mean.mean() == pytest.approx(0.7, abs=0.015)
    # variance of the units' chances: .1 x .7 x .3; wells of a unit add little
    assert draws.mean.var() == pytest.approx(0.021, abs=0.003)
    assert (draws.size == 200).all()


def test_the_truth_of_a_difference_is_its_mean():
    draws = draw_paired(0.8, 0.3, (300, 300), 200, 50, np.random.default_rng(3))
    assert draws.mean.mean() == pytest.approx(draws.truth, abs=0.002) and draws.truth > 0.03
    assert draw_paired(0.8, 0.0, (300, 300), 2, 3, np.random.default_rng(3)).truth == 0


def test_what_holds_the_truth_is_counted():
    ends = np.array([[0, 1], [0.6, 1], [0, 0.4], [0.5, 0.5], [math.nan, math.nan]])
    assert of_ends(ends, 0.5) == (0.5, 0.8, pytest.approx(0.4))


def test_the_bootstrap_is_of_units():
    draws = draw_accuracy(0.5, 0.1, (50, 50), 1, 40, np.random.default_rng(1))
    ends = bootstrap_ends(draws, np.random.default_rng(2))[0]
    error = draws.mean[0].std() / math.sqrt(40)
    assert ends - draws.mean[0].mean() == pytest.approx(
        [-1.96 * error, 1.96 * error], abs=error / 2
    )


def test_our_intervals_hold_the_truth_where_the_bootstraps_do_not():
    case = next(case for case in CASES if case.bootstrap)
    row = measure_case(case, 5, 300, seed=1)
    assert row.held > 0.91 and row.bootstrap < 0.9 and row.given == 1
    assert str(row) == str(measure_case(case, 5, 300, seed=1))
    macro, difference = measure_macro(20, 60, seed=0)
    assert macro.held > 0.85 and difference.held > 0.85


def test_the_page_marks_what_lies_outside():
    good = Coverage("fair case", 5, 0.95, 1.0, 0.25)
    rows = [good, dataclasses.replace(good, units=10, held=0.9212)]
    rows.append(dataclasses.replace(good, case="wide case", held=0.98, given=0.5, bootstrap=0.8))
    page = coverage_page(rows, 100, 7, 1.0)
    assert "| fair case |  | 95.0 | **92.1** |  |  |" in page
    assert "- Too narrow: fair case: 10 units 92.1 %." in page
    assert "- Too wide: wide case: 5 units 98.0 %." in page
    assert "- wide case: 5 units 50 %" in page and "| wide case |  | **80.0** |" in page
    assert "1 of 3 cells lie within 93 .. 97 %; 1 lie below, 1 above." in page
    assert "--simulations 100 --seed 7" in page and "is 2.2 percentage points" in page


def test_no_simulation_is_refused(capsys):
    assert main(["study", "coverage", "--simulations", "0"]) == 2
    assert "--simulations: 0 is not above 0" in capsys.readouterr().err
