"""What members of a blend are measured by: units weigh the same."""

import numpy as np
import pandas as pd
import pytest
from blends import make_members, several_classes

from cellsignal.evaluation import blend_members
from cellsignal.evaluation.blend_members import unit_interval, unit_losses, unit_scores
from cellsignal.metrics.average_precision import macro_average_precision
from cellsignal.metrics.log_loss import cross_entropy


def test_every_unit_weighs_the_same():
    members = make_members(units=5)
    scores = members.scores[0]
    right = pd.Series(scores.argmax(1) == members.truth).groupby(members.unit).mean()
    loss = pd.Series(cross_entropy(scores, members.truth)[0]).groupby(members.unit).mean()
    assert right.mean() != pytest.approx((scores.argmax(1) == members.truth).mean(), abs=1e-6)
    assert unit_scores(members, scores) == pytest.approx(right.to_numpy())
    assert unit_losses(members, scores) == pytest.approx(loss.to_numpy())
    assert members.quick_score(scores) == pytest.approx(right.mean())
    assert members.mean_loss(scores) == pytest.approx(loss.mean())


def test_the_mean_over_units_of_average_precision_is_the_score():
    members = several_classes()
    parts = unit_scores(members, members.scores[0])
    assert len(parts) == members.units
    whole = macro_average_precision(members.truth, members.scores[0])
    assert parts.mean() == pytest.approx(whole)
    without = members.unit != 3
    left = macro_average_precision(members.truth[without], members.scores[0][without])
    influence = (members.units - 1) * (whole - left)
    assert parts[3] - parts[4] == pytest.approx(
        influence - (members.units - 1) * (whole - _without(members, 4)), abs=1e-9
    )


def _without(members, unit):
    rows = members.unit != unit
    return macro_average_precision(members.truth[rows], members.scores[0][rows])


def test_a_temperature_takes_out_a_scale():
    members = make_members(signal=(2.0, 2.0), scale=(1.0, 7.0), targets=3000)
    same = make_members(signal=(2.0, 2.0), targets=3000)
    assert members.temperatures[1] / same.temperatures[1] == pytest.approx(7, rel=1e-3)
    grid = np.exp(np.linspace(-3, 3, 601))
    losses = [members.mean_loss(members.scores[1] / t) for t in grid]
    assert members.temperatures[1] == pytest.approx(grid[int(np.argmin(losses))], rel=0.02)


def test_rows_and_members_can_be_taken():
    members = make_members(signal=(2.0, 1.0, 0.0))
    some = members.members([0, 2]).rows(members.unit == 1)
    assert some.names == ("a", "c") and some.equal.tolist() == [0.5, 0.5] and some.units == 1
    assert np.array_equal(some.scores, members.scores[[0, 2]][:, members.unit == 1])


def test_many_targets_are_drawn_from_with_some_of_each_unit(monkeypatch):
    members = make_members(targets=2000, units=20)
    assert members.fewer() is members
    monkeypatch.setattr(blend_members, "MOST_CELLS", 400 * 6)
    few = members.fewer()
    assert len(few.unit) == 400 and set(np.bincount(few.unit)) == {20}
    assert np.array_equal(few.scores, members.fewer().scores)


def test_one_unit_has_no_interval():
    assert np.isnan(unit_interval(np.array([0.3]))).all()
    low, high = unit_interval(np.array([0.1, 0.2, 0.3, 0.2, 0.1, 0.3]))
    assert 0.1 < low < 0.2 < high < 0.3
