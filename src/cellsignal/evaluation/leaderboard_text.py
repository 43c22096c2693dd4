"""Print a leaderboard."""

from collections.abc import Callable

import pandas as pd

from cellsignal.common.tables import aligned
from cellsignal.evaluation.leaderboard import BASELINE, OUT_OF_FOLD
from cellsignal.metrics.intervals import plural, range_text

HEAD = (
    *("rank", "name", "private", "95 % interval", "over"),
    *("n", "public", "overall", "scored", "note"),
)
NUMBERS = {"rank", "private", "n", "public", "overall"}


def leaderboard_text(table: pd.DataFrame) -> str:
    """Print a leaderboard table, a block for each set of answers; (controls), [baselines]."""
    if table.empty:
        return "no submission scored yet"
    blocks = []
    for answers, block in table.groupby("answers_sha256", sort=False):
        head = [f"answers {answers[:12]}"] if table.answers_sha256.nunique() > 1 else []
        blocks.append("\n".join([*head, _block(block)]))
    return "\n\n".join(blocks)


def _block(table: pd.DataFrame) -> str:
    head, rows, numbers = printed_columns(table)
    return aligned([head, *rows], right=numbers)


def printed_columns(
    table: pd.DataFrame, interval: Callable[[float, float], str] = range_text
) -> tuple[tuple[str, ...], list[tuple[str, ...]], set[int]]:
    """Return the columns of a leaderboard table that have a value, as text.

    Interval and n are of the private score, or else of the overall one. Controls have no interval.

    Args:
        interval: writes the ends of an interval.

    Returns:
        The head, the rows, and the places of the columns of numbers.
    """
    rows = [_cells(row, interval) for row in table.itertuples()]
    shown = [place for place in range(len(HEAD)) if any(row[place] for row in rows)]
    numbers = {place for place, column in enumerate(shown) if HEAD[column] in NUMBERS}
    head, *rows = (tuple(line[column] for column in shown) for line in (HEAD, *rows))
    return head, rows, numbers


def _cells(row, interval: Callable[[float, float], str]) -> tuple[str, ...]:
    forms = {"control": "({})", OUT_OF_FOLD: "{}, out of fold", BASELINE: "[{}]"}
    board = "overall" if pd.isna(row.private) else "private"
    low, high, n = (getattr(row, f"{board}_{part}") for part in ("low", "high", "n"))
    units = getattr(row, f"{board}_units")
    if row.kind == "control":
        low = high = float("nan")
    private, public, overall = (
        "" if pd.isna(value) else f"{value:.5f}" for value in (row.private, row.public, row.overall)
    )
    return (
        "" if pd.isna(row.rank) else str(row.rank),
        forms.get(row.kind, "{}").format(row.name),
        private,
        "" if pd.isna(low) else interval(low, high),
        plural(row.unit, int(units)) if row.unit and units > 0 else "",
        f"{n:,}",
        public,
        overall,
        row.scored_at[:10],
        row.note,
    )
