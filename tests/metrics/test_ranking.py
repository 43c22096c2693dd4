"""Average precision of ranked lists, against scikit-learn and every order of a small list."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from cellsignal.common.errors import InputError
from cellsignal.metrics.ranking import (
    average_precisions,
    chance_average_precision,
    match_masks,
    order_by_class,
    ranked_matches,
    ranking_score,
)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_average_precision_is_sklearns(match):
    (value,) = average_precisions([np.array(match)])
    if any(match):
        expected = average_precision_score(match, -np.arange(len(match)))
        assert value == pytest.approx(expected, abs=1e-12)
    else:
        assert np.isnan(value)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_chance_is_the_mean_over_all_orders(n):
    for matches in range(1, n + 1):
        orders = set(itertools.permutations([True] * matches + [False] * (n - matches)))
        expected = average_precisions(map(np.array, orders)).mean()
        assert chance_average_precision(n, matches) == pytest.approx(expected, abs=1e-12)


def test_tracks_of_the_same_drug_of_the_same_library_are_left_out():
    query = pd.DataFrame({"library": ["p"], "drug": ["x"], "moa": ["m"]})
    gallery = pd.DataFrame(
        {
            "library": ["p", "p", "q", "q", "p"],
            "drug": ["x", "y", "x", "z", "w"],
            "moa": ["m", "m", "m", "n", "n"],
        }
    )
    matches, left_out = match_masks(query, gallery)
    assert left_out.tolist() == [[True, False, False, False, False]]
    assert matches.tolist() == [[False, True, True, False, False]]


def test_the_score_is_the_mean_over_queries_with_a_match():
    # a b c d: without b, left out, the matches c and d are 2nd and 3rd: (1/2 + 2/3) / 2
    rankings = ["a b c d", "d c b a", "a b"]
    matches, left_out = ["c d", "d", ""], ["b", "", "a"]
    lists = ranked_matches(rankings, matches, left_out)
    assert [each.tolist() for each in lists] == [
        [False, True, True],
        [True, False, False, False],
        [False],
    ]
    assert ranking_score(rankings, matches, left_out) == pytest.approx((7 / 12 + 1) / 2)
    with pytest.raises(InputError, match="none of the 1 queries has a match in the gallery"):
        ranking_score(["a b"], [""], ["a"])


def test_a_gallery_is_ordered_by_the_scores_of_its_classes_and_unknown_ones_come_last():
    scores = np.array([[0.1, 3.0, 2.0], [5.0, -4.0, 0.0]])
    gallery = np.array([3, 0, 1, 2, 7, 1])  # 3 and 7 are no classes of the scores
    first, second = order_by_class(scores, gallery)
    assert set(first[:2]) == {2, 5} and first[2:4].tolist() == [3, 1] and set(first[4:]) == {0, 4}
    assert second[:2].tolist() == [1, 3] and set(second[2:4]) == {2, 5}
    same = order_by_class(np.zeros((200, 1)), np.zeros(5, int))
    assert len({tuple(row) for row in same}) > 50  # tracks that score alike: in random order
