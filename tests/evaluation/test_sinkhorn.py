"""Soft assignment: the one matrix with the right sums that scores plus row and column constants
allow.
"""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cellsignal.common.errors import InputError
from cellsignal.prediction.plate_layout import assignment
from cellsignal.prediction.plate_layout.assignment import IMPOSSIBLE, TOLERANCE, assign, soften

ONE_PLATE = {("E", "1"): 0}


def soft(scores, temperature=1.0):
    """(n, m) probabilities of one plate that holds the only group."""
    names = ["E"] * len(scores), ["1"] * len(scores)
    return np.exp(
        soften(scores, *names, np.zeros(scores.shape[1], int), ONE_PLATE, temperature).astype(float)
    )


@st.composite
def plate(draw, full=False):
    classes = draw(st.integers(1, 9))
    wells = classes if full else draw(st.integers(1, classes))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return rng.normal(size=(wells, classes)) * draw(st.floats(0, 4))


@settings(deadline=None, max_examples=60)
@given(plate(), st.floats(0.5, 5))
def test_it_is_the_maximum_of_score_plus_entropy(scores, temperature):
    """Right sums, and log p - score / temperature = row constant + column constant: the optimality
    condition, which has one solution.
    """
    wells, classes = scores.shape
    p = soft(scores, temperature)
    assert p.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert p.sum(axis=0).max() <= 1 + TOLERANCE
    rest = np.log(p) - scores / temperature
    assert np.abs(rest - rest[:1] - rest[:, :1] + rest[0, 0]).max() < 1e-3
    if classes > wells:  # the row of absent classes is one of the rows: its scores are 0
        absent = 1 - p.sum(axis=0)
        at = absent > 0.01
        rest = np.log(absent[at]) - rest[0, at]
        assert np.ptp(rest) < 0.2 if at.any() else True


@settings(deadline=None, max_examples=30)
@given(plate(), st.integers(0, 1000))
def test_order_and_well_constants_do_not_matter(scores, seed):
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(scores.shape[0]), rng.permutation(scores.shape[1])
    moved = scores[np.ix_(rows, columns)] + rng.normal(size=(len(scores), 1)) * 10
    assert soft(moved) == pytest.approx(soft(scores)[np.ix_(rows, columns)], abs=5e-3)


@settings(deadline=None, max_examples=30)
@given(plate(full=True), st.integers(0, 1000))
def test_class_constants_do_not_matter_on_a_full_plate(scores, seed):
    moved = scores + np.random.default_rng(seed).normal(size=scores.shape[1]) * 5
    assert soft(moved) == pytest.approx(soft(scores), abs=5e-3)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(0, 2))
def test_towards_zero_it_is_the_best_of_all_matchings(seed, wells, spare):
    classes = wells + spare
    scores = np.random.default_rng(seed).normal(size=(wells, classes))
    totals = sorted(
        scores[range(wells), list(p)].sum() for p in itertools.permutations(range(classes), wells)
    )
    gap = totals[-1] - totals[-2] if len(totals) > 1 else 1
    # a smaller one, blown up to 1, leaves scores too far apart for the iteration, which then says
    # so
    assume(gap > 0.02)
    scores /= gap
    p = soft(scores, 0.05)
    names = ["E"] * wells, ["1"] * wells
    labels = assign(scores, *names, np.zeros(classes, int), ONE_PLATE)
    assert (p.argmax(axis=1) == labels).all() and p[range(wells), labels].min() > 0.9


def test_towards_infinity_every_class_is_as_likely():
    assert soft(np.random.default_rng(0).normal(size=(4, 6)), 1e6) == pytest.approx(1 / 6, abs=1e-4)


def test_by_hand():
    """Two wells, two classes: p / (1 - p) = exp(half the difference of the matchings' totals)."""
    p = soft(np.array([[1.0, 0.0], [0.5, 0.0]]))
    assert p[0, 0] == pytest.approx(1 / (1 + np.exp(-0.25)), abs=1e-3)


def test_groups_and_plates_stay_apart():
    rng = np.random.default_rng(0)
    class_group = np.array([0, 1, 0, 1, 0])
    experiment, plates = ["E"] * 6, ["1", "2", "3"] * 2
    scores = rng.normal(size=(6, 5)).astype(np.float32)
    out = soften(scores, experiment, plates, class_group, {("E", "1"): 0, ("E", "2"): 1}, 2.0)
    assert out.dtype == np.float32 and np.isfinite(out).all()
    assert (out[np.ix_([0, 3], [1, 3])] == np.float32(IMPOSSIBLE)).all()
    assert np.exp(out[np.ix_([1, 4], [1, 3])]).sum(axis=0) == pytest.approx(1, abs=TOLERANCE)
    plain = np.exp(scores[[2, 5]] / 2)
    assert np.exp(out[[2, 5]]) == pytest.approx(plain / plain.sum(axis=1, keepdims=True), rel=1e-5)


def test_it_mends_a_preference_of_the_model_for_some_classes():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(100, 100)) + 3 * np.eye(100) + 2 * rng.normal(size=100)
    right = [(s.argmax(axis=1) == np.arange(100)).mean() for s in (scores, soft(scores))]
    assert right[1] > right[0] + 0.2


def test_a_stop_before_the_end_is_told(monkeypatch, caplog):
    scores = np.random.default_rng(0).normal(size=(20, 20)) * 30
    monkeypatch.setattr(assignment, "ROUNDS", 2)
    monkeypatch.setattr(assignment, "BLOCK", 2)
    soft(scores)
    assert "E plate 1: sums are off by" in caplog.text


def test_what_is_refused():
    with pytest.raises(InputError, match="temperature: must be above 0, not 0"):
        soft(np.zeros((2, 2)), 0)
    with pytest.raises(InputError, match="E plate 1: 3 wells but only 2 classes"):
        soft(np.zeros((3, 2)))
