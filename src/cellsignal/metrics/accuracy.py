"""Compute accuracy, always with its 95 % interval.

Two intervals, because they answer two questions. Wilson's takes wells as independent: the noise of
these very experiments. The clustered one resamples whole experiments (or compounds): what another
draw of experiments would have given. Wells of one experiment share its staining, its cells and its
day, so the clustered interval is usually the wider and the honest one for a claim about new
experiments.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError


@dataclass(frozen=True)
class Score:
    """A score with its 95 % interval.

    Attributes:
        value, low, high: the score and the ends of its interval.
        total: number of what was scored.
        metric: what it is, such as "average precision".
    """

    value: float
    low: float
    high: float
    total: int
    metric: str = "score"

    @property
    def counted(self) -> str:
        """The number of what was scored, as `format` shows it."""
        return str(self.total)

    def format(self, digits: int = 3) -> str:
        """Format as "0.873 [0.85, 0.89] (141)": the interval has one decimal less."""
        near = max(digits - 1, 1)
        interval = f"[{self.low:.{near}f}, {self.high:.{near}f}]"
        return f"{self.value:.{digits}f} {interval} ({self.counted})"

    def __str__(self) -> str:
        return self.format()


@dataclass(frozen=True)
class Accuracy(Score):
    """A share of right predictions with its 95 % Wilson interval, in [0, 1].

    Attributes:
        correct: number of right predictions.
    """

    correct: int = 0
    metric: str = "accuracy"

    @classmethod
    def of(cls, correct: int, total: int) -> "Accuracy":
        """Make the accuracy of `correct` in `total`, with its interval."""
        low, high = wilson_interval(correct, total)
        return cls(correct / total, low, high, int(total), correct=int(correct))

    @property
    def counted(self) -> str:
        return f"{self.correct}/{self.total}"


def wilson_interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (JASA 22, 1927), without continuity correction!!.

    Raises:
        InputError: `total` is not positive or `correct` lies outside 0..total.
    """
    if not 0 <= correct <= total or total <= 0:
        raise InputError(f"no interval for {correct} right of {total} predictions")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, square = correct / total, z * z
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = (
        z
        / (1 + square / total)
        * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    )
    # exact ends, without the rounding of the subtraction
    low = 0.0 if correct == 0 else max(centre - half, 0.0)
    high = 1.0 if correct == total else min(centre + half, 1.0)
    return low, high


def accuracy(true, predicted) -> Accuracy:
    """Compute the accuracy of `predicted` (N,) against `true` (N,), labels of any type.

    Raises:
        InputError: the lengths differ or there is nothing to score.
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape or true.ndim != 1:
        raise InputError(
            f"true and predicted labels differ in shape: {true.shape} and {predicted.shape}"
        )
    if not len(true):
        raise InputError("no predictions to score")
    return Accuracy.of(int((true == predicted).sum()), len(true))


def clustered_interval(correct, cluster, seed: int, n: int = 2000) -> tuple[float, float]:
    """Return the 95 % interval of a mean, by a bootstrap over whole clusters.

    Each of `n` replicates draws as many clusters as there are, with replacement, and takes the mean
    over their wells. With fewer than about ten clusters the percentile bootstrap is somewhat too
    narrow; it is then a lower bound on the doubt.

    Args:
        correct: (N,) whether the prediction was right, for the interval of an accuracy; or any
        number a well, such as the
            difference between two models (right or wrong) on it, for a paired comparison.
        cluster: (N,) the experiment, compound or plate of each.
        seed: of the random generator; the same seed gives the same interval.

    Returns:
        (low, high); (nan, nan) where there is only one cluster, which says nothing about others.

    Raises:
        InputError: the lengths differ, or a cluster is missing (NaN or None).
    """
    correct = np.asarray(correct, dtype=float)
    codes, names = pd.factorize(np.asarray(cluster))
    if len(codes) != len(correct):
        raise InputError(f"{len(correct)} outcomes but {len(codes)} clusters")
    if (codes < 0).any():
        raise InputError(f"the cluster of outcome {int(np.argmax(codes < 0))} is missing")
    if len(names) < 2:
        return math.nan, math.nan
    right, all_ = np.bincount(codes, weights=correct), np.bincount(codes)
    times = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=n
    )
    low, high = np.percentile((times @ right) / (times @ all_), [2.5, 97.5])
    return float(low), float(high)


def bootstrap_interval(
    score: Callable[[np.ndarray], float], cluster, seed: int, n: int
) -> tuple[float, float]:
    """Return the 95 % interval of any score, by a bootstrap over whole clusters.

    Replicates that cannot be scored are left out.

    Args:
        score: rows -> score; raises InputError where it has none.
        cluster: (N,) the experiment or compound of each row.

    Returns:
        (low, high); (nan, nan) where no replicate has a score.
    """
    codes, names = pd.factorize(np.asarray(cluster))
    members = [np.flatnonzero(codes == code) for code in range(len(names))]
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(n):
        drawn = generator.integers(len(names), size=len(names))
        try:
            values.append(score(np.concatenate([members[code] for code in drawn])))
        except InputError:
            continue
    if not values:
        return math.nan, math.nan
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def balanced_accuracy(true, predicted) -> float:
    """Return the mean recall over the classes of `true`."""
    from sklearn.metrics import recall_score

    true, predicted = np.asarray(true), np.asarray(predicted)
    return float(
        recall_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0)
    )
