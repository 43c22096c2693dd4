"""Score a submission file against the answers of its competition and note it on the leaderboard."""

from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.common.tables import read_table
from cellsignal.competitions import competition_ids, get_competition
from cellsignal.competitions.base import Competition
from cellsignal.competitions.submissions import check_submission_ids
from cellsignal.evaluation.leaderboard import (
    append_entry,
    control_entries,
    leaderboard_competitions,
    leaderboard_table,
    submission_entry,
)
from cellsignal.evaluation.leaderboard_text import leaderboard_text
from cellsignal.metrics.paired import paired_text


def score(
    path: Path,
    answers_file: Path,
    competition: Competition,
    *,
    leaderboard: Path,
    root: Path | None,
    name: str | None,
) -> pd.DataFrame:
    """Score a submission, append it and the controls to the leaderboard, return the score table.

    Args:
        root: the raw data, which know the classes and the ids of the test set; the sample
            submission is scored as a control. Answers may then be for a part of the test set, which
            alone is scored. Without it the classes are those of the answers, which must be for all
            of the submission's ids.
        name: of the leaderboard's row; by default the file's.

    Raises:
        InputError: the submission or the answers are not what they should be; no row is noted.
    """
    task, ids = competition.task, competition.id_column
    answers = competition.answers(answers_file)
    sample = None
    if root is not None:
        sample = competition.sample_submission(root)
        task.check_answers(answers, root, answers_file)
    submission = task.read_submission(path, answers)
    submission, note = match_answers(submission, answers, ids, sample, path, answers_file)
    task.check_names(submission, answers, root, answers_file, str(path))
    table = task.score_table(submission, answers, str(path))
    if table[task.score_column].iloc[:1].isna().all():
        raise InputError(
            f"{answers_file}: nothing can be ranked by these {len(answers)} answers: "
            "no class has both a positive and a negative among them"
        )
    entries = [submission_entry(competition, name or path.stem, path, submission, answers, note)]
    if sample is not None:
        answered = sample[sample[ids].isin(set(answers[ids]))]
        entries += control_entries(competition, answered, answers)
    for entry in entries:  # all are made before the first is noted
        append_entry(leaderboard, entry)
    if note:
        print(f"{answers_file}: {note}")
    return table


def compare(
    path: Path,
    other: Path,
    answers_file: Path,
    competition: Competition,
    root: Path | None = None,
) -> str:
    """Compare two submissions on the same answers; return the difference, its interval and test.

    Nothing is noted on a leaderboard.

    Raises:
        InputError: as `score`, or the submissions answer different ids.
    """
    task, ids = competition.task, competition.id_column
    answers = competition.answers(answers_file)
    sample = None if root is None else competition.sample_submission(root)
    if root is not None:
        task.check_answers(answers, root, answers_file)
    frames = []
    for file in (path, other):
        frame = task.read_submission(file, answers)
        frame, note = match_answers(frame, answers, ids, sample, file, answers_file)
        task.check_names(frame, answers, root, answers_file, str(file))
        frames.append(frame)
    paired = task.compare(*frames, answers, (str(path), str(other)))
    metric = task.score_column.replace("_", " ")
    text = paired_text(paired, (str(path), str(other)), metric, task.resampled_column(answers))
    return f"{text}\n{answers_file}: {note}" if note else text


def match_answers(
    submission: pd.DataFrame,
    answers: pd.DataFrame,
    column: str,
    sample: pd.DataFrame | None,
    path: Path,
    answers_file: Path,
) -> tuple[pd.DataFrame, str]:
    """Return the rows of a submission that have answers, and a note if some have none.

    Answers for a part of the test set are scored where the sample submission tells which ids there
    are. Without it an id that is not answered may as well be a wrong one.

    Args:
        column: of the ids.
        sample: the sample submission; None where the raw data are not at hand.

    Raises:
        InvalidSubmission: an id is doubled or not in the test set, or an answered id is missing.
        InputError: the answers are for none of the ids, for ids that are not in the test set, or
            (without `sample`) for a part of them.
    """
    ids, answered = submission[column], answers[column]
    is_answered = ids.isin(set(answered))
    if not is_answered.any():
        raise InputError(
            f"{answers_file}: answers none of the {len(ids)} ids of {path}, first "
            f"{ids.iloc[0]!r}; its first is {answered.iloc[0]!r}"
        )
    if sample is None:
        if not is_answered.all() and answered.isin(set(ids)).all():
            raise InputError(
                f"{path}: {(~is_answered).sum()} of its {len(ids)} ids are not in {answers_file}, "
                f"first {ids[~is_answered].iloc[0]!r}; with --root (the raw data, which tells the "
                "test set's ids) answers for a part of it are scored"
            )
        check_submission_ids(submission, answers, column, str(path))
        return submission.reset_index(drop=True), ""
    surplus = answered[~answered.isin(set(sample[column]))]
    if len(surplus):
        problem = f"{len(surplus)} ids that the sample submission of --root has not"
        raise InputError(f"{answers_file}: {problem}, first {surplus.iloc[0]!r}")
    expected = sample[sample[column].isin(set(ids) | set(answered))]
    check_submission_ids(submission, expected, column, str(path))
    is_part = len(answers) < len(sample)
    note = f"{len(answers)} of {len(sample)} ids answered and scored" if is_part else ""
    if len(ids) < len(sample):
        note += f"; the submission has {len(ids)} of them"
    return submission[is_answered].reset_index(drop=True), note


def find_competition(path: Path, competition_id: str | None) -> Competition:
    """Return the named competition, or else the one whose columns a submission has.

    Raises:
        InputError: no such competition; none or several have the file's columns.
    """
    if competition_id:
        return get_competition(competition_id)
    columns = read_table(path, error=InvalidSubmission).columns
    competitions = [get_competition(known_id) for known_id in competition_ids()]
    fitting = [competition for competition in competitions if competition.task.fits(columns)]
    if len(fitting) != 1:
        raise InputError(
            f"{path}: columns {sorted(columns)} do not tell the competition; give --competition"
        )
    return fitting[0]


def show_leaderboard(competition_id: str | None, path: Path) -> str:
    """Print the leaderboard of one competition, or of all that have rows."""
    if competition_id:
        return leaderboard_text(leaderboard_table(path, get_competition(competition_id)))
    ids = leaderboard_competitions(path)
    unknown = sorted(set(ids) - set(competition_ids()))
    if unknown:
        raise InputError(
            f"{path}: has rows of the unknown competition {unknown[0]!r}; name one to print its "
            "rows alone"
        )
    tables = [leaderboard_table(path, get_competition(known_id)) for known_id in ids]
    return "\n\n".join(map(leaderboard_text, tables)) or "no submission scored yet"
