"""Choose how profiles are made, nested over held-out compounds, and match mechanisms by it.

Whoever tries many normalisations and reports the best has chosen by the treatments that are scored.
Here each compound's treatments are matched by the way that is best for the treatments of the other
compounds, with that compound's profiles no neighbour of any.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.common.ties import CHORD_TOLERANCE, tied_best
from cellsignal.metrics.accuracy import Accuracy
from cellsignal.metrics.intervals import mean_interval


@dataclass(frozen=True)
class NestedMatch:
    """Matches by nested choice.

    Attributes:
        table: one row a scored treatment: treatment, compound, moa, way (the one chosen for its
            compound), right (the share of its nearest neighbours, several if tied, that are right).
        accuracy: treatments right, with Wilson's interval; shares are rounded in the sum.
        cluster_low, cluster_high: 95 % interval over compounds.
        each: treatments right by each way, chosen beforehand.
    """

    table: pd.DataFrame
    accuracy: Accuracy
    cluster_low: float
    cluster_high: float
    each: dict[str, float]


def match_nested(
    similarity: Mapping[str, np.ndarray], table: pd.DataFrame, left_out: tuple[str, ...] = ()
) -> NestedMatch:
    """Match each treatment by the way that is best without its compound.

    Args:
        similarity: (T, T) by the name of the way, -inf for pairs that are not compared; of ways
            that are equally good the first is taken.
        table: T rows with treatment, compound and moa.
        left_out: mechanisms that are not scored.
    """
    moa, compound = table.moa.to_numpy(object), table["compound"].to_numpy(object)
    scored = ~np.isin(moa, left_out)
    names = list(similarity)
    full = {name: _right(similarity[name], moa) for name in names}
    right, ways = np.zeros(len(table)), np.empty(len(table), object)
    for held_out in pd.unique(compound[scored]):
        outside = compound != held_out
        inner = scored & outside
        totals = [
            _right(np.where(outside, similarity[name], -np.inf)[inner], moa, moa[inner]).sum()
            for name in names
        ]
        way = names[int(np.argmax(np.round(totals, 6)))]
        rows = (compound == held_out) & scored
        right[rows], ways[rows] = full[way][rows], way
    chosen = table.loc[scored, ["treatment", "compound", "moa"]].reset_index(drop=True)
    chosen = chosen.assign(way=ways[scored], right=right[scored])
    interval = mean_interval(chosen.right, chosen["compound"])
    accuracy = Accuracy.of(round(chosen.right.sum()), len(chosen))
    each = {name: float(full[name][scored].sum()) for name in names}
    return NestedMatch(chosen, accuracy, *interval, each)


def _right(similarity: np.ndarray, moa: np.ndarray, truth: np.ndarray | None = None) -> np.ndarray:
    """Share of each row's nearest columns with its mechanism (N,); 0 where none is compared."""
    truth = moa if truth is None else truth
    nearest = tied_best(similarity, CHORD_TOLERANCE)
    same = nearest & (truth[:, None] == moa)
    return same.sum(axis=1) / np.maximum(nearest.sum(axis=1), 1)
