"""Log-losses and quick scores against scikit-learn; gradients against differences."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import average_precision_score, log_loss

from cellsignal.metrics.average_precision import macro_average_precision
from cellsignal.metrics.log_loss import (
    LOG_LOSSES,
    quick_average_precision,
    row_accuracy,
)

RNG = np.random.default_rng(0)
SCORES = 3 * RNG.normal(size=(40, 5))
LABEL = RNG.integers(0, 5, 40)
LABELS = (RNG.random((40, 5)) < 0.4).astype(float)
LABELS[::7, 2] = np.nan


def test_losses_are_those_of_sklearn():
    losses, _ = LOG_LOSSES["cross_entropy"](SCORES, LABEL)
    assert losses.mean() == pytest.approx(log_loss(LABEL, softmax(SCORES, axis=1), labels=range(5)))
    losses, _ = LOG_LOSSES["binary_cross_entropy"](SCORES, LABELS)
    for row in (0, 1, 7):
        known = ~np.isnan(LABELS[row])
        probability = expit(SCORES[row][known])
        expected = log_loss(LABELS[row][known], probability, labels=[0, 1])
        assert losses[row] == pytest.approx(expected)


@pytest.mark.parametrize("name", LOG_LOSSES)
def test_gradients_are_differences(name):
    loss, truth = LOG_LOSSES[name], {"cross_entropy": LABEL}.get(name, LABELS)
    _, gradient = loss(SCORES, truth)
    for row, column in ((0, 0), (7, 2), (3, 4)):
        moved = SCORES.copy()
        moved[row, column] += 1e-5
        slope = (loss(moved, truth)[0] - loss(SCORES, truth)[0]).sum() / 1e-5
        assert gradient[row, column] == pytest.approx(slope, abs=1e-4)


def test_large_logits_overflow_nowhere():
    scores = np.array([[1e4, -1e4, 0.0]])
    assert LOG_LOSSES["cross_entropy"](scores, np.array([1]))[0][0] == pytest.approx(2e4)
    losses, _ = LOG_LOSSES["binary_cross_entropy"](scores, np.array([[0.0, 1.0, np.nan]]))
    assert losses[0] == pytest.approx(1e4)


def test_quick_scores_are_those_of_sklearn():
    weight = RNG.random(40)
    right = weight[SCORES.argmax(1) == LABEL].sum()
    assert row_accuracy(SCORES, LABEL, weight) == pytest.approx(right)
    assert quick_average_precision(SCORES, LABELS) == pytest.approx(
        macro_average_precision(LABELS, SCORES)
    )
    one_class = LABELS.copy()
    one_class[:, 1:] = 0
    expected = average_precision_score(LABELS[:, 0], SCORES[:, 0])
    assert quick_average_precision(SCORES, one_class) == pytest.approx(expected)
    assert np.isnan(quick_average_precision(SCORES, np.zeros((40, 5))))
