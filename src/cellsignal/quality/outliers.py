"""Say which wells and plates stand out from the others, by a rule that is printed with them."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cellsignal.metrics.screening import robust_z
from cellsignal.quality.measuring import CELLS

# the smallest difference from the median that matters: grey levels, a share of pixels, nuclei, ...
LEAST = {
    "mean": 5.0,
    "sd": 5.0,
    "background": 3.0,
    "saturated": 0.005,
    "focus_slope": 0.3,
    "focus_laplacian": 0.15,
    CELLS: 5.0,
    "corner_centre": 0.1,
}
# measures of the microscope's work; brightness, background and cells also follow the treatment
TECHNICAL = ("focus_slope", "focus_laplacian", "saturated")


@dataclass(frozen=True)
class Rule:
    """When a well or a plate stands out.

    Attributes:
        limit: the least |robust z|.
        by: the measures that count.
        least: measure -> the least difference from the median; a small one does not count,
            however little the others vary.
        fewest: of fewer wells or plates none stands out.
    """

    limit: float = 6.0
    by: tuple[str, ...] = TECHNICAL
    least: Mapping[str, float] = field(default_factory=lambda: dict(LEAST))
    fewest: int = 12

    def text(self) -> str:
        """Write the rule in words."""
        least = ", ".join(f"{name} {self.least[name]:g}" for name in self.by)
        text = (
            f"A well stands out by a |robust z| of at least {self.limit:g} among the wells of its "
            f"plate, a plate among those of its cell type, and a difference from the median of at "
            f"least: {least}. robust z = (x - median) / (1.4826 MAD); where the MAD is 0, "
            f"(x - median) / (1.2533 mean |x - median|). Of fewer than {self.fewest} none stands "
            "out."
        )
        return textwrap.fill(text, 100)


def stand_out(
    values: np.ndarray,
    columns: Sequence[tuple[str, str]],
    groups: Sequence[np.ndarray],
    rule: Rule,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the robust z of each value in its group, (N, F), and why each row stands out, (N,).

    Args:
        values: (N, F), NaN where not measured.
        columns: F pairs of channel and measure.
        groups: the rows of each group.

    Returns:
        z; and text such as "dna focus_slope z -8.1; dna saturated z 12", worst first, "" for rows
        that do not stand out.
    """
    z = np.full(values.shape, np.nan)
    distance = np.full(values.shape, np.nan)
    for rows in groups:
        for column in range(values.shape[1]):
            x = values[rows, column]
            z[rows, column] = robust_z(x, rule.fewest)[0]
            if np.isfinite(x).any():
                distance[rows, column] = np.abs(x - np.median(x[np.isfinite(x)]))
    counts = np.array([measure in rule.by for _, measure in columns])
    least = np.array([rule.least.get(measure, np.inf) for _, measure in columns])
    with np.errstate(invalid="ignore"):
        out = counts & (np.abs(z) >= rule.limit) & (distance >= least)
    reasons = np.full(len(values), "", object)
    for row in np.flatnonzero(out.any(axis=1)):
        worst = sorted(np.flatnonzero(out[row]), key=lambda column: -abs(z[row, column]))
        reasons[row] = "; ".join(f"{name_of(columns[c])} z {z[row, c]:.1f}" for c in worst)
    return z, reasons


def name_of(column: tuple[str, str]) -> str:
    """Name a readout: "dna focus_slope", or "cells"."""
    channel, measure = column
    return measure if channel == measure else f"{channel} {measure}"


def plate_rows(frame: pd.DataFrame) -> list[np.ndarray]:
    """Return the rows of each plate of a table of wells."""
    return list(frame.groupby(["experiment", "plate"], sort=True).indices.values())
