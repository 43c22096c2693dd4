"""The score by cell type, experiment and fold group, and of each class."""

import numpy as np
import pandas as pd

from cellsignal.report.html.outcomes import Outcome
from cellsignal.report.html.page import (
    bar,
    choices,
    folded,
    heading,
    interval_text,
    paragraph,
    table,
)
from cellsignal.report.html.view import RunView

LEAST = 2  # targets of a slice that is scored
CLASSES = 25  # that are listed on either side


def slices(view: RunView) -> str:
    """Return tables by cell type and experiment, for each part."""
    parts = [(outcome.name, _of_part(view, outcome)) for outcome in view.outcomes.values()]
    note = "Scores of merged predictions, before the plate layout is used. Intervals are for "
    note += "these wells; slices with few wells have wide ones."
    return paragraph(note) + choices(parts)


def _of_part(view: RunView, outcome: Outcome) -> str:
    blocks = []
    columns = {"cell_type": outcome.targets.cell_type, "experiment": outcome.targets.experiment}
    for column, values in columns.items():
        name = column.replace("_", " ")
        blocks.append(heading(f"By {name}") + _by(outcome, name, values, view.chance))
    if outcome.predicted is not None:
        blocks.append(_by_class(outcome))
    return "".join(blocks)


def _by(outcome: Outcome, name: str, values: np.ndarray, chance: float) -> str:
    rows, metric = [], "score"
    for value in sorted(set(values)):
        chosen = values == value
        if chosen.sum() < LEAST:
            continue
        score = outcome.score(chosen)
        if np.isfinite(score.value):
            metric = score.metric
            drawn = bar(score.value, score.low, score.high, chance)
            interval = interval_text(score.low, score.high)
            rows.append((value, drawn, f"{score.value:.3f}", interval, f"{chosen.sum():,}"))
    head = (name, "", metric, "95 % interval", "n")
    return table(head, rows, numeric={2, 4})


def _by_class(outcome: Outcome) -> str:
    """The classes that are found least, and how many are found how often."""
    frame = pd.DataFrame({"label": outcome.truth.values, "right": outcome.right})
    by_class = frame.groupby("label").right.agg(["sum", "size"])
    by_class["share"] = by_class["sum"] / by_class["size"]
    by_class = by_class.sort_values(["share", "size"], ascending=[True, False], kind="stable")
    rows = [
        (outcome.classes[label], f"{row['sum']:.0f} of {row['size']:.0f}", f"{row.share:.2f}")
        for label, row in by_class.head(CLASSES).iterrows()
    ]
    title = f"By class: the {min(CLASSES, len(by_class))} that are found least"
    edges = np.array([0, 0.25, 0.5, 0.75, 1.0])
    counts = np.histogram(by_class["share"], bins=edges)[0]
    ranges = ["0 to .25", ".25 to .5", ".5 to .75", ".75 to 1"]
    summary = ", ".join(f"{n:,} classes {name}" for n, name in zip(counts, ranges, strict=True))
    content = table(("class", "right, final label", "share"), rows, numeric={1, 2})
    return paragraph(f"Share of each class's wells that get its label: {summary}.") + folded(
        title, content
    )
