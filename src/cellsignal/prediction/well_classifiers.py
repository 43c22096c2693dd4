"""Classes named by the nearest training wells, or by the nearest class centres. Numbers in,
log-probabilities out.
"""

from typing import Literal

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from cellsignal.common.errors import InputError
from cellsignal.common.ties import CHORD_TOLERANCE

Metric = Literal["cosine", "euclidean"]
_QUERIES = 256  # wells whose distances are in memory at a time


def centre_scores(
    x: np.ndarray, label: np.ndarray, query: np.ndarray, n_classes: int, metric: Metric = "cosine"
) -> np.ndarray:
    """Nearest class centre: log-probabilities softmax(-t d^2), d the distance of a query to each
    class's mean.

    t is the one under which training wells are most likely, each scored with its own class's centre
    made without it: the scores are as sharp as the training wells of a class agree. Where no class
    has two wells, t lets the other classes at their mean distance share a probability of 1 / K when
    the query is at a class's centre.

    Args:
        x: (N, D) training wells; label: (N,) int below `n_classes`; query: (M, D).
        metric: cosine first scales all vectors, and the centres, to length one: d^2 is then 2 - 2
        cos.

    Returns:
        (M, n_classes) float32; a class without a training well is as unlikely as the least likely
        other.
    """
    x, query = _lengths(x, metric), _lengths(query, metric)
    classes, code, size = np.unique(label, return_inverse=True, return_counts=True)
    total = np.zeros((len(classes), x.shape[1]), np.float32)
    np.add.at(total, code, x)
    centres = _lengths(total / size[:, None], metric)
    several = size[code] > 1
    without = _lengths((total[code] - x)[several] / (size[code][several] - 1)[:, None], metric)
    loss = _squared(x[several], centres)
    loss[np.arange(len(loss)), code[several]] = np.square(x[several] - without).sum(1)
    distance = _squared(query, centres)
    scores = -_sharpness(loss, code[several], distance) * distance
    out = np.repeat(scores.min(1, keepdims=True), n_classes, axis=1)
    out[:, classes] = scores
    return log_softmax(out, axis=1).astype(np.float32)


def neighbour_scores(
    x: np.ndarray,
    label: np.ndarray,
    query: np.ndarray,
    n_classes: int,
    metric: Metric = "cosine",
    k: int = 5,
) -> np.ndarray:
    """k nearest training wells, each voting with 1 / distance: log((k v + 1 / K) / (k + 1)), v the
    class's share of the votes, K the number of classes.

    The prior of one well spread over all classes keeps the logarithm finite. Where several wells
    are equally far at the k-th place, they share the places that are left: no order of the table
    decides which of them votes. Arguments and result as in `centre_scores`.

    Raises:
        InputError: less than k training wells.
    """
    if len(x) < k:
        raise InputError(f"k: {k} neighbours asked for, {len(x)} training wells there")
    x, query = (np.asarray(_lengths(values, metric), np.float64) for values in (x, query))
    # what float32 cannot tell apart; unit vectors have length one
    tolerance = CHORD_TOLERANCE * max(1.0, float(np.abs(x).max(initial=0)))
    member = np.zeros((len(x), n_classes))
    member[np.arange(len(x)), label] = 1
    votes = np.empty((len(query), n_classes))
    for start in range(0, len(query), _QUERIES):
        part = slice(start, start + _QUERIES)
        votes[part] = _vote_weights(np.sqrt(_squared(query[part], x)), k, tolerance) @ member
    return np.log((k * votes + 1 / n_classes) / (k + 1)).astype(np.float32)


def _vote_weights(distance: np.ndarray, k: int, tolerance: float) -> np.ndarray:
    """(Q, N) weights of the k nearest wells, 1 / distance, adding up to 1 in each row; those tied
    at the k-th place share what is left of k.
    """
    last = np.partition(distance, k - 1, axis=1)[:, k - 1 : k]
    nearer, tied = distance < last - tolerance, np.abs(distance - last) <= tolerance
    places = (k - nearer.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)
    chosen = np.where(nearer, 1.0, np.where(tied, places, 0.0))
    exact = (distance <= tolerance) & (chosen > 0)
    weight = np.where(
        exact.any(axis=1, keepdims=True), exact * chosen, chosen / np.maximum(distance, tolerance)
    )
    return weight / weight.sum(axis=1, keepdims=True)


def _lengths(x: np.ndarray, metric: Metric) -> np.ndarray:
    x = np.asarray(x, np.float32)
    return (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) if metric == "cosine" else x
    )


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) squared Euclidean distances. What all have in common is taken out first: the
    difference of large squares would round it away.
    """
    a, b = a - b.mean(0), b - b.mean(0)
    return np.maximum(np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T, 0)


def _sharpness(squared: np.ndarray, own: np.ndarray, queries: np.ndarray) -> float:
    """The t that makes each row's own class most likely in softmax(-t squared); see
    `centre_scores`.
    """
    if not len(squared):
        return 2 * np.log(queries.shape[1]) / max(queries.mean(), 1e-30)
    least = -np.log(max(squared.mean(), 1e-30))

    def surprise(log_t: float) -> float:
        scores = -np.exp(log_t) * squared
        return float((logsumexp(scores, axis=1) - scores[np.arange(len(own)), own]).mean())

    return float(
        np.exp(minimize_scalar(surprise, bounds=(least - 4, least + 8), method="bounded").x)
    )


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
