"""Compute the log-loss of each row with its gradient, and scores that are quick to compare.

One entry for each `Task.loss_family` and each `Task.monitored`: what blends are chosen by.
"""

import numpy as np


def cross_entropy(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cross-entropy of each row, and its gradient.

    Args:
        scores: (T, K) logits.
        truth: (T,) int, the true class.

    Returns:
        (T,) losses; (T, K) gradient by the logits: probability minus truth.
    """
    shifted = scores - scores.max(axis=1, keepdims=True)
    residual = np.exp(shifted)
    total = residual.sum(axis=1)
    residual /= total[:, None]
    rows = np.arange(len(scores))
    losses = np.log(total) - shifted[rows, truth]
    residual[rows, truth] -= 1
    return losses, residual


def binary_cross_entropy(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean binary cross-entropy of each row over its known classes, and its gradient.

    Args:
        scores: (T, K) logits.
        truth: (T, K) of 1, 0 and NaN; NaN is not known and not counted.
    """
    from scipy.special import expit

    known = ~np.isnan(truth)
    share = known / np.maximum(known.sum(axis=1, keepdims=True), 1)
    true = np.where(known, truth, 0)
    losses = (np.logaddexp(0, scores) - true * scores) * share
    return losses.sum(axis=1), (expit(scores) - true) * share


LOG_LOSSES = {"cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy}


def row_accuracy(scores: np.ndarray, truth: np.ndarray, row_weight: np.ndarray) -> float:
    """Return the weighted share of rows whose highest score is that of the true class."""
    return float(row_weight @ (scores.argmax(axis=1) == truth))


def quick_average_precision(
    scores: np.ndarray, truth: np.ndarray, row_weight: np.ndarray | None = None
) -> float:
    """Return the macro average precision, all classes at once; NaN if nothing can be ranked.

    As `macro_average_precision` where no scores are tied; tied ones count in the rows' order.

    Args:
        truth: (T, K) of 1, 0 and NaN.
        row_weight: not used: a ranking has no weight by row.
    """
    known = ~np.isnan(truth)
    order = np.argsort(np.where(known, -scores, np.inf), axis=0, kind="stable")
    positive = np.take_along_axis((truth == 1).astype(float), order, axis=0)
    hits = positive.cumsum(axis=0)
    total = hits[-1]
    tested = (total > 0) & (total < known.sum(axis=0))
    if not tested.any():
        return float("nan")
    precision = hits / np.arange(1, len(scores) + 1)[:, None]
    each = (precision * positive).sum(axis=0)[tested] / total[tested]
    return float(each.mean())


QUICK_SCORES = {"accuracy": row_accuracy, "average_precision": quick_average_precision}
