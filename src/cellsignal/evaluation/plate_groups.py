"""Which class group each plate holds: given in a file, else inferred from the predictions, or refused where they do not tell.

The plates of an experiment hold different groups, so the best permutation is taken for the whole experiment; by how much
it beats the second best is its confidence. A wrong permutation costs every well of its plates, an unknown one only the
gain, so an experiment of low confidence is better left alone. Works plate by plate and never copies the score matrix.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from cellsignal.errors import InputError

if TYPE_CHECKING:
    from cellsignal.competitions.base import PlateGroups

Plate = tuple[str, str]  # experiment, plate
OUTLIER = 0.05  # share of wells whose scores are taken to say nothing; bounds what one well can do to its plate


@dataclass(frozen=True)
class PlateGroupInference:
    """Which group each plate holds.

    Attributes:
        plate_group: (experiment, plate) -> group, given or inferred; without the plates of refused experiments.
        confidence: experiment -> how much better the best assignment is than the second best, per well that it is for:
            nats for the statistic "mass", argmax hits for "hits". 0 is a tie, infinity means that there was no
            alternative. Only experiments with something to infer.
        refused: the part of `confidence` that lies below what was asked for.
    """

    plate_group: dict[Plate, int]
    confidence: dict[str, float]
    refused: dict[str, float] = field(default_factory=dict)


def infer_plate_groups(
    scores: np.ndarray,
    experiment,
    plate,
    groups: "PlateGroups",
    statistic: Literal["mass", "hits"] = "mass",
    *,
    given: Mapping[Plate, int] | None = None,
    least_confidence: float = 0.0,
) -> PlateGroupInference:
    """Find the group of each plate from scores alone.

    `groups.plate_group` is not looked at, so held-out labels cannot leak in.

    First each well's mean and then each class's median over the plate's wells are taken off: whatever a plate as a whole does to a class or to a
    whole group (its staining, a look it shares with training plates) would else add up over the wells and outweigh them,
    and as a class stands on a plate once, what tells it is only how single wells stand out.

    "mass" then sums over the wells log((1 - e) * p + e / G), p being the softmax mass of a group's classes, G the
    number of groups and e = 0.05: the log-likelihood of the group where one well in twenty says nothing. The mixture
    bounds each well between log(e / G) and 0, so that a few wells of an overconfident network cannot outvote a plate.
    It needs scores on the scale of logits (their mean or sum). "hits" counts a plate's argmax classes by group (the
    statistic of the RCIC 1st place, medians in place of its division of columns): it sees only the top class, but has
    no scale, and so suits scores much flatter than logits, such as cosines.

    Each group serves at most ceil(plates / groups) plates of an experiment: once where there are no more plates than
    groups.

    Args:
        scores: (N, K) float, one row a well, treatments' classes only.
        experiment: (N,) names.
        plate: (N,) names, unique within an experiment.
        groups: the class groups.
        given: groups of some plates, taken as they are; the other plates share what is left.
        least_confidence: an experiment below it is refused; its plates get no group but those given.

    Raises:
        InputError: shapes that do not fit, or a score that is not finite.
    """
    experiment, plate = check_shapes(scores, experiment, plate, groups.class_group)
    n_groups, given = groups.n_groups, given or {}
    member = np.arange(n_groups)[:, None] == np.asarray(groups.class_group)
    rows_of: dict[str, dict[str, np.ndarray]] = {}
    for (batch, name), rows in plates_of(experiment, plate):
        rows_of.setdefault(batch, {})[name] = rows
    found = PlateGroupInference({}, {}, {})
    for batch, by_plate in rows_of.items():
        told = {name: given[batch, name] for name in by_plate if (batch, name) in given}
        found.plate_group.update({(batch, name): group for name, group in told.items()})
        asked = {name: rows for name, rows in by_plate.items() if name not in told}
        if not asked:
            continue
        evidence = [_evidence(plate_scores(scores, rows, batch, name), member, statistic) for name, rows in asked.items()]
        slots = np.tile(np.arange(n_groups), -(-len(by_plate) // n_groups))
        taken = [int(np.flatnonzero(slots == group)[0]) for group in told.values()]
        chosen, gap = _best_and_gap(np.stack(evidence), np.delete(slots, taken))
        confidence = found.confidence[batch] = gap / sum(map(len, asked.values()))
        if confidence < least_confidence:
            found.refused[batch] = confidence
        else:
            found.plate_group.update({(batch, name): int(group) for name, group in zip(asked, chosen, strict=True)})
    return found


def read_plate_groups(path: Path | str, plates: set[Plate], groups: "PlateGroups") -> dict[Plate, int]:
    """Groups given by a person: a CSV with the columns experiment, plate, group.

    Groups are numbered as in `groups`, which is also how a submission's provenance names them.

    Args:
        plates: those that exist.

    Raises:
        InputError: no such file, not a CSV, a missing column, an unknown plate, a group out of range, a plate twice, a
            group on two plates of an experiment, or one that the training labels contradict. It names the row.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not a CSV file ({str(error).splitlines()[0]})") from None
    missing = [column for column in ("experiment", "plate", "group") if column not in table.columns]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; it has {', '.join(table.columns)}")
    found: dict[Plate, int] = {}
    holder: dict[tuple[str, int], str] = {}
    for row, (batch, name, text) in enumerate(zip(table.experiment, table.plate, table.group, strict=True), start=2):
        here, where = (batch, name), f"{path}: row {row}: {batch} plate {name}"
        if here not in plates:
            raise InputError(f"{where} is not in the data")
        if not text.isdecimal() or int(text) >= groups.n_groups:
            raise InputError(f"{where}: group {text!r} is none of 0..{groups.n_groups - 1}")
        if here in found:
            raise InputError(f"{where} stands there twice")
        group = found[here] = int(text)
        if (other := holder.setdefault((batch, group), name)) != name:
            raise InputError(f"{where} and plate {other} are both given group {group}")
        if groups.plate_group.get(here, group) != group:
            raise InputError(f"{where} holds group {groups.plate_group[here]} by its training labels, not {group}")
    return found


