"""Probabilities of a well's classes where its plate's layout is used.

`group_probabilities` knows which classes the plate may hold. `assignment_marginals` knows that each
of them occurs once, too: a class is as probable as the assignments that give it to the well, of all
assignments of the plate, each weighed by its wells' likelihoods. To sum over all of them is out of
reach (a permanent), but belief propagation comes near (Chertkov, Kroc & Vergassola,
arXiv:0806.1199; Huang & Jebara, arXiv:0908.1769). The shares of Sinkhorn's iteration are no
probabilities: on simulated plates they were too low by .05 to .15.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.metrics.reliability import FLOOR
from cellsignal.prediction.plate_layout.evidence import log_sum_exp
from cellsignal.prediction.plate_layout.groups import (
    GroupBelief,
    check_shapes,
    plate_scores,
    plates_of,
)
from cellsignal.prediction.plate_layout.layouts import Plate

ROUNDS, TOLERANCE = 300, 1e-4  # of belief propagation
LEAST = 1e-150  # messages stay within this and its inverse


def group_probabilities(
    scores: np.ndarray,
    experiment,
    plate,
    class_group: np.ndarray,
    plate_group: Mapping[Plate, int | GroupBelief],
    temperature: float = 1.0,
) -> np.ndarray:
    """Return the (N, K) probabilities of the classes that a well's plate may hold.

    A class is as probable as its group times its softmax among the classes of the group. A plate
    without a known group may hold all classes.

    Args:
        scores: (N, K) float, logits or log-probabilities.
        experiment, plate: (N,) names.
        class_group: (K,) int, the group of each class.
        plate_group: (experiment, plate) -> group, or how probable each is.
        temperature: what scores are divided by.

    Raises:
        InputError: shapes that do not fit, or a score that is not finite.
    """
    parts = (scores, experiment, plate, class_group, plate_group, temperature)
    return _dense(scores.shape, _by_plate(_softmax, *parts))


def assignment_marginals(
    scores: np.ndarray,
    experiment,
    plate,
    class_group: np.ndarray,
    plate_group: Mapping[Plate, int | GroupBelief],
    temperature: float = 1.0,
) -> np.ndarray:
    """Return the (N, K) probabilities of classes that occur at most once on a plate each.

    Arguments and errors as in `group_probabilities`; also an `InputError` for a plate with more
    wells than its group has classes. A plate without a known group gets the softmax.
    """
    parts = (scores, experiment, plate, class_group, plate_group, temperature)
    return _dense(scores.shape, _by_plate(marginals, *parts))


class AssignedTruth:
    """Says how probable what is true is when `assignment_marginals` are sharpened.

    Keeps the classes alone that a plate may hold: of RxRx1's a quarter. All others have the same
    probability, `FLOOR`.

    Args:
        truth: (N,) int, the class of each well.
        scores, experiment, plate, class_group, plate_group, temperature: as for
            `assignment_marginals`, and the errors.
    """

    def __init__(self, truth: np.ndarray, scores: np.ndarray, *plates):
        self.wells, self.classes = scores.shape
        self.parts = []
        for rows, classes, probability in _by_plate(marginals, scores, *plates):
            logs = np.log(np.maximum(probability, FLOOR))
            place = np.searchsorted(classes, truth[rows])
            held = np.take(classes, place, mode="clip") == truth[rows]
            of_truth = logs[np.arange(len(rows)), np.where(held, place, 0)]
            self.parts.append((rows, logs, np.where(held, of_truth, np.log(FLOOR))))

    def sharpened(self, temperature: float) -> np.ndarray:
        """Return (N,) what `metrics.reliability.sharpened` gives of what is true."""
        out = np.empty(self.wells)
        for rows, logs, of_truth in self.parts:
            top = logs.max(axis=1) / temperature  # above FLOOR: a row's probabilities sum to 1
            total = np.exp(logs / temperature - top[:, None]).sum(axis=1)
            absent = self.classes - logs.shape[1]
            total += absent * np.exp(np.log(FLOOR) / temperature - top)
            out[rows] = np.exp(of_truth / temperature - top) / total
        return out


def marginals(values: np.ndarray) -> np.ndarray:
    """Return how probable each class of each well is, when classes are assigned once at most.

    Args:
        values: (n, m) log-likelihoods, n <= m. With n = m each class occurs once.

    Returns:
        (n, m); rows sum to 1.
    """
    wells, classes = values.shape
    if classes == 1:
        return np.ones((wells, classes))
    weight = np.exp(values - values.max(axis=1, keepdims=True))
    absent = float(classes > wells)  # a class may then be on no well
    column, before = np.ones_like(weight), np.zeros_like(weight)
    for number in range(ROUNDS):
        offered = weight * column
        others = offered.sum(axis=1, keepdims=True) - offered
        row = np.clip(weight / np.maximum(others, LEAST), LEAST, 1 / LEAST)
        others = absent + row.sum(axis=0) - row
        update = np.clip(1 / np.maximum(others, LEAST), LEAST, 1 / LEAST)
        odds = row * update
        probability = odds / (1 + odds)
        if number and np.abs(probability - before).max() < TOLERANCE:
            break
        column, before = np.sqrt(column * update), probability
    return probability / probability.sum(axis=1, keepdims=True)


def _softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(values - log_sum_exp(values, 1))


def _dense(
    shape: tuple[int, int], parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Return (N, K) probabilities from those of each plate, 0 elsewhere."""
    out = np.zeros(shape)
    for rows, classes, probability in parts:
        out[np.ix_(rows, classes)] = probability
    return out


