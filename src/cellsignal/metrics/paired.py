"""Compare two models on the same targets: difference, interval and sign-flip test over units."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.metrics.average_precision import macro_leave_out_scores
from cellsignal.metrics.intervals import (
    EXACT_UNITS,
    FLIPS,
    LEAST_UNITS,
    NO_INTERVAL,
    Units,
    interval_words,
    jackknife_groups,
    jackknife_interval,
    least_p,
    mean_interval,
    plural,
    range_text,
    sign_flip_p,
)


@dataclass(frozen=True)
class Paired:
    """The difference of two models.

    Attributes:
        first, second: their scores.
        difference: first - second.
        low, high: its 95 % interval over units; NaN without one.
        p: of the sign-flip test; NaN without units.
        units: number of units.
        differing: number of units in which the models differ at all.
        total: number of targets.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    units: int
    differing: int
    total: int


def compare_means(first, second, unit) -> Paired:
    """Compare two means over the same rows, such as right predictions.

    Args:
        first, second: (N,) in 0 .. 1.
        unit: (N,) the experiment, plate or compound of each; None if it is not known.

    Raises:
        InputError: a unit is missing.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    change = first - second
    scores = (float(first.mean()), float(second.mean()), float(change.mean()))
    if unit is None:
        return Paired(*scores, *NO_INTERVAL, float("nan"), 0, 0, len(change))
    units = Units.of(unit, len(change))
    parts = np.bincount(units.codes, weights=change)
    ends = mean_interval(change, unit, bounded=False)
    return Paired(*scores, *ends, *_tested(parts), len(change))


def compare_macro(truth, first, second, unit) -> Paired:
    """Compare the macro average precisions of two sets of scores.

    What a unit adds to the difference is its jackknife pseudo-value; for a mean over rows that is
    the sum over its rows.

    Args:
        truth, first, second: (N, K), as `average_precision.macro_average_precision`.
        unit: as in `compare_means`.

    Raises:
        InputError: nothing can be ranked, or a unit is missing.
    """
    rows = np.arange(len(truth))
    known = rows if unit is None else unit
    a, without_a, share = macro_leave_out_scores(truth, first, known)
    b, without_b, _ = macro_leave_out_scores(truth, second, known)
    if unit is None:
        return Paired(a, b, a - b, *NO_INTERVAL, float("nan"), 0, 0, len(rows))
    return _from_jackknife(a, b, without_a - without_b, share, len(rows))


def compare_scores(
    score: Callable[[np.ndarray], tuple[float, float]], unit: np.ndarray, rows: int
) -> Paired:
    """Compare two models by any score, such as a mean over several trainings of each.

    As in `compare_macro` a unit adds its jackknife pseudo-value, here weighed by its rows. For a
    mean over rows this is `compare_means`.

    Args:
        score: rows (M,) -> the scores of both on these rows; raises InputError where there is none.
        unit: (N,) the experiment, plate or compound of each row.
        rows: N.

    Raises:
        InputError: as `score` of all rows, or a unit is missing.
    """
    units = Units.of(unit, rows)
    codes, count = jackknife_groups(units.codes, len(units.size))
    first, second = score(np.arange(rows))
    without = np.full(count, np.nan)
    for code in range(count if count > 1 else 0):
        try:
            a, b = score(np.flatnonzero(codes != code))
        except InputError:
            continue
        without[code] = a - b
    share = np.bincount(codes, minlength=count) / rows
    return _from_jackknife(first, second, without, share, rows)


def _from_jackknife(
    first: float, second: float, without: np.ndarray, share: np.ndarray, rows: int
) -> Paired:
    """Compare two scores from their differences without each unit, (J,); NaN where there is none.

    `share`: (J,) how much of what is scored each unit holds.
    """
    change = first - second
    ends = jackknife_interval(change, without, share, bounded=False)
    influence = (1 - share) * (change - without)
    parts = np.where(np.isfinite(without), share * change + influence, 0.0)
    parts[np.abs(parts) < 1e-12] = 0
    return Paired(first, second, change, *ends, *_tested(parts), rows)


def _tested(parts: np.ndarray) -> tuple[float, int, int]:
    """Return the p-value, the number of units and that of units that differ."""
    return sign_flip_p(parts), len(parts), int((parts != 0).sum())


def paired_text(paired: Paired, names: tuple[str, str], metric: str, unit: str) -> str:
    """Print a comparison.

    Args:
        names: of the two models.
        unit: what the units are, such as "experiment".
    """
    width = max(map(len, (*names, "difference")))
    lines = [
        f"{names[0]:<{width}}  {paired.first:.4f}",
        f"{names[1]:<{width}}  {paired.second:.4f}",
        f"{'difference':<{width}}  {paired.difference:+.4f}  {_interval_words(paired, unit)}",
        "",
        f"{metric} of {paired.total:,} targets that both answer; {sign_flip_words(paired, unit)}",
    ]
    return "\n".join(lines)


def _interval_words(paired: Paired, unit: str) -> str:
    ends = range_text(paired.low, paired.high, sign="+")
    if ends:
        return f"{ends} (95 % interval over {plural(unit, paired.units)})"
    if not paired.units:
        return "(no interval: the answers name no experiment, plate or compound)"
    if paired.units < LEAST_UNITS:
        return f"({interval_words(unit, paired.units)})"
    return f"(no interval: the same in all {plural(unit, paired.units)})"


def sign_flip_words(paired: Paired, unit: str) -> str:
    """Say the p-value, how it was counted, and the least that so many units can give."""
    if not paired.units:
        return "no test without units"
    if not paired.differing:
        return "nothing to test: no unit differs"
    how = f"all {2**paired.differing:,} flips counted"
    if paired.differing > EXACT_UNITS:
        how = f"{FLIPS:,} flips drawn"
    words = f"p = {paired.p:.4f} by sign flips of whole {plural(unit, 2)[2:]} ({how}"
    least = least_p(paired.differing)
    if least > 0.05:
        words += f"; {plural(unit, paired.differing)} cannot give less than {least:.4f}"
    return f"{words})"
