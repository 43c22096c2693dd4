"""Random orders against all orders, and the published test by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest

from cellsignal.evaluation import retrieval_null
from cellsignal.evaluation.retrieval_null import Null, random_precisions


@pytest.mark.parametrize(("positives", "total"), [(1, 4), (2, 5), (4, 5), (3, 3)])
def test_random_orders_are_all_orders_alike(positives, total):
    size = 20_000
    expected: dict[float, int] = {}
    orders = list(itertools.combinations(range(1, total + 1), positives))
    for ranks in orders:
        precision = round(np.mean([hit / rank for hit, rank in enumerate(ranks, 1)]), 9)
        expected[precision] = expected.get(precision, 0) + 1
    drawn = random_precisions(positives, total, size, 0)
    assert drawn.shape == (size,) and (np.diff(drawn) >= 0).all()
    values, counts = np.unique(drawn.round(9), return_counts=True)
    assert values.tolist() == sorted(expected)
    share = np.array([expected[value] for value in values]) / len(orders)
    np.testing.assert_allclose(counts / size, share, atol=5 * 0.5 / np.sqrt(size))


def test_orders_that_are_drawn_in_parts_are_as_many(monkeypatch):
    monkeypatch.setattr(retrieval_null, "_DRAWN", 35)  # seven orders of five at a time
    drawn = random_precisions.__wrapped__(2, 5, 20, 0)
    assert drawn.shape == (20,) and (np.diff(drawn) >= 0).all()
    monkeypatch.setattr(retrieval_null, "_DRAWN", 4)  # less than one order
    assert random_precisions.__wrapped__(2, 5, 3, 0).shape == (3,)


def test_the_published_test_by_hand(monkeypatch):
    """Of four random orders those of strictly greater precision count, rounding apart."""
    random = np.array([0.1, 0.5, 0.5, 1.0])
    monkeypatch.setattr(retrieval_null, "random_precisions", lambda *words: random)
    scores = pd.DataFrame(
        {
            "group": ["a", "a", "b", "c"],
            "average_precision": [0.5 - 1e-12, 1.0, 0.05, 0.6],
            "n_pos_pairs": [1, 2, 1, 1],
            "n_total_pairs": [4, 4, 4, 4],
        }
    )
    table = Null(size=4, kind="published").test(scores)
    # p of a query: (greater + 1) / 5; of a group: their geometric mean
    p = [np.sqrt(2 / 5 * 1 / 5), 1.0, 2 / 5]
    assert list(table.index) == ["a", "b", "c"]
    np.testing.assert_allclose(table.mean_average_precision, [0.75 - 5e-13, 0.05, 0.6])
    np.testing.assert_allclose(table.p_value, p)
    # Benjamini-Hochberg: .283 x 3 / 1 is more than .4 x 3 / 2, which so is the q of both
    np.testing.assert_allclose(table.q_value, [0.6, 1, 0.6])


def test_copairs_null_finds_a_perfect_group_and_no_random_one():
    """Four queries of 3 among 20: all first is as good as 1 order in 1140, the mean of all 4."""
    rng = np.random.default_rng(0)
    random = [rng.choice(random_precisions(3, 20, 1000, 1)) for _ in range(4)]
    scores = pd.DataFrame(
        {
            "group": ["first"] * 4 + ["random"] * 4,
            "average_precision": [1.0] * 4 + random,
            "n_pos_pairs": 3,
            "n_total_pairs": 20,
        }
    )
    table = Null(size=2000).test(scores)
    np.testing.assert_allclose(table.mean_average_precision, [1, np.mean(random)])
    assert table.p_value["first"] < 0.01 < table.p_value["random"]
    assert table.q_value["first"] == pytest.approx(min(2 * table.p_value["first"], 1))