def _by_plate(
    probabilities, scores, experiment, plate, class_group, plate_group, temperature
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Mix the probabilities within each group that a plate may hold, plate by plate.

    Yields:
        The (n,) rows of a plate, the (m,) classes that it may hold, ascending, and their (n, m)
        probabilities.
    """
    if not temperature > 0:
        raise InputError(f"temperature: must be above 0, not {temperature}")
    experiment, plate = check_shapes(scores, experiment, plate, class_group)
    class_group = np.asarray(class_group)
    for (batch, name), rows in plates_of(experiment, plate):
        block = plate_scores(scores, rows, batch, name).astype(np.float64) / temperature
        belief = plate_group.get((batch, name))
        if belief is None:
            yield rows, np.arange(len(class_group)), _softmax(block)
            continue
        groups = _probable(belief)
        possible = np.flatnonzero(np.isin(class_group, [number for number, _ in groups]))
        mixed = np.zeros((len(rows), len(possible)))
        for number, share in groups:
            classes = np.flatnonzero(class_group == number)
            if probabilities is marginals and len(rows) > len(classes):
                raise InputError(
                    f"{batch} plate {name}: {len(rows)} wells but only {len(classes)} classes in "
                    f"its group {number}"
                )
            mixed[:, np.searchsorted(possible, classes)] = share * probabilities(block[:, classes])
        yield rows, possible, mixed


def _probable(belief: int | GroupBelief) -> list[tuple[int, float]]:
    """Return the groups that a plate may hold, and their probabilities, which sum to 1."""
    if not isinstance(belief, GroupBelief):
        return [(belief, 1.0)]
    numbers = np.flatnonzero(belief.probability)
    shares = belief.probability[numbers] / belief.probability[numbers].sum()
    return list(zip(numbers.tolist(), shares.tolist(), strict=True))


def whole_runs(codes: np.ndarray, least: int) -> np.ndarray:
    """Return where (N,) codes can be cut so that no code is on both sides of a cut.

    Args:
        least: how many lie between two cuts at least.
    """
    last = np.empty(codes.max(initial=-1) + 1, np.int64)
    last[codes] = np.arange(len(codes))
    open_until = np.maximum.accumulate(last[codes])
    cuts, before = [], 0
    for cut in np.flatnonzero(open_until == np.arange(len(codes))) + 1:
        if cut - before >= least and cut < len(codes):
            cuts.append(cut)
            before = cut
    return np.array(cuts, np.int64)
