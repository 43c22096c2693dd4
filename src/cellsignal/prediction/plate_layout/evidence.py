"""How well each group of classes fits a plate, whatever the scale of the scores.

How sure scores are is not known: logits may be too sure, means of sites are not sure enough,
cosines say little. So the evidence is taken at several sharpnesses (what scores are multiplied by
before the softmax) in units of the scores' own spread, and which of them are right is learnt from
the plates themselves: at the right one the wells of all plates agree best on layouts that can be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# share of wells whose scores are taken to say nothing; bounds what one well can do to its plate
OUTLIER = 0.05
# candidates, in units of 1 / `score_spread`; each the double of the one before
SHARPNESS = 2.0 ** np.arange(-5, 5)
# of exponentials: their squares must not fall below float32's range, where arithmetic is slow
FLOOR = 1e-18
ROUNDS = 100  # of the EM that learns how common each sharpness is


@dataclass(frozen=True)
class Evidence:
    """What the wells of a plate say about its group, at each sharpness.

    Attributes:
        total: (B, G) sums over the wells of the log-probability of each group.
        squares: (B, G, G) sums over the wells of the squared difference of the log-probabilities of
            two groups.
        wells: their number.
    """

    total: np.ndarray
    squares: np.ndarray
    wells: int


def score_spread(block: np.ndarray) -> float:
    """Return the spread of a plate's (n, K) scores, by its median well.

    A well's spread is half the range of the middle half of its scores.

    Where most scores are equal it is their standard deviation about the means of wells; 0 if all
    are.
    """
    ordered = np.sort(block, axis=1)
    quarter = block.shape[1] // 4
    spread = float(np.median(ordered[:, -1 - quarter] - ordered[:, quarter])) / 2
    if spread > 0:
        return spread
    deviations = block - block.mean(axis=1, keepdims=True, dtype=np.float64)
    return float(np.sort(deviations, axis=None).std())


def experiment_evidence(
    blocks: Sequence[np.ndarray], class_group: np.ndarray, spread: float
) -> list[Evidence]:
    """Return the evidence for each group in the scores of each plate of an experiment.

    A well's log-probability of a group is log((1 - e) p + e / G), p being the softmax mass of the
    group's classes, G the number of groups and e = `OUTLIER`. The mixture bounds each well between
    log(e / G) and 0, so that a few wells of an overconfident network cannot outvote a plate.
    Before, what the plates do to classes is taken off (`_plate_effects`).

    Args:
        blocks: (n, K) finite scores of each plate.
        class_group: (K,) int.
        spread: what one unit of sharpness is of; above 0.
    """
    values = [_sort_wells(_transpose(block, spread)) for block in blocks]
    member = np.arange(class_group.max() + 1)[:, None] == class_group
    effects = _plate_effects(np.stack([_half_medians(plate) for plate in values]), member)
    return [_evidence(plate, effect, member) for plate, effect in zip(values, effects, strict=True)]


def _transpose(block: np.ndarray, spread: float) -> np.ndarray:
    """(K, n), a class's wells side by side, in units of the spread and less each well's mean."""
    if not 1e-15 < spread < 1e15:
        # squares and exponentials of float32 would leave its range
        block = block.astype(np.float64)
    values = np.ascontiguousarray(block.T)
    values *= values.dtype.type(1 / spread)
    values -= values.mean(axis=0)
    return values


def _sort_wells(values: np.ndarray) -> np.ndarray:
    """Sort the wells of (K, n) scores by the sum of their squares, then by the scores.

    So that nothing that is computed from a plate, to the last bit, depends on the order of its
    rows.
    """
    squares = np.einsum("kn,kn->n", values, values)
    order = np.argsort(squares, kind="stable")
    if (np.diff(squares[order]) == 0).any():
        order = np.lexsort((*values[::-1], squares))
    return np.take(values, order, axis=1)


def _half_medians(values: np.ndarray) -> np.ndarray:
    """Return (2, K): the median of each class over every other well, and over the rest.

    Zeros where the plate has one well.
    """
    if values.shape[1] < 2:
        return np.zeros((2, len(values)))
    halves = [np.sort(values[:, start::2], axis=1) for start in (0, 1)]
    return np.stack([_median_of_sorted(half) for half in halves]).astype(float)


def _median_of_sorted(values: np.ndarray) -> np.ndarray:
    """Return the median of each sorted row; sorting takes a fifth of the time of `np.median`."""
    wells = values.shape[1]
    return (values[:, (wells - 1) // 2] + values[:, wells // 2]) / 2


def _plate_effects(halves: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return each plate's effect on each class, (P, K), as far as two halves of its wells agree.

    Whatever a plate as a whole does to a class or to a whole group (its staining, a look it shares
    with training plates) would add up over the wells and outweigh them, and as a class stands on a
    plate once, a median over the wells hardly sees its own well. But a median is noise too, so it
    is taken off by the share of its variance that two halves of the wells have in common: nothing
    where plates do nothing, all where they do much. The share is estimated for the means of groups
    and for classes within groups separately, over the plates of the experiment.

    Args:
        halves: (P, 2, K) medians.
        member: (G, K) bool.
    """
    means = halves @ (member / member.sum(axis=1, keepdims=True)).T  # (P, 2, G)
    within = halves - means @ member
    means = means - means.mean(axis=2, keepdims=True)
    return _reproduced(within) + _reproduced(means) @ member