def check_shapes(scores: np.ndarray, experiment, plate, class_group) -> tuple[np.ndarray, np.ndarray]:
    """The names as arrays of str, when all shapes fit."""
    if scores.ndim != 2 or scores.shape[1] != len(class_group):
        raise InputError(f"scores are {scores.shape}, not (wells, {len(class_group)} classes)")
    experiment, plate = (np.asarray(names).astype(str, copy=False) for names in (experiment, plate))
    if not len(scores) == len(experiment) == len(plate):
        raise InputError(f"{len(scores)} rows of scores, {len(experiment)} experiments and {len(plate)} plates")
    return experiment, plate


def plates_of(experiment: np.ndarray, plate: np.ndarray) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """((experiment, plate), its rows), sorted by name."""
    if not len(plate):
        return

    def changes(experiment: np.ndarray, plate: np.ndarray) -> np.ndarray:
        return np.flatnonzero((experiment[1:] != experiment[:-1]) | (plate[1:] != plate[:-1])) + 1

    first = np.append(0, changes(experiment, plate))  # of each run of rows of one plate; runs are few as a rule, and so quick to sort
    length = np.diff(first, append=len(plate))
    order = np.lexsort((plate[first], experiment[first]))
    first, length = first[order], length[order]
    end = np.cumsum(length)
    rows = np.arange(len(plate)) + np.repeat(first - (end - length), length)
    runs = changes(experiment[first], plate[first])
    for start, stop in pairwise([0, *end[runs - 1].tolist(), len(rows)]):
        yield (str(experiment[rows[start]]), str(plate[rows[start]])), rows[start:stop]


