"""The ladder: every post-processing step scored as it is applied, beside what blind guessing would
score at that step.

A step that helps nowhere should not stay, and a step that only looks good because it made the
problem easier (277 classes instead of 1,108) shows by its chance. The same table serves the
out-of-fold predictions and the answers of a simulated test set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from cellsignal.common.tables import aligned
from cellsignal.metrics.accuracy import Accuracy, Figure


@dataclass(frozen=True)
class Step:
    """One rung.

    Attributes:
        name: what was applied, e.g. "plate groups".
        accuracy: after this step and all before it; of a multi-label competition the macro average
        precision. chance: what blind guessing would score at this step, in [0, 1]. note: one
        remark, e.g. the confidence of a choice.
    """

    name: str
    accuracy: Accuracy | Figure
    chance: float
    note: str = ""


def ladder_table(steps: Sequence[Step]) -> pd.DataFrame:
    """Columns step, accuracy, low, high, n, gain (over the step before; NaN at the first), chance,
    note.
    """
    values = [step.accuracy.value for step in steps]
    return pd.DataFrame(
        {
            "step": [step.name for step in steps],
            "accuracy": values,
            "low": [step.accuracy.low for step in steps],
            "high": [step.accuracy.high for step in steps],
            "n": [step.accuracy.total for step in steps],
            "gain": pd.Series(values, dtype=float).diff().to_numpy(),
            "chance": [step.chance for step in steps],
            "note": [step.note for step in steps],
        }
    )


def ladder_text(steps: Sequence[Step]) -> str:
    """The table for a terminal, columns aligned."""
    lines = [("step", score_title(steps), "95 % interval", "n", "gain", "chance", "note")]
    for row in ladder_table(steps).itertuples():
        gain = "" if pd.isna(row.gain) else f"{row.gain:+.4f}"
        interval = f"{row.low:.4f} .. {row.high:.4f}"
        lines.append(
            (
                row.step,
                f"{row.accuracy:.4f}",
                interval,
                f"{row.n:,}",
                gain,
                f"{row.chance:.4f}",
                row.note,
            )
        )
    return aligned(lines, right={1, 3, 4, 5})


def score_title(steps: Sequence[Step]) -> str:
    """What the steps are scored by."""
    return (
        "average precision"
        if any(isinstance(step.accuracy, Figure) for step in steps)
        else "accuracy"
    )
