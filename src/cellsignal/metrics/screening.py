"""Compute robust z scores, and how far positive and negative controls of an assay are apart.

A figure that has no value is NaN beside the reason in words; it is never infinite.
"""

import math
from typing import NamedTuple

import numpy as np

# of a normal distribution: SD / median absolute deviation, and SD / mean absolute deviation
SD_OF_MAD, SD_OF_MEAN_DEVIATION = 1.482602218505602, math.sqrt(math.pi / 2)


class Figure(NamedTuple):
    """A figure, or NaN and the reason why there is none."""

    value: float
    reason: str = ""


def robust_z(x, fewest: int = 2) -> tuple[np.ndarray, str]:
    """Return (x - median) / (1.4826 MAD), (N,) float64, and a reason if it is otherwise.

    Where more than half of the values are equal the MAD is 0; then the mean absolute deviation
    takes its place: (x - median) / (1.2533 mean |x - median|), as Iglewicz and Hoaglin advise ("How
    to Detect and Handle Outliers", 1993). Where all values are equal every z is 0.

    Args:
        x: (N,) numbers; what is not finite is left out and has no z.
        fewest: fewer finite values have no z.
    """
    x = np.asarray(x, np.float64)
    finite = np.isfinite(x)
    z = np.full(x.shape, np.nan)
    if finite.sum() < fewest:
        return z, f"{int(finite.sum())} values, at least {fewest} needed"
    distance = x[finite] - np.median(x[finite])
    spread, reason = SD_OF_MAD * np.median(np.abs(distance)), ""
    if spread == 0:
        spread, reason = SD_OF_MEAN_DEVIATION * np.abs(distance).mean(), "MAD is 0: mean deviation"
    z[finite] = distance / spread if spread > 0 else 0.0
    return z, reason if spread > 0 else "all values are equal"


def z_prime(positive, negative) -> Figure:
    """Return the Z'-factor: 1 - 3 (SD+ + SD-) / |mean+ - mean-|, with sample SDs (n - 1).

    Zhang, Chung and Oldenburg, J Biomol Screen 4:67 (1999). 1 is perfect, above .5 an excellent
    assay, below 0 the controls overlap.
    """
    problem, groups = _check_controls(positive, negative)
    if problem:
        return Figure(math.nan, problem)
    means, sds = zip(*map(_mean_sd, groups), strict=True)
    distance = abs(means[0] - means[1])
    if distance == 0:
        return Figure(math.nan, "the means of the controls are equal")
    return Figure(1 - 3 * (sds[0] + sds[1]) / distance)


def ssmd(positive, negative) -> Figure:
    """Return the strictly standardised mean difference of independent groups.

    (mean+ - mean-) / sqrt(SD+^2 + SD-^2), the estimate by moments with sample SDs (n - 1): Zhang,
    Genomics 89:552 (2007). Its sign is that of the effect.
    """
    problem, groups = _check_controls(positive, negative)
    if problem:
        return Figure(math.nan, problem)
    means, sds = zip(*map(_mean_sd, groups), strict=True)
    spread = math.hypot(*sds)
    if spread == 0:
        return Figure(math.nan, "the controls do not vary")
    return Figure((means[0] - means[1]) / spread)


def _mean_sd(values: np.ndarray) -> tuple[float, float]:
    """Return mean and sample SD; of equal values that value and 0, without rounding."""
    if np.ptp(values) == 0:
        return float(values[0]), 0.0
    return float(values.mean()), float(values.std(ddof=1))


def _check_controls(positive, negative) -> tuple[str, list[np.ndarray]]:
    """Return why there is no figure, or "", and the finite values of both groups."""
    groups, problems = [], []
    for name, values in (("positive", positive), ("negative", negative)):
        values = np.asarray(values, np.float64)
        finite = values[np.isfinite(values)]
        groups.append(finite)
        if len(finite) < 2:
            problems.append(f"{len(finite)} {name} controls, at least 2 needed")
    return "; ".join(problems), groups
