"""Merge predictions: sites, views, folds and models of a target become one row of scores.

A target's score is the weighted mean over models of the mean over that model's samples (sites) and
views: a model with more views or a well with a missing site weighs no more and no less.
`probabilities` averages probabilities. `geometric` is their normalised geometric mean; `logits`
averages logits, which is the same: log-softmax subtracts one number from a whole row, and the final
normalisation takes it out again. Where several classes may be true nothing is normalised.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy.sparse import csr_array

from cellsignal.common.errors import InputError
from cellsignal.competitions.targets import Targets
from cellsignal.competitions.task import Task
from cellsignal.prediction.container import Predictions
from cellsignal.prediction.halves import widen

Merge = Literal["logits", "probabilities", "geometric"]
Part = Literal["oof", "test"]
_CHUNK = 4096  # rows whose sums are made together
_PIECE = 256  # rows turned from float16 at a time
_IDS = ("target_id", "well_id", "experiment", "plate", "cell_type")


def merge(
    members: Sequence[Predictions],
    part: Part,
    task: Task,
    how: Merge = "geometric",
    weights: Sequence[float] | None = None,
    pool: Literal["target", "well"] = "target",
    views: Iterable[str] | None = None,
    sites: Iterable[int] | None = None,
    temperatures: Sequence[float] | None = None,
) -> Targets:
    """Merge the members' predictions of one part.

    Args:
        weights: one positive number a member; equal by default.
        pool: `well` gives all targets of a well (sites that are targets of their own) the well's
            mean score.
        views, sites: only these; all by default. Of a member that has none of the views, its first.
        temperatures: what each member's logits are divided by, where logits are averaged.

    Raises:
        InputError: members of other classes, wrong weights, no prediction of that part, or means
            that are not finite numbers (logits too large for float32).
    """
    members = list(members)
    weights = [1.0] * len(members) if weights is None else list(weights)
    rows = _rows_of_part(members, weights, part, sites)
    facts = _facts_of_targets(members, rows)
    key = {"target": "target_id", "well": "well_id"}[pool]
    units, unit_of_target = np.unique(facts[key], return_inverse=True)
    transform = task.probabilities if how == "probabilities" else None
    total = np.zeros((len(units), len(members[0].classes)), np.float32)
    weight_sum = np.zeros(len(units), np.float32)
    ratios = _ratios(weights, temperatures)
    for member, member_rows, weight, ratio in zip(members, rows, weights, ratios, strict=True):
        if len(member_rows):
            unit = np.searchsorted(units, member.ids[key][member_rows])
            _add_member(total, member, member_rows, unit, ratio, views, transform)
            weight_sum[np.unique(unit)] += weight
    total /= weight_sum[:, None]
    to_scores = task.scores_of_logits if transform is None else task.scores_of_probabilities
    for start in range(0, len(total), _CHUNK):  # in place: a second table would be as large
        total[start : start + _CHUNK] = to_scores(total[start : start + _CHUNK])
    scores = total[unit_of_target] if pool == "well" else total
    refuse_not_finite(scores, facts["target_id"])
    return Targets(**facts, scores=scores)


def _rows_of_part(
    members: Sequence[Predictions],
    weights: Sequence[float],
    part: Part,
    sites: Iterable[int] | None,
) -> list[np.ndarray]:
    """Return the rows of each member that are of the part, after `merge`'s checks."""
    if len(weights) != len(members) or not all(0 < weight < np.inf for weight in weights):
        raise InputError(f"weights: {len(members)} positive numbers needed, got {weights}")
    for member in members:
        if member.classes != members[0].classes:
            raise InputError(f"{member.path}: predicts other classes than {members[0].path}")
    rows = [np.flatnonzero(_mask(member, part, sites)) for member in members]
    if not sum(map(len, rows)):
        names = ", ".join(str(member.path) for member in members) or "predictions"
        raise InputError(f"{names}: no {part} predictions")
    return rows


