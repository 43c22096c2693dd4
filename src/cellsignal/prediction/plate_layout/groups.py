"""Which class group each plate holds: given in a file, or inferred from the predictions.

The plates of an experiment hold different groups, so whole layouts are compared. What predictions
are made with is how probable each group of a plate is; what is reported are the groups of the
experiments that show theirs clearly. Works plate by plate and never copies the score matrix.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.prediction.plate_layout.evidence import (
    SHARPNESS,
    Evidence,
    experiment_evidence,
    layout_posteriors,
    score_spread,
)
from cellsignal.prediction.plate_layout.layouts import (
    Plate,
    candidate_layouts,
    find_rotations,
    near_layouts,
    plate_order,
)

if TYPE_CHECKING:
    from cellsignal.competitions.base import PlateGroups

NEGLIGIBLE = 1e-6  # probability below which a group is left out


@dataclass(frozen=True)
class GroupBelief:
    """Probability of each group, for plates whose group is not certain.

    Attributes:
        probability: (G,) float, summing to 1.
        temperature: what scores are divided by before a softmax.
    """

    probability: np.ndarray
    temperature: float


@dataclass(frozen=True)
class PlateGroupInference:
    """Which group each plate holds.

    Attributes:
        plate_group: (experiment, plate) -> group, given or reported; without the plates of refused
            experiments.
        confidence: experiment -> z of the best layout against the one that it beats least clearly:
            over the n wells of the plates that the two give different groups, the sum of the
            differences of their log-probabilities over the root of n times their variance. It has
            no unit and is 0 for a tie, infinite where there was no alternative. Only experiments
            with something to infer. (To the sum of squares about the mean the mean square is added
            once, so that n wells that all say the same have z = n, not infinity.)
        refused: the part of `confidence` that lies below what was asked for.
        beliefs: (experiment, plate) -> what predictions are made with, on every plate: the group
            where it is given or its probability is 1 to within `NEGLIGIBLE`, else a `GroupBelief`.
        layouts: experiment -> the layouts that were compared, in words.
        temperature: experiment -> what its scores are divided by before a softmax, as the plates
            themselves show it.
    """

    plate_group: dict[Plate, int]
    confidence: dict[str, float]
    refused: dict[str, float] = field(default_factory=dict)
    beliefs: dict[Plate, int | GroupBelief] = field(default_factory=dict)
    layouts: dict[str, str] = field(default_factory=dict)
    temperature: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Experiment:
    """The plates of one experiment, their evidence, and the (L, P) layouts to compare."""

    name: str
    plates: list[str]
    spread: float
    evidence: list[Evidence]
    layouts: np.ndarray
    described: str


def infer_plate_groups(
    scores: np.ndarray,
    experiment,
    plate,
    groups: "PlateGroups",
    *,
    given: Mapping[Plate, int] | None = None,
    least_confidence: float = 0.0,
) -> PlateGroupInference:
    """Find the group of each plate from scores alone.

    The candidate layouts of an experiment come from those of the other experiments in
    `groups.plate_group`; its own entries there are not looked at, so held-out labels cannot leak
    in. Multiplying the scores of an experiment by a positive number, or adding one to all scores of
    a well, changes nothing.

    Args:
        scores: (N, K) float, one row a well, treatments' classes only.
        experiment, plate: (N,) names; those of plates are unique within an experiment.
        given: groups of some plates, taken as they are; the other plates share what is left.
        least_confidence: an experiment below it is refused: its plates have beliefs, but no group.

    Raises:
        InputError: shapes that do not fit, or a score that is not finite.
    """
    experiment, plate = check_shapes(scores, experiment, plate, groups.class_group)
    given = given or {}
    result = PlateGroupInference({}, {})
    rows_of: dict[str, dict[str, np.ndarray]] = {}
    for key, rows in plates_of(experiment, plate):
        rows_of.setdefault(key[0], {})[key[1]] = rows
        plate_scores(scores, rows, *key)  # finite, also where nothing is to be inferred
        if key in given:
            result.plate_group[key] = result.beliefs[key] = int(given[key])
    opened = [
        _open_experiment(scores, batch, by_plate, groups, given)
        for batch, by_plate in rows_of.items()
        if any((batch, name) not in given for name in by_plate)
    ]
    likelihoods = [_likelihoods(current) for current in opened]
    parts = zip(opened, likelihoods, *layout_posteriors(likelihoods), strict=True)
    for current, likelihood, posterior, index in parts:
        confidence = _least_z(current, likelihood, int(posterior.argmax()), index)
        if confidence < least_confidence:
            result.refused[current.name] = confidence
        result.confidence[current.name] = confidence
        result.layouts[current.name] = current.described
        result.temperature[current.name] = current.spread / float(SHARPNESS[index])
        _add_plates(result, current, posterior, groups.n_groups, given)
    return result


def _add_plates(
    result: PlateGroupInference,
    current: _Experiment,
    posterior: np.ndarray,
    n_groups: int,
    given: Mapping[Plate, int],
) -> None:
    """Add what the layouts' probabilities say of an experiment's plates to `result`."""
    best = current.layouts[posterior.argmax()]
    for place, name in enumerate(current.plates):
        key = (current.name, name)
        if key in given:
            continue
        if current.name not in result.refused:
            result.plate_group[key] = int(best[place])
        groups = current.layouts[:, place]
        probability = np.bincount(groups, weights=posterior, minlength=n_groups)
        result.beliefs[key] = _belief(probability, result.temperature[current.name])


def _open_experiment(
    scores: np.ndarray,
    batch: str,
    by_plate: Mapping[str, np.ndarray],
    groups: "PlateGroups",
    given: Mapping[Plate, int],
) -> _Experiment:
    """Take the evidence of an experiment's plates, and find its candidate layouts."""
    n_groups = groups.n_groups
    plates = plate_order(by_plate)
    blocks = [plate_scores(scores, by_plate[name], batch, name) for name in plates]
    spread = float(np.median([score_spread(block) for block in blocks])) or 1.0
    evidence = experiment_evidence(blocks, np.asarray(groups.class_group), spread)
    known = {key: group for key, group in groups.plate_group.items() if key[0] != batch}
    rotations = find_rotations(known, n_groups)
    fixed = {name: int(given[batch, name]) for name in plates if (batch, name) in given}
    layouts, described = candidate_layouts(plates, n_groups, rotations, fixed)
    if layouts is None:
        total = np.stack([plate.total.max(axis=0) for plate in evidence])
        layouts = near_layouts(total, {plates.index(name): group for name, group in fixed.items()})
        described = f"the best layout and {len(layouts) - 1} near it"
    return _Experiment(batch, plates, spread, evidence, layouts, described)


