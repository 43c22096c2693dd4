"""Show re-identification scores: one row per metric, with chance and both intervals."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from cellsignal.common.tables import aligned
from cellsignal.evaluation.reid import NEW_DRUGS, Classified, ReId
from cellsignal.metrics.accuracy import Accuracy, Score

RANKS = (1, 5, 10)


def reid_table(results: Mapping[str, Sequence[ReId | Classified]]) -> pd.DataFrame:
    """Put all figures of some models into a table, for a CSV and `reid_text`.

    Returns:
        Columns model, protocol ("" for a classifier), figure, value, chance, correct (NaN of mAP
        and AUC), total, skipped, low and high (Wilson's; NaN of mAP and AUC), drugs_low and
        drugs_high (over drugs).
    """
    rows = []
    for name, figures in results.items():
        for result in figures:
            make_rows = _classified_rows if isinstance(result, Classified) else _reid_rows
            rows += [{"model": name} | row for row in make_rows(result)]
    columns = "model protocol figure value chance correct total skipped low high"
    return pd.DataFrame(rows, columns=[*columns.split(), "drugs_low", "drugs_high"])


def _reid_rows(result: ReId) -> list[dict]:
    same = {"protocol": result.protocol, "skipped": result.skipped}
    rows = []
    for k in RANKS:
        row = _share(f"rank-{k}", result.rank(k), result.random_rank(k), result.rank_over_drugs(k))
        rows.append(row | same)
    mean = result.mean_average_precision
    return [*rows, _mean("mAP", mean, result.random_average_precision) | same]


def _classified_rows(result: Classified) -> list[dict]:
    same = {"protocol": "", "skipped": 0}
    auc = _mean(f"AUC of {result.classes} classes", result.auc, 0.5)
    return [
        _share("accuracy", result.accuracy, 1 / result.of, result.over_drugs) | same,
        auc | same,
    ]


def _share(name: str, share: Accuracy, chance: float, over_drugs: tuple[float, float]) -> dict:
    row = {"figure": name, "value": share.value, "chance": chance}
    row |= {"correct": share.correct, "total": share.total, "low": share.low, "high": share.high}
    return row | {"drugs_low": over_drugs[0], "drugs_high": over_drugs[1]}


def _mean(name: str, figure: Score, chance: float) -> dict:
    row = {"figure": name, "value": figure.value, "chance": chance, "total": figure.total}
    return row | {"drugs_low": figure.low, "drugs_high": figure.high}


def reid_text(table: pd.DataFrame) -> str:
    """Format the rows of `reid_table` for a terminal."""
    header = ("model", "protocol", "figure", "value", "k/n", "95 %, tracks", "95 %, drugs")
    lines = [(*header, "chance", "skipped")]
    for row in table.itertuples():
        count = f"{row.total}" if np.isnan(row.correct) else f"{row.correct:.0f}/{row.total}"
        ends = [_range(row.low, row.high), _range(row.drugs_low, row.drugs_high)]
        figures = (f"{row.value:.4f}", count, *ends, f"{row.chance:.3f}", str(row.skipped))
        lines.append((row.model, row.protocol, row.figure, *figures))
    return aligned(lines, right={3, 4, 7, 8})


def _range(low: float, high: float) -> str:
    return "" if np.isnan(low) else f"{low:.3f} .. {high:.3f}"


def seen_text(seen: Mapping[str, Collection[str]], query: pd.DataFrame) -> str:
    """Say in a line how many queries' drugs training saw, and what that does to the figures.

    Args:
        seen: stage -> the compounds that it trained on or validated with.
    """
    known = query["compound"].isin(set().union(*seen.values()))
    start = f"Training saw the drugs of {known.sum()} of {len(query)} queries"
    if not known.any():
        return f"{start}: the figures are about new drugs."
    stages = [name for name, drugs in seen.items() if query["compound"].isin(set(drugs)).any()]
    start += f" (stage {', '.join(stages)}), so every figure"
    if known.all():
        return f"{start} is optimistic; no query is of a new drug."
    return f"{start} but those of '{NEW_DRUGS}' is optimistic."
