"""Protect submissions that are on the leaderboard from being replaced."""

import hashlib
import json
import logging
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.evaluation.leaderboard import read_leaderboard

log = logging.getLogger(__name__)


def check_replacing(
    leaderboard: Path, competition_id: str, file: Path, text: str, force: bool
) -> None:
    """Raise if writing a file would replace another submission that is on a leaderboard.

    A file stands there by its path or by its content.

    Args:
        text: what would be written to `file`.
        force: replace it, and say so in the log.

    Raises:
        InputError: it stands there and is another; names the row.
    """
    if not file.is_file() or not leaderboard.is_file():
        return
    content = file.read_bytes()
    if content == text.encode():
        return
    rows = read_leaderboard(leaderboard)
    rows = rows[(rows.kind == "submission") & (rows.competition == competition_id)]
    same_path = rows.submission.map(lambda name: Path(name).resolve() == file.resolve()).astype(
        bool
    )
    standing = rows[same_path | (rows.submission_sha256 == hashlib.sha256(content).hexdigest())]
    if standing.empty:
        return
    row = standing.iloc[-1]
    if not force:
        raise InputError(
            f"{file}: stands on {leaderboard} as {row['name']!r} and would become another "
            "submission; give --out a new name, or --force"
        )
    log.warning(
        "%s: replaces the submission of %s on %s, whose row keeps its hash %s",
        file,
        row["name"],
        leaderboard,
        row.submission_sha256[:12],
    )


def check_place(file: Path, columns: tuple[str, ...], force: bool) -> None:
    """Refuse to write a submission, and its provenance beside it, over a file that is something
    else.

    Args:
        columns: Of the submission.
        force: Replace it all the same.

    Raises:
        InputError: The name ends in .json, where the provenance goes; or a file of that name has
        other columns, or a
            .json of that name is not what `submit` writes.
    """
    beside = file.with_suffix(".json")
    if file == beside:
        raise InputError(
            f"{file}: is where the provenance of the submission goes; give --out a name that ends "
            "in .csv"
        )
    if force:
        return
    check_header(file, columns, force, "a submission")
    if beside.is_file() and runs_of(file) is None:
        raise InputError(
            f"{beside}: already exists and is not a provenance file; give --out another name, or "
            "--force"
        )


def check_header(file: Path, columns: tuple[str, ...], force: bool, what: str) -> None:
    """Refuse to write a table over a file that has other columns.

    Args:
        what: the table, for the message.
        force: write it all the same.

    Raises:
        InputError: the file has other columns.
    """
    if force or not file.is_file():
        return
    with open(file, encoding="utf-8", errors="replace") as lines:
        header = lines.readline().strip().lstrip("\ufeff")
    if header and header != ",".join(columns):
        raise InputError(
            f"{file}: already exists and is not {what}; give --out another name, or --force"
        )


def runs_of(submission: Path) -> list[str] | None:
    """Return the runs a submission was made from, read from its .json; None if unknown."""
    try:
        return json.loads(submission.with_suffix(".json").read_text(encoding="utf-8")).get("runs")
    except (OSError, ValueError, AttributeError):
        return None
