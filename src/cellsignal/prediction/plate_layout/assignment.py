"""Use a plate's class group: only its classes are possible, each of them once.

Three ways to use it, by what they assume: `restrict` takes the best class of the group in each
well, `assign` gives each class to one well at most (a linear sum assignment a plate), `soften` does
so softly (Sinkhorn) and so keeps probabilities. All work plate by plate; a plate without a known
group keeps what its scores say.

Where a plate's group is not certain (a `GroupBelief`), a class is as probable as its group times
its softmax among the classes of the group: the mixture over the groups. Nothing is lost where the
predictions show the group, and where they do not no group is bet on.
"""

import logging
from collections.abc import Mapping

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.prediction.plate_layout.evidence import log_sum_exp
from cellsignal.prediction.plate_layout.groups import (
    GroupBelief,
    check_shapes,
    plate_scores,
    plates_of,
)
from cellsignal.prediction.plate_layout.layouts import Plate

log = logging.getLogger(__name__)
# log-probability of a class outside a plate's group: the floor that merging uses too
IMPOSSIBLE = float(np.log(1e-30))
TOLERANCE, ROUNDS, BLOCK = 1e-3, 2000, 50  # of Sinkhorn's iteration


def assign(
    scores: np.ndarray,
    experiment,
    plate,
    class_group: np.ndarray,
    plate_group: Mapping[Plate, int | GroupBelief],
) -> np.ndarray:
    """Label every well so that no class occurs twice on a plate, by a linear sum assignment.

    A plate may hold fewer wells than its group has classes. A plate without a known group keeps the
    plain argmax over all classes: without its group, uniqueness is the weaker half of the
    constraint. Constants added to a well's scores change nothing.

    Args:
        scores: (N, K) float, higher is likelier.
        experiment, plate: (N,) names.
        class_group: (K,) int, the group of each class.
        plate_group: (experiment, plate) -> group, or how probable each is: `beliefs` of
            `infer_plate_groups`.

    Returns:
        (N,) int64 labels.

    Raises:
        InputError: shapes that do not fit, a score that is not finite, or a plate with more wells
            than its group has classes.
    """
    from scipy.optimize import linear_sum_assignment

    experiment, plate = check_shapes(scores, experiment, plate, class_group)
    class_group = np.asarray(class_group)
    labels = np.empty(len(scores), dtype=np.int64)
    for (batch, name), rows in plates_of(experiment, plate):
        block, group = plate_scores(scores, rows, batch, name), plate_group.get((batch, name))
        if group is None:
            labels[rows] = block.argmax(axis=1)
            continue
        classes, values = _possible(block, class_group, group)
        _check_room(batch, name, group, rows, class_group)
        well, column = linear_sum_assignment(values, maximize=True)
        labels[rows[well]] = classes[column]
    return labels