def _likelihoods(current: _Experiment) -> np.ndarray:
    """Return (B, L) log-likelihoods of the layouts, by sharpness."""
    return sum(
        evidence.total[:, current.layouts[:, place]]
        for place, evidence in enumerate(current.evidence)
    )


def _least_z(current: _Experiment, likelihood: np.ndarray, best: int, index: int) -> float:
    """Return the smallest z of the best layout against any other (`PlateGroupInference`)."""
    if len(current.layouts) == 1:
        return float("inf")
    difference = likelihood[index, best] - likelihood[index]
    chosen = current.layouts[best]
    squares, wells = np.zeros(len(current.layouts)), np.zeros(len(current.layouts))
    for place, evidence in enumerate(current.evidence):
        held = current.layouts[:, place]
        squares += evidence.squares[index, chosen[place], held]
        wells += evidence.wells * (held != chosen[place])
    wells[best] = 1  # the best against itself, left out below
    variance = squares * (1 + 1 / wells) - difference**2 / wells
    z = np.divide(
        difference, np.sqrt(np.maximum(variance, 0)), out=np.zeros(len(wells)), where=variance > 0
    )
    return max(float(np.delete(z, best).min()), 0.0)


def _belief(probability: np.ndarray, temperature: float) -> int | GroupBelief:
    """Return the group if it is certain, else the probability of each."""
    kept = np.where(probability > NEGLIGIBLE, probability, 0.0)
    if (kept > 0).sum() == 1:
        return int(kept.argmax())
    return GroupBelief(kept / kept.sum(), temperature)


def read_plate_groups(
    path: Path | str, plates: set[Plate], groups: "PlateGroups"
) -> dict[Plate, int]:
    """Read groups given by a person: a CSV with the columns experiment, plate, group.

    Groups are numbered as in `groups`, which is also how a submission's provenance names them.

    Args:
        plates: those that exist.

    Raises:
        InputError: no such file, not a CSV, a missing column, an unknown plate, a group out of
            range, a plate twice, a group on two plates of an experiment, or one that the training
            labels contradict. It names the row.
    """
    from cellsignal.common.tables import read_table

    columns = ["experiment", "plate", "group"]
    table = read_table(path, columns, filled=())
    if table.empty:
        raise InputError(f"{path}: has a header but no rows, so it gives no group")
    group_of: dict[Plate, int] = {}
    plate_of: dict[tuple[str, int], str] = {}
    for row, batch, name, text in table[columns].itertuples(name=None):
        plate, where = (batch, name), f"{path}: row {row}: {batch} plate {name}"
        if plate not in plates:
            raise InputError(f"{where} is not in the data")
        if not text.isdecimal() or int(text) >= groups.n_groups:
            raise InputError(f"{where}: group {text!r} is not one of 0..{groups.n_groups - 1}")
        if plate in group_of:
            raise InputError(f"{where} stands there twice")
        group = group_of[plate] = int(text)
        other = plate_of.setdefault((batch, group), name)
        if other != name:
            raise InputError(f"{where} and plate {other} are both given group {group}")
        trained = groups.plate_group.get(plate, group)
        if trained != group:
            raise InputError(f"{where} holds group {trained} by its training labels, not {group}")
    return group_of


def check_shapes(
    scores: np.ndarray, experiment, plate, class_group
) -> tuple[np.ndarray, np.ndarray]:
    """The names as arrays of str, when all shapes fit."""
    if scores.ndim != 2 or scores.shape[1] != len(class_group):
        raise InputError(f"scores are {scores.shape}, not (wells, {len(class_group)} classes)")
    experiment, plate = (np.asarray(names).astype(str, copy=False) for names in (experiment, plate))
    if not len(scores) == len(experiment) == len(plate):
        raise InputError(
            f"{len(scores)} rows of scores, {len(experiment)} experiments and {len(plate)} plates"
        )
    return experiment, plate


def plates_of(experiment: np.ndarray, plate: np.ndarray) -> Iterator[tuple[Plate, np.ndarray]]:
    """Yield ((experiment, plate), its rows in order), sorted by name."""
    names = pd.DataFrame({"experiment": experiment, "plate": plate}, dtype=object)
    yield from names.groupby(["experiment", "plate"], sort=True).indices.items()


def plate_scores(scores: np.ndarray, rows: np.ndarray, batch: str, name: str) -> np.ndarray:
    """Return the rows of one plate as (n, K) float32 or float64, all finite.

    Raises:
        InputError: a score that is not finite; names the plate and the row.
    """
    block = np.asarray(scores[rows])
    block = block if block.dtype == np.float64 else block.astype(np.float32, copy=False)
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        row = int(rows[np.argmin(finite)])
        raise InputError(f"{batch} plate {name}: the scores of row {row} are not all finite")
    return block
