"""Checks that the submissions of all competitions share."""

import pandas as pd

from cellsignal.errors import InvalidSubmission


def check_submission_ids(submission: pd.DataFrame, expected: pd.DataFrame, column: str) -> None:
    """Every expected id once, no other.

    Raises:
        InvalidSubmission: doubled, missing or unknown ids, with their number and the first of them.
    """
    if column not in submission.columns:
        raise InvalidSubmission(f"submission: no column {column!r}; it has {list(submission.columns)}")
    ids = submission[column]
    doubled = ids[ids.duplicated()]
    if len(doubled):
        raise InvalidSubmission(f"submission: {len(doubled)} doubled ids, first {doubled.iloc[0]!r}")
    missing = expected[column][~expected[column].isin(set(ids))]
    if len(missing):
        raise InvalidSubmission(f"submission: {len(missing)} ids missing, first {missing.iloc[0]!r}")
    extra = ids[~ids.isin(set(expected[column]))]
    if len(extra):
        raise InvalidSubmission(f"submission: {len(extra)} ids that are not in the test set, first {extra.iloc[0]!r}")


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
            f"submission: {int(outside.sum())} targets are no class, first {first[id_column]!r}: {first[target_column]!r}"
        )
