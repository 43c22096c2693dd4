"""Score runs out of fold, and print the scores."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cellsignal.common.tables import aligned
from cellsignal.competitions.targets import Runs, Truth
from cellsignal.metrics.accuracy import Accuracy
from cellsignal.metrics.average_precision import average_precision_table, average_precision_text
from cellsignal.metrics.intervals import interval_words, mean_interval, range_text

COLUMNS = ("run", "by", "accuracy", "low", "high", "units")
CLASSES_SHOWN = 20


def out_of_fold_accuracy(runs: Runs, samples: pd.DataFrame, fold_group: str) -> pd.DataFrame:
    """Return the out-of-fold accuracy of runs; in rows by well a well counts once.

    Returns:
        Columns run, by, accuracy (`Accuracy`, with Wilson's interval), low and high (the 95 %
        interval over fold groups) and units (the number of these).
    """
    rows = []
    for run, pools in runs.items():
        for pool, targets in pools.items():
            ids = {"target": targets.target_id, "well": targets.well_id}[pool]
            _, first = np.unique(ids, return_index=True)
            correct = (targets.scores.argmax(1) == targets.label)[first]
            unit = samples[fold_group].loc[targets.target_id].to_numpy()[first]
            figure = Accuracy.of(int(correct.sum()), len(correct))
            rows.append((run, pool, figure, *mean_interval(correct, unit), len(set(unit))))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def out_of_fold_accuracy_text(table: pd.DataFrame, fold_group: str, chance: float) -> str:
    """Print the table of `out_of_fold_accuracy`; the mean over seeds; chance."""
    words = interval_words(fold_group, int(table.units.max()))
    lines = [("run", "by", "accuracy", words, "Wilson, as if independent", "right")]
    for row in table.itertuples():
        figure = row.accuracy
        wilson = f"{figure.low:.3f} .. {figure.high:.3f}"
        intervals = (range_text(row.low, row.high, 3), wilson)
        right = f"{figure.correct}/{figure.total}"
        lines.append((row.run, row.by, f"{figure.value:.4f}", *intervals, right))
    for pool, rows in table[table.run.str.contains("/seed")].groupby("by", sort=True):
        values = [figure.value for figure in rows.accuracy]
        if len(values) > 1:
            cells = (f"{np.mean(values):.4f}", f"SD {np.std(values, ddof=1):.4f}", "", "")
            lines.append((f"mean of {len(values)} runs", pool, *cells))
    lines.append(("chance", "", f"{chance:.4f}", "", "", ""))
    return aligned(lines, right={2, 5})


def out_of_fold_precision_text(
    truths: Mapping[str, Truth], scores: Mapping[str, np.ndarray], classes: Sequence[str]
) -> str:
    """Print the macro average precision of each run, then the classes of the last.

    Args:
        truths, scores: run -> the truth and the (T, K) scores of its targets.
    """
    tables = {}
    for run, truth in truths.items():
        tables[run] = average_precision_table(truth.values, scores[run], classes, truth.cluster)
    last = list(tables)[-1]
    text = f"{last}, by class\n\n{average_precision_text(tables[last], CLASSES_SHOWN)}"
    single_runs = list(tables)[:-1]
    if not single_runs:
        return text
    lines = [("run", "average precision", "95 % interval", "prevalence", "ROC AUC", "targets")]
    for run in single_runs:
        macro = tables[run].iloc[0]
        numbers = [macro.average_precision, macro.prevalence, macro.roc_auc]
        score, prevalence, auc = (f"{number:.4f}" for number in numbers)
        interval = range_text(macro.low, macro.high, 3)
        lines.append((run, score, interval, prevalence, auc, f"{macro.n:,}"))
    return f"{aligned(lines, right={1, 3, 4, 5})}\n\n{text}"
