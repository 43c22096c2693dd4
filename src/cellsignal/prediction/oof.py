"""How good a run is on what it did not train on: each seed by itself, their mean, and the seeds
merged.

Two units: the target (what a submission names) and the well (its targets pooled). Wilson's interval
takes units as independent; the clustered one resamples whole fold groups (experiments, compounds)
and is the one to quote for new experiments or compounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.common.tables import aligned
from cellsignal.metrics.accuracy import Accuracy, clustered_interval
from cellsignal.metrics.average_precision import average_precision_text
from cellsignal.prediction.container import Predictions
from cellsignal.prediction.ensemble import Targets
from cellsignal.prediction.judging import ranking_table
from cellsignal.prediction.submit import Entry


@dataclass(frozen=True)
class OutOfFold:
    """One row of the table: a run, or all of them merged; by target or by well."""

    run: str
    unit: str
    accuracy: Accuracy
    cluster_low: float
    cluster_high: float


def out_of_fold(entry: Entry, groups: pd.Series) -> list[OutOfFold]:
    """Out-of-fold accuracy of every run of an entry and, where there are several, of all merged.

    Args:
        groups: target_id -> the fold group (experiment, compound), the cluster of the bootstrap.
    """
    sets: list[tuple[str, list[Predictions]]] = [(run, entry.final(run)) for run in entry.runs]
    if len(sets) > 1:
        sets.append((f"all {len(sets)} merged", entry.final()))
    rows = []
    for name, members in sets:
        for unit in ("target", "well"):
            targets = entry.merge(members, "oof", pool=unit)
            correct, cluster = _units(targets, unit, groups)
            low, high = clustered_interval(correct, cluster, seed=0)
            rows.append(
                OutOfFold(name, unit, Accuracy.of(int(correct.sum()), len(correct)), low, high)
            )
    return rows


def out_of_fold_ranking(entry: Entry, top: int = 20) -> str:
    """Of a multi-label competition: every run's macro average precision, then the table of the
    classes of all merged.

    The interval resamples the competition's first fold group (compounds).
    """
    runs: list[tuple[str, list[Predictions]]] = [(run, entry.final(run)) for run in entry.runs]
    lines = [("run", "average precision", "95 % interval", "prevalence", "ROC AUC", "targets")]
    for name, members in runs if len(runs) > 1 else ():
        macro = ranking_table(entry, entry.merge(members, "oof"), None).iloc[0]
        lines.append(
            (
                name,
                f"{macro.average_precision:.4f}",
                f"{macro.low:.3f} .. {macro.high:.3f}",
                f"{macro.prevalence:.4f}",
                f"{macro.roc_auc:.4f}",
                f"{macro.n:,}",
            )
        )
    merged = average_precision_text(
        ranking_table(entry, entry.merge(entry.final(), "oof"), None), top
    )
    title = f"all {len(runs)} merged" if len(runs) > 1 else runs[0][0]
    return "\n\n".join(
        [
            *([aligned(lines, right={1, 3, 4, 5})] if len(lines) > 1 else []),
            f"{title}, by class\n\n{merged}",
        ]
    )


def _units(targets: Targets, unit: str, groups: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """(U,) bool right or wrong and (U,) cluster of each unit; a well counts once."""
    correct = targets.scores.argmax(1) == targets.label
    cluster = groups.loc[targets.target_id].to_numpy()
    if unit == "target":
        return correct, cluster
    _, first = np.unique(targets.well_id, return_index=True)
    return correct[first], cluster[first]


def out_of_fold_text(rows: Sequence[OutOfFold]) -> str:
    """The table for a terminal, with mean and SD over the single runs."""
    lines = [("run", "by", "accuracy", "95 % interval", "over groups", "right")]
    for row in rows:
        a = row.accuracy
        lines.append(
            (
                row.run,
                row.unit,
                f"{a.value:.4f}",
                f"{a.low:.3f} .. {a.high:.3f}",
                f"{row.cluster_low:.3f} .. {row.cluster_high:.3f}",
                f"{a.correct}/{a.total}",
            )
        )
    single = [row for row in rows if "/seed" in row.run]
    if len(single) > 2:
        for unit in ("target", "well"):
            values = [row.accuracy.value for row in single if row.unit == unit]
            lines.append(
                (
                    f"mean of {len(values)} runs",
                    unit,
                    f"{np.mean(values):.4f}",
                    f"SD {np.std(values, ddof=1):.4f}",
                    "",
                    "",
                )
            )
    return aligned(lines, right={2, 5})