def plate_scores(scores: np.ndarray, rows: np.ndarray, batch: str, name: str) -> np.ndarray:
    """The rows of one plate as (n, K) float32 or float64, all finite; may be a view, so not to be written to.

    Args:
        rows: (n,) their numbers, ascending.
    """
    in_a_row = rows[-1] - rows[0] == len(rows) - 1
    block = np.asarray(scores[rows[0] : rows[-1] + 1] if in_a_row else scores[rows])
    block = block if block.dtype == np.float64 else block.astype(np.float32, copy=False)
    # a sum of squares is finite only if they all are, and is quicker to get
    if not np.isfinite(np.vdot(block, block)) and not np.isfinite(block).all():
        bad = int(np.argmin(np.isfinite(block).all(axis=1)))
        raise InputError(f"{batch} plate {name}: the scores of row {int(rows[bad])} are not all finite")
    return block


def _evidence(block: np.ndarray, member: np.ndarray, statistic: str) -> np.ndarray:
    """(G,) float64: how well each group fits one plate's (n, K) scores; sums over wells, higher is better.

    The median of exponentials is the exponential of the median. So where these stay in range, exponentials of scores as they are, weighted
    by class, do what else takes the scores less their medians and less their maximum, and then a softmax.

    Args:
        member: (G, K) bool, whether a class is in a group.
    """
    n, n_classes = block.shape
    values = cv2.transpose(block)  # (K, n): a class's wells side by side, for the medians take most of the time
    values -= block @ np.full(n_classes, 1 / n_classes, block.dtype)
    if statistic == "hits":
        values -= _medians(values)[:, None]
        return member @ np.bincount(values.argmax(axis=0), minlength=n_classes).astype(float)
    assert statistic == "mass", statistic
    odds = cv2.exp(values)  # in float32 as exact as numpy's, 2e-7, and several times as fast
    lower, upper = _middle_two(odds.view(np.int32 if odds.itemsize == 4 else np.int64))  # not negative: ordered as their bits, quicker
    with np.errstate(all="ignore"):
        median = np.sqrt(lower.view(odds.dtype)) * np.sqrt(upper.view(odds.dtype))
        mass = (member * median ** (1 / n - 1)) @ odds
    if not (median.min() > 1e-8 and median.max() < 1e8 and np.isfinite(mass).all()):
        values -= _medians(values)[:, None]
        mass = member @ cv2.exp(values - values.max(axis=0))
    share = mass.astype(np.float64)
    share /= share.sum(axis=0)
    return np.log((1 - OUTLIER) * share + OUTLIER / len(member)).sum(axis=1)


def _medians(values: np.ndarray) -> np.ndarray:
    """(K,) what is taken off each row of (K, n): its median, but nothing where n is 1 (one well alone keeps its scores)."""
    lower, upper = _middle_two(values)
    return (lower + upper) * (0.5 - 0.5 / values.shape[1])


def _middle_two(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two numbers, (K,) each, between which the median of each row of (K, n) lies: the same one where n is odd."""
    half = values.shape[1] // 2
    ordered = np.partition(values, half, axis=1)
    upper = ordered[:, half]
    return (upper if values.shape[1] % 2 else ordered[:, :half].max(axis=1)), upper


def _best_and_gap(evidence: np.ndarray, slots: np.ndarray) -> tuple[np.ndarray, float]:
    """The best assignment of groups to plates, (P,), and how much it beats the second best by.

    The second best differs from the best in the group of at least one plate, so it is the best of the P problems in
    which one plate's chosen group is forbidden. Exact, and P + 1 small problems instead of all permutations.

    Args:
        evidence: (P plates, G groups).
        slots: (S,) groups that are free, each as often as it is; S >= P.
    """
    from scipy.optimize import linear_sum_assignment

    n_plates = len(evidence)
    by_slot = evidence[:, slots]
    chosen = slots[linear_sum_assignment(by_slot, maximize=True)[1]]
    best = float(evidence[np.arange(n_plates), chosen].sum())
    penalty = 1.0 + 2.0 * n_plates * float(np.abs(evidence).max())  # more than any two assignments can differ by
    gaps = []
    for row, group in enumerate(chosen):
        without = by_slot.copy()
        without[row, slots == group] -= penalty
        rows, columns = linear_sum_assignment(without, maximize=True)
        if slots[columns[row]] != group:
            gaps.append(best - float(by_slot[rows, columns].sum()))
    return chosen, max(min(gaps), 0.0) if gaps else float("inf")
