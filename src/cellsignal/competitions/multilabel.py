"""Competitions in which an image has any number of classes, none included: a score for every class,
ranked against the truth.

A submission is the id and one column a class, in the order of `classes(root)`, of finite numbers of
any scale: higher is likelier. Only the order of a class's scores counts, so logits,
log-probabilities and probabilities score the same.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.common.tables import read_table, refuse_rows
from cellsignal.competitions.base import Competition, check_submission_ids
from cellsignal.metrics.average_precision import macro_average_precision

# columns of answers that are no class
BESIDE = ("leaderboard", "compound", "treatment", "experiment", "plate", "cell_type")
BOARDS = ("public", "private")


class MultilabelCompetition(Competition):
    """The contract where classes do not exclude each other. Not registered; a data set subclasses
    it.

    `target_column` names the column of the samples table that holds the targets. No submission has
    a column of that name: its columns are `target_columns(root)`.
    """

    multilabel: ClassVar[bool] = True
    target_column: ClassVar[str] = "labels"
    metric: ClassVar[str] = "macro average precision"

    def target_columns(self, root: Path) -> tuple[str, ...]:
        """The columns of a submission after its id: the classes."""
        return self.classes(root)

    def placeholders(self, target_ids: Iterable[str], root: Path) -> pd.DataFrame:
        """A submission that tells nothing, for `sample_submission`: 0.5 for every class of every
        id.
        """
        ids = list(target_ids)
        frame = pd.DataFrame(0.5, index=range(len(ids)), columns=list(self.target_columns(root)))
        frame.insert(0, self.id_column, pd.Series(ids, dtype=object))
        return frame

    def balance_table(self, folds: pd.DataFrame, root: Path) -> str:
        """How even a fold table is in every class, as text."""
        from cellsignal.competitions.balance import balance_table

        return balance_table(folds, self.classes(root))

    def format_scores(
        self, target_ids: Iterable[str], scores: np.ndarray, root: Path
    ) -> pd.DataFrame:
        """Predicted scores as the submission writes them, in the order of the sample submission.

        Args:
            target_ids: T ids, in any order.
            scores: (T, K) float, K = len(self.classes(root)).

        Raises:
            InvalidSubmission: an id of the sample submission has no scores, or scores no id there;
            a score that is no
                finite number.
        """
        classes, ids, scores = self.target_columns(root), list(target_ids), np.asarray(scores)
        assert scores.shape == (len(ids), len(classes)), (
            f"{scores.shape} scores of {len(ids)} ids, {len(classes)} classes"
        )
        sample = self.sample_submission(root)
        found = pd.DataFrame(scores, columns=list(classes))
        found.insert(0, self.id_column, pd.Series(ids, dtype=object))
        check_submission_ids(found, sample, self.id_column)
        submission = found.set_index(self.id_column).loc[sample[self.id_column]].reset_index()
        check_scores(submission, classes, self.id_column)
        return submission

    def validate_submission(
        self, submission: pd.DataFrame, sample: pd.DataFrame, classes: tuple[str, ...]
    ) -> None:
        """Refuse what the competition would refuse, naming the column and the id.

        Raises:
            InvalidSubmission: columns (missing, unknown, doubled, order), ids (missing, extra,
            doubled, order), or a score that
                is no finite number.
        """
        check_score_columns(submission.columns, self.id_column, classes, "submission")
        wrong = [
            column
            for column, wanted in zip(submission.columns, (self.id_column, *classes), strict=True)
            if column != wanted
        ]
        if wrong:
            raise InvalidSubmission(
                f"submission: columns are not in the order of the classes, first {wrong[0]!r}"
            )
        check_submission_ids(submission, sample, self.id_column)
        moved = np.flatnonzero(
            submission[self.id_column].to_numpy() != sample[self.id_column].to_numpy()
        )
        if len(moved):
            first = submission[self.id_column].iloc[moved[0]]
            raise InvalidSubmission(
                "submission: ids are not in the sample submission's order, first at row "
                f"{moved[0] + 2}: {first!r}"
            )
        check_scores(submission, classes, self.id_column)

    def answers(self, path: Path) -> pd.DataFrame:
        """The true classes of the test ids, for scoring alone.

        Args:
            path: CSV with the id, one column a class (1 has it, 0 is known not to), and any of
            `BESIDE`. Ids of which
                nothing is known have no row: unknown is not 0.

        Returns:
            Columns `id_column`, the classes in the file's order (int8), `leaderboard` (private
            where the file has none), and what else of `BESIDE` the file has.

        Raises:
            InputError: no such file, no id column, no class, a doubled id, an empty cell, or a
            class that is neither 0 nor
                1. Names the file, the column and the row.
        """
        frame = read_table(path, (self.id_column,), unique=self.id_column, any_row=True)
        classes = answer_classes(frame, self.id_column)
        if not classes:
            raise InputError(f"{path}: no column of a class; it has {list(frame.columns)}")
        beside = [column for column in BESIDE if column in frame.columns]
        for column in beside:
            refuse_rows(path, frame, frame[column] == "", column, "is empty")
        for column in classes:
            refuse_rows(path, frame, ~frame[column].isin(["0", "1"]), column, "is neither 0 nor 1")
        if "leaderboard" in beside:
            refuse_rows(
                path, frame, ~frame.leaderboard.isin(BOARDS), "leaderboard", f"is none of {BOARDS}"
            )
        frame = frame.reset_index(drop=True)
        kept = frame[[self.id_column, *classes]].astype(dict.fromkeys(classes, "int8"))
        private = pd.Series("private", index=frame.index, dtype=object)
        board = frame.get("leaderboard", private).rename("leaderboard")
        rest = frame[[column for column in beside if column != "leaderboard"]]
        return pd.concat([kept, board, rest], axis=1)

    def score(self, submission: pd.DataFrame, answers: pd.DataFrame) -> float:
        """Macro average precision over the classes that the answers hold both with and without.

        Raises:
            InvalidSubmission: ids or columns that are missing or unknown, or a score that is no
            finite number. InputError: the answers have no class with both.
        """
        truth, scores, _ = truth_and_scores(submission, answers, self.id_column)
        return macro_average_precision(truth, scores)


def answer_classes(answers: pd.DataFrame, id_column: str) -> tuple[str, ...]:
    """The columns of answers that are classes, in their order: all but the id and `BESIDE`."""
    return tuple(column for column in answers.columns if column not in (id_column, *BESIDE))


def truth_and_scores(
    submission: pd.DataFrame, answers: pd.DataFrame, id_column: str
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Truth (N, K) bool, scores (N, K) float64 and the K classes; rows and columns as the answers
    order them.

    Raises:
        InvalidSubmission: ids or columns that are missing, doubled or unknown, or a score that is
        no finite number.
    """
    classes = answer_classes(answers, id_column)
    check_score_columns(submission.columns, id_column, classes, "submission")
    check_submission_ids(submission, answers, id_column)
    check_scores(submission, classes, id_column)
    chosen = submission.set_index(id_column).loc[answers[id_column], list(classes)]
    return answers[list(classes)].to_numpy(dtype=bool), chosen.to_numpy(dtype=np.float64), classes


