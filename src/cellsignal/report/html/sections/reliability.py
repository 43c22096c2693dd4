"""Reliability: how often predictions of a stated probability are right."""

import numpy as np

from cellsignal.metrics.accuracy import wilson_interval
from cellsignal.report.figure_style import BLUE, MUTED
from cellsignal.report.html.drawing import plot
from cellsignal.report.html.outcomes import Outcome
from cellsignal.report.html.page import choices, figure, paragraph
from cellsignal.report.html.view import RunView

BINS = 10
LEAST = 5  # predictions of a bin that is drawn


def reliability(view: RunView) -> str:
    """Return the reliability diagram of each part."""
    parts = [(outcome.name, _of_part(outcome)) for outcome in view.outcomes.values()]
    note = (
        "Points on the dashed line: of the wells that are given a probability of 0.7, seven in "
        "ten are right. Below it the run is surer than it should be. Probabilities are those of "
        "the merged predictions, before the plate layout is used, and not recalibrated."
    )
    return choices(parts) + paragraph(note)


def confidence_of(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Return stated probabilities and whether they came true, both (N,).

    Of one label each, the highest probability of a target; of several, that of every known label.
    """
    probability = outcome.probabilities()
    if outcome.predicted is None:
        known = np.isfinite(outcome.truth.values)
        return probability[known], outcome.truth.values[known] > 0.5
    return probability.max(axis=1), probability.argmax(axis=1) == outcome.truth.values


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error: |stated - true| over bins, weighed by their size."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    size = np.bincount(place, minlength=bins)
    stated = np.bincount(place, weights=confidence, minlength=bins)
    true = np.bincount(place, weights=right, minlength=bins)
    return float(np.abs(stated - true).sum() / size.sum())


def _of_part(outcome: Outcome) -> str:
    confidence, right = confidence_of(outcome)
    error = calibration_error(confidence, right)
    pictures: list[bytes] = []
    with plot(5.2, 5.6, pictures) as figure_:
        _draw(figure_, confidence, right, f"Calibration error {error:.3f}")
    mean, share = confidence.mean(), right.mean()
    which = "surer than it should be" if mean > share else "less sure than it could be"
    text = f"mean stated probability {mean:.3f}, share that is right {share:.3f} ({which})"
    alt = f"Reliability diagram, {outcome.name}: {text}; expected calibration error {error:.3f}."
    return figure(pictures[0], alt, f"{text[0].upper()}{text[1:]}; n = {len(right):,}.", width=560)


def _draw(figure_, confidence: np.ndarray, right: np.ndarray, title: str) -> None:
    axis, below = figure_.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    axis.plot([0, 1], [0, 1], color=MUTED, lw=1, dashes=(3, 3))
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    points = []
    for number in range(BINS):
        inside = place == number
        if inside.sum() >= LEAST:
            low, high = wilson_interval(int(right[inside].sum()), int(inside.sum()))
            points.append((confidence[inside].mean(), right[inside].mean(), low, high))
    if points:
        stated, true, low, high = np.array(points).T
        axis.vlines(stated, low, high, color=BLUE, alpha=0.4, lw=4)
        axis.plot(stated, true, "o-", color=BLUE, ms=6, lw=1.2)
    axis.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="share that is right", title=title)
    axis.grid()
    below.hist(confidence, bins=np.linspace(0, 1, BINS + 1), color=BLUE, alpha=0.6, ec="white")
    below.set(xlabel="stated probability", ylabel="count")
