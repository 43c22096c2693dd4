"""Rank items that may be tied: a tie scores as the mean over random orders.

Distances that are equal but for rounding are one tie. Where a figure is a mean over orders, its
expected value is taken; where one order has to be given (a list, a neighbour, a class), it is drawn
with a seed. The order of a table, which is often that of the labels, never decides.
"""

from collections.abc import Iterable

import numpy as np

TOLERANCE = 1e-9  # distances that differ by less are equal
CHORD_TOLERANCE = 2e-7  # of unit vectors that were float32: rounding moves their ends by as much


def unit_vectors(x: np.ndarray) -> np.ndarray:
    """Scale the rows of (N, D) to length one, float64; a row of zeros stays zero."""
    x = np.asarray(x, np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length == 0, 1, length)


def chord(cosine: np.ndarray) -> np.ndarray:
    """Return the distance of two unit vectors' ends, from their cosine.

    It grows as the cosine falls. Ties are searched among these distances and not among cosines,
    whose resolution is poor where vectors are nearly parallel.
    """
    return np.sqrt(np.maximum(2 - 2 * np.asarray(cosine, np.float64), 0))


def random_order(distance: np.ndarray, seed: int = 0, tolerance: float = TOLERANCE) -> np.ndarray:
    """Sort each row of (Q, G) distances, ties in random order; return the (Q, G) indices."""
    order, group = _tie_groups(np.atleast_2d(np.asarray(distance, np.float64)), tolerance)
    key = group + np.random.default_rng(seed).random(group.shape)
    return np.take_along_axis(order, np.argsort(key, axis=1), axis=1)


def expected_average_precision(
    distance: np.ndarray, match: np.ndarray, tolerance: float = TOLERANCE
) -> float:
    """Return the average precision of a ranking, the mean over all orders of its ties.

    Source: McSherry & Najork, ECIR 2008.

    Args:
        distance: (G,), less is nearer.
        match: (G,) bool.

    Returns:
        NaN if nothing matches.
    """
    match = np.asarray(match, bool)
    if not match.any():
        return float("nan")
    order, group = _tie_groups(np.asarray(distance, np.float64)[None], tolerance)
    relevant, group = match[order[0]], group[0]
    size = np.bincount(group)
    start = np.concatenate([[0], np.cumsum(size)[:-1]])
    matches = np.bincount(group, weights=relevant)
    earlier = np.concatenate([[0], np.cumsum(matches)[:-1]])
    place = np.arange(1, len(group) + 1)
    # given a match at a place, the expected number of its tie's other matches at places before it
    others = (place - start[group] - 1) * (matches[group] - 1) / np.maximum(size[group] - 1, 1)
    precision = (earlier[group] + 1 + others) / place
    return float((matches[group] / size[group] * precision).sum() / match.sum())


def has_mixed_tie(distance: np.ndarray, match: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Return whether a match and another item of one ranking are tied."""
    order, group = _tie_groups(np.asarray(distance, np.float64)[None], tolerance)
    matches = np.bincount(group[0], weights=np.asarray(match, bool)[order[0]])
    return bool(((matches > 0) & (matches < np.bincount(group[0]))).any())


def tied_best(score: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Mark the largest scores of each row of (Q, G), all if tied; -inf is never marked."""
    score = np.asarray(score, np.float64)
    best = score.max(axis=1, keepdims=True)
    return np.isfinite(score) & (score >= best - tolerance)


def draw_one(allowed: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draw a marked column of each row of (Q, G) bool: (Q,) int; 0 where none is marked."""
    allowed = np.asarray(allowed, bool)
    return np.where(allowed, np.random.default_rng(seed).random(allowed.shape), -1.0).argmax(axis=1)


def count_duplicates(x: np.ndarray) -> int:
    """Count the rows of (N, D) that equal another row."""
    rows = [row.tobytes() for row in np.ascontiguousarray(x) + 0.0]  # + 0.0: -0.0 is 0.0
    counts: dict[bytes, int] = {}
    for row in rows:
        counts[row] = counts.get(row, 0) + 1
    return sum(count for count in counts.values() if count > 1)


def duplicates_notes(x: np.ndarray, what: str) -> list[str]:
    """Return a note on rows of (N, D) that equal another and one on rows of zeros, if any.

    Args:
        what: what a row describes, in the plural: "wells".
    """
    equal, empty = count_duplicates(x), int((~np.asarray(x).any(axis=1)).sum())
    notes = (
        [f"{equal} of {len(x)} {what} have the profile of another; their order is taken as random"]
        if equal
        else []
    )
    return notes + (
        [f"{empty} of {len(x)} {what} have a profile of zeros, at right angles to all"]
        if empty
        else []
    )


def listed(names: Iterable[object], most: int = 3) -> str:
    """Write the first names, and the number of the others."""
    names = [str(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _tie_groups(distance: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Sort each row of (Q, G); return the indices and the number of the tie at each place."""
    order = np.argsort(distance, axis=1, kind="stable")
    ascending = np.take_along_axis(distance, order, axis=1)
    group = np.zeros(distance.shape, np.int64)
    with np.errstate(invalid="ignore"):  # inf - inf: a tie
        group[:, 1:] = np.cumsum(np.diff(ascending, axis=1) > tolerance, axis=1)
    return order, group
