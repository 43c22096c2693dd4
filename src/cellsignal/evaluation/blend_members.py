"""Hold the out-of-fold scores of a blend's members, and measure a blend over whole units.

A unit is what the folds did not split: an experiment or a compound. Every unit weighs the same,
however many targets it has, in the log-loss and in accuracy; average precision ranks all targets
together, and what a unit adds to it is its jackknife pseudo-value.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cellsignal.metrics.average_precision import macro_average_precision
from cellsignal.metrics.intervals import mean_interval
from cellsignal.metrics.log_loss import LOG_LOSSES, QUICK_SCORES

MOST_GROUPS = 100  # of the jackknife: more units are dealt to so many groups
MOST_CELLS = 1_000_000  # targets x classes that weights are chosen on; more are drawn from
LEAST_T, MOST_T = 0.01, 100.0
SEED = 0


@dataclass(frozen=True)
class Members:
    """The members of a blend on the same T targets.

    Attributes:
        names: of the M members.
        scores: (M, T, K) logits or log-probabilities.
        truth: (T,) int labels; (T, K) of 1, 0 and NaN where several classes may be true.
        unit: (T,) int, numbered from 0.
        equal: (M,) the weights without a blend, which sum to 1.
        loss: name of the log-loss, a key of `LOG_LOSSES`.
        metric: name of the score, a key of `QUICK_SCORES`.
    """

    names: tuple[str, ...]
    scores: np.ndarray
    truth: np.ndarray
    unit: np.ndarray
    equal: np.ndarray
    loss: str
    metric: str

    @cached_property
    def units(self) -> int:
        """The number of units."""
        return len(np.unique(self.unit))

    @cached_property
    def row_weight(self) -> np.ndarray:
        """(T,) the weight of each target, such that units weigh the same; sums to 1."""
        codes = np.unique(self.unit, return_inverse=True)[1]
        return 1 / (self.units * np.bincount(codes)[codes])

    def rows(self, chosen: np.ndarray) -> "Members":
        """Return some targets alone; `chosen` is (T,) bool or row numbers."""
        return replace(
            self, scores=self.scores[:, chosen], truth=self.truth[chosen], unit=self.unit[chosen]
        )

    def members(self, chosen: Sequence[int]) -> "Members":
        """Return some members alone, by number."""
        chosen = np.asarray(chosen)
        equal = self.equal[chosen] / self.equal[chosen].sum()
        names = tuple(self.names[number] for number in chosen)
        return replace(self, names=names, scores=self.scores[chosen], equal=equal)

    def losses(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the (T,) log-losses of (T, K) scores and their gradient (T, K)."""
        return LOG_LOSSES[self.loss](scores, self.truth)

    def mean_loss(self, scores: np.ndarray) -> float:
        """Return the mean log-loss over units."""
        return float(self.row_weight @ self.losses(scores)[0])

    @cached_property
    def temperatures(self) -> np.ndarray:
        """(M,) what the logits of each member are best divided by."""
        return np.array([self.fit_temperature(scores)[0] for scores in self.scores])

    def fit_temperature(self, scores: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the temperature of (T, K) scores with the least log-loss, and its (K,) offsets."""
        ratios, offsets = self.fit_ratios(
            scores[None], np.ones(1), bounds=(1 / MOST_T, 1 / LEAST_T)
        )
        return float(1 / ratios[0]), offsets

    def fit_ratios(
        self,
        scores: np.ndarray,
        start: np.ndarray,
        price: float = 0.0,
        bounds: tuple[float, float | None] = (0, None),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Minimise the log-loss of sum(ratios x scores) + offsets, in which it is convex.

        Args:
            scores: (M, T, K) of these targets.
            start: (M,) ratios to start from.
            price: what is added to the loss for each unit of ratio.
            bounds: of a ratio.

        Returns:
            (M,) ratios; (K,) offsets, which are 0 where one class is true, and do not move the
            ranking within a class where several may be.
        """
        from scipy.optimize import minimize

        count = len(start)
        free = self.scores.shape[2] if self.truth.ndim == 2 else 0
        row_weight = self.row_weight[:, None]

        def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
            ratios, offsets = values[:count], values[count:]
            merged = np.tensordot(ratios, scores, axes=1)
            losses, gradient = self.losses(merged + offsets if free else merged)
            gradient *= row_weight
            slope = np.tensordot(scores, gradient, axes=2) + price
            loss = float(self.row_weight @ losses + price * ratios.sum())
            return loss, np.concatenate([slope, gradient.sum(axis=0)[:free]])

        solved = minimize(
            objective,
            np.concatenate([start, np.zeros(free)]),
            jac=True,
            method="L-BFGS-B",
            bounds=[bounds] * count + [(None, None)] * free,
            options={"ftol": 1e-10, "gtol": 1e-7, "maxiter": 500},
        )
        offsets = solved.x[count:] if free else np.zeros(self.scores.shape[2])
        return solved.x[:count], offsets

    def quick_score(self, scores: np.ndarray) -> float:
        """Return the score that members are chosen by."""
        return QUICK_SCORES[self.metric](scores, self.truth, self.row_weight)

    def fewer(self, seed: int = SEED) -> "Members":
        """Return at most `MOST_CELLS` of scores: targets drawn at random, some of each unit."""
        most = max(MOST_CELLS // self.scores.shape[2], 10 * self.units)
        if len(self.unit) <= most:
            return self
        order = np.random.default_rng(seed).permutation(len(self.unit))
        order = order[np.argsort(self.unit[order], kind="stable")]
        size = np.bincount(self.unit)
        place = np.arange(len(order)) - np.repeat(size.cumsum() - size, size)
        kept = np.sort(order[place < most / self.units])
        return self.rows(kept)


# by unit
# --------------------------------------------------------------------------------------------------


def unit_losses(members: Members, scores: np.ndarray) -> np.ndarray:
    """Return the mean log-loss of each unit, (J,)."""
    return _unit_means(members.unit, members.losses(scores)[0])


def unit_scores(members: Members, scores: np.ndarray) -> np.ndarray:
    """Return what each unit (or group of units) gives; the mean of (J,) is the score.

    Raises:
        InputError: no class has both a positive and a negative.
    """
    if members.metric == "accuracy":
        return _unit_means(members.unit, scores.argmax(axis=1) == members.truth)
    whole = macro_average_precision(members.truth, scores)
    group = _jackknife_groups(members.unit)
    count = int(group.max()) + 1
    score = QUICK_SCORES[members.metric]
    without = np.array(
        [score(scores[group != code], members.truth[group != code]) for code in range(count)]
    )
    influence = (count - 1) * (score(scores, members.truth) - without)
    influence = np.where(np.isnan(influence), 0, influence)
    return whole + influence - influence.mean()


def unit_interval(parts: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean of what units give, (J,) differences.

    NaN with fewer units than an interval needs, or where all differ by the same.
    """
    return mean_interval(parts, np.arange(len(parts)), bounded=False)


def _unit_means(unit: np.ndarray, values: np.ndarray) -> np.ndarray:
    codes = np.unique(unit, return_inverse=True)[1]
    return np.bincount(codes, weights=values) / np.bincount(codes)


def _jackknife_groups(unit: np.ndarray) -> np.ndarray:
    """Return the group of each target: its unit, or one of `MOST_GROUPS` groups of units."""
    codes = np.unique(unit, return_inverse=True)[1]
    return codes % MOST_GROUPS
