"""Ties: expected average precision against all orders, and draws that no order of a table decides."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from cellsignal.common.ties import (
    chord,
    count_duplicates,
    draw_one,
    duplicates_notes,
    expected_average_precision,
    has_mixed_tie,
    random_order,
    tied_best,
    unit_vectors,
)

lists = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(lists, st.integers(0, 10**6))
def test_expected_average_precision_is_the_mean_over_all_orders(items, seed):
    distance, match = (np.array(column) for column in zip(*items, strict=True))
    rounding = np.random.default_rng(seed).normal(scale=1e-12, size=len(distance))
    found = expected_average_precision(distance + rounding, match)
    if not match.any():
        assert np.isnan(found)
        return
    orders = itertools.permutations(range(len(distance)))
    every = [
        average_precision_score(match, -(distance + np.array(order) / 100)) for order in orders
    ]
    assert found == pytest.approx(np.mean(every))
    assert has_mixed_tie(distance + rounding, match) == (
        max(every) - min(every) > 1e-9 or _mixed(distance, match)
    )


def _mixed(distance: np.ndarray, match: np.ndarray) -> bool:
    return any(len(set(match[distance == value])) == 2 for value in set(distance))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 9))
def test_a_random_order_ascends(seed, n, m):
    distance = np.random.default_rng(seed).integers(0, 3, size=(n, m)).astype(float)
    order = random_order(distance)
    assert (np.sort(order, axis=1) == np.arange(m)).all()
    assert (np.diff(np.take_along_axis(distance, order, axis=1), axis=1) >= 0).all()
    assert (order == random_order(distance)).all(), "drawn with a seed"


def test_every_tied_place_is_as_likely_as_another():
    first = np.bincount(random_order(np.full((6000, 3), np.inf))[:, 0], minlength=3)
    drawn = np.bincount(draw_one(np.tile([True, False, True, True], (6000, 1))), minlength=4)
    np.testing.assert_allclose(first / 6000, 1 / 3, atol=0.04)  # 6 standard errors
    np.testing.assert_allclose(drawn / 6000, [1 / 3, 0, 1 / 3, 1 / 3], atol=0.04)


def test_the_best_and_what_is_tied_with_it():
    score = np.array([[1, 1 - 1e-12, 0.5], [-np.inf, -np.inf, -np.inf], [0, 2, -np.inf]])
    assert tied_best(score).tolist() == [[True, True, False], [False] * 3, [False, True, False]]


def test_directions_equal_but_for_rounding_are_tied():
    """Multiples of one float32 vector, seen from another: their chords differ by rounding alone."""
    rng = np.random.default_rng(0)
    for width in (1, 2, 30, 900):
        vector, other = rng.normal(size=(2, width)).astype(np.float32)
        copies = (np.arange(1, 40, dtype=np.float32)[:, None] * vector).astype(np.float32)
        distance = chord(unit_vectors(copies) @ unit_vectors(other[None])[0])
        assert np.ptp(distance) < 2e-7, width
    near = np.stack([np.cos([0, 1e-4, 2e-4]), np.sin([0, 1e-4, 2e-4])], axis=1)
    assert np.diff(chord(unit_vectors(near) @ unit_vectors(near[:1])[0])).min() > 9e-5, (
        "nearly parallel is not tied"
    )


def test_rows_that_equal_another():
    assert (
        count_duplicates(np.array([[0.0, 1], [-0.0, 1], [2, 3], [2, 4], [2, 3]], np.float32)) == 4
    )


def test_what_is_told_of_duplicates_and_zeros():
    told = duplicates_notes(np.array([[0.0, 0], [1, 2], [1, 2], [3, 4]]), "tracks")
    assert told[0].startswith("2 of 4 tracks have the profile of another") and told[1].startswith(
        "1 of 4 tracks have a profile of zeros"
    )
    assert duplicates_notes(np.eye(3), "tracks") == []
