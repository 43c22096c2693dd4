"""Intervals of score tables, over the unit that a competition names."""

import numpy as np
import pandas as pd

from cellsignal.competitions.targets import AnyCompetition
from cellsignal.metrics.intervals import LEAST_UNITS, NO_INTERVAL, mean_interval, plural


class OverUnits:
    """The part of a task that names the unit of its intervals."""

    competition: AnyCompetition

    def resampled_column(self, answers: pd.DataFrame) -> str:
        """Name the unit of intervals: a fold group, else experiments or plates; never a well.

        A column with a missing value names no unit. Answers that name none give the column of the
        ids: there is then no interval.
        """
        groups = [name for name in self.competition.fold_groups if name != "well_id"]
        columns = (*groups, "experiment", "plate")
        known = [name for name in columns if name in answers and answers[name].notna().all()]
        return known[0] if known else self.competition.id_column

    def units_of(self, answers: pd.DataFrame) -> tuple[np.ndarray, str]:
        """Return the unit of each answer, and what the units are; "" if each answer is one."""
        unit = self.resampled_column(answers)
        return answers[unit].to_numpy(object), "" if unit == self.competition.id_column else unit


def unit_interval(
    values: np.ndarray, unit: str, units: np.ndarray, id_column: str
) -> tuple[float, float, str, int]:
    """Return the interval of a mean over units, the unit, and their number.

    Args:
        values: (N,) in 0 .. 1.
        unit: of `Task.resampled_column`; with `id_column` there is no interval.
        units: (N,) the unit of each value.
    """
    if unit == id_column:
        return *NO_INTERVAL, unit, 0
    return *mean_interval(values, units), unit, len(pd.unique(units))


def over_text(unit: str, count: int) -> str:
    """Write a number of units for a table; "" where the unit is the id."""
    return plural(unit, count) if count else ""


def interval_note(table: pd.DataFrame) -> str:
    """Say below a score table what its intervals are over."""
    unit, count = table.unit.iloc[0], int(table.units.iloc[0])
    if not count:
        return "no interval: the answers name no experiment, plate or compound"
    names = plural(unit, 2)[2:]
    return f"95 % intervals over {names}; none with fewer than {LEAST_UNITS} of them"
