"""Measure what leaving wells out does to an out-of-fold score of the same predictions."""

from typing import NamedTuple

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned
from cellsignal.competitions.targets import Targets, subset
from cellsignal.competitions.task import Task
from cellsignal.metrics.intervals import Units, jackknife_interval


class Effect(NamedTuple):
    """Scores of the same predictions on all targets, on the kept and on the left-out ones.

    Attributes:
        every, kept, difference: score and the ends of its 95 % interval over clusters; the
            difference is kept - every.
        left_out: the score of those left out; NaN where they cannot be scored.
        counts: number of all, of the kept, of the clusters.
    """

    every: tuple[float, float, float]
    kept: tuple[float, float, float]
    difference: tuple[float, float, float]
    left_out: float
    counts: tuple[int, int, int]


def exclusion_effect(
    task: Task, targets: Targets, left_out: np.ndarray, cluster: np.ndarray
) -> Effect:
    """Score predictions with and without some targets.

    The intervals are over units, from the scores without each unit (`metrics.intervals`): both sets
    lose the same unit, so that the interval of the difference is a paired one.

    Args:
        targets: out-of-fold predictions that know their truth.
        left_out: (T,) bool.
        cluster: (T,) the unit of each: the group that folds do not split.

    Raises:
        InputError: nothing or everything is left out.
    """
    if not left_out.any() or left_out.all():
        what = "all" if left_out.any() else "none"
        raise InputError(f"--effect: {what} of the {len(left_out)} out-of-fold targets are listed")

    def score(rows: np.ndarray) -> float:
        if not rows.any():
            return np.nan
        try:
            return task.point_score(subset(targets, np.flatnonzero(rows)))
        except InputError:
            return np.nan

    units = Units.of(cluster, len(left_out))
    every, kept = np.ones(len(left_out), bool), ~left_out
    scores = np.array([score(every), score(kept)])
    parts = [units.codes != code for code in range(len(units.size))]
    without = np.array([[score(part), score(kept & part)] for part in parts])
    share = np.bincount(units.codes, weights=kept) / kept.sum()
    ends = (
        jackknife_interval(scores[0], without[:, 0], units.share),
        jackknife_interval(scores[1], without[:, 1], share),
        jackknife_interval(
            scores[1] - scores[0], without[:, 1] - without[:, 0], units.share, bounded=False
        ),
    )
    values = (scores[0], scores[1], scores[1] - scores[0])
    figures = [(float(value), *end) for value, end in zip(values, ends, strict=True)]
    sizes = len(every), int(kept.sum()), len(units.size)
    return Effect(*figures, score(left_out), sizes)


def effect_text(effect: Effect, group: str) -> str:
    """Write the scores beside each other, and what they do not show."""
    n, kept, clusters = effect.counts
    lines = [("out of fold", "targets", "score", f"95 % over {clusters} {group}s")]
    rows = (
        ("all", n, effect.every),
        ("without the listed wells", kept, effect.kept),
        ("difference, paired", "", effect.difference),
    )
    for name, count, (value, low, high) in rows:
        sign = "+" if name.startswith("difference") else ""
        interval = "" if np.isnan(low) else f"{low:{sign}.4f} .. {high:{sign}.4f}"
        lines.append((name, f"{count:,}" if count else "", f"{value:{sign}.4f}", interval))
    if np.isfinite(effect.left_out):
        lines.append(("the listed wells alone", f"{n - kept:,}", f"{effect.left_out:.4f}", ""))
    note = (
        "The same predictions, by models that were trained WITH the listed wells: this is what "
        "they do to the score,\nnot what training without them would give. For that set "
        "data.exclude and train a run of another name."
    )
    return f"{aligned(lines, right={1, 2})}\n{note}"
