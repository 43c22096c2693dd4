"""Scoring a submission CSV against the answers, broken down to where it fails.

A single figure hides a lost plate or a cell type that was never learnt, so every score comes with its slices, counts
and intervals.
"""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.errors import InputError, InvalidSubmission
from cellsignal.evaluation.metrics import Accuracy, clustered_interval

if TYPE_CHECKING:
    from cellsignal.competitions.base import Competition

COLUMNS = ("slice", "name", "correct", "n", "accuracy", "low", "high", "cluster_low", "cluster_high")
_SEED = 0  # of the bootstrap, so that scoring the same file twice prints the same interval


def read_submission(path: Path | str, competition: "Competition") -> pd.DataFrame:
    """Read a submission: two columns, ids as text, targets as int64 where they are whole numbers, else as text.

    Raises:
        InvalidSubmission: no such file, empty, not a CSV, other columns, an empty id or target, or a class number that
            is not whole. The message names the file and the line.
    """
    columns = [competition.id_column, competition.target_column]
    frame = read_text_table(Path(path))
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InvalidSubmission(f"{path}: no column {missing[0]!r}; it has {list(frame.columns)}")
    extra = [*frame.columns[~frame.columns.isin(columns)], *frame.columns[frame.columns.duplicated()]]
    if extra:
        raise InvalidSubmission(f"{path}: unexpected column {extra[0]!r}; a submission has {columns}")
    if frame.empty:
        raise InvalidSubmission(f"{path}: has a header but no rows")
    frame = frame[columns].apply(lambda column: column.str.strip())
    for column in columns:
        empty = frame[column].str.lower().isin({"", "nan"})
        if empty.any():
            line, number = int(empty.idxmax()) + 2, int(empty.sum())
            raise InvalidSubmission(f"{path}: {column} is empty in line {line} ({number} such lines)")
    target = frame[competition.target_column]
    whole = target.str.fullmatch(r"[+-]?\d{1,18}")
    numeric = pd.to_numeric(target, errors="coerce").notna()
    if whole.all():
        frame[competition.target_column] = target.astype("int64")
    elif whole.any() or numeric.any():
        line = int((~whole).idxmax()) + 2
        raise InvalidSubmission(
            f"{path}: {target[line - 2]!r} in line {line} is not a whole number, as {competition.target_column} must be"
        )
    return frame


def read_text_table(path: Path) -> pd.DataFrame:
    """All cells as text; nothing is taken for missing ("NA" may be a class name)."""
    if not path.is_file():
        raise InvalidSubmission(f"{path}: {'is a folder, not a CSV file' if path.is_dir() else 'no such file'}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "\0" in text:
            raise InvalidSubmission(f"{path}: is not a CSV file")
        if not text.strip():
            raise InvalidSubmission(f"{path}: is empty")
        frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, header=None).fillna("")
    except UnicodeDecodeError:
        raise InvalidSubmission(f"{path}: is not a CSV file (not text)") from None
    except pd.errors.ParserError as error:
        raise InvalidSubmission(f"{path}: is not a CSV file ({str(error).strip().splitlines()[-1]})") from None
    frame.columns = [str(name).strip() for name in frame.iloc[0]]
    return frame.iloc[1:].reset_index(drop=True)


def score_submission(competition: "Competition", submission: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy overall and by slice.

    The rows are, as far as the answers have the columns: "overall"; "public" and "private" (the answers'
    `leaderboard`); then one row for each "cell_type", "experiment" and "plate" (named experiment/plate). `low` and
    `high` are the 95 % Wilson interval, wells taken as independent. `cluster_low` and `cluster_high` resample whole
    clusters: the first of the competition's fold groups that the answers have, else experiments; NaN where a slice has
    only one cluster or none is known.

    Args:
        submission: the id and target columns; row order does not matter.
        answers: `Competition.answers`.

    Returns:
        Columns slice, name, correct, n, accuracy, low, high, cluster_low, cluster_high.

    Raises:
        InvalidSubmission: ids that are missing, doubled or unknown, or a target that is missing.
    """
    from cellsignal.competitions.base import check_submission_ids

    ids, target = competition.id_column, competition.target_column
    submission, answers = competition.comparable(submission, "submission"), competition.comparable(answers, "answers")
    if target not in submission.columns:
        raise InvalidSubmission(f"submission: no column {target!r}; it has {list(submission.columns)}")
    check_submission_ids(submission, answers, ids)
    if submission[target].isna().any():
        first = submission[ids][submission[target].isna()].iloc[0]
        raise InvalidSubmission(
            f"submission: {int(submission[target].isna().sum())} targets are missing, first that of {first!r}"
        )
    if answers[target].isna().any() or answers.empty:
        raise InputError(
            "answers: there are none"
            if answers.empty
            else f"answers: {int(answers[target].isna().sum())} targets are missing"
        )
    predicted = submission.set_index(ids)[target].loc[answers[ids]].astype(str).to_numpy()
    correct = predicted == answers[target].astype(str).to_numpy()
    cluster = next(
        (answers[name].to_numpy() for name in (*competition.fold_groups, "experiment") if name in answers.columns), None
    )
    rows = [
        _row(kind, name, correct[inside], None if cluster is None else cluster[inside])
        for kind, name, inside in _slices(answers)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _slices(answers: pd.DataFrame):
    """(slice, name, (N,) bool) of every slice the answers know."""
    yield "overall", "overall", np.ones(len(answers), dtype=bool)
    for board in ("public", "private"):
        inside = answers.get("leaderboard", pd.Series(index=answers.index, dtype=object)).eq(board).to_numpy(dtype=bool)
        if inside.any():
            yield board, board, inside
    for column in ("cell_type", "experiment"):
        if column in answers.columns:
            for name in sorted(answers[column].dropna().unique(), key=str):
                yield column, str(name), answers[column].eq(name).to_numpy(dtype=bool)
    if {"experiment", "plate"} <= set(answers.columns):
        for (experiment, plate), rows in (
            answers.reset_index(drop=True).groupby(["experiment", "plate"], sort=True).groups.items()
        ):
            inside = np.zeros(len(answers), dtype=bool)
            inside[rows] = True
            yield "plate", f"{experiment}/{plate}", inside


def _row(kind: str, name: str, correct: np.ndarray, cluster: np.ndarray | None) -> tuple:
    """One row of the score table."""
    figure = Accuracy.of(int(correct.sum()), len(correct))
    clustered = (math.nan, math.nan) if cluster is None else clustered_interval(correct, cluster, _SEED)
    return kind, name, figure.correct, figure.total, figure.value, figure.low, figure.high, *clustered
