"""The rows of the local leaderboard, those of this run marked."""

from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.evaluation.leaderboard import LEADERBOARD, OUT_OF_FOLD, leaderboard_table
from cellsignal.evaluation.leaderboard_text import printed_columns
from cellsignal.evaluation.standing import runs_of
from cellsignal.report.html.page import interval_text, table
from cellsignal.report.html.view import RunView

SHOWN = 40


def leaderboard(view: RunView) -> str:
    """Return the rows of the run's competition."""
    if not LEADERBOARD.is_file():
        raise InputError(
            f"no leaderboard in {LEADERBOARD}: `cellsignal score SUBMISSION --answers CSV`"
        )
    rows = leaderboard_table(LEADERBOARD, view.competition)
    if rows.empty:
        raise InputError(f"{LEADERBOARD}: no row of {view.competition.id} yet")
    blocks = []
    for _, block in rows.groupby("answers_sha256", sort=False):
        lines = block.head(SHOWN).to_dict("records")
        marked = [number for number, row in enumerate(lines) if _is_of(view, row)]
        caption = f"scored against answers {block.answers_sha256.iloc[0][:12]}"
        if len(block) > SHOWN:
            caption += f"; {len(block) - SHOWN} more rows: `cellsignal leaderboard`"
        head, cells, numbers = printed_columns(block.head(SHOWN), interval_text)
        blocks.append(table(head, cells, numeric=numbers, marked=marked, caption=caption))
    return "".join(blocks)


def _is_of(view: RunView, row: dict) -> bool:
    """Whether a row is of this run: by its submission's runs, or by its name out of fold."""
    if row["kind"] == OUT_OF_FOLD:
        return row["name"] == view.title
    if row["kind"] != "submission" or not row["submission"]:
        return False
    if view.record is not None:
        return Path(row["submission"]).resolve() == Path(view.word).resolve()
    runs = runs_of(Path(row["submission"])) or []
    return bool(runs) and {run.partition("/")[0] for run in runs} == {view.title}
