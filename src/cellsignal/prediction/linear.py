"""Naming wells by a linear classifier of their embeddings: what centres and neighbours cannot do,
weigh the features that tell the classes apart.
"""

import numpy as np
from scipy.special import log_softmax

from cellsignal.common.errors import InputError


def linear_scores(
    x: np.ndarray, label: np.ndarray, query: np.ndarray, n_classes: int, strength: float = 1.0
) -> np.ndarray:
    """Log-probabilities of a logistic regression (scikit-learn's, classes balanced, L2) on features
    standardised over the training wells.

    Features that do not vary are left out. Where there are more features than wells the regression
    happens in the span of the wells, which changes nothing.

    Args:
        strength: C, the inverse of the L2 penalty. The other arguments and the result are as in
        `nearest.centre_scores`.

    Raises:
        InputError: the training wells are of one class.
    """
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(label)
    if len(classes) < 2:
        raise InputError("linear: the training wells are all of one class")
    x, query = np.asarray(x, np.float64), np.asarray(query, np.float64)
    mean, sd = x.mean(0), x.std(0)
    x, query = ((values - mean)[:, sd > 0] / sd[sd > 0] for values in (x, query))
    if x.shape[1] > len(x):
        axes = np.linalg.svd(x, full_matrices=False)[2].T
        x, query = x @ axes, query @ axes
    fitted = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000).fit(x, label)
    scores = fitted.predict_log_proba(query)
    out = np.repeat(scores.min(1, keepdims=True), n_classes, axis=1)
    out[:, fitted.classes_] = scores
    return log_softmax(out, axis=1).astype(np.float32)
