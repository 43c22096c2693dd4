"""Scoring a multi-label submission against the answers, broken down by cell type and class: the
counterpart of `score`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.common.tables import aligned
from cellsignal.competitions.multilabel import check_score_columns, truth_and_scores
from cellsignal.evaluation.score import read_text_table
from cellsignal.metrics.average_precision import COLUMNS as TABLE_COLUMNS
from cellsignal.metrics.average_precision import average_precision_table

if TYPE_CHECKING:
    from cellsignal.competitions.multilabel import MultilabelCompetition

COLUMNS = (
    "slice",
    "name",
    "positives",
    "n",
    "prevalence",
    "average_precision",
    "low",
    "high",
    "roc_auc",
    "resampled",
)
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_SEED = 0  # of the bootstrap, so that scoring the same file twice prints the same interval


def read_scores(
    path: Path | str, competition: "MultilabelCompetition", classes: Sequence[str]
) -> pd.DataFrame:
    """Read a submission: ids as text, a float64 column for each class; columns may stand in any
    order.

    Returns:
        Columns `id_column`, then `classes` in their order.

    Raises:
        InvalidSubmission: no such file, empty, not a CSV, other columns, an empty id, or a score
        that is no finite number.
            The message names the file, the column and the line.
    """
    ids = competition.id_column
    frame = read_text_table(Path(path))
    check_score_columns(frame.columns, ids, classes, str(path))
    if frame.empty:
        raise InvalidSubmission(f"{path}: has a header but no rows")
    frame = frame[[ids, *classes]]
    empty = frame[ids].str.lower().isin({"", "nan"})
    if empty.any():
        raise InvalidSubmission(
            f"{path}: {ids} is empty in line {int(empty.idxmax())} ({int(empty.sum())} such lines)"
        )
    scores = {}
    for column in classes:
        plain = frame[column].str.fullmatch(_NUMBER).to_numpy(dtype=bool)
        values = frame[column].where(plain, "nan").to_numpy().astype(np.float64)  # 1e999 is inf
        wrong = ~np.isfinite(values)
        if wrong.any():
            row = frame.index[int(wrong.argmax())]
            shown = (
                f"{frame[column][row]!r} is no finite number" if frame[column][row] else "is empty"
            )
            raise InvalidSubmission(
                f"{path}: {column} in line {row}: {shown} ({int(wrong.sum())} such lines)"
            )
        scores[column] = values
    return pd.concat([frame[[ids]].reset_index(drop=True), pd.DataFrame(scores)], axis=1)


def score_multilabel(
    competition: "MultilabelCompetition",
    submission: pd.DataFrame,
    answers: pd.DataFrame,
    draws: int = 1000,
) -> pd.DataFrame:
    """Average precision overall, by slice and by class.

    The rows are, as far as the answers have the columns: "overall"; "public" and "private"; one for
    each "cell_type", all of them macro averages over the classes that the slice holds both with and
    without; then one for each "class", over all ids.

    Args:
        submission: the id and the classes; the order of rows and columns does not matter.
        answers: `MultilabelCompetition.answers`.
        draws: replicates of the bootstrap.

    Returns:
        Columns `COLUMNS`. `low` and `high` are the 95 % interval of a bootstrap over what
        `resampled` names: the first of the competition's fold groups that the answers have, else
        experiments, else single ids (too narrow where ids share a compound). NaN where nothing can
        be ranked or resampled.

    Raises:
        InvalidSubmission: ids or columns that are missing, doubled or unknown, or a score that is
        no finite number. InputError: the answers have no row.
    """
    if answers.empty:
        raise InputError("answers: there are none")
    truth, scores, classes = truth_and_scores(submission, answers, competition.id_column)
    known = (*competition.fold_groups, "experiment")
    resampled = next((name for name in known if name in answers.columns), competition.id_column)
    clusters = answers[resampled].to_numpy(dtype=object)
    rows = []
    for kind, name, inside in _slices(answers):
        table = average_precision_table(
            truth[inside], scores[inside], classes, clusters[inside], draws, _SEED
        )
        rows.append((kind, name, table.iloc[0]))
        if kind == "overall":
            of_classes = [("class", row["class"], row) for _, row in table.iloc[1:].iterrows()]
    picked = [column for column in COLUMNS if column in TABLE_COLUMNS]
    frame = pd.DataFrame(
        [
            (kind, name, *(row[column] for column in picked), resampled)
            for kind, name, row in [*rows, *of_classes]
        ],
        columns=list(COLUMNS),
    )
    return frame.astype({"positives": "int64", "n": "int64"})


def _slices(answers: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    """(slice, name, (N,) bool) of every slice of ids that the answers know."""
    yield "overall", "overall", np.ones(len(answers), dtype=bool)
    for column, kinds in (("leaderboard", ("public", "private")), ("cell_type", None)):
        if column in answers.columns:
            for name in kinds or sorted(answers[column].dropna().unique(), key=str):
                inside = answers[column].eq(name).to_numpy(dtype=bool)
                if inside.any():
                    yield (name if kinds else column), str(name), inside


def score_text(scores: pd.DataFrame) -> str:
    """The table of `score_multilabel` for a terminal."""
    lines = [("slice", "name", "AP", "95 % interval", "prevalence", "ROC AUC", "positives", "n")]
    for row in scores.itertuples():
        ap, prevalence, auc = (
            "" if np.isnan(v) else f"{v:.4f}"
            for v in (row.average_precision, row.prevalence, row.roc_auc)
        )
        interval = "" if np.isnan(row.low) else f"{row.low:.4f} .. {row.high:.4f}"
        lines.append(
            (row.slice, row.name, ap, interval, prevalence, auc, f"{row.positives:,}", f"{row.n:,}")
        )
    return (
        aligned(lines, right={2, 4, 5, 6, 7})
        + f"\nintervals resample by {scores.resampled.iloc[0]}"
    )
