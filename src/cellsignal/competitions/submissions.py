"""Read submission files and check their columns, ids and targets.

Every check raises `InvalidSubmission`; its message begins with `name`, the file's path or
"submission", and names the first offending row.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.common.tables import read_table, refuse_rows

SUBMISSION = "submission"


def read_rows(path: Path, id_column: str, targets: Sequence[str]) -> pd.DataFrame:
    """Read the rows of a submission as text; the index is the line in the file.

    Nothing is taken for missing: "NA" may be a class.

    Raises:
        InvalidSubmission: no such file, not a CSV, no rows, other columns, or an empty id.
    """
    frame = read_table(path, error=InvalidSubmission)
    check_columns(frame.columns, id_column, targets, str(path))
    if frame.empty:
        raise InvalidSubmission(f"{path}: has a header but no rows")
    refuse_empty_cells(path, frame, id_column)
    return frame[[id_column, *targets]]


def refuse_empty_cells(path: Path, frame: pd.DataFrame, column: str) -> None:
    """Refuse empty cells of a column, naming the first line."""
    empty = frame[column].str.lower().isin({"", "nan"})
    if empty.any():
        raise InvalidSubmission(
            f"{path}: {column} is empty in line {empty.idxmax()} ({empty.sum()} such lines)"
        )


def require_columns(
    columns: Sequence[str], id_column: str, targets: Sequence[str], name: str = SUBMISSION
) -> None:
    """Check that the id and every target column occur."""
    missing = [column for column in (id_column, *targets) if column not in set(columns)]
    if missing:
        more = f" ({len(missing)} columns are missing)" if len(missing) > 1 else ""
        raise InvalidSubmission(
            f"{name}: no column {missing[0]!r}{more}; it has {list(columns)[:5]}, and needs "
            f"{_listed(id_column, targets)}"
        )


def check_columns(
    columns: Sequence[str], id_column: str, targets: Sequence[str], name: str = SUBMISSION
) -> None:
    """Check that the id and every target column occur once, in any order, and no other does."""
    require_columns(columns, id_column, targets, name)
    index = pd.Index(columns)
    extra = index[~index.isin([id_column, *targets]) | index.duplicated()]
    if len(extra):
        raise InvalidSubmission(
            f"{name}: unexpected column {extra[0]!r}; a submission has "
            f"{_listed(id_column, targets)}"
        )


def _listed(id_column: str, targets: Sequence[str]) -> str:
    if len(targets) > 1:
        return f"{id_column!r} and the {len(targets)} classes"
    return f"{id_column!r} and {targets[0]!r}"


def check_submission_ids(
    submission: pd.DataFrame, expected: pd.DataFrame, column: str, name: str = SUBMISSION
) -> None:
    """Check that every expected id occurs once, and no other does."""
    if column not in submission.columns:
        raise InvalidSubmission(f"{name}: no column {column!r}; it has {list(submission.columns)}")
    # as objects: `isin` of the text type goes through the values one by one
    ids, wanted = submission[column].astype(object), expected[column].astype(object)
    doubled = ids[ids.duplicated()]
    if len(doubled):
        raise InvalidSubmission(f"{name}: {len(doubled)} doubled ids, first {doubled.iloc[0]!r}")
    missing = wanted[~wanted.isin(ids)]
    if len(missing):
        raise InvalidSubmission(f"{name}: {len(missing)} ids missing, first {missing.iloc[0]!r}")
    extra = ids[~ids.isin(wanted)]
    if len(extra):
        raise InvalidSubmission(
            f"{name}: {len(extra)} ids that are not in the test set, first {extra.iloc[0]!r}"
        )


def check_order(submission: pd.DataFrame, sample: pd.DataFrame, column: str) -> None:
    """Check that ids stand in the sample submission's order."""
    ids = submission[column].to_numpy()
    wrong = np.flatnonzero(ids != sample[column].to_numpy())
    if len(wrong):
        row = wrong[0]
        raise InvalidSubmission(
            "submission: ids are not in the sample submission's order, first at row "
            f"{row + 2}: {ids[row]!r}"
        )


def check_sample_ids(path: Path, sample: pd.DataFrame, test_ids: pd.Series, column: str) -> None:
    """Check that a sample submission has the ids of the test set, in any order.

    Args:
        sample: from `tables.read_table`, so that its index is the row in the file.

    Raises:
        InputError: an id that is not a test id, or a test id that is missing; names file and id.
    """
    refuse_rows(path, sample, ~sample[column].isin(set(test_ids)), column, "is not in the test set")
    missing = test_ids[~test_ids.isin(set(sample[column]))]
    if len(missing):
        raise InputError(
            f"{path}: {column} {missing.iloc[0]!r} of the test set is missing ({len(missing)} "
            "such ids)"
        )


def check_submission_targets(
    submission: pd.DataFrame,
    classes: Sequence[str],
    id_column: str,
    target_column: str,
    name: str = SUBMISSION,
) -> None:
    """Check that every target is a class."""
    outside = ~submission[target_column].astype(str).isin(set(classes))
    if outside.any():
        first = submission[outside].iloc[0]
        raise InvalidSubmission(
            f"{name}: {outside.sum()} targets are not classes, first {first[id_column]!r}: "
            f"{str(first[target_column])!r}"
        )


def in_sample_order(frame: pd.DataFrame, sample: pd.DataFrame, column: str) -> pd.DataFrame:
    """Put the rows of a submission in the sample submission's order.

    Raises:
        InvalidSubmission: ids that are missing, doubled or unknown.
    """
    check_submission_ids(frame, sample, column)
    return frame.set_index(column).loc[sample[column]].reset_index()
