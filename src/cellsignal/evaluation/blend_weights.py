"""Choose the weights of a blend: hill climbing, or stacking with non-negative weights.

A blend is the weighted mean of the members' logits, each divided by a temperature of its own, all
divided by the blend's temperature: a logarithmic pool. Its log-loss is convex in the ratios of
weight and temperature, so stacking has one optimum.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cellsignal.evaluation.blend_members import MOST_T, Members

LEAST_WEIGHT = 1e-4  # a smaller share of a blend is none
BAGS = 10
STEPS = 30  # picks of a hill climb
PATIENCE = 6  # picks without a better score before a climb stops


@dataclass(frozen=True)
class Blend:
    """How members are averaged.

    Attributes:
        weights: (M,) not negative, sum to 1.
        temperatures: (M,) what each member's logits are divided by.
        temperature: what the weighted mean is divided by.
        offsets: (K,) added to the classes last; 0 where one class is true. They calibrate, and
            leave the ranking within a class as it is.
    """

    weights: np.ndarray
    temperatures: np.ndarray
    temperature: float = 1.0
    offsets: np.ndarray | float = 0.0

    def merge(self, scores: np.ndarray) -> np.ndarray:
        """Return the blended scores (T, K) of (M, T, K)."""
        ratio = self.weights / self.temperatures / self.temperature
        return np.tensordot(ratio, scores, axes=1) + self.offsets


Choose = Callable[[Members], Blend]


def equal_weights(members: Members) -> Blend:
    """Weigh members as without a blend; no temperature."""
    return Blend(members.equal, np.ones(len(members.names)))


def calibrated_weights(members: Members) -> Blend:
    """Weigh members as without a blend, each divided by its temperature."""
    return _with_temperature(members, members.equal, members.temperatures)


def best_member(members: Members) -> Blend:
    """Take the member with the best score alone; the lower log-loss decides ties."""
    temperatures = members.temperatures
    scaled = members.scores / temperatures[:, None, None]
    keys = [(members.quick_score(scores), -members.mean_loss(scores)) for scores in scaled]
    best = max(range(len(keys)), key=keys.__getitem__)
    return _with_temperature(members, np.eye(len(keys))[best], temperatures)


def stack(members: Members) -> Blend:
    """Minimise the log-loss over non-negative weights; every unit weighs the same.

    A member pays one T-th of its weight for T targets, about what a weight gains on pure noise: so
    one that adds nothing gets none.
    """
    temperatures = members.temperatures
    scaled = members.scores / temperatures[:, None, None]
    start = _with_temperature(members, members.equal, temperatures)
    price = 1 / len(members.unit)
    ratio, _ = members.fit_ratios(scaled, start.weights / start.temperature, price)
    if ratio.sum() < 1e-6:  # no member knows anything
        return start
    weights = _without_crumbs(ratio / ratio.sum())
    return _with_temperature(members, weights, temperatures)


def hill_climb(members: Members, seed: int = 0) -> Blend:
    """Pick members with replacement while the score rises, in bags; average the bags' shares.

    Caruana et al. (ICML 2004). A bag sees about half of the members and two thirds of the units, so
    that no single lucky member or unit decides. Scores that differ by no more than two targets are
    equal; between them the log-loss decides.
    """
    generator = np.random.default_rng(seed)
    temperatures = members.temperatures
    scaled = members.scores / temperatures[:, None, None]
    candidates = np.flatnonzero(temperatures < 0.99 * MOST_T)  # the others know nothing
    if not len(candidates):
        return calibrated_weights(members)
    units, total = np.unique(members.unit), np.zeros(len(members.names))
    for _ in range(BAGS):
        order = generator.permutation(candidates)
        size = min(max(2, generator.binomial(len(order), 0.5)), len(order))
        chosen = np.sort(order[:size])
        kept = generator.permutation(units)[: max(1, round(2 * len(units) / 3))]
        inside = np.isin(members.unit, kept)
        total[chosen] += _climb(members.rows(inside), scaled[chosen][:, inside])
    return _with_temperature(members, _without_crumbs(total / total.sum()), temperatures)


def _climb(members: Members, scaled: np.ndarray) -> np.ndarray:
    """Return the share of each member of a bag (M,), of the picks up to the best score."""
    picks: list[int] = []
    least = 2 * float(members.row_weight.max())
    best_score, best_loss, best_length = -np.inf, np.inf, 0
    total = np.zeros(scaled.shape[1:], scaled.dtype)
    while len(picks) < STEPS and len(picks) - best_length < PATIENCE:
        scores = [members.quick_score(total + member) for member in scaled]
        near = np.flatnonzero(np.nan_to_num(scores) >= np.nan_to_num(scores).max() - least)
        losses = [members.mean_loss((total + scaled[m]) / (len(picks) + 1)) for m in near]
        pick = int(near[int(np.argmin(losses))])
        picks.append(pick)
        total = total + scaled[pick]
        score, loss = float(np.nan_to_num(scores[pick])), min(losses)
        is_lower = score >= best_score - least and loss < best_loss - least
        if score > best_score + least or is_lower:
            best_score, best_loss, best_length = score, loss, len(picks)
    return np.bincount(picks[:best_length], minlength=len(scaled)) / best_length


def _with_temperature(members: Members, weights: np.ndarray, temperatures: np.ndarray) -> Blend:
    """Return a blend with the temperature that fits it."""
    merged = Blend(weights, temperatures).merge(members.scores)
    return Blend(weights, temperatures, *members.fit_temperature(merged))


def _without_crumbs(weights: np.ndarray) -> np.ndarray:
    kept = np.where(weights < LEAST_WEIGHT, 0, weights)
    return kept / kept.sum()


METHODS: dict[str, Choose] = {
    "stack": stack,
    "hill": hill_climb,
    "calibrate": calibrated_weights,
    "equal": equal_weights,
}
