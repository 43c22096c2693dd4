"""A submission file scored against the answers of its competition, whatever kind it is of, and
noted on the leaderboard.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.competitions import competition_ids, get_competition
from cellsignal.competitions.base import Competition, check_submission_targets
from cellsignal.evaluation.leaderboard import (
    append_entry,
    control_entries,
    leaderboard_competitions,
    leaderboard_table,
    leaderboard_text,
    submission_entry,
)
from cellsignal.evaluation.score import (
    match_answers,
    read_submission,
    read_text_table,
    score_submission,
)


def score(
    path: Path,
    answers_file: Path,
    competition_id: str | None,
    *,
    leaderboard: Path,
    root: Path | None,
    name: str | None,
) -> pd.DataFrame:
    """Score a submission, append it (and the controls) to the leaderboard, give back the table of
    slices.

    Args:
        root: the raw data: its classes are those a submission may name, and its sample submission
        is scored as a control. Without
            it the classes are those that the answers hold, and the answers must be for all of the
            submission's ids: with it they may be for a part of the test set, which alone is scored.

    Raises:
        InputError: the submission, or the answers, are not what they should be; no row is noted.
    """
    competition = get_competition(competition_id) if competition_id else guess_competition(path)
    answers = competition.answers(answers_file)
    sample = competition.sample_submission(root) if root else None
    if root:
        _check_answers(competition, answers, root, answers_file)
    if competition.multilabel:
        from cellsignal.competitions.multilabel import answer_classes
        from cellsignal.evaluation.multilabel_score import read_scores, score_multilabel

        submission = read_scores(path, competition, answer_classes(answers, competition.id_column))
        score_table = score_multilabel
    elif competition.ranked:
        from cellsignal.evaluation.ranking_score import score_ranking

        submission, score_table = read_submission(path, competition), score_ranking
    else:
        submission, score_table = read_submission(path, competition), score_submission
    with _named(path):
        submission, note = match_answers(
            submission, answers, competition.id_column, sample, path, answers_file
        )
        if score_table is score_submission:
            known = (
                competition.classes(root)
                if root
                else tuple(answers[competition.target_column].astype(str).unique())
            )
            _check_targets(competition, submission, known, None if root else answers_file)
        table = score_table(competition, submission, answers)
        _refuse_nothing_scored(table, answers_file)
        entries = [
            submission_entry(competition, name or path.stem, path, submission, answers, note)
        ]
    if sample is not None:
        answered = sample[sample[competition.id_column].isin(set(answers[competition.id_column]))]
        entries += control_entries(competition, answered, answers)
    for entry in entries:  # all are made before the first is noted
        append_entry(leaderboard, entry)
    if note:
        print(f"{answers_file}: {note}")
    return table


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let a refusal begin with the file that was read instead of the word "submission"."""
    try:
        yield
    except InputError as error:
        if not str(error).startswith("submission: "):
            raise
        raise type(error)(f"{path}: {str(error).removeprefix('submission: ')}") from None


def _refuse_nothing_scored(table: pd.DataFrame, answers_file: Path) -> None:
    """Refuse answers by which nothing can be ranked: no class, or no query, has both a right and a
    wrong answer.
    """
    n = int(table.n.iloc[0]) if len(table) else 0
    if "average_precision" in table.columns and (
        table.empty or table.average_precision.iloc[:1].isna().all()
    ):
        raise InputError(
            f"{answers_file}: nothing can be ranked by these {n} answers: "
            "no class has both a positive and a negative among them"
        )