def _reproduced(halves: np.ndarray) -> np.ndarray:
    """Average two halves (P, 2, m), times the share of variance they have in common: (P, m)."""
    both = halves.mean(axis=1)
    variance = (both**2).mean()
    common = (halves[:, 0] * halves[:, 1]).mean()
    return both * (np.clip(common / variance, 0, 1) if variance > 0 else 0)


def _evidence(values: np.ndarray, effect: np.ndarray, member: np.ndarray) -> Evidence:
    """Return the evidence of a plate's (K, n) scores, minus the (K,) plate effect.

    `values` are overwritten.
    """
    values -= effect[:, None].astype(values.dtype)
    values -= values.max(axis=0)
    values *= values.dtype.type(SHARPNESS[0])
    odds = np.exp(values)
    weights = member.astype(values.dtype)
    logs = np.empty((len(SHARPNESS), len(member), values.shape[1]))
    for number in range(len(SHARPNESS)):
        if number:
            np.multiply(odds, odds, out=odds)
            np.maximum(odds, FLOOR, out=odds)
        mass = (weights @ odds).astype(np.float64)
        logs[number] = np.log((1 - OUTLIER) * mass / mass.sum(axis=0) + OUTLIER / len(member))
    norms = (logs**2).sum(axis=2)
    squares = norms[:, :, None] + norms[:, None, :] - 2 * logs @ logs.transpose(0, 2, 1)
    return Evidence(logs.sum(axis=2), np.maximum(squares, 0), values.shape[1])


def layout_posteriors(likelihoods: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[int]]:
    """Return the probability of each layout per experiment, and the likeliest sharpness.

    All layouts of an experiment are as likely beforehand. How common each sharpness is among the
    experiments is learnt from all of them by EM, each sharpness counting as seen 1 / B times
    beforehand. So experiments whose predictions show their layout lend others their sharpness, and
    none has to have the same.

    Args:
        likelihoods: one (B, L) array of log-likelihoods an experiment, by sharpness and layout; L
        may differ.

    Returns:
        For each experiment (L,) probabilities and an index into `SHARPNESS`.
    """
    if not likelihoods:
        return [], []
    marginal = np.stack(
        [log_sum_exp(values, 1)[:, 0] - np.log(values.shape[1]) for values in likelihoods]
    )
    common = np.full(marginal.shape[1], 1 / marginal.shape[1])
    for _ in range(ROUNDS):
        joint = marginal + np.log(common)
        share = np.exp(joint - log_sum_exp(joint, 1))
        common = (share.sum(axis=0) + 1 / len(common)) / (len(share) + 1)
    posteriors = []
    for values in likelihoods:
        joint = log_sum_exp(values + np.log(common)[:, None], 0)
        posteriors.append(np.exp(joint - log_sum_exp(joint, 1))[0])
    return posteriors, share.argmax(axis=1).tolist()


def log_sum_exp(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the log of the sum of exponentials along an axis, which is kept."""
    top = values.max(axis=axis, keepdims=True)
    return top + np.log(np.exp(values - top).sum(axis=axis, keepdims=True))
