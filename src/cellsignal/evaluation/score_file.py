"""A submission file scored against the answers of its competition, whatever kind it is of, and noted on the leaderboard."""

from pathlib import Path

import pandas as pd

from cellsignal.competitions import competition_ids, get_competition
from cellsignal.competitions.base import Competition, check_submission_targets
from cellsignal.errors import InputError, InvalidSubmission
from cellsignal.evaluation.leaderboard import (
    append_entry,
    control_entries,
    leaderboard_competitions,
    leaderboard_table,
    leaderboard_text,
    submission_entry,
)
from cellsignal.evaluation.score import match_answers, read_submission, read_text_table, score_submission


def score(
    path: Path,
    answers_file: Path,
    competition_id: str | None,
    *,
    leaderboard: Path,
    root: Path | None,
    name: str | None,
) -> pd.DataFrame:
    """Score a submission, append it (and the controls) to the leaderboard, give back the table of slices.

    Args:
        root: the raw data: its classes are those a submission may name, and its sample submission is scored as a control. Without
            it the classes are those that the answers hold, and the answers must be for all of the submission's ids: with it
            they may be for a part of the test set, which alone is scored.

    Raises:
        InputError: the submission, or the answers, are not what they should be; no row is noted.
    """
    competition = get_competition(competition_id) if competition_id else guess_competition(path)
    answers = competition.answers(answers_file)
    sample = competition.sample_submission(root) if root else None
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
    submission, note = match_answers(submission, answers, competition.id_column, sample, path, answers_file)
    if score_table is score_submission:
        known = competition.classes(root) if root else tuple(answers[competition.target_column].astype(str).unique())
        _check_targets(competition, submission, known, None if root else answers_file)
    table = score_table(competition, submission, answers)
    entries = [submission_entry(competition, name or path.stem, path, submission, answers, note)]
    if sample is not None:
        answered = sample[sample[competition.id_column].isin(set(answers[competition.id_column]))]
        entries += control_entries(competition, answered, answers)
    for entry in entries:  # all are made before the first is noted
        append_entry(leaderboard, entry)
    if note:
        print(f"{answers_file}: {note}")
    return table


def _check_targets(
    competition: Competition, submission: pd.DataFrame, classes: tuple[str, ...], answers_file: Path | None
) -> None:
    """Refuse targets that are none of `classes`, in whichever spelling; with `answers_file`, these are the answered ones alone."""
    ids, target = competition.id_column, competition.target_column
    known = tuple(competition.comparable(pd.DataFrame({ids: classes, target: classes}), "classes")[target])
    submission = competition.comparable(submission, "submission")
    strange = submission[~submission[target].astype(str).isin(set(known))]
    if answers_file is not None and len(strange):
        first = strange.iloc[0]
        raise InvalidSubmission(
            f"submission: {len(strange)} targets are in no row of {answers_file}, first {first[ids]!r}: {first[target]!r}; "
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
        raise InputError(f"{path}: columns {sorted(columns)} do not tell the competition; give --competition")
    return fitting[0]


def show_leaderboard(competition_id: str | None, path: Path) -> str:
    """The leaderboard as text, of one competition or of all that have rows."""
    ids = (competition_id,) if competition_id else leaderboard_competitions(path)
    return "\n\n".join(leaderboard_text(leaderboard_table(path, get_competition(i))) for i in ids)


def format_scores(table: pd.DataFrame) -> str:
    """The table of slices as aligned text."""
    if "rank1" in table.columns:
        from cellsignal.evaluation.ranking_score import ranking_text

        return ranking_text(table)
    if "average_precision" in table.columns:
        from cellsignal.evaluation.multilabel_score import score_text

        return score_text(table)
    from cellsignal.evaluation.ladder import aligned

    lines = [("slice", "name", "accuracy", "95 % interval", "right")]
    for kind, name, right, n, value, low, high in table[
        ["slice", "name", "correct", "n", "accuracy", "low", "high"]
    ].itertuples(index=False, name=None):
        lines.append((kind, str(name), f"{value:.4f}", f"{low:.4f} .. {high:.4f}", f"{right}/{n}"))
    return aligned(lines, right={2, 4})
