"""Keep the local leaderboard: one CSV with every scored submission, and control scores.

A row is known by what was scored against what (hashes), so scoring a file twice leaves one row. The
sample submission and the truth go through the same path as any submission; the truth must stand at
the best possible score and the sample near chance. A run without test samples has a row of its
out-of-fold score, without a rank, and so have the baselines of a run. A file that was replaced
since it was scored keeps its row, marked by its hash.
"""

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import git_commit, sha256, write_csv
from cellsignal.common.tables import parse_numbers, read_table, refuse_rows
from cellsignal.metrics.accuracy import Score

if TYPE_CHECKING:
    from cellsignal.competitions.base import Competition

LEADERBOARD = Path("submissions/leaderboard.csv")
OUT_OF_FOLD = "out of fold"  # the kind of a row
BASELINE = "baseline"  # the same: out of fold
KINDS = ("submission", "control", OUT_OF_FOLD, BASELINE)
BOARDS = ("overall", "public", "private")
COLUMNS = (
    *("competition", "name", "kind", "submission", "submission_sha256"),
    *(f"{board}{part}" for board in BOARDS for part in ("", "_low", "_high", "_n")),
    *("answers_sha256", "note", "scored_at", "git_commit"),
    *("unit", *(f"{board}_units" for board in BOARDS)),  # what intervals are over
)
_ADDED = ("unit", *(f"{board}_units" for board in BOARDS))  # files of before lack them
_KEY = ["competition", "kind", "submission_sha256", "answers_sha256"]
_TEXT = [column for column in COLUMNS if not column.startswith(BOARDS)]


def frame_sha256(frame: pd.DataFrame) -> str:
    """Return the SHA-256 of a frame as CSV; the order of columns and rows does not matter."""
    frame = frame[sorted(frame.columns)].astype(str)
    text = frame.sort_values(list(frame.columns), kind="stable").to_csv(
        index=False, lineterminator="\n"
    )
    return hashlib.sha256(text.encode()).hexdigest()


def submission_entry(
    competition: "Competition",
    name: str,
    path: Path | str,
    submission: pd.DataFrame,
    answers: pd.DataFrame,
    note: str = "",
) -> dict[str, Any]:
    """Make the leaderboard row of a submission, read from `path` by `Task.read_submission`.

    Raises:
        InvalidSubmission: see `Task.score_table`.
    """
    return _entry(
        competition, name, "submission", (str(path), sha256(path)), submission, answers, note
    )


def control_entries(
    competition: "Competition", sample: pd.DataFrame, answers: pd.DataFrame
) -> list[dict[str, Any]]:
    """Make the rows of the sample submission and of the truth, scored like any submission.

    They are not files, so they are hashed as frames.

    Raises:
        InvalidSubmission: the ids of the sample submission are not those of the answers.
    """
    columns = [name for name in sample.columns if name in answers.columns]
    controls = (
        ("truth", answers[columns], "the answers themselves"),
        ("sample submission", sample[columns], "placeholder targets"),
    )
    return [
        _entry(competition, name, "control", ("", frame_sha256(frame)), frame, answers, note)
        for name, frame, note in controls
    ]


def out_of_fold_entry(
    competition: "Competition",
    name: str,
    figure: Score,
    made_from: str,
    truth: pd.DataFrame,
    kind: str = OUT_OF_FOLD,
) -> dict[str, Any]:
    """Make the row of an out-of-fold score: of a run without test samples, or of a baseline.

    Args:
        made_from: hash of its predictions.
        truth: the out-of-fold targets and their labels, the answers that it was scored against.
    """
    numbers = (figure.value, figure.low, figure.high, figure.total, figure.unit, figure.units)
    columns = ["value", "low", "high", "n", "unit", "units"]
    scores = pd.DataFrame([numbers], columns=columns)
    scores.index = ["overall"]
    note = "out of fold: no test samples" if kind == OUT_OF_FOLD else "baseline, out of fold"
    return _row(competition, name, kind, ("", made_from), scores, truth, note)


def _entry(
    competition, name: str, kind: str, source: tuple[str, str], submission, answers, note: str
) -> dict[str, Any]:
    """Score a submission and make its row.

    Args:
        source: the submission's path and hash.
    """
    task = competition.task
    scores = task.score_table(submission, answers).drop_duplicates("slice").set_index("slice")
    scores = scores.rename(columns={task.score_column: "value"})
    return _row(competition, name, kind, source, scores, answers, note)