def _possible(
    block: np.ndarray, class_group: np.ndarray, group: int | GroupBelief | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the (m,) classes that a plate can hold, and their (n, m) scores.

    Where the group is not certain, scores are log-probabilities of the mixture over groups.
    """
    if group is None:
        return np.arange(block.shape[1]), block
    if not isinstance(group, GroupBelief):
        classes = np.flatnonzero(class_group == group)
        return classes, block.take(classes, axis=1)
    values = np.full(block.shape, -np.inf)
    for number in np.flatnonzero(group.probability):
        classes = np.flatnonzero(class_group == number)
        part = block[:, classes].astype(np.float64) / group.temperature
        values[:, classes] = part - log_sum_exp(part, 1) + np.log(group.probability[number])
    classes = np.flatnonzero(group.probability[class_group])
    return classes, values[:, classes]


def restrict(
    scores: np.ndarray,
    experiment,
    plate,
    class_group: np.ndarray,
    plate_group: Mapping[Plate, int | GroupBelief],
) -> np.ndarray:
    """Label every well by the best class of its plate's group; a class may occur twice.

    Arguments, result and errors as in `assign`.
    """
    experiment, plate = check_shapes(scores, experiment, plate, class_group)
    class_group = np.asarray(class_group)
    labels = np.empty(len(scores), dtype=np.int64)
    for (batch, name), rows in plates_of(experiment, plate):
        block, group = plate_scores(scores, rows, batch, name), plate_group.get((batch, name))
        classes, values = _possible(block, class_group, group)
        if not len(classes):
            raise InputError(f"{batch} plate {name}: no class is in its group {group}")
        labels[rows] = classes[values.argmax(axis=1)]
    return labels


def soften(
    scores: np.ndarray,
    experiment,
    plate,
    class_group: np.ndarray,
    plate_group: Mapping[Plate, int | GroupBelief],
    temperature: float = 1.0,
) -> np.ndarray:
    """Return log-probabilities that know that each class occurs once on a plate.

    Of all matrices over a plate's wells and its group's classes whose rows sum to 1 and whose
    columns sum to at most 1, it maximises score + temperature x entropy (Sinkhorn & Knopp 1967;
    Cuturi, NeurIPS 2013). Where a plate holds fewer wells than its group has classes, one more row
    takes the absent ones. Towards temperature 0 it becomes `assign`.

    Args:
        plate_group: as in `assign`. A plate without one gets the log-softmax of scores /
            temperature, one with a `GroupBelief` the mixture of what each group would give.
        temperature: above 0, in the unit of the scores.

    Returns:
        (N, K) float32, natural logs; rows sum to 1, columns of a plate to at most 1 + `TOLERANCE`.
        Classes outside the group have log 1e-30, so that means over models stay finite. Where 2,000
        rounds do not suffice, a warning names the worst plate.

    Raises:
        InputError: as in `assign`, or a temperature that is not positive.
    """
    if not temperature > 0:
        raise InputError(f"temperature: must be above 0, not {temperature}")
    experiment, plate = check_shapes(scores, experiment, plate, class_group)
    class_group = np.asarray(class_group)
    soft = np.full(scores.shape, IMPOSSIBLE, dtype=np.float32)
    errors: dict[str, float] = {}
    for (batch, name), rows in plates_of(experiment, plate):
        block, group = plate_scores(scores, rows, batch, name), plate_group.get((batch, name))
        if group is None:
            values = block.astype(np.float64) / temperature
            soft[rows] = np.maximum(values - log_sum_exp(values, 1), IMPOSSIBLE)
            continue
        _check_room(batch, name, group, rows, class_group)
        for number, probability in _probable(group):
            classes = np.flatnonzero(class_group == number)
            values, error = _sinkhorn(block[:, classes].astype(np.float64) / temperature)
            soft[np.ix_(rows, classes)] = np.maximum(values + np.log(probability), IMPOSSIBLE)
            errors[f"{batch} plate {name}"] = max(error, errors.get(f"{batch} plate {name}", 0.0))
    _warn_of_loose_sums(errors)
    return soft


def _warn_of_loose_sums(errors: Mapping[str, float]) -> None:
    """Warn of plates whose sums are off by more than `TOLERANCE`."""
    loose = [name for name, error in errors.items() if error > TOLERANCE]
    if loose:
        worst = max(loose, key=errors.__getitem__)
        log.warning(
            "Sinkhorn stopped after %d rounds on %d plates, worst %s: sums are off by up to %.1e; "
            "a higher temperature converges",
            *(ROUNDS, len(loose), worst, errors[worst]),
        )


def _sinkhorn(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return (n, m) log-probabilities of (n, m) scores, n <= m, and the largest error of a sum.

    Stabilised scaling (Schmitzer, SIAM J. Sci. Comput. 41, 2019): fast rounds on the exponentials,
    their factors taken into the logs every `BLOCK` rounds.
    """
    wells, classes = values.shape
    mass = np.ones(wells)
    if classes > wells:
        values = np.vstack([values, np.zeros((1, classes))])
        mass = np.append(mass, classes - wells)
    for _ in range(ROUNDS // BLOCK):
        values = values - log_sum_exp(values, 0)
        values -= log_sum_exp(values, 1) - np.log(mass)[:, None]
        kernel, row = np.exp(values), np.ones(len(values))
        for _ in range(BLOCK):
            column = 1 / (row @ kernel)
            total = kernel @ column
            error = float(np.abs(row * total / mass - 1).max())
            row = mass / total
            if error <= TOLERANCE / 2:
                break
        values += np.log(row)[:, None] + np.log(column)
        if error <= TOLERANCE / 2:
            break
    return values[:wells], 2 * error


def _probable(group: int | GroupBelief) -> list[tuple[int, float]]:
    """Return the groups that a plate may hold and their probabilities."""
    if not isinstance(group, GroupBelief):
        return [(group, 1.0)]
    numbers = np.flatnonzero(group.probability).tolist()
    return [(number, float(group.probability[number])) for number in numbers]


def _check_room(
    batch: str, name: str, group: int | GroupBelief, rows: np.ndarray, class_group: np.ndarray
) -> None:
    for number, _ in _probable(group):
        room = int((class_group == number).sum())
        if len(rows) > room:
            raise InputError(
                f"{batch} plate {name}: {len(rows)} wells but only {room} classes in its group "
                f"{number}"
            )
