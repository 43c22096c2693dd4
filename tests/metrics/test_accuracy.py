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