def _ratios(weights: Sequence[float], temperatures: Sequence[float] | None) -> list[float]:
    """Return what each member's logits are multiplied by: its weight over its temperature."""
    temperatures = [1.0] * len(weights) if temperatures is None else temperatures
    return [w / t for w, t in zip(weights, temperatures, strict=True)]


def refuse_not_finite(scores: np.ndarray, target_id: np.ndarray) -> None:
    """Refuse merged scores (T, K) that are not all finite.

    Raises:
        InputError: names the first target, and how many there are.
    """
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{target_id[int(np.argmin(finite))]}: its merged scores are not all finite "
            f"({int((~finite).sum())} such targets); predict anew"
        )


def _mask(member: Predictions, part: str, sites: Iterable[int] | None) -> np.ndarray:
    mask = member.ids["part"] == part
    return mask if sites is None else mask & np.isin(member.site, list(sites))


def _facts_of_targets(
    members: Sequence[Predictions], rows: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Return ids and labels of every target that occurs, sorted by target_id."""
    columns = [{name: member.ids[name] for name in _IDS} for member in members]
    for facts, member in zip(columns, members, strict=True):
        facts["label"] = member.label
        if members[0].labels is not None:
            facts["labels"] = member.labels
    joined = {
        name: np.concatenate([facts[name][kept] for facts, kept in zip(columns, rows, strict=True)])
        for name in columns[0]
    }
    _, first = np.unique(joined["target_id"], return_index=True)
    return {name: values[first] for name, values in joined.items()}


def _add_member(
    total: np.ndarray,
    member: Predictions,
    rows: np.ndarray,
    unit: np.ndarray,
    weight: float,
    views: Iterable[str] | None,
    transform: Callable[[np.ndarray], np.ndarray] | None,
) -> None:
    """Add the weighted mean over a member's rows and views of each unit to (U, K) `total`."""
    share = weight / np.bincount(unit, minlength=len(total))[unit]
    chosen = [view for view in member.views if views is None or view in set(views)]
    chosen = chosen or list(member.views[:1])
    share = (share / len(chosen)).astype(np.float32)
    pieces = [_Piece.of(unit[rows], share[rows], rows.stop) for rows in _pieces(unit)]
    for view in chosen:
        values_of_pieces = member.logits_of(view, rows, [piece.end for piece in pieces])
        for piece, logits in zip(pieces, values_of_pieces, strict=True):
            values = widen(logits)
            if transform is not None:
                values = transform(values)
            total[piece.units] += piece.weights @ values


@dataclass(frozen=True)
class _Piece:
    """Rows that are summed together.

    Attributes:
        end: the row behind them.
        units: of `total`, a slice where they follow each other.
        weights: (units, rows), the share of each row in its unit.
    """

    end: int
    units: slice | np.ndarray
    weights: csr_array

    @classmethod
    def of(cls, unit: np.ndarray, share: np.ndarray, end: int) -> "_Piece":
        """Make it of the unit and the share of each of its rows."""
        units, place = np.unique(unit, return_inverse=True)
        shape = (len(units), len(unit))
        weights = csr_array((share, (place, np.arange(len(unit)))), shape=shape)
        if units[-1] - units[0] == len(units) - 1:
            units = slice(units[0], units[-1] + 1)  # a view: no copy to add to and write back
        return cls(end, units, weights)


def _pieces(unit: np.ndarray) -> Iterator[slice]:
    """Yield the rows that are summed together, in order.

    Sums are made of `_CHUNK` rows. Where the rows of a unit follow each other in them, these are
    cut between units into pieces that fit the processor's cache, which changes no sum.
    """
    for start in range(0, len(unit), _CHUNK):
        of_chunk = unit[start : start + _CHUNK]
        ends = np.flatnonzero(np.diff(of_chunk, append=-1)) + 1  # of runs of one unit
        if len(ends) == len(np.unique(of_chunk)):
            ends = ends[np.flatnonzero(np.diff(ends // _PIECE, append=-1))]
        else:
            ends = ends[-1:]
        for first, end in pairwise([0, *ends.tolist()]):
            yield slice(start + first, start + end)
