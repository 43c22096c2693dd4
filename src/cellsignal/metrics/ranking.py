"""Score rankings of gallery tracks, as MitoReID's re-identification does.

For each query the gallery tracks of the same library *and* the same drug are taken out of the list
(the same well shows again, not the same mechanism). What is left is a match where the mechanism is
the same. Queries without a match are skipped.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.ties import random_order


def average_precisions(ranked_match: Iterable[np.ndarray]) -> np.ndarray:
    """Return the average precision of each ranked list.

    Args:
        ranked_match: of each of Q queries (n,) bool, best first, what is taken out left out; n may
        differ.

    Returns:
        (Q,) float64; NaN for a query without a match.
    """
    values = []
    for match in ranked_match:
        places = np.flatnonzero(np.asarray(match, bool)) + 1
        values.append((np.arange(1, len(places) + 1) / places).mean() if len(places) else np.nan)
    return np.array(values, dtype=np.float64)


def chance_average_precision(n: int, matches: int) -> float:
    """Return the expected average precision of a random order of n items.

    With `matches` = p matches: (H_n + (p - 1)(n - H_n) / (n - 1)) / n.
    """
    if matches == n:
        return 1.0
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return (harmonic + (matches - 1) * (n - harmonic) / (n - 1)) / n


def match_masks(query: pd.DataFrame, gallery: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of each query's matches, and of the tracks its list leaves out.

    Args:
        query, gallery: columns library, drug, moa (any comparable values).

    Returns:
        (Q, G) bool matches (those taken out are none) and (Q, G) bool left out.
    """
    same = {
        name: query[name].to_numpy(object)[:, None] == gallery[name].to_numpy(object)[None]
        for name in ("library", "drug", "moa")
    }
    left_out = same["library"] & same["drug"]
    return same["moa"] & ~left_out, left_out


def ranked_matches(
    rankings: Sequence[str], matches: Sequence[str], left_out: Sequence[str]
) -> list[np.ndarray]:
    """Return each query's list as (n,) bool, best first: whether the track matches. All arguments
    are ids with spaces between, one text a query.
    """
    lists = []
    for ranking, wanted, out in zip(rankings, matches, left_out, strict=True):
        wanted, out = set(wanted.split()), set(out.split())
        lists.append(
            np.array([name in wanted for name in ranking.split() if name not in out], dtype=bool)
        )
    return lists


def ranking_score(
    rankings: Sequence[str], matches: Sequence[str], left_out: Sequence[str]
) -> float:
    """Compute the mean average precision over the queries that have a match.

    Raises:
        InputError: no query has one.
    """
    precisions = average_precisions(ranked_matches(rankings, matches, left_out))
    if np.isnan(precisions).all():
        raise InputError(
            f"none of the {len(precisions)} queries has a match in the gallery; there is nothing "
            "to score"
        )
    return float(np.nanmean(precisions))


def order_by_class(scores: np.ndarray, gallery_label: np.ndarray) -> np.ndarray:
    """Rank the gallery by a classifier's scores of the query: (Q, G) int, best first.

    Args:
        scores: (Q, K) float, higher is likelier.
        gallery_label: (G,) int; labels from K (the control) on come last. Tracks of one class, and
        of classes that score alike, stand
            in a random order, drawn with a seed.
    """
    scores = np.asarray(scores, dtype=np.float64)
    known = np.column_stack([scores, np.full(len(scores), -np.inf)])
    return random_order(-known[:, np.minimum(gallery_label, scores.shape[1])])
