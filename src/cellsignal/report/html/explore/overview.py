"""Count experiments, plates, cell types, wells and labels."""

import numpy as np
import pandas as pd

from cellsignal.report.html.drawing import drawn
from cellsignal.report.html.explore.look import Look
from cellsignal.report.html.page import cards, counted, figure, folded, paragraph, table
from cellsignal.report.plots import label_distribution

SHOWN = 60  # experiments that are listed at once
ALIKE = 12  # classes of one size from which on their picture is folded


def overview(look: Look) -> str:
    """Return the counts of the data set, and a row for each experiment."""
    wells = look.wells
    plates = len(wells[["experiment", "plate"]].drop_duplicates())
    items = [
        ("Wells", f"{len(wells):,}", _image_text(look)),
        ("Experiments", f"{wells.experiment.nunique():,}", counted(plates, "plate")),
        (
            "Cell types",
            f"{wells.cell_type.nunique()}",
            _some(sorted(set(wells.cell_type))),
        ),
        ("Classes", f"{len(look.classes):,}", f"scored by {look.competition.metric}"),
    ]
    rows = []
    for (experiment, cell_type), part in wells.groupby(["experiment", "cell_type"], sort=True):
        roles = part.role.value_counts()
        test = ((part.split == "test") & (part.role == "treatment")).sum()
        rows.append(
            (
                experiment,
                cell_type,
                part.plate.nunique(),
                len(part),
                roles.get("treatment", 0) - test,
                test,
                roles.get("negative_control", 0),
                roles.get("positive_control", 0),
            )
        )
    head = (
        "experiment",
        "cell type",
        "plates",
        "wells",
        "labelled",
        "test",
        "negative controls",
        "positive controls",
    )
    listed = table(head, rows, numeric=range(2, 8))
    if len(rows) > SHOWN:
        listed = folded(f"All {len(rows)} experiments", listed)
    about = look.competition
    text = f"{about.title}. Licence: {about.licence}. {about.citation}."
    return paragraph(text) + cards(items) + listed


def _image_text(look: Look) -> str:
    count, present = len(look.samples), len(look.present)
    text = f"{counted(count, 'image')} of {len(look.channels)} channels"
    return text if present == count else f"{text}; {present:,} of them are here"


def _some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def labels(look: Look) -> str:
    """Return how many wells each class has, by cell type."""
    from cellsignal.competitions.folds import labelled

    wells = look.wells[labelled(look.wells)]
    counts = {}
    for cell_type, part in wells.groupby("cell_type", sort=True):
        label = part.label.dropna()
        if label.empty and "labels" in part:
            label = part["labels"].explode().dropna()
        label = label.astype(int)
        label = label[label.between(0, len(look.classes) - 1)]
        counts[str(cell_type)] = np.bincount(label, minlength=len(look.classes))
    frame = pd.DataFrame(counts, index=list(look.classes))
    total = frame.sum(axis=1)
    if not total.sum():
        return paragraph("No well has a label.")
    ratio = total.max() / max(total[total > 0].min(), 1)
    each = f"{total.min():,.0f} to {total.max():,.0f} labelled wells each (median "
    each += f"{total.median():,.0f})"
    if total.min() == total.max():
        each = f"{counted(int(total.max()), 'labelled well')} each"
    text = f"{counted(len(look.classes), 'class')}; {each}."
    if ratio > 3:
        text += f" The largest class has {ratio:.0f} times the wells of the smallest: compare a "
        text += "score with always answering the largest."
    draw = lambda path: label_distribution(path, frame, what="wells", title="Labels")  # noqa: E731
    alt = f"Label distribution by cell type: {text}"
    picture = figure(drawn(draw), alt, width=760)
    same = total.min() == total.max() and len(total) > ALIKE
    return paragraph(text) + (folded("Class by class", picture) if same else picture)
