"""Fit a temperature and test it on other experiments: is a probability of .8 right 8 times of 10?

A temperature divides the scores before they become probabilities (Guo et al., ICML 2017). It is
fitted on one half of the units (experiments, compounds) and tested on the other, both ways round,
so no row is fitted and tested on. Where several classes may be true, each class of a row is a
yes-or-no question of its own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned
from cellsignal.metrics.intervals import Units, plural

BINS = 15  # of equal width
LEAST, MOST = 0.02, 50.0  # temperatures
FLOOR = 1e-30  # the probability that merging gives the impossible, too
FLOOR_DRAWS = 200
_ROWS = 4096  # whose probabilities are in memory at a time

# (rows, temperature) -> probabilities (n, K)
Predict = Callable[[np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Fitted:
    """What was fitted on some rows.

    Attributes:
        temperatures: of the scores; then, where there is one, of the probabilities made of them.
        predict: rows -> probabilities (n, K).
    """

    temperatures: tuple[float, ...]
    predict: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Reliability:
    """How far probabilities can be believed; all tested on rows that were not fitted on.

    Attributes:
        temperatures: fitted on the one half and on the other, one or two each.
        log_loss_before, log_loss: mean negative log-likelihood at temperature 1 and the fitted one.
        error_before, error: expected calibration error, both as means of the two directions.
        floor: the error that probabilities without fault would show with so many rows.
        table: columns low, high, n, probability (mean), right (share), one row a bin.
        units, rows: numbers of what was tested.
    """

    temperatures: tuple[tuple[float, ...], tuple[float, ...]]
    log_loss_before: float
    log_loss: float
    error_before: float
    error: float
    floor: float
    table: pd.DataFrame
    units: int
    rows: int


def log_loss(probability: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean negative log-likelihood, natural logs.

    Args:
        probability: (N, K).
        truth: (N,) int labels; or (N, K) of 1, 0 and NaN, which is left out.
    """
    return _mean_loss(_of_truth(probability, truth))


def _mean_loss(of_truth: np.ndarray) -> float:
    return float(-np.log(np.maximum(of_truth, FLOOR)).mean())


