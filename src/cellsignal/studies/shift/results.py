"""Accuracies of the shift bench, with intervals and pairs over new experiments."""

import math

import numpy as np
import pandas as pd

from cellsignal.metrics.intervals import jackknife_interval, mean_interval
from cellsignal.metrics.paired import Paired, compare_means

SEVERE = 0.01  # the alpha at which what is kept is measured


class Results:
    """Accuracies by method, alpha and size, over the new experiments of all seeds."""

    def __init__(self, cells: dict[tuple[str, float, int], pd.Series], methods: list[str]):
        self.cells, self.methods = cells, methods

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Results":
        """Make the results of measured rows."""
        frame = frame[frame.experiment.notna()]
        frame = frame.assign(unit=frame.seed.astype(str) + " " + frame.experiment)
        cells = {
            key: group.set_index("unit").accuracy.sort_index()
            for key, group in frame.groupby(["method", "alpha", "size"])
        }
        return cls(cells, list(dict.fromkeys(frame.method)))

    @property
    def units(self) -> int:
        return max(map(len, self.cells.values()))

    def experiments(self, method: str) -> int:
        """Return how many experiments a method was measured on."""
        return max(len(cell) for key, cell in self.cells.items() if key[0] == method)

    def accuracy(self, method: str, alpha: float, size: int) -> float:
        """Return the mean accuracy; NaN where it was not measured."""
        cell = self.cells.get((method, alpha, size))
        return math.nan if cell is None else float(cell.mean())

    def interval(self, method: str, alpha: float, size: int) -> tuple[float, float]:
        """Return its 95 % interval over experiments."""
        cell = self.cells[method, alpha, size]
        return mean_interval(cell.to_numpy(), cell.index.to_numpy())

    def paired(self, first: str, second: str, alpha: float, size: int) -> Paired | None:
        """Compare two methods over the same experiments; None where one was not measured."""
        cells = [self.cells.get((method, alpha, size)) for method in (first, second)]
        if any(cell is None for cell in cells):
            return None
        both = pd.concat(cells, axis=1, join="inner")
        return compare_means(*both.to_numpy().T, both.index.to_numpy())

    def kept(self, method: str, size: int) -> tuple[float, float, float]:
        """Return the share of a method's accuracy that is kept at alpha .01, and its interval."""
        even, severe = (self.cells.get((method, alpha, size)) for alpha in (math.inf, SEVERE))
        if even is None or severe is None or even.sum() == 0:
            return math.nan, math.nan, math.nan
        both = pd.concat([severe, even], axis=1, join="inner").to_numpy()
        total = both.sum(0)
        rest = total - both
        without = rest[:, 0] / rest[:, 1]
        share = np.full(len(both), 1 / len(both))
        value = float(total[0] / total[1])
        return value, *jackknife_interval(value, without, share, bounded=False)
