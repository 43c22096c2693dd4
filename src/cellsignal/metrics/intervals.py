"""Compute 95 % intervals and paired tests over units: experiments, plates or compounds.

Wells of one experiment share its staining, its cells and its day, so what counts as one draw is the
experiment (or plate, or compound), never the image or the well. One method serves every number of
units; `cellsignal study coverage` measures how often it holds the truth (docs/statistics.md):

- the spread of the units' own scores around the whole, each weighed by its wells, with the bias
  correction CR2 of Bell and McCaffrey (Survey Methodology 28, 2002);
- Student's quantile for their degrees of freedom: J - 1 for J units of one size, less where few
  units hold most of the wells;
- scores in 0 .. 1 on the scale log(p / (1 - p)), so that no end lies outside;
- the end on the side of the outlying units is moved out by Johnson's correction for skewness (JASA
  73, 1978), by half of it where the scale has taken skewness out; the other is not moved in.

Fewer than `LEAST_UNITS` units have no interval. The percentile bootstrap over units holds the truth
too seldom with few units, and stands in docs/results/coverage.md for comparison alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.metrics.accuracy import wilson_interval

LEVEL = 0.95
LEAST_UNITS = 3
SKEWNESS_PART = {True: 0.5, False: 1.0}  # of Johnson's correction: bounded scores, differences
MOST_GROUPS = 400  # of a jackknife: more units are dealt to so many groups
EXACT_UNITS = 12  # up to so many units all sign flips are counted
FLIPS = 20_000  # else so many are drawn
NO_INTERVAL = (math.nan, math.nan)


@dataclass(frozen=True)
class Units:
    """The units of N rows.

    Attributes:
        codes: (N,) int, the unit of each row.
        size: (J,) number of rows of each unit.
    """

    codes: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, unit, rows: int) -> "Units":
        """Number the units of rows.

        Raises:
            InputError: another number of rows, or a row's unit is missing (NaN or None).
        """
        codes, names = pd.factorize(np.asarray(unit))
        if len(codes) != rows:
            raise InputError(f"{rows} outcomes but {len(codes)} units")
        if (codes < 0).any():
            raise InputError(f"the unit of outcome {int(np.argmax(codes < 0))} is missing")
        return cls(codes, np.bincount(codes, minlength=len(names)))

    @property
    def share(self) -> np.ndarray:
        """(J,) the share of the rows that each unit holds."""
        return self.size / self.size.sum()


def mean_interval(values, unit, *, bounded: bool = True) -> tuple[float, float]:
    """Return the 95 % interval of a mean over rows, for another draw of units.

    Args:
        values: (N,) such as whether each prediction is right, or the difference of two models.
        unit: (N,) the experiment, plate or compound of each row.
        bounded: the values lie in 0 .. 1; False for differences.

    Returns:
        (low, high); NaN with fewer than `LEAST_UNITS` units, or where differences are the same in
        every unit, which says nothing about other units.

    Raises:
        InputError: as `Units.of`, or a bounded value outside 0 .. 1.
    """
    values = np.asarray(values, dtype=float)
    units = Units.of(unit, len(values))
    if bounded and len(values) and not -1e-9 <= values.min() <= values.max() <= 1 + 1e-9:
        raise InputError(f"values of {values.min():g} .. {values.max():g} do not lie in 0 .. 1")
    if len(units.size) < LEAST_UNITS:
        return NO_INTERVAL
    means = np.bincount(units.codes, weights=values) / units.size
    value = float(means @ units.share)
    return influence_interval(value, units.share * (means - value), units.share, bounded=bounded)


def jackknife_interval(
    value: float, without: np.ndarray, share: np.ndarray, *, bounded: bool = True
) -> tuple[float, float]:
    """Return the 95 % interval of any score, from the scores without each unit.

    For a mean it is `mean_interval`.

    Args:
        value: the score of all rows.
        without: (J,) the score without each unit; NaN where there is none.
        share: (J,) how much of what is scored each unit holds; sums to 1.
    """
    known = np.isfinite(without)
    if not np.isfinite(value) or (known & (share > 0)).sum() < LEAST_UNITS:
        return NO_INTERVAL
    share = np.where(known, share, 0)
    influence = np.where(known, (1 - share) * (value - without), 0.0)
    return influence_interval(value, influence, share / share.sum(), bounded=bounded)


def influence_interval(
    value: float, influence: np.ndarray, share: np.ndarray, *, bounded: bool
) -> tuple[float, float]:
    """Return the 95 % interval of a score from what each unit adds to its deviation.

    Args:
        influence: (J,) share x (score of the unit - score of all), for a mean.
        share: (J,) below 1, sums to 1.
    """
    from scipy.special import stdtrit

    variance = float((influence**2 / (1 - share)).sum())
    if variance < 1e-24:  # no unit differs from another but by rounding
        n_units = int((share > 0).sum())
        inside = round(min(max(value, 0.0), 1.0), 12)
        return wilson_interval(inside * n_units, n_units) if bounded else NO_INTERVAL
    quantile = float(stdtrit(degrees_of_freedom(share), 0.5 + LEVEL / 2))
    error = math.sqrt(variance)
    skewness = float((influence**3).sum() / (influence**2).sum() ** 1.5)
    shift = SKEWNESS_PART[bounded] * skewness * (1 / 6 + quantile**2 / 3)
    ends = quantile + max(-shift, 0.0), -quantile - max(shift, 0.0)
    if not bounded:
        return value - error * ends[0], value - error * ends[1]
    if not 0 < value < 1:
        return NO_INTERVAL
    centre, error = math.log(value / (1 - value)), error / (value * (1 - value))
    low, high = (1 / (1 + math.exp(min(error * end - centre, 700))) for end in ends)
    return low, high


def degrees_of_freedom(share: np.ndarray) -> float:
    """Return Bell and McCaffrey's degrees of freedom of a mean over units: J - 1 if equal."""
    ratio = share / (1 - share)
    part = share * ratio
    return 1 / float((ratio**2).sum() - 2 * (ratio * part).sum() + part.sum() ** 2)


