import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score

from cellsignal.common.errors import InputError
from cellsignal.metrics.accuracy import (
    Accuracy,
    accuracy,
    balanced_accuracy,
    bootstrap_interval,
    clustered_interval,
    wilson_interval,
)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(pair):
    correct, total = pair
    expected = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, total) == pytest.approx(
        (expected.low, expected.high), abs=1e-12
    )


def test_wilson_by_hand():
    # z = 1.959964: centre (.8 + 3.8415 / 20) / 1.38415 = .71675, half 1.959964 / 1.38415 *
    # sqrt(.016 + .0096) = .22657
    assert wilson_interval(8, 10) == pytest.approx((0.49016, 0.94332), abs=2e-5)


def test_accuracy_and_its_text():
    result = accuracy([1, 2, 3, 4], [1, 2, 3, 0])
    assert (result.correct, result.total, result.value) == (3, 4, 0.75)
    assert Accuracy.of(123, 141).format() == "0.872 [0.81, 0.92] (123/141)"
    assert str(Accuracy.of(19850, 19897).format(5)) == "0.99764 [0.9969, 0.9982] (19850/19897)"
    assert accuracy(["a", "b"], ["a", "c"]).correct == 1


@pytest.mark.parametrize(("true", "predicted"), [([], []), ([1], [1, 2]), ([[1]], [[1]])])
def test_accuracy_refuses_what_it_cannot_score(true, predicted):
    with pytest.raises(InputError):
        accuracy(true, predicted)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (1, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(correct, total):
    with pytest.raises(InputError):
        wilson_interval(correct, total)


def test_clustered_interval_is_exact_for_two_clusters():
    # four equally likely draws of two clusters: 0, .5, .5, 1 -> the 2.5 and 97.5 percentiles are 0
    # and 1
    correct, cluster = np.array([1] * 10 + [0] * 10, bool), ["a"] * 10 + ["b"] * 10
    assert clustered_interval(correct, cluster, seed=0) == (0.0, 1.0)


def test_clustered_interval_weighs_clusters_by_their_wells():
    # drawing a twice gives 1, b twice 0, one of each 30/40: plain means of clusters would give .5
    correct = np.array([1] * 30 + [0] * 10, bool)
    cluster = np.array([0] * 30 + [1] * 10)
    low, high = clustered_interval(correct, cluster, seed=3)
    assert (low, high) == (0.0, 1.0)
    three = np.repeat(
        [0, 1, 2], [998, 1, 1]
    )  # the large cluster is missed by (2/3)^3 of the draws, and else decides alone
    low, high = clustered_interval(three == 0, three, seed=3)
    assert low == 0.0 and high > 0.998


def test_clustered_interval_against_a_plain_loop():
    rng = np.random.default_rng(1)
    cluster = rng.integers(0, 12, 600)
    correct = rng.random(600) < rng.random(12)[cluster]
    draws = []
    for _ in range(6000):
        wells = np.concatenate([np.flatnonzero(cluster == c) for c in rng.integers(0, 12, 12)])
        draws.append(correct[wells].mean())
    assert clustered_interval(correct, cluster, seed=2, n=6000) == pytest.approx(
        np.percentile(draws, [2.5, 97.5]), abs=0.02
    )


def test_clustered_interval_is_wilsons_when_each_well_is_its_own_cluster():
    correct = np.arange(1000) % 4 != 0
    assert clustered_interval(correct, np.arange(1000), seed=0) == pytest.approx(
        wilson_interval(750, 1000), abs=0.004
    )


def test_clustered_interval_of_one_cluster_is_unknown_and_repeats():
    assert all(math.isnan(end) for end in clustered_interval([True, False], ["a", "a"], seed=0))
    correct, cluster = np.arange(40) % 3 == 0, np.arange(40) // 5
    assert clustered_interval(correct, cluster, seed=7) == clustered_interval(
        correct, cluster, seed=7
    )
    with pytest.raises(InputError, match="outcome 1"):
        clustered_interval([True, True], np.array(["a", None], dtype=object), seed=0)
    with pytest.raises(InputError, match="2 outcomes but 1"):
        clustered_interval([True, True], ["a"], seed=0)


def test_bootstrap_interval_of_the_mean_is_that_of_the_clusters():
    rng = np.random.default_rng(1)
    cluster = np.sort(rng.integers(0, 12, 600))
    correct = rng.random(600) < rng.random(12)[cluster]
    interval = bootstrap_interval(lambda rows: correct[rows].mean(), cluster, seed=0, n=4000)
    assert interval == pytest.approx(clustered_interval(correct, cluster, seed=2), abs=0.02)


def test_bootstrap_interval_leaves_out_what_has_no_score():
    def score(rows):
        """The rows of cluster b alone have none."""
        if (rows >= 2).all():
            raise InputError("no score")
        return float(len(rows))

    # a has two rows, b three; of the draws aa, ab, ba, bb the last has no score: 4, 5, 5
    low, high = bootstrap_interval(score, ["a", "a", "b", "b", "b"], seed=0, n=500)
    assert (low, high) == (4.0, 5.0)
    with_none = bootstrap_interval(lambda rows: score(np.array([4])), ["a"], seed=0, n=3)
    assert all(math.isnan(end) for end in with_none)


def test_balanced_accuracy_is_sklearns():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 5, 200) ** 2, rng.integers(0, 5, 200) ** 2
    assert balanced_accuracy(true, predicted) == pytest.approx(
        balanced_accuracy_score(true, predicted)
    )


def test_scoring_starts_without_torch_or_matplotlib():
    code = (
        "import sys, cellsignal.evaluation.score, cellsignal.evaluation.leaderboard, "
        "cellsignal.prediction.plate_layout.assignment, "
        "cellsignal.report.plots; "
        "print([m for m in ('torch', 'matplotlib', 'sklearn', 'scipy') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )
