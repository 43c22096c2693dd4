"""Score the predictions after each post-processing step, beside chance at that step.

A step that helps nowhere should not stay, and a step that only looks good because it made the
problem easier (277 classes instead of 1,108) shows by its chance. The same table serves the
out-of-fold predictions and the answers of a simulated test set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from cellsignal.common.tables import aligned
from cellsignal.metrics.accuracy import Score
from cellsignal.metrics.intervals import interval_words, range_text


@dataclass(frozen=True)
class Step:
    """One step of post-processing.

    Attributes:
        name: what was applied, such as "plate groups".
        score: after this step and all before it.
        chance: what blind guessing would score at this step.
        note: one remark, such as how sure a choice is.
    """

    name: str
    score: Score
    chance: float
    note: str = ""


def ladder_table(steps: Sequence[Step]) -> pd.DataFrame:
    """Return columns step, score, low, high, n, gain, chance, note.

    The gain is over the step before, NaN at the first.
    """
    columns = ["step", "score", "low", "high", "n", "chance", "note"]
    rows = [
        (s.name, s.score.value, s.score.low, s.score.high, s.score.total, s.chance, s.note)
        for s in steps
    ]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(5, "gain", table.score.astype(float).diff())
    return table


def ladder_text(steps: Sequence[Step]) -> str:
    """Print the steps as an aligned table."""
    lines = [("step", metric_of(steps), "95 % interval", "n", "gain", "chance", "note")]
    for row in ladder_table(steps).itertuples():
        gain = "" if pd.isna(row.gain) else f"{row.gain:+.4f}"
        interval = range_text(row.low, row.high)
        chance = f"{row.chance:.4f}"
        lines.append((row.step, f"{row.score:.4f}", interval, f"{row.n:,}", gain, chance, row.note))
    return "\n".join([aligned(lines, right={1, 3, 4, 5}), *_over(steps)])


def _over(steps: Sequence[Step]) -> list[str]:
    """Say in a line what the intervals are over."""
    if not steps:
        return []
    score = steps[-1].score
    if not score.unit:
        return ["Wilson's intervals: they take targets as independent; wells of a plate are not"]
    return [interval_words(score.unit, score.units)]


def metric_of(steps: Sequence[Step]) -> str:
    """Name the metric of the steps."""
    return steps[0].score.metric if steps else "score"