def jackknife_groups(codes: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, int]:
    """Deal units to at most `MOST_GROUPS` groups, which are left out in turn in their place.

    Returns:
        (N,) the group of each row, and the number of groups.
    """
    if count <= MOST_GROUPS:
        return codes, count
    order = np.random.default_rng(seed).permutation(count)
    return (order % MOST_GROUPS)[codes], MOST_GROUPS


def sign_flip_p(parts, seed: int = 0) -> float:
    """Return the p-value of a paired difference by flipping the signs of whole units.

    Were two models equally good, the difference of each unit could as well be the other way round.
    Two-sided; the flips that give as large a sum, of all 2^J up to `EXACT_UNITS` units, else of
    `FLIPS` drawn ones and the data themselves.

    Args:
        parts: (J,) the sum of the differences of each unit.
    """
    parts = np.asarray(parts, dtype=float)
    parts = parts[parts != 0]  # a flip of nothing changes nothing
    if not len(parts):
        return 1.0
    least = abs(parts.sum()) - 1e-9 * np.abs(parts).sum()
    if len(parts) <= EXACT_UNITS:
        signs = 1 - 2 * ((np.arange(2 ** len(parts))[:, None] >> np.arange(len(parts))) & 1)
        return float((np.abs(signs @ parts) >= least).mean())
    generator, extreme, block = np.random.default_rng(seed), 1, 2_000
    for _ in range(FLIPS // block):
        signs = generator.integers(0, 2, (block, len(parts)), dtype=np.int8) * 2.0 - 1
        extreme += int((np.abs(signs @ parts) >= least).sum())
    return extreme / (FLIPS + 1)


def least_p(units: int) -> float:
    """Return the smallest p-value that sign flips of so many units can give."""
    return 2.0 ** (1 - units) if units <= EXACT_UNITS else 1 / (FLIPS + 1)


def plural(unit: str, count: int) -> str:
    """Write a number of units, such as "18 experiments" or "1 library"."""
    if count != 1:
        unit = f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
    return f"{count:,} {unit.replace('_', ' ')}"


def interval_words(unit: str, count: int) -> str:
    """Say what an interval is over: "95 % interval over 18 experiments", or why there is none."""
    if count < LEAST_UNITS:
        return f"no interval: {plural(unit, count)}, {LEAST_UNITS} are needed"
    return f"95 % interval over {plural(unit, count)}"


def range_text(low: float, high: float, digits: int = 4, sign: str = "") -> str:
    """Write an interval such as "0.1234 .. 0.2345"; "" if there is none."""
    return "" if math.isnan(low) else f"{low:{sign}.{digits}f} .. {high:{sign}.{digits}f}"


def jackknife(score: Callable[[np.ndarray], float], unit, rows: int) -> tuple[float, np.ndarray]:
    """Return a score of all rows, and without each unit (NaN where it cannot be scored).

    Args:
        score: rows (M,) -> score; raises InputError where it has none.
        unit: (N,) the unit of each row.
        rows: N.
    """
    units = Units.of(unit, rows)
    codes, count = jackknife_groups(units.codes, len(units.size))
    without = np.full(count, np.nan)
    for code in range(count):
        try:
            without[code] = score(np.flatnonzero(codes != code))
        except InputError:
            continue
    return score(np.arange(rows)), without
