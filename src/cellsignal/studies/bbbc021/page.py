"""Write the table of changes that docs/results/bbbc021.md quotes."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellsignal.common.errors import InputError
from cellsignal.config.options import add_config_options, config_of
from cellsignal.studies.pages import add_out, head_lines, row_text, show_page

if TYPE_CHECKING:
    from cellsignal.studies.bbbc021.changes import Change, Changes

HEADS = ("what", "wells right", "accuracy, 95 %", "over the reference", "p", "surprise, nats")
PAGE = """{wells} held-out wells of {units}; every interval is over {group}s. The reference is the
first row: {reference}. *Surprise* is the mean loss in nats, and by how much it is above the
reference's.

{tables}

{verdict}
"""


def add_bbbc021_study(add: Callable) -> None:
    """Add the parser of the study."""
    text = "what each change is worth on BBBC021's real images, out of fold, over compounds"
    sub = add("bbbc021", bbbc021, text)
    add_config_options(sub)  # whose store and folds are used
    text = "trained runs on the same folds, by name; the first is blended with the frozen layers"
    sub.add_argument("--runs", nargs="*", default=[], metavar="RUN", help=text)
    text = "folder of tf_efficientnet_lite0, 1 and 2's weights (default: those of their packages)"
    sub.add_argument("--weights", type=Path, metavar="FOLDER", help=text)
    add_out(sub, "tables")


def bbbc021(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.bbbc021.changes import Changes

    if arguments.seeds:
        raise InputError("--seeds: the study trains nothing; --runs merges all seeds of a run")
    changes = Changes(config_of(arguments), arguments.weights, arguments.runs)
    text = changes_page(changes)
    show_page(text, arguments.out)


def changes_page(changes: "Changes") -> str:
    """Return the tables of every row, and how many can be told apart from the reference."""
    from cellsignal.metrics.intervals import plural

    rows = changes.all_rows()
    return PAGE.format(
        wells=len(changes.wells),
        units=plural(changes.group, len(set(changes.unit))),
        group=changes.group,
        reference=rows[0].title,
        tables=tables(rows),
        verdict=verdict(rows, changes.group),
    )


def tables(rows: Sequence["Change"]) -> str:
    """Return one Markdown table, with a line above the rows of each section."""
    lines = head_lines(HEADS)
    reference, section = rows[0], ""
    for row in rows:
        if row.section != section:
            section = row.section
            lines.append(f"| **{section}** |{' |' * (len(HEADS) - 1)}")
        lines.append(row_text(cells(row, reference)))
    return "\n".join(lines)


def cells(row: "Change", reference: "Change") -> tuple[str, ...]:
    """Return what the table says of one row."""
    right, total = int(row.right.sum()), len(row.right)
    low, high = row.interval()
    accuracy = f"{row.right.mean():.3f} [{low:.2f}, {high:.2f}]"
    if row is reference:
        return row.title, f"{right}/{total}", accuracy, "", "", f"{row.loss.mean():.3f}"
    paired = row.against(reference)
    change, *ends = row.surprise(reference)
    surprise = f"{row.loss.mean():.3f}, {_difference(change, *ends)}"
    ends = max(paired.low, -1.0), min(paired.high, 1.0)  # shares differ by 1 at most
    over = _difference(paired.difference, *ends)
    return row.title, f"{right}/{total}", accuracy, over, f"{paired.p:.2f}", surprise


def _difference(change: float, low: float, high: float) -> str:
    return f"{change:+.3f}" + ("" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]")


def verdict(rows: Sequence["Change"], group: str) -> str:
    """Say which rows are better and which worse than the reference, by interval and by test."""
    paired = {row.title: row.against(rows[0]) for row in rows[1:] if row.section != "baselines"}
    better = [title for title, item in paired.items() if item.low > 0]
    worse = [title for title, item in paired.items() if item.high < 0]
    tested = [title for title, item in paired.items() if item.p <= 0.05]
    return "\n".join(
        [
            f"Of {len(paired)} rows beside the baselines, by their intervals over {group}s: "
            f"better than the reference: {'; '.join(better) or 'none'}. "
            f"Worse: {'; '.join(worse) or 'none'}. By p up to .05: {'; '.join(tested) or 'none'}. "
            f"Nothing is corrected for {len(paired)} comparisons."
        ]
    )