def _check_answers(
    competition: Competition, answers: pd.DataFrame, root: Path, answers_file: Path
) -> None:
    """Refuse answers that name classes, or leave out gallery tracks, that the raw data have
    otherwise.

    Raises:
        InputError: Names the answers file, the first class and its id.
    """
    ids, target = competition.id_column, competition.target_column
    if competition.ranked:
        gallery = set(competition.sample_submission(root)[target].iloc[0].split())
        answered = set(answers[target].iloc[0].split())
        for names, words in (
            (gallery - answered, "lacks"),
            (answered - gallery, "has, and --root has not,"),
        ):
            if names:
                raise InputError(
                    f"{answers_file}: {words} {len(names)} gallery tracks, first {min(names)!r}"
                )
        return
    classes = competition.classes(root)
    if competition.multilabel:
        from cellsignal.competitions.multilabel import answer_classes

        unknown = [name for name in answer_classes(answers, ids) if name not in classes]
        if unknown:
            raise InputError(f"{answers_file}: column {unknown[0]!r} is no class of {root}")
        return
    known = set(
        competition.comparable(pd.DataFrame({ids: classes, target: classes}), "classes")[
            target
        ].astype(str)
    )
    strange = answers[~competition.comparable(answers, "answers")[target].astype(str).isin(known)]
    if len(strange):
        first = strange.iloc[0]
        raise InputError(
            f"{answers_file}: {len(strange)} targets are no class of {root}, first "
            f"{str(first[target])!r} of {first[ids]!r}"
        )


def _check_targets(
    competition: Competition,
    submission: pd.DataFrame,
    classes: tuple[str, ...],
    answers_file: Path | None,
) -> None:
    """Refuse targets that are none of `classes`, in whichever spelling; with `answers_file`, these
    are the answered ones alone.
    """
    ids, target = competition.id_column, competition.target_column
    known = tuple(
        competition.comparable(pd.DataFrame({ids: classes, target: classes}), "classes")[target]
    )
    submission = competition.comparable(submission, "submission")
    strange = submission[~submission[target].astype(str).isin(set(known))]
    if answers_file is not None and len(strange):
        first = strange.iloc[0]
        raise InvalidSubmission(
            f"submission: {len(strange)} targets are in no row of {answers_file}, first "
            f"{first[ids]!r}: {str(first[target])!r}; "
            "with --root the raw data tell which classes there are"
        )
    check_submission_targets(submission, known, ids, target)


def guess_competition(path: Path) -> Competition:
    """The competition whose columns a submission has.

    Raises:
        InputError: none or several have them.
    """
    columns = set(read_text_table(path).columns)
    known = [get_competition(i) for i in competition_ids()]
    fitting = [c for c in known if not c.multilabel and {c.id_column, c.target_column} <= columns]
    if len(fitting) != 1:
        raise InputError(
            f"{path}: columns {sorted(columns)} do not tell the competition; give --competition"
        )
    return fitting[0]


def show_leaderboard(competition_id: str | None, path: Path) -> str:
    """The leaderboard as text, of one competition or of all that have rows."""
    if competition_id:
        return leaderboard_text(leaderboard_table(path, get_competition(competition_id)))
    ids = leaderboard_competitions(path)
    unknown = sorted(set(ids) - set(competition_ids()))
    if unknown:
        raise InputError(
            f"{path}: has rows of the unknown competition {unknown[0]!r}; name one to print its "
            "rows alone"
        )
    return (
        "\n\n".join(leaderboard_text(leaderboard_table(path, get_competition(i))) for i in ids)
        or "no submission scored yet"
    )


def format_scores(table: pd.DataFrame) -> str:
    """The table of slices as aligned text."""
    if "rank1" in table.columns:
        from cellsignal.evaluation.ranking_score import ranking_text

        return ranking_text(table)
    if "average_precision" in table.columns:
        from cellsignal.evaluation.multilabel_score import score_text

        return score_text(table)
    from cellsignal.common.tables import aligned

    lines = [("slice", "name", "accuracy", "95 % interval", "right")]
    for kind, name, right, n, value, low, high in table[
        ["slice", "name", "correct", "n", "accuracy", "low", "high"]
    ].itertuples(index=False, name=None):
        lines.append((kind, str(name), f"{value:.4f}", f"{low:.4f} .. {high:.4f}", f"{right}/{n}"))
    return aligned(lines, right={2, 4})
