"""Scoring a submission CSV against the answers, broken down to where it fails.

A single figure hides a lost plate or a cell type that was never learnt, so every score comes with
its slices, counts and intervals.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.common.tables import read_table
from cellsignal.competitions.submissions import check_submission_ids
from cellsignal.metrics.accuracy import Accuracy, clustered_interval

if TYPE_CHECKING:
    from cellsignal.competitions.base import Competition

COLUMNS = (
    "slice",
    "name",
    "correct",
    "n",
    "accuracy",
    "low",
    "high",
    "cluster_low",
    "cluster_high",
)
_SEED = 0  # of the bootstrap, so that scoring the same file twice prints the same interval


def read_submission(path: Path | str, competition: "Competition") -> pd.DataFrame:
    """Read a submission: two columns, ids as text, targets as int64 where they are whole numbers,
    else as text.

    Raises:
        InvalidSubmission: no such file, empty, not a CSV, other columns, an empty id or target, or
        a class number that
            is not whole. The message names the file and the line.
    """
    columns = [competition.id_column, competition.target_column]
    frame = read_text_table(Path(path))
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InvalidSubmission(f"{path}: no column {missing[0]!r}; it has {list(frame.columns)}")
    extra = frame.columns[~frame.columns.isin(columns)]
    if len(extra):
        raise InvalidSubmission(
            f"{path}: unexpected column {extra[0]!r}; a submission has {columns}"
        )
    if frame.empty:
        raise InvalidSubmission(f"{path}: has a header but no rows")
    frame = frame[columns]
    for column in columns:
        empty = frame[column].str.lower().isin({"", "nan"})
        if empty.any():
            line, number = int(empty.idxmax()), int(empty.sum())
            raise InvalidSubmission(
                f"{path}: {column} is empty in line {line} ({number} such lines)"
            )
    target = frame[competition.target_column]
    whole = target.str.fullmatch(r"[+-]?\d{1,18}")
    numeric = pd.to_numeric(target, errors="coerce").notna()
    if whole.all():
        frame[competition.target_column] = target.astype("int64")
    elif whole.any() or numeric.any():
        line = int((~whole).idxmax())
        raise InvalidSubmission(
            f"{path}: {target[line]!r} in line {line} is not a whole number, as "
            f"{competition.target_column} must be"
        )
    return frame.reset_index(drop=True)


def read_text_table(path: Path) -> pd.DataFrame:
    """All cells as text; nothing is taken for missing ("NA" may be a class name). The index is the
    line in the file.
    """
    return read_table(path, error=InvalidSubmission)


def match_answers(
    submission: pd.DataFrame,
    answers: pd.DataFrame,
    column: str,
    sample: pd.DataFrame | None,
    path: Path,
    answers_file: Path,
) -> tuple[pd.DataFrame, str]:
    """Return the rows of a submission that the answers are for, and a note where these are not all.

    Answers for a part of the test set are scored where the sample submission tells which ids there
    are. Without it an id that is not answered may as well be a wrong one.

    Args:
        column: Of the ids.
        sample: The sample submission, None where the raw data are not at hand.
        path, answers_file: Of the submission and the answers, for messages.

    Raises:
        InvalidSubmission: An id of the submission is doubled, or is not in the test set; an
        answered id is missing. InputError: The answers are of none of the submission's ids, of ids
        that are not in the test set, or (without
            `sample`) of a part of them.
    """
    ids, answered = submission[column], answers[column]
    if not ids.isin(set(answered)).any():
        raise InputError(
            f"{answers_file}: answers none of the {len(ids)} ids of {path}, first "
            f"{ids.iloc[0]!r}; its first is {answered.iloc[0]!r}"
        )
    if sample is not None:
        surplus = answered[~answered.isin(set(sample[column]))]
        if len(surplus):
            raise InputError(
                f"{answers_file}: {len(surplus)} ids that the sample submission of --root has "
                f"not, first {surplus.iloc[0]!r}"
            )
        check_submission_ids(
            submission, sample[sample[column].isin(set(ids) | set(answered))], column
        )
    outside = ~ids.isin(set(answered))
    if sample is None and outside.any() and answered.isin(set(ids)).all():
        raise InputError(
            f"{path}: {int(outside.sum())} of its {len(ids)} ids are not in {answers_file}, first "
            f"{ids[outside].iloc[0]!r}; "
            "with --root (the raw data, which tells the test set's ids) answers for a part of it "
            "are scored"
        )
    check_submission_ids(
        submission[~outside] if sample is not None else submission, answers, column
    )
    total = len(ids) if sample is None else len(sample)
    note = "" if len(answers) == total else f"{len(answers)} of {total} ids answered and scored"
    if sample is not None and len(ids) < total:
        note += f"; the submission has {len(ids)} of them"
    return submission[~outside].reset_index(drop=True), note


def score_submission(
    competition: "Competition", submission: pd.DataFrame, answers: pd.DataFrame
) -> pd.DataFrame:
    """Accuracy overall and by slice.

    The rows are, as far as the answers have the columns: "overall"; "public" and "private" (the
    answers' `leaderboard`); then one row for each "cell_type", "experiment" and "plate" (named
    experiment/plate). `low` and `high` are the 95 % Wilson interval, wells taken as independent.
    `cluster_low` and `cluster_high` resample whole clusters: the first of the competition's fold
    groups that the answers have, else experiments; NaN where a slice has only one cluster or none
    is known.

    Args:
        submission: the id and target columns; row order does not matter.
        answers: `Competition.answers`.

    Returns:
        Columns slice, name, correct, n, accuracy, low, high, cluster_low, cluster_high.

    Raises:
        InvalidSubmission: ids that are missing, doubled or unknown, or a target that is missing.
    """
    ids, target = competition.id_column, competition.target_column
    submission = competition.comparable(submission, "submission")
    answers = competition.comparable(answers, "answers")
    if target not in submission.columns:
        raise InvalidSubmission(
            f"submission: no column {target!r}; it has {list(submission.columns)}"
        )
    check_submission_ids(submission, answers, ids)
    if submission[target].isna().any():
        first = submission[ids][submission[target].isna()].iloc[0]
        raise InvalidSubmission(
            f"submission: {int(submission[target].isna().sum())} targets are missing, first that "
            f"of {first!r}"
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
        (
            answers[name].to_numpy()
            for name in (*competition.fold_groups, "experiment")
            if name in answers.columns
        ),
        None,
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
        inside = (
            answers.get("leaderboard", pd.Series(index=answers.index, dtype=object))
            .eq(board)
            .to_numpy(dtype=bool)
        )
        if inside.any():
            yield board, board, inside
    for column in ("cell_type", "experiment"):
        if column in answers.columns:
            for name in sorted(answers[column].dropna().unique(), key=str):
                yield column, str(name), answers[column].eq(name).to_numpy(dtype=bool)
    if {"experiment", "plate"} <= set(answers.columns):
        for (experiment, plate), rows in (
            answers.reset_index(drop=True)
            .groupby(["experiment", "plate"], sort=True)
            .groups.items()
        ):
            inside = np.zeros(len(answers), dtype=bool)
            inside[rows] = True
            yield "plate", f"{experiment}/{plate}", inside


def _row(kind: str, name: str, correct: np.ndarray, cluster: np.ndarray | None) -> tuple:
    """One row of the score table."""
    figure = Accuracy.of(int(correct.sum()), len(correct))
    clustered = (
        (math.nan, math.nan) if cluster is None else clustered_interval(correct, cluster, _SEED)
    )
    return (
        kind,
        name,
        figure.correct,
        figure.total,
        figure.value,
        figure.low,
        figure.high,
        *clustered,
    )
