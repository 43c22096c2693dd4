"""Rankings: which gallery tracks a query should find, and how well a list does it
(re-identification as MitoReID scores it).

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
    """Average precision of each list: the mean, over its matches, of the share of matches up to and
    with that place.

    Args:
        ranked_match: of each of Q queries (n,) bool, best first, what is taken out left out; n may
        differ.

    Returns:
        (Q,) float64; NaN for a query without a match.
    """
    found = []
    for match in ranked_match:
        places = np.flatnonzero(np.asarray(match, bool)) + 1
        found.append((np.arange(1, len(places) + 1) / places).mean() if len(places) else np.nan)
    return np.array(found, dtype=np.float64)


def chance_average_precision(n: int, matches: int) -> float:
    """The mean average precision of all orders of n items of which `matches` match: (H_n + (p -
    1)(n - H_n) / (n - 1)) / n.
    """
    if matches == n:
        return 1.0
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return (harmonic + (matches - 1) * (n - harmonic) / (n - 1)) / n


def match_masks(query: pd.DataFrame, gallery: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What each query should find, and what is taken out of its list.

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
    """Each query's list as (n,) bool, best first. All arguments are ids with spaces between, one
    text a query.
    """
    found = []
    for ranking, wanted, out in zip(rankings, matches, left_out, strict=True):
        wanted, out = set(wanted.split()), set(out.split())
        found.append(
            np.array([name in wanted for name in ranking.split() if name not in out], dtype=bool)
        )
    return found


def ranking_score(
    rankings: Sequence[str], matches: Sequence[str], left_out: Sequence[str]
) -> float:
    """Mean average precision over the queries that have a match; arguments as `ranked_matches`.

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
    """The gallery in the order of what a classifier thinks of the query: (Q, G) int, places in the
    gallery, best first.

    Args:
        scores: (Q, K) float, higher is likelier.
        gallery_label: (G,) int; labels from K (the control) on come last. Tracks of one class, and
        of classes that score alike, stand
            in a random order, drawn with a seed.
    """
    scores = np.asarray(scores, dtype=np.float64)
    known = np.column_stack([scores, np.full(len(scores), -np.inf)])
    return random_order(-known[:, np.minimum(gallery_label, scores.shape[1])])
