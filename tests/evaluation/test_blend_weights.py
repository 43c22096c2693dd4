"""Weights against brute force over a grid; planted members that are useless or doubled."""

import itertools

import numpy as np
import pytest
from blends import make_members, several_classes

from cellsignal.evaluation.blend_members import Members
from cellsignal.evaluation.blend_weights import (
    METHODS,
    Blend,
    best_member,
    calibrated_weights,
    equal_weights,
    hill_climb,
    stack,
)


def loss_of(members, blend):
    return members.mean_loss(blend.merge(members.scores))


@pytest.mark.parametrize("make", [make_members, several_classes])
def test_stacking_is_the_best_of_a_grid(make):
    """No ratio on a fine grid of two and three members has a lower log-loss, but for the price."""
    for seed, signal in ((0, (2.0, 1.0)), (1, (1.0, 3.0, 2.0))):
        members = make(seed=seed, signal=signal)
        found = loss_of(members, stack(members))
        best = np.inf
        for ratio in itertools.product(np.linspace(0, 4, 17), repeat=len(signal)):
            best = min(best, members.mean_loss(np.tensordot(ratio, members.scores, axes=1)))
        assert found < best + 2e-3
        assert found <= loss_of(members, calibrated_weights(members)) + 1e-3


def test_stacking_finds_the_ratio_that_was_planted():
    """Independent normal noise of SD s: the best log-linear weight is 1 / s^2."""
    members = make_members(signal=(2.0, 1.0), targets=20_000, classes=4)
    blend = stack(members)
    ratio = blend.weights / blend.temperatures / blend.temperature
    assert ratio == pytest.approx([2.0, 1.0], abs=0.1)


@pytest.mark.parametrize("choose", [stack, hill_climb])
def test_a_useless_member_gets_no_weight(choose):
    members = make_members(signal=(2.0, 2.0, 0.0), scale=(1.0, 1.0, 5.0), targets=1500)
    weights = choose(members).weights
    assert weights[2] < 0.05 and weights[:2].min() > 0.3 and weights.sum() == pytest.approx(1)


def test_a_doubled_member_shares_its_weight():
    members = make_members(signal=(2.0, 2.0), targets=3000)
    doubled = make_doubled(members)
    single, three = stack(members), stack(doubled)
    assert three.weights[1] == pytest.approx(three.weights[2], abs=1e-3)
    assert three.weights[0] == pytest.approx(single.weights[0], abs=0.02)
    equal = equal_weights(doubled).merge(doubled.scores)
    assert loss_of(doubled, three) < doubled.mean_loss(equal)


def make_doubled(members):
    return Members(
        names=("a", "b", "b again"),
        scores=members.scores[[0, 1, 1]],
        truth=members.truth,
        unit=members.unit,
        equal=np.full(3, 1 / 3),
        loss=members.loss,
        metric=members.metric,
    )


def test_a_scale_of_a_members_logits_changes_nothing():
    plain = make_members(signal=(2.0, 1.5), targets=800)
    scaled = make_members(signal=(2.0, 1.5), scale=(9.0, 0.2), targets=800)
    for choose in (stack, hill_climb, calibrated_weights):
        merged = choose(plain).merge(plain.scores)
        assert choose(scaled).merge(scaled.scores) == pytest.approx(merged, rel=0.02, abs=0.05)


def test_hill_climbing_does_not_leave_the_score_below_the_best_member():
    members = make_members(signal=(2.0, 1.9, 1.8, 0.5), targets=1000)
    best = max(members.quick_score(scores) for scores in members.scores)
    blend = hill_climb(members)
    assert members.quick_score(blend.merge(members.scores)) > best
    assert (
        blend.weights.min() >= 0 and hill_climb(members).weights.tolist() == blend.weights.tolist()
    )


def test_the_best_member_is_that_with_the_best_score():
    members = make_members(signal=(1.0, 2.5, 2.0))
    assert best_member(members).weights.tolist() == [0, 1, 0]


def test_members_that_know_nothing_are_weighed_equally():
    members = make_members(signal=(0.0, 0.0), scale=(3.0, 3.0), targets=300)
    blend = stack(members)
    assert blend.weights.sum() == pytest.approx(1) and np.isfinite(blend.temperature)


def test_merging_divides_by_both_temperatures():
    scores = np.arange(12.0).reshape(2, 3, 2)
    blend = Blend(np.array([0.25, 0.75]), np.array([2.0, 3.0]), 5.0)
    expected = (0.25 * scores[0] / 2 + 0.75 * scores[1] / 3) / 5
    assert blend.merge(scores) == pytest.approx(expected)
    assert set(METHODS) == {"stack", "hill", "calibrate", "equal"}
