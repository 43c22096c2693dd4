"""Read and check tables with one column a class: scores of a submission, and true classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.common.tables import read_table, refuse_rows
from cellsignal.competitions.submissions import (
    SUBMISSION,
    check_columns,
    check_submission_ids,
    read_rows,
)
from cellsignal.competitions.targets import BOARDS

# columns of answers that are not classes
BESIDE = ("leaderboard", "compound", "treatment", "experiment", "plate", "cell_type")
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"


def answer_classes(answers: pd.DataFrame, id_column: str) -> tuple[str, ...]:
    """Return the columns of answers that are classes, in order: all but the id and `BESIDE`."""
    return tuple(column for column in answers.columns if column not in (id_column, *BESIDE))


def require_classes(answers: pd.DataFrame, classes: Sequence[str]) -> None:
    """Refuse answers that lack the column of a class."""
    lacking = [name for name in classes if name not in answers.columns]
    if lacking:
        raise InputError(f"answers: no column of the class {lacking[0]!r} (0 or 1 in each row)")


def read_class_answers(path: Path, id_column: str) -> pd.DataFrame:
    """Read the true classes of the test ids, for scoring alone.

    Args:
        path: CSV with the id, one column a class (1 has it, 0 is known not to), and any of
            `BESIDE`. Ids of which nothing is known have no row: unknown is not 0.

    Returns:
        Columns `id_column`, the classes in the file's order (int8), `leaderboard` (private where
        the file has none), and what else of `BESIDE` the file has.

    Raises:
        InputError: no such file, no id column, no class, a doubled id, an empty cell, or a class
            that is neither 0 nor 1; names the file, the column and the row.
    """
    frame = read_table(path, (id_column,), unique=id_column, any_row=True)
    classes = answer_classes(frame, id_column)
    if not classes:
        raise InputError(f"{path}: no column of a class; it has {list(frame.columns)}")
    beside = [column for column in BESIDE if column in frame.columns]
    for column in beside:
        refuse_rows(path, frame, frame[column] == "", column, "is empty")
    for column in classes:
        refuse_rows(path, frame, ~frame[column].isin(["0", "1"]), column, "is neither 0 nor 1")
    if "leaderboard" in beside:
        wrong = ~frame.leaderboard.isin(BOARDS)
        refuse_rows(path, frame, wrong, "leaderboard", f"is not one of {BOARDS}")
        beside.remove("leaderboard")
    else:
        frame = frame.assign(leaderboard="private").astype({"leaderboard": object})
    frame = frame.astype(dict.fromkeys(classes, "int8")).reset_index(drop=True)
    return frame[[id_column, *classes, "leaderboard", *beside]]


def read_class_scores(path: Path, id_column: str, classes: Sequence[str]) -> pd.DataFrame:
    """Read a submission: ids as text and a float64 column for each class, in their order.

    Raises:
        InvalidSubmission: see `read_rows`, or a score that is not a finite number; names the line.
    """
    frame = read_rows(path, id_column, classes)
    scores = {}
    for column in classes:
        text = frame[column]
        is_number = text.str.fullmatch(_NUMBER).to_numpy(bool)
        values = text.where(is_number, "nan").astype(np.float64)  # 1e999 is inf
        wrong = ~np.isfinite(values)
        if wrong.any():
            line = int(wrong.idxmax())
            what = f"{text[line]!r} is not a finite number" if text[line] else "is empty"
            raise InvalidSubmission(
                f"{path}: {column} in line {line}: {what} ({wrong.sum()} such lines)"
            )
        scores[column] = values
    return pd.DataFrame({id_column: frame[id_column], **scores}).reset_index(drop=True)


def check_column_order(submission: pd.DataFrame, id_column: str, classes: Sequence[str]) -> None:
    """Refuse a submission whose columns are not the id and the classes, in their order."""
    check_columns(submission.columns, id_column, classes)
    moved = submission.columns[submission.columns != [id_column, *classes]]
    if len(moved):
        raise InvalidSubmission(
            f"submission: columns are not in the order of the classes, first {moved[0]!r}"
        )


def truth_and_scores(
    submission: pd.DataFrame, answers: pd.DataFrame, id_column: str, name: str = SUBMISSION
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return truth (N, K) bool, scores (N, K) and classes, as the answers order them.

    Raises:
        InvalidSubmission: other columns or ids than those of the answers, or a score that is no
            finite number.
    """
    classes = answer_classes(answers, id_column)
    check_columns(submission.columns, id_column, classes, name)
    check_submission_ids(submission, answers, id_column, name)
    check_scores(submission, classes, id_column, name)
    scores = submission.set_index(id_column).loc[answers[id_column], list(classes)]
    return answers[list(classes)].to_numpy(bool), scores.to_numpy(np.float64), classes


def check_scores(
    submission: pd.DataFrame, classes: Sequence[str], id_column: str, name: str = SUBMISSION
) -> None:
    """Check that every score is a finite number.

    Raises:
        InvalidSubmission: names the class and the id of the first that is none.
    """
    values = submission[list(classes)].apply(pd.to_numeric, errors="coerce")
    wrong = np.argwhere(~np.isfinite(values.to_numpy(np.float64)))
    if len(wrong):
        row, column = wrong[0]
        value, first_id = submission[classes[column]].iloc[row], submission[id_column].iloc[row]
        shown = repr(value) if isinstance(value, str) else str(value)
        raise InvalidSubmission(
            f"{name}: {len(wrong)} scores are not finite numbers, first {classes[column]!r} of "
            f"{first_id!r}: {shown}"
        )
