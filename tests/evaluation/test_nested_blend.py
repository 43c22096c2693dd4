"""A nested gain is honest where the gain on the targets that chose is not."""

import numpy as np
import pytest
from blends import make_members, several_classes

from cellsignal.common.errors import InputError
from cellsignal.evaluation.blend_weights import stack
from cellsignal.evaluation.nested_blend import (
    NAMES,
    WAYS,
    compare,
    cross_fit,
    deal_units,
    nest_blend,
    residual_correlation,
)
from cellsignal.evaluation.nested_blend_text import nested_blend_text, verdict


def test_no_unit_chooses_for_itself():
    members = make_members(units=7)
    part = deal_units(members, 3, 0)
    assert set(part) == {0, 1, 2}
    assert all(len(set(part[members.unit == unit])) == 1 for unit in range(7))
    seen = []

    def choose(training):
        seen.append(set(training.unit.tolist()))
        return stack(training)

    fit = cross_fit(members, {"stack": choose}, part)["stack"]
    for number, units in enumerate(seen):
        assert units == set(members.unit[part != number].tolist())
        by_hand = stack(members.rows(part != number)).merge(members.scores[:, part == number])
        assert fit.scores[part == number] == pytest.approx(by_hand)


def test_labels_of_a_unit_do_not_move_its_own_blend():
    """Wrong labels for one unit change the blend of all units but itself."""
    members = make_members(units=5, signal=(2.0, 1.0, 0.5))
    part = deal_units(members, 5, 0)
    wrong = members.truth.copy()
    wrong[members.unit == 2] = 0
    other = make_members(units=5, signal=(2.0, 1.0, 0.5), truth=wrong)
    before, after = (cross_fit(m, {"s": stack}, part)["s"].scores for m in (members, other))
    inside = members.unit == 2
    assert np.array_equal(before[inside], after[inside])
    assert not np.allclose(before[~inside], after[~inside])


def test_on_pure_noise_the_naive_gain_is_positive_and_the_nested_one_is_not():
    """Of 20 useless members the best on the targets at hand always looks good there."""
    naive, nested = [], []
    for seed in range(6):
        members = make_members(seed, signal=(0.0,) * 20, targets=120, classes=3, units=6)
        row = nest_blend(members, values=False).row("best member")
        naive.append(row.naive)
        nested.append(row.score.change)
    assert sum(gain > 0.02 for gain in naive) >= 5 and np.mean(naive) > 0.06
    assert abs(np.mean(nested)) < 0.04


def test_a_member_is_worth_what_it_adds():
    members = make_members(signal=(2.0, 2.0, 0.0), targets=1200, units=10)
    nested = nest_blend(members)
    added = {row.name: row.score for row in nested.value}
    assert added["a"].low > 0 and added["b"].low > 0
    assert abs(added["c"].change) < 0.01
    assert nested.gain.score.low > 0 and "is better than equal" in verdict(nested, "accuracy", "x")
    assert nested.row("equal weights").score.change == 0


def test_a_member_that_others_double_adds_nothing():
    members = make_members(signal=(2.0, 1.5), targets=900)
    scores = members.scores[[0, 1, 1]]
    doubled = make_members(
        signal=(2.0, 1.5),
        targets=900,
        scores=scores,
        names=("a", "b", "c"),
        equal=np.full(3, 1 / 3),
    )
    added = {row.name: row.score.change for row in nest_blend(doubled).value}
    assert abs(added["b"]) < 0.005 and abs(added["c"]) < 0.005 and added["a"] > 0.05
    correlation = residual_correlation(doubled)
    assert correlation[1, 2] == pytest.approx(1) and correlation[0, 1] < 0.6


@pytest.mark.parametrize("method", NAMES)
def test_every_method_blends_every_kind_of_truth(method):
    for members in (make_members(targets=200), several_classes(targets=150)):
        nested = nest_blend(members, method, parts=3, values=False)
        assert nested.gain.name == NAMES[method] and nested.parts == 3
        assert [row.name for row in nested.rows] == list(WAYS)
        text = nested_blend_text(members, nested, "experiment")
        assert "stacking" in text and "correlation of errors" in text and "nan" not in text


def test_one_unit_cannot_be_nested():
    with pytest.raises(InputError, match="all targets are of one unit"):
        nest_blend(make_members(units=1))


def test_a_comparison_weighs_units_the_same():
    change = compare(np.array([0.5, 0.7, 0.9]), np.array([0.4, 0.6, 0.5]))
    assert change.value == pytest.approx(0.7) and change.change == pytest.approx(0.2)
    assert change.low <= 0.2 <= change.high


def test_the_verdict_says_worse_and_undecided():
    worse = nest_blend(make_members(signal=(2.0, 2.0), targets=300), "stack", values=False)
    row = worse.gain
    object.__setattr__(row.score, "low", -0.3)
    object.__setattr__(row.score, "high", -0.1)
    assert "WORSE" in verdict(worse, "accuracy", "plate")
    object.__setattr__(row.score, "high", 0.1)
    assert "no better than equal weights" in verdict(worse, "accuracy", "plate")
    object.__setattr__(row.score, "low", float("nan"))
    object.__setattr__(row.score, "change", 0.01)
    assert "too few plates" in verdict(worse, "accuracy", "plate")
