"""Compute accuracy, always with its 95 % interval.

Two intervals, because they answer two questions. Wilson's takes wells as independent: the noise of
these very experiments. The one over units (`metrics.intervals`) tells what another draw of
experiments or compounds would have given. It is usually the wider, and the one for a claim about
new experiments.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from cellsignal.common.errors import InputError


@dataclass(frozen=True)
class Score:
    """A score with its 95 % interval.

    Attributes:
        value, low, high: the score and the ends of its interval.
        total: number of what was scored.
        metric: what it is, such as "average precision".
        unit, units: what the interval is over, such as "experiment", and their number; "" takes
            what was scored as independent.
    """

    value: float
    low: float
    high: float
    total: int
    metric: str = "score"
    unit: str = ""
    units: int = 0

    @property
    def counted(self) -> str:
        """The number of what was scored, as `format` shows it."""
        return str(self.total)

    def format(self, digits: int = 3) -> str:
        """Format as "0.873 [0.85, 0.89] (141)": the interval has one decimal less."""
        near = max(digits - 1, 1)
        interval = "" if math.isnan(self.low) else f" [{self.low:.{near}f}, {self.high:.{near}f}]"
        return f"{self.value:.{digits}f}{interval} ({self.counted})"

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
    """Return Wilson's 95 % interval of a share (JASA 22, 1927), without continuity correction.

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


def balanced_accuracy(true, predicted) -> float:
    """Return the mean recall over the classes of `true`."""
    from sklearn.metrics import recall_score

    true, predicted = np.asarray(true), np.asarray(predicted)
    return float(
        recall_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0)
    )
