"""Print a leaderboard."""

from collections.abc import Sequence

import pandas as pd

from cellsignal.common.tables import aligned
from cellsignal.evaluation.leaderboard import BASELINE, OUT_OF_FOLD
from cellsignal.metrics.intervals import plural, range_text

NUMBERS = {0, 2, 5, 6, 7}  # columns that are aligned on the right


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
    """Print one block without its empty columns.

    Interval and n are of the private score, or else of the overall one.
    """
    lines: Sequence[tuple[str, ...]] = [
        (
            "rank",
            "name",
            "private",
            "95 % interval",
            "over",
            "n",
            "public",
            "overall",
            "scored",
            "note",
        )
    ]
    for row in table.itertuples():
        forms = {"control": "({})", OUT_OF_FOLD: "{}, out of fold", BASELINE: "[{}]"}
        name = forms.get(row.kind, "{}").format(row.name)
        board = "overall" if pd.isna(row.private) else "private"
        low, high, n = (getattr(row, f"{board}_{part}") for part in ("low", "high", "n"))
        scores = [
            "" if pd.isna(value) else f"{value:.5f}"
            for value in (row.private, row.public, row.overall)
        ]
        rank = "" if pd.isna(row.rank) else str(row.rank)
        units = getattr(row, f"{board}_units")
        over = plural(row.unit, int(units)) if row.unit and units > 0 else ""
        cells = (range_text(low, high), over, f"{n:,}", *scores[1:], row.scored_at[:10], row.note)
        lines.append((rank, name, scores[0], *cells))
    shown = [column for column in range(len(lines[0])) if any(line[column] for line in lines[1:])]
    right = {place for place, column in enumerate(shown) if column in NUMBERS}
    return aligned([tuple(line[column] for column in shown) for line in lines], right=right)
