"""Classifiers of the baselines: they take encoded targets of one or of several labels alike.

`encoded` is what `Task.encode_targets` returns: (N,) int64 labels, or (N, K) of ones and zeros. All
return (Q, K) scores, higher is likelier: log-probabilities, or log-odds of each class.
"""

from collections.abc import Sequence

import numpy as np

_MANY_CLASSES = 200  # above it class centres take the place of the logistic regression
_PSEUDO_COUNT = 1.0
_LARGEST_LOG_ODDS = 30.0


def one_hot(encoded: np.ndarray, classes: int) -> np.ndarray:
    """Return encoded targets as (N, K) float64 of ones and zeros."""
    if encoded.ndim == 2:
        return encoded.astype(np.float64)
    return (encoded[:, None] == np.arange(classes)).astype(np.float64)


def majority_scores(encoded: np.ndarray, queries: int, classes: int) -> np.ndarray:
    """Score every query by how often each class trains."""
    share = one_hot(encoded, classes).mean(axis=0)
    if encoded.ndim == 2:
        scores = _log_odds(share)
    else:
        scores = np.log(np.maximum(share, 1e-9))
    return np.tile(scores, (queries, 1))


def naive_bayes_scores(
    columns: Sequence[np.ndarray],
    encoded: np.ndarray,
    query: Sequence[np.ndarray],
    classes: int,
) -> np.ndarray:
    """Score by the frequencies of categories in each class, as if they were independent.

    One pseudo-count, spread as the categories are overall, keeps all frequencies above 0. A
    category that did not train says nothing.

    Args:
        columns: a (N,) array of categories for each feature.
        query: the same of the queries, (Q,).
    """
    member = one_hot(encoded, classes)
    scores = majority_scores(encoded, len(query[0]), classes).astype(np.float64)
    for trained, queried in zip(columns, query, strict=True):
        names, code = np.unique(trained, return_inverse=True)
        category = np.zeros((len(names), len(trained)))
        category[code, np.arange(len(trained))] = 1
        overall = category.mean(axis=1)[:, None] * _PSEUDO_COUNT
        inside = (category @ member + overall) / (member.sum(axis=0) + _PSEUDO_COUNT)
        rest = overall
        if encoded.ndim == 2:
            outside = 1 - member
            rest = (category @ outside + overall) / (outside.sum(axis=0) + _PSEUDO_COUNT)
        evidence = np.log(inside) - np.log(rest)
        place = np.searchsorted(names, queried).clip(max=len(names) - 1)
        known = names[place] == queried
        scores[known] += evidence[place[known]]
    return scores


def linear_classifier_scores(
    x: np.ndarray, encoded: np.ndarray, query: np.ndarray, classes: int
) -> np.ndarray:
    """Score by a logistic regression of standardised features (`well_classifiers.linear_scores`).

    Of several labels, each class has one of its own. With more than 200 classes of which an image
    has one, the nearest class centre takes its place, which takes seconds instead of hours.
    """
    from cellsignal.prediction.well_classifiers import centre_scores, linear_scores

    x, query = np.asarray(x, np.float64), np.asarray(query, np.float64)
    mean, sd = x.mean(axis=0), x.std(axis=0)
    varies = sd > 1e-6 * np.maximum(1, np.abs(mean))
    if not varies.any():
        return majority_scores(encoded, len(query), classes)
    x, query = ((values - mean)[:, varies] / sd[varies] for values in (x, query))
    query = np.clip(query, -10, 10)  # a new batch may lie far outside of what trained
    if encoded.ndim == 2:
        scores = np.repeat(_log_odds(encoded.mean(axis=0))[None], len(query), axis=0)
        for number in range(classes):
            label = encoded[:, number].astype(np.int64)
            if 0 < label.sum() < len(label):
                two = linear_scores(x, label, query, 2)
                scores[:, number] = two[:, 1] - two[:, 0]
        return scores
    if len(np.unique(encoded)) < 2:
        return majority_scores(encoded, len(query), classes)
    if classes > _MANY_CLASSES:
        return centre_scores(x, encoded, query, classes, "euclidean")
    return linear_scores(x, encoded, query, classes)


def _log_odds(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 1e-9, 1 - 1e-9)
    return np.clip(np.log(share / (1 - share)), -_LARGEST_LOG_ODDS, _LARGEST_LOG_ODDS)
