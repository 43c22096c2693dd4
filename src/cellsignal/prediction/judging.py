"""What merged predictions are scored by where the truth is known: accuracy, or macro average
precision with several labels a target.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.competitions.multilabel import answer_classes
from cellsignal.metrics.accuracy import Accuracy, Figure, accuracy
from cellsignal.metrics.average_precision import average_precision_table
from cellsignal.prediction.ensemble import Targets

if TYPE_CHECKING:
    from cellsignal.prediction.submit import Entry

Truth = dict[str, int] | pd.DataFrame  # target_id -> label; or a multi-label competition's answers
Judge = Callable[[Targets], tuple[Accuracy | Figure, float]]
DRAWS = 200  # of the bootstrap, for each rung of a ladder


def judge_of(entry: "Entry", truth: Truth | None = None) -> Judge:
    """What scores targets: the figure with its interval, and what blind guessing would score.

    Args:
        truth: of test targets; None takes what the predictions themselves know (out-of-fold targets
        have it).
    """
    if not entry.competition.multilabel:
        return lambda targets: (
            accuracy(true_labels(targets, truth), targets.scores.argmax(1)),
            1 / targets.scores.shape[1],
        )

    def average_precision(targets: Targets) -> tuple[Figure, float]:
        macro = ranking_table(entry, targets, truth, DRAWS).iloc[0]
        return Figure(macro.average_precision, macro.low, macro.high, int(macro.n)), float(
            macro.prevalence
        )

    return average_precision


def true_labels(targets: Targets, truth: dict[str, int] | None) -> np.ndarray:
    """(T,) the label of each target."""
    return (
        targets.label
        if truth is None
        else np.array([truth[target] for target in targets.target_id])
    )


def ranking_table(
    entry: "Entry", targets: Targets, truth: pd.DataFrame | None, draws: int = 1000
) -> pd.DataFrame:
    """`average_precision_table` of targets; the bootstrap resamples the competition's first fold group
    (compounds), else single targets.
    """
    ids, group = entry.competition.id_column, entry.competition.fold_groups[0]
    if truth is None:
        labels = targets.labels
        known = entry.samples.drop_duplicates("target_id").set_index("target_id")
    else:
        known = truth.set_index(ids)
        labels = known.loc[targets.target_id, list(answer_classes(truth, ids))].to_numpy(
            dtype=float
        )
    clusters = (
        known[group].loc[targets.target_id]
        if group in known.columns
        else pd.Series(targets.target_id)
    )
    return average_precision_table(
        labels, targets.scores, entry.members[0].classes, clusters.to_numpy(dtype=object), draws
    )