def _of_truth(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the probability of what is true, one number a row or a known class."""
    if truth.ndim == 1:
        return probability[np.arange(len(truth)), truth]
    return np.where(truth == 1, probability, 1 - probability)[~np.isnan(truth)]


def claims(probability: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the stated probabilities and whether they came true.

    Of one label a row: the largest probability. Of several: the probability of every known class.
    """
    if truth.ndim == 1:
        best = probability.argmax(axis=1)
        return probability[np.arange(len(best)), best], best == truth
    known = ~np.isnan(truth)
    return probability[known], truth[known] == 1


def reliability_bins(stated: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """Return columns low, high, n, probability and right of the bins that hold anything."""
    bin_of = np.minimum((np.asarray(stated) * BINS).astype(int), BINS - 1)
    count = np.bincount(bin_of, minlength=BINS)
    some = count > 0
    means = [
        np.bincount(bin_of, weights=values, minlength=BINS)[some] / count[some]
        for values in (stated, right)
    ]
    edge = np.arange(BINS)[some]
    columns = {"low": edge / BINS, "high": (edge + 1) / BINS, "n": count[some]}
    return pd.DataFrame(columns | {"probability": means[0], "right": means[1]})


def calibration_error(stated: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error: mean |share right - mean probability| over bins."""
    table = reliability_bins(stated, right)
    return float(((table.right - table.probability).abs() * table.n).sum() / table.n.sum())


def fit_temperature(predict: Predict, truth: np.ndarray, rows: np.ndarray) -> float:
    """Return the temperature of the least log loss on some rows; see `fit_by_truth`."""

    def of_truth(temperature: float) -> np.ndarray:
        stated = [_of_truth(predict(part, temperature), truth[part]) for part in consecutive(rows)]
        return np.concatenate(stated)

    return fit_by_truth(of_truth, len(rows))


def fit_by_truth(of_truth: Callable[[float], np.ndarray], rows: int) -> float:
    """Return the temperature of the least log loss.

    The loss has a weak prior, log temperature ~ N(0, 1): where all few rows are right, the least
    loss alone would claim certainty.

    Args:
        of_truth: temperature -> the probabilities of what is true.
        rows: how many there are.

    Raises:
        InputError: no row.
    """
    from scipy.optimize import minimize_scalar

    if not rows:
        raise InputError("temperature: no out-of-fold prediction with a known label to fit it on")

    def penalized(log_temperature: float) -> float:
        loss = _mean_loss(of_truth(math.exp(log_temperature)))
        return loss + log_temperature**2 / (2 * rows)

    bounds = (math.log(LEAST), math.log(MOST))
    return math.exp(minimize_scalar(penalized, bounds=bounds, options={"xatol": 0.01}).x)


def consecutive(rows: np.ndarray) -> list[np.ndarray]:
    """Split rows into pieces of which one at a time is in memory."""
    return np.split(rows, range(_ROWS, len(rows), _ROWS))


def split_units(unit, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into two halves of whole units, of much the same size.

    Units are shuffled, then each goes to the smaller half, the largest first.

    Raises:
        InputError: there is one unit alone.
    """
    units = Units.of(unit, len(unit))
    count = len(units.size)
    if count < 2:
        raise InputError("temperature: all rows are of one unit, so there is no other half")
    order = np.random.default_rng(seed).permutation(count)
    order = order[np.argsort(-units.size[order], kind="stable")]
    half, total = np.zeros(count, int), [0, 0]
    for number in order:
        half[number] = int(total[1] < total[0])
        total[half[number]] += units.size[number]
    of_row = half[units.codes]
    return np.flatnonzero(of_row == 0), np.flatnonzero(of_row == 1)


def cross_fit(
    fit: Callable[[np.ndarray], Fitted],
    as_predicted: Callable[[np.ndarray], np.ndarray],
    truth: np.ndarray,
    unit,
    seed: int = 0,
    pieces: Callable[[np.ndarray], Sequence[np.ndarray]] = lambda rows: [rows],
) -> Reliability:
    """Fit on each half of the units and test on the other.

    Args:
        fit: rows -> what is fitted on them.
        as_predicted: rows -> probabilities (n, K) of no fit, for comparison.
        truth: (N,) int, or (N, K) of 1, 0 and NaN.
        unit: (N,) the experiment or compound of each.
        pieces: rows -> the same in order, in pieces that can be predicted one by one.

    Raises:
        InputError: one unit alone.
    """
    halves = split_units(unit, seed)
    temperatures, losses, errors, stated, right = [], [], [], [], []
    for fitted_rows, tested in (halves, halves[::-1]):
        fitted = fit(fitted_rows)
        temperatures.append(fitted.temperatures)
        results = [
            _test(predict, truth, pieces(tested)) for predict in (as_predicted, fitted.predict)
        ]
        pairs = [pair for _, pair in results]
        losses.append([loss for loss, _ in results])
        errors.append([calibration_error(*pair) for pair in pairs])
        stated.append(pairs[1][0])
        right.append(pairs[1][1])
    floor = np.mean([faultless_error(values, seed) for values in stated])
    table = reliability_bins(np.concatenate(stated), np.concatenate(right))
    return Reliability(
        (temperatures[0], temperatures[1]),
        *np.mean(losses, axis=0).tolist(),
        *np.mean(errors, axis=0).tolist(),
        float(floor),
        table,
        len(pd.unique(np.asarray(unit))),
        len(truth),
    )


def _test(
    predict: Callable[[np.ndarray], np.ndarray], truth: np.ndarray, pieces: Sequence[np.ndarray]
) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """Return the log loss and the `claims` of predictions, made piece by piece."""
    of_truth, stated, right = [], [], []
    for rows in pieces:
        values = predict(rows)
        of_truth.append(_of_truth(values, truth[rows]))
        for collected, of_piece in zip((stated, right), claims(values, truth[rows]), strict=True):
            collected.append(of_piece)
        del values  # before the next: both would be large
    loss = _mean_loss(np.concatenate(of_truth))
    return loss, (np.concatenate(stated), np.concatenate(right))


def faultless_error(stated: np.ndarray, seed: int = 0) -> float:
    """Return the mean calibration error of outcomes that are drawn with the stated chances."""
    rng = np.random.default_rng(seed)
    draws = (rng.random(len(stated)) < stated for _ in range(FLOOR_DRAWS))
    return float(np.mean([calibration_error(stated, right) for right in draws]))


def temperatures_text(temperatures: tuple[float, ...]) -> str:
    """Write one or two temperatures: "1.234" or "1.234 then 0.950"."""
    return " then ".join(f"{value:.3f}" for value in temperatures)


def sharpened(
    probability: np.ndarray, temperature: float, out: np.ndarray | None = None
) -> np.ndarray:
    """Divide the logs of (N, K) probabilities by a temperature; rows sum to 1 again.

    Args:
        out: what is returned; may be `probability`, which is then overwritten.
    """
    sharp = np.empty_like(probability) if out is None else out
    for start in range(0, len(probability), _ROWS):
        part = slice(start, start + _ROWS)
        values = np.log(np.maximum(probability[part], FLOOR)) / temperature
        values = np.exp(values - values.max(axis=1, keepdims=True))
        sharp[part] = values / values.sum(axis=1, keepdims=True)
    return sharp


def reliability_text(result: Reliability, unit: str, what: str) -> str:
    """Print the figures and the bins.

    Args:
        unit: what the units are, such as "experiment".
        what: what the probabilities are of.
    """
    lines = [("", "temperature", "log loss", "calibration error")]
    lines.append(
        ("as predicted", "1", f"{result.log_loss_before:.4f}", f"{result.error_before:.4f}")
    )
    fitted = ", ".join(map(temperatures_text, result.temperatures))
    lines.append(("fitted", fitted, f"{result.log_loss:.4f}", f"{result.error:.4f}"))
    lines.append(("without fault", "", "", f"{result.floor:.4f}"))
    bins = [("probability", "n", "mean", "right")]
    for row in result.table.itertuples():
        span = f"{row.low:.2f} .. {row.high:.2f}"
        bins.append((span, f"{row.n:,}", f"{row.probability:.3f}", f"{row.right:.3f}"))
    note = (
        f"{what}; fitted on half of the {plural(unit, result.units)}, tested on the other half, "
        f"both ways: {result.rows:,} targets"
    )
    return "\n\n".join([aligned(lines, right={2, 3}), aligned(bins, right={1, 2, 3}), note])
