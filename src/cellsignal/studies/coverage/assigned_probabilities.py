"""Measure whether probabilities after plate assignment come true, on simulated plates.

Logits are normal noise and a signal on the true class, so their softmax is the true posterior of a
well alone. "shared errors" adds to each class of a plate what all its wells share, which makes the
wells' likelihoods depend on each other as in real plates.
"""

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax

from cellsignal.metrics.reliability import (
    calibration_error,
    faultless_error,
    fit_temperature,
    sharpened,
)
from cellsignal.prediction.plate_layout.assignment import soften
from cellsignal.prediction.plate_layout.marginals import marginals

# wells (and classes) of a plate, signal, SD of what the wells of a plate share, plates
PLATES = (
    (280, 2.0, 0.0, 8),
    (280, 2.75, 0.0, 8),
    (280, 3.5, 0.0, 8),
    (280, 3.5, 1.0, 8),
    (20, 2.0, 0.0, 60),
    (20, 2.5, 0.0, 60),
    (20, 2.5, 1.0, 60),
)
COLUMNS = (
    *("wells a plate", "signal", "shared errors", "right", "floor"),
    *("softmax", "error of softmax", "Sinkhorn", "error of Sinkhorn"),
    *("propagation", "error of propagation", "fitted", "error of fitted"),
)


def draw_plates(wells: int, signal: float, shared: float, plates: int, rng) -> list[np.ndarray]:
    """Draw the (wells, wells) logits of plates; well i is of class i."""
    drawn = []
    for _ in range(plates):
        noise = rng.normal(size=(wells, wells)) + shared * rng.normal(size=wells)
        drawn.append(signal * (noise + signal * np.eye(wells)))
    return drawn


def assigned_probabilities(seed: int = 0) -> pd.DataFrame:
    """Return the columns `COLUMNS`, one row a kind of plates.

    right is the share of labels that are right; softmax, Sinkhorn, propagation and fitted are the
    mean probabilities that each way states for these labels. "fitted" divides the logs of
    propagation's by a temperature that other plates gave.
    """
    rows = []
    for number, (wells, signal, shared, plates) in enumerate(PLATES):
        rng = np.random.default_rng([seed, number])
        other, tested = (draw_plates(wells, signal, shared, plates, rng) for _ in range(2))
        truth = np.tile(np.arange(wells), plates)
        labels = np.concatenate([linear_sum_assignment(z, maximize=True)[1] for z in tested])
        right = labels == truth
        every = np.arange(len(truth))
        first = fit_temperature(_plain(other), truth, every)
        spread = np.vstack([marginals(z / first) for z in other])
        second = fit_temperature(lambda r, t, p=spread: sharpened(p[r], t), truth, every)
        propagated = np.vstack([marginals(z / first) for z in tested])
        ways = [
            _plain(tested)(every, first),
            np.vstack([_sinkhorn(z, first) for z in tested]),
            propagated,
            sharpened(propagated, second),
        ]
        stated = [way[every, labels] for way in ways]
        figures = [f for p in stated for f in (p.mean(), calibration_error(p, right))]
        floor = faultless_error(stated[-1], seed)
        rows.append((wells, signal, shared, right.mean(), floor, *figures))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _plain(plates: list[np.ndarray]):
    logits = np.vstack(plates)
    return lambda rows, temperature: softmax(logits[rows] / temperature, axis=1)


def _sinkhorn(logits: np.ndarray, temperature: float) -> np.ndarray:
    names = ["P"] * len(logits)
    group = np.zeros(len(logits), int)
    return np.exp(soften(logits, names, names, group, {("P", "P"): 0}, temperature))
