"""Merging predictions: sites, views, folds and models of a target become one row of
log-probabilities.

A target's score is the weighted mean over models of the mean over that model's samples (sites) and
views: a model with more views or a well with a missing site weighs no more and no less.
`probabilities` averages softmax outputs. `geometric` is their normalised geometric mean; `logits`
averages logits, which is the same thing: log-softmax subtracts one number from a whole row, and the
final normalisation takes it out again.

Where classes do not exclude each other (multi-label competitions) nothing is normalised: scores are
logits, of the mean of the sigmoids (`probabilities`) or the mean of the logits.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit, logit

from cellsignal.common.errors import InputError
from cellsignal.prediction.container import Predictions

Merge = Literal["logits", "probabilities", "geometric"]
_CHUNK = 4096  # rows turned from float16 at a time


@dataclass(frozen=True)
class Targets:
    """Merged predictions, one row a target, in sorted order of `target_id`.

    Attributes:
        target_id, well_id, experiment, plate, cell_type: (T,) text.
        label: (T,) int, -1 where unknown.
        scores: (T, K) float32 log-probabilities; logits of a multi-label competition.
        labels: (T, K) float32 of a multi-label competition, NaN where unknown; else None.
    """

    target_id: np.ndarray
    well_id: np.ndarray
    experiment: np.ndarray
    plate: np.ndarray
    cell_type: np.ndarray
    label: np.ndarray
    scores: np.ndarray
    labels: np.ndarray | None = None


def merge(
    members: Sequence[Predictions],
    part: Literal["oof", "test"],
    how: Merge = "geometric",
    weights: Sequence[float] | None = None,
    pool: Literal["target", "well"] = "target",
    views: Iterable[str] | None = None,
    sites: Iterable[int] | None = None,
) -> Targets:
    """Merge the members' predictions of one part.

    Args:
        weights: one positive number a member; equal by default.
        pool: `well` gives all targets of a well (sites that are targets of their own) the well's
        mean score. views, sites: only these; all by default. Of a member that has none of the
        views, its first.

    Raises:
        InputError: members of other classes, wrong weights, no prediction of that part, or means
        that are no finite
            numbers (logits too large for float32).
    """
    members = list(members)
    weights = [1.0] * len(members) if weights is None else list(weights)
    if len(weights) != len(members) or not all(0 < weight < np.inf for weight in weights):
        raise InputError(f"weights: {len(members)} positive numbers needed, got {weights}")
    for member in members:
        if member.classes != members[0].classes:
            raise InputError(f"{member.path}: predicts other classes than {members[0].path}")
    kept = [np.flatnonzero(_mask(member, part, sites)) for member in members]
    if not sum(map(len, kept)):
        raise InputError(
            f"{', '.join(str(member.path) for member in members) or 'predictions'}: no {part} "
            "predictions"
        )
    frame = _targets(members, kept)
    keys = {"target": "target_id", "well": "well_id"}[pool]
    units, unit_of_target = np.unique(frame[keys], return_inverse=True)
    total = np.zeros((len(units), len(members[0].classes)), np.float32)
    mass = np.zeros(len(units), np.float32)
    several = bool(members[0].about.get("multilabel"))
    transform = None if how != "probabilities" else expit if several else softmax
    for member, rows, weight in zip(members, kept, weights, strict=True):
        if len(rows):
            unit = np.searchsorted(units, member.ids[keys][rows])
            share = weight / np.bincount(unit, minlength=len(units))[unit]
            chosen = [view for view in member.views if views is None or view in set(views)] or list(
                member.views[:1]
            )
            for view in chosen:
                _accumulate(
                    total,
                    member.logits(view),
                    rows,
                    unit,
                    (share / len(chosen)).astype(np.float32),
                    transform,
                )
            mass[np.unique(unit)] += weight
    total /= mass[:, None]
    if several:
        scores = logit(np.clip(total, 1e-7, 1 - 1e-7)) if how == "probabilities" else total
    else:
        scores = np.log(np.maximum(total, 1e-30)) if how == "probabilities" else log_softmax(total)
    if pool == "well":
        scores = scores[unit_of_target]
    refuse_not_finite(scores, frame["target_id"])
    return Targets(**frame, scores=scores)


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


def log_softmax(values: np.ndarray) -> np.ndarray:
    """Row-wise log-softmax of (N, K)."""
    shifted = values - values.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def softmax(values: np.ndarray) -> np.ndarray:
    """Row-wise softmax of (N, K)."""
    return np.exp(log_softmax(values))


def _mask(member: Predictions, part: str, sites: Iterable[int] | None) -> np.ndarray:
    mask = member.ids["part"] == part
    return mask if sites is None else mask & np.isin(member.site, list(sites))


def _targets(members: Sequence[Predictions], kept: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The identity columns of every target that occurs, sorted by target_id."""
    names = ("target_id", "well_id", "experiment", "plate", "cell_type")
    columns = {
        name: np.concatenate([m.ids[name][rows] for m, rows in zip(members, kept, strict=True)])
        for name in names
    }
    columns["label"] = np.concatenate(
        [m.label[rows] for m, rows in zip(members, kept, strict=True)]
    )
    if members[0].labels is not None:
        columns["labels"] = np.concatenate(
            [m.labels[rows] for m, rows in zip(members, kept, strict=True)]
        )
    _, first = np.unique(columns["target_id"], return_index=True)
    return {name: values[first] for name, values in columns.items()}


def _accumulate(
    total: np.ndarray,
    logits: np.ndarray,
    rows: np.ndarray,
    unit: np.ndarray,
    share: np.ndarray,
    transform: Callable | None,
) -> None:
    """total[unit] += share * logits[rows] (transformed), a chunk of rows at a time; units may
    repeat.
    """
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        values = logits[rows[part]].astype(np.float32)
        if transform is not None:
            values = transform(values)
        present, place = np.unique(unit[part], return_inverse=True)
        weights = csr_array(
            (share[part], (place, np.arange(len(place)))), shape=(len(present), len(place))
        )
        total[present] += weights @ values
