"""What the plate layout tells: which class group a plate holds, and that each class stands on its plate once.

Two steps, each usable alone. `infer_plate_groups` finds the group of each plate from the predictions themselves: the
plates of an experiment hold different groups, so the best permutation is taken for the whole experiment. `assign` then
solves one linear sum assignment a plate among the classes of its group. Both work plate by plate and never copy the
score matrix.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellsignal.errors import InputError

if TYPE_CHECKING:
    from cellsignal.competitions.base import PlateGroups

_OUTLIER = 0.05  # share of wells whose scores are taken to say nothing; bounds what one well can do to its plate


@dataclass(frozen=True)
class PlateGroupInference:
    """Which group each plate holds, by the predictions.

    Attributes:
        plate_group: (experiment, plate) -> group.
        confidence: experiment -> how much better the best assignment is than the second best, per well of the
            experiment: nats for the statistic "mass", argmax hits for "hits". 0 is a tie, infinity means that there was
            no alternative (one group).
    """

    plate_group: dict[tuple[str, str], int]
    confidence: dict[str, float]


def infer_plate_groups(
    scores: np.ndarray,
    experiment,
    plate,
    groups: "PlateGroups",
    statistic: Literal["mass", "hits"] = "mass",
) -> PlateGroupInference:
    """Find the group of each plate from scores alone.

    `groups.plate_group` is not looked at, so held-out labels cannot leak in.

    "mass" sums over the wells of a plate log((1 - e) * p + e / G), p being the softmax mass of a group's classes, G the
    number of groups and e = 0.05: the log-likelihood of the group where one well in twenty says nothing. The mixture
    bounds each well between log(e / G) and 0, so that a few wells of an overconfident network cannot outvote a plate.
    It needs scores on the scale of logits (their mean or sum). "hits" counts a plate's argmax classes by group (the
    statistic of the RCIC 1st place, without its division of columns): it sees only the top class, but has no scale, and
    so suits scores much flatter than logits, such as cosines.

    A preference of the model for one group, equal on all plates, adds the same to every full permutation and so
    cancels. Each group serves at most ceil(plates / groups) plates of an experiment: once where there are no more
    plates than groups.

    Args:
        scores: (N, K) float, one row a well, treatments' classes only.
        experiment: (N,) names.
        plate: (N,) names, unique within an experiment.
        groups: the class groups.

    Raises:
        InputError: shapes that do not fit, or a score that is not finite.
    """
    experiment, plate = _check(scores, experiment, plate, groups.class_group)
    n_groups, class_group = groups.n_groups, np.asarray(groups.class_group)
    evidence: dict[str, dict[str, np.ndarray]] = {}
    wells: dict[str, int] = {}
    for (batch, name), rows in _plates(experiment, plate):
        evidence.setdefault(batch, {})[name] = _evidence(
            _take(scores, rows, batch, name), class_group, n_groups, statistic
        )
        wells[batch] = wells.get(batch, 0) + len(rows)
    plate_group, confidence = {}, {}
    for batch, by_plate in evidence.items():
        chosen, gap = _best_and_gap(np.stack(list(by_plate.values())))
        plate_group.update({(batch, name): int(group) for name, group in zip(by_plate, chosen, strict=True)})
        confidence[batch] = gap / wells[batch]
    return PlateGroupInference(plate_group, confidence)


def assign(
    scores: np.ndarray, experiment, plate, class_group: np.ndarray, plate_group: dict[tuple[str, str], int]
) -> np.ndarray:
    """Label every well so that no class occurs twice on a plate: one linear sum assignment a plate.

    A plate may hold fewer wells than its group has classes. A plate without a known group keeps the plain argmax over
    all classes, doubles included: without its group, uniqueness among all classes is the weaker half of the constraint.
    Constants added to a well's scores change nothing, so logits serve as well as log-probabilities.

    Args:
        scores: (N, K) float, higher is likelier.
        experiment, plate: (N,) names.
        class_group: (K,) int, the group of each class.
        plate_group: (experiment, plate) -> group.

    Returns:
        (N,) int64 labels.

    Raises:
        InputError: shapes that do not fit, a score that is not finite, or a plate with more wells than its group has
            classes.
    """
    from scipy.optimize import linear_sum_assignment

    experiment, plate = _check(scores, experiment, plate, class_group)
    class_group = np.asarray(class_group)
    labels = np.empty(len(scores), dtype=np.int64)
    for (batch, name), rows in _plates(experiment, plate):
        block, group = _take(scores, rows, batch, name), plate_group.get((batch, name))
        if group is None:
            labels[rows] = block.argmax(axis=1)
            continue
        classes = np.flatnonzero(class_group == group)
        if len(rows) > len(classes):
            raise InputError(
                f"{batch} plate {name}: {len(rows)} wells but only {len(classes)} classes in its group {group}"
            )
        well, column = linear_sum_assignment(block[:, classes], maximize=True)
        labels[rows[well]] = classes[column]
    return labels


def restrict(
    scores: np.ndarray, experiment, plate, class_group: np.ndarray, plate_group: dict[tuple[str, str], int]
) -> np.ndarray:
    """The argmax among the classes of each plate's group, doubles allowed: the step between plain argmax and `assign`.

    Arguments, result (N,) int64 and errors as in `assign`; a plate without a known group keeps the plain argmax.
    """
    experiment, plate = _check(scores, experiment, plate, class_group)
    class_group = np.asarray(class_group)
    labels = np.empty(len(scores), dtype=np.int64)
    for (batch, name), rows in _plates(experiment, plate):
        block, group = _take(scores, rows, batch, name), plate_group.get((batch, name))
        classes = np.arange(block.shape[1]) if group is None else np.flatnonzero(class_group == group)
        if not len(classes):
            raise InputError(f"{batch} plate {name}: no class is in its group {group}")
        labels[rows] = classes[block[:, classes].argmax(axis=1)]
    return labels


def _check(scores: np.ndarray, experiment, plate, class_group) -> tuple[np.ndarray, np.ndarray]:
    """The names as arrays of str, when all shapes fit."""
    if scores.ndim != 2 or scores.shape[1] != len(class_group):
        raise InputError(f"scores are {scores.shape}, not (wells, {len(class_group)} classes)")
    experiment, plate = np.asarray(experiment).astype(str), np.asarray(plate).astype(str)
    if not len(scores) == len(experiment) == len(plate):
        raise InputError(f"{len(scores)} rows of scores, {len(experiment)} experiments and {len(plate)} plates")
    return experiment, plate


def _plates(experiment: np.ndarray, plate: np.ndarray) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """((experiment, plate), its rows), sorted by name."""
    order = np.lexsort((plate, experiment))
    experiment, plate = experiment[order], plate[order]
    changes = np.flatnonzero((experiment[1:] != experiment[:-1]) | (plate[1:] != plate[:-1])) + 1
    ends = [0, *changes.tolist(), len(order)] if len(order) else []
    for start, end in pairwise(ends):
        yield (str(experiment[start]), str(plate[start])), order[start:end]


def _take(scores: np.ndarray, rows: np.ndarray, batch: str, name: str) -> np.ndarray:
    """The rows of one plate as (n, K) float32 or float64, all finite."""
    block = np.asarray(scores[rows])
    block = block if block.dtype == np.float64 else block.astype(np.float32, copy=False)
    if not np.isfinite(block).all():
        bad = int(np.argmin(np.isfinite(block).all(axis=1)))
        raise InputError(f"{batch} plate {name}: the scores of row {int(rows[bad])} are not all finite")
    return block


def _evidence(block: np.ndarray, class_group: np.ndarray, n_groups: int, statistic: str) -> np.ndarray:
    """(G,) float64: how well each group fits one plate's (n, K) scores; sums over wells, higher is better."""
    if statistic == "hits":
        return np.bincount(class_group[block.argmax(axis=1)], minlength=n_groups).astype(float)
    assert statistic == "mass", statistic
    share = np.exp(block - block.max(axis=1, keepdims=True), dtype=np.float64)
    share /= share.sum(axis=1, keepdims=True)
    mass = np.stack([share[:, class_group == group].sum(axis=1) for group in range(n_groups)], axis=1)
    return np.log((1 - _OUTLIER) * mass + _OUTLIER / n_groups).sum(axis=0)


def _best_and_gap(evidence: np.ndarray) -> tuple[np.ndarray, float]:
    """The best assignment of groups to plates and how much it beats the second best by.

    The second best differs from the best in the group of at least one plate, so it is the best of the P problems in
    which one plate's chosen group is forbidden. Exact, and P + 1 small problems instead of all permutations.

    Args:
        evidence: (P plates, G groups).
    """
    from scipy.optimize import linear_sum_assignment

    n_plates, n_groups = evidence.shape
    copies = -(-n_plates // n_groups)
    tiled = np.tile(evidence, copies)  # column c stands for group c % n_groups
    chosen = linear_sum_assignment(tiled, maximize=True)[1] % n_groups
    best = float(evidence[np.arange(n_plates), chosen].sum())
    penalty = 1.0 + 2.0 * n_plates * float(np.abs(evidence).max())  # more than any two assignments can differ by
    gaps = []
    for row, group in enumerate(chosen):
        without = tiled.copy()
        without[row, group::n_groups] -= penalty
        rows, columns = linear_sum_assignment(without, maximize=True)
        if columns[row] % n_groups != group:
            gaps.append(best - float(tiled[rows, columns].sum()))
    return chosen, max(min(gaps), 0.0) if gaps else float("inf")