def check_score_columns(
    columns: Sequence[str], id_column: str, classes: Sequence[str], name: str
) -> None:
    """The id and every class once, nothing else, in any order.

    Raises:
        InvalidSubmission: names the first column that is missing, doubled or unknown; the message
        begins with `name`.
    """
    columns, wanted = list(columns), [id_column, *classes]
    missing = [column for column in wanted if column not in columns]
    if missing:
        more = f" ({len(missing)} of {len(wanted)} are missing)" if len(missing) > 1 else ""
        raise InvalidSubmission(f"{name}: no column {missing[0]!r}{more}")
    known = set(wanted)
    extra = [
        column for at, column in enumerate(columns) if column not in known or column in columns[:at]
    ]
    if extra:
        raise InvalidSubmission(
            f"{name}: unexpected column {extra[0]!r}; a submission has {id_column!r} and the "
            f"{len(classes)} classes"
        )


def check_scores(submission: pd.DataFrame, classes: Sequence[str], id_column: str) -> None:
    """Every score a finite number.

    Raises:
        InvalidSubmission: scores that are none, with their number, and the class and id of the
        first.
    """
    values = (
        submission[list(classes)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    )
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        value, name = submission[classes[column]].iloc[row], submission[id_column].iloc[row]
        shown = repr(value) if isinstance(value, str) else str(value)
        raise InvalidSubmission(
            f"submission: {len(wrong)} scores are no finite number, first {classes[column]!r} of "
            f"{name!r}: {shown}"
        )