def _row(
    competition, name: str, kind: str, source: tuple[str, str], scores: pd.DataFrame, answers, note
) -> dict[str, Any]:
    """Make one row; slices that the answers do not know are NaN, with n = 0.

    Args:
        scores: columns value, low, high, n, unit and units, by slice.
    """
    row = {"competition": competition.id, "name": name, "kind": kind}
    row |= {"submission": source[0], "submission_sha256": source[1]}
    for board in BOARDS:
        for part, column in {"": "value", "_low": "low", "_high": "high"}.items():
            row[board + part] = float(scores[column].get(board, np.nan))
        row[f"{board}_n"] = int(scores.n.get(board, 0))
        row[f"{board}_units"] = int(scores.units.get(board, 0))
    return row | {
        "unit": scores.unit.iloc[0] if scores.units.iloc[0] else "",
        "answers_sha256": frame_sha256(answers),
        "note": note,
        "scored_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit() or "",
    }


def append_entry(path: Path | str, entry: dict[str, Any]) -> bool:
    """Add a row unless the same submission was scored against the same answers before.

    Other processes wait: the file is rewritten under a lock beside it, and replaced in one step.

    Returns:
        Whether the row was added.

    Raises:
        InputError: the file is not a leaderboard or cannot be written.
    """
    assert set(entry) == set(COLUMNS), sorted(set(entry) ^ set(COLUMNS))
    path = Path(path)
    with _locked(path):
        table = read_leaderboard(path)
        if (table[_KEY] == [entry[column] for column in _KEY]).all(axis=1).any():
            return False
        row = pd.DataFrame([entry], columns=list(COLUMNS))
        write_csv(path, row if table.empty else pd.concat([table, row], ignore_index=True))
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a leaderboard; it ends with the process that holds it."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "w")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{lock}: could not be written ({error.strerror})") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_leaderboard(path: Path) -> pd.DataFrame:
    """Read the whole table in file order; an empty table if there is no file.

    Raises:
        InputError: it is not a leaderboard, or a row of it is damaged; names the file and the row.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        table = read_table(path, [name for name in COLUMNS if name not in _ADDED], filled=())
        for column in _ADDED:
            table[column] = table.get(column, pd.Series("", index=table.index))
        for column in COLUMNS:
            if column not in _TEXT:
                empty = table[column] == ""
                parse_numbers(path, table[~empty], column)
                table[column] = pd.to_numeric(table[column].where(~empty))
        refuse_rows(
            path, table, ~table.kind.isin(KINDS), "kind", f"is not one of {', '.join(KINDS)}"
        )
        for board in BOARDS:
            outside = table[board].notna() & ~table[board].between(0, 1)
            refuse_rows(path, table, outside, board, "lies outside 0 .. 1")
    except InputError as error:
        raise InputError(f"{error} (not a leaderboard as `cellsignal score` writes it)") from None
    table = table.reset_index(drop=True)
    return table[list(COLUMNS)]


def leaderboard_competitions(path: Path | str) -> tuple[str, ...]:
    """Return the ids of the competitions that have rows, sorted.

    Raises:
        InputError: no such file, or not a leaderboard.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such leaderboard; score a submission first")
    return tuple(sorted(read_leaderboard(Path(path)).competition.unique()))


def leaderboard_table(path: Path | str, competition: "Competition") -> pd.DataFrame:
    """Return the rows of one competition, best first: by private score, then overall.

    Scores against different answers cannot be compared: rows are kept together by answers, and
    ranks start anew for each.

    Returns:
        Column rank (Int64; equal scores share one, controls and out-of-fold scores have none), then
        `COLUMNS`.

    Raises:
        InputError: no such file, or not a leaderboard.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such leaderboard; score a submission first")
    table = read_leaderboard(path)
    table = table[table.competition == competition.id].copy()
    table["note"] = _notes_of_replaced(table)
    sign = -1.0 if competition.higher_is_better else 1.0
    keys = pd.DataFrame(
        {
            "answers": pd.factorize(table.answers_sha256)[0],
            "private": sign * table.private.astype(float),
            "overall": sign * table.overall.astype(float),
        },
        index=table.index,
    )
    keys = keys.sort_values(list(keys.columns), kind="stable", na_position="last")
    table = table.loc[keys.index]
    entered = keys[table.kind == "submission"]
    place = entered.groupby("answers").cumcount() + 1
    equal = [entered.answers, entered.private.fillna(np.inf), entered.overall]
    ranks = place.groupby(equal).transform("min").astype("Int64")
    table.insert(0, "rank", ranks.reindex(table.index))
    return table.reset_index(drop=True)


def _notes_of_replaced(table: pd.DataFrame) -> pd.Series:
    """Return the notes; those of a file that was scored again with other content name its hash."""
    last = table[table.kind == "submission"].groupby("submission").submission_sha256.last()
    replaced = (table.kind == "submission") & (
        table.submission_sha256 != table.submission.map(last)
    )
    marks = "replaced since; sha256 " + table.submission_sha256.str[:12]
    return table.note.where(~replaced, (table.note + "; " + marks).str.removeprefix("; "))
