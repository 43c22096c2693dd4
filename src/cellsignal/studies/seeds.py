"""Wells that several seeds predict: means over the seeds, intervals over units of wells."""

import numpy as np

from cellsignal.metrics.intervals import mean_interval


class OverSeeds:
    """What rows of a table have in common that hold whether each seed is right at each well.

    Attributes:
        right: (S, W) bool, seeds x wells.
        unit: (W,) the experiment or compound of each well.
    """

    right: np.ndarray
    unit: np.ndarray

    @property
    def accuracy(self) -> float:
        """The mean over seeds and wells."""
        return float(self.right.mean())

    @property
    def seeds_sd(self) -> float:
        """The standard deviation over seeds; NaN of one."""
        return float(self.right.mean(1).std(ddof=1)) if len(self.right) > 1 else float("nan")

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval over units; all seeds of a well stay together."""
        return mean_interval(self.right.mean(0), self.unit)


def mean_gain(
    figures: np.ndarray, others: np.ndarray, unit: np.ndarray
) -> tuple[float, float, float]:
    """Return the mean gain over other figures of the same samples, with its 95 % interval.

    Args:
        figures, others: (S, N), seeds x samples; the numbers of seeds may differ.
        unit: (N,) what is drawn as a whole.
    """
    difference = figures.mean(0) - others.mean(0)
    return float(difference.mean()), *mean_interval(difference, unit, bounded=False)
