"""Checks that the submissions of all competitions share."""

from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.common.tables import refuse_rows


def check_submission_ids(submission: pd.DataFrame, expected: pd.DataFrame, column: str) -> None:
    """Every expected id once, no other.

    Raises:
        InvalidSubmission: doubled, missing or unknown ids, with their number and the first of them.
    """
    if column not in submission.columns:
        raise InvalidSubmission(
            f"submission: no column {column!r}; it has {list(submission.columns)}"
        )
    ids = submission[column]
    doubled = ids[ids.duplicated()]
    if len(doubled):
        raise InvalidSubmission(
            f"submission: {len(doubled)} doubled ids, first {doubled.iloc[0]!r}"
        )
    missing = expected[column][~expected[column].isin(set(ids))]
    if len(missing):
        raise InvalidSubmission(
            f"submission: {len(missing)} ids missing, first {missing.iloc[0]!r}"
        )
    extra = ids[~ids.isin(set(expected[column]))]
    if len(extra):
        raise InvalidSubmission(
            f"submission: {len(extra)} ids that are not in the test set, first {extra.iloc[0]!r}"
        )


def check_sample_ids(path: Path, sample: pd.DataFrame, test_ids: pd.Series, column: str) -> None:
    """Hold the ids of a sample submission to those of the test set, in any order.

    Args:
        sample: Of `tables.read_table`, so that its index is the row in the file.

    Raises:
        InputError: an id that is no test id, or a test id that is missing; names the file and the
        id.
    """
    refuse_rows(path, sample, ~sample[column].isin(set(test_ids)), column, "is not in the test set")
    missing = test_ids[~test_ids.isin(set(sample[column]))]
    if len(missing):
        raise InputError(
            f"{path}: {column} {missing.iloc[0]!r} of the test set is missing ({len(missing)} "
            "such ids)"
        )


def check_submission_targets(
    submission: pd.DataFrame, classes: tuple[str, ...], id_column: str, target_column: str
) -> None:
    """Every target a class.

    Raises:
        InvalidSubmission: targets that are none, with their number and the first of them.
    """
    outside = ~submission[target_column].astype(str).isin(set(classes))
    if outside.any():
        first = submission[outside].iloc[0]
        raise InvalidSubmission(
            f"submission: {int(outside.sum())} targets are no class, first {first[id_column]!r}: "
            f"{str(first[target_column])!r}"
        )
