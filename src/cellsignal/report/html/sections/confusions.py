"""What is confused with what: a picture, the pairs, and of many classes a matrix to zoom into."""

import base64
import json

import numpy as np

from cellsignal.report.confusion import MANY, confusion_matrix, confusion_order
from cellsignal.report.html.drawing import drawn, indexed_png
from cellsignal.report.html.outcomes import Outcome
from cellsignal.report.html.page import escape, figure, folded, table
from cellsignal.report.html.view import RunView

PAIRS = 25
_ZOOMS = (("+", "2", "zoom in"), ("−", "0.5", "zoom out"), ("whole", "0", "show the whole matrix"))


def confusions(view: RunView) -> str | None:
    """Return the confusion matrix of the test set, else out of fold; None with several labels."""
    if not view.has_one_label:
        return None
    outcome = view.outcome
    true, predicted = outcome.truth.values, outcome.predicted
    group = None if outcome.groups is None else outcome.groups.class_group
    many = len(outcome.classes) > MANY

    def draw(path) -> None:
        title = f"{view.title}: {outcome.name}"
        confusion_matrix(path, true, predicted, outcome.classes, group=group, title=title)

    order = "ordered so that what is confused stands together" if many else "in label order"
    alt = (
        f"Confusion matrix of {len(outcome.classes)} classes, {order}: "
        f"{outcome.right.mean():.3f} of {len(true):,} labels are right (the diagonal)."
    )
    content = figure(drawn(draw), alt, _caption(many, group), width=760)
    content += folded("The pairs that are confused most", _pairs(outcome))
    if many:
        content += folded("Zoom into the matrix", _matrix(outcome, group))
    return content


def _caption(many: bool, group) -> str:
    layout = ", after the plate layout" if group is not None else ""
    text = f"Final labels{layout}. A row is a true class, a column a predicted one."
    if many:
        text += " Classes are ordered by average-linkage clustering of their mutual confusion"
        text += ", within the plate groups." if group is not None else "."
    return text


def _pairs(outcome: Outcome) -> str:
    wrong = ~outcome.right
    pairs = np.stack([outcome.truth.values[wrong], outcome.predicted[wrong]], axis=1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    total = np.bincount(outcome.truth.values, minlength=len(outcome.classes))
    most = np.argsort(-counts, kind="stable")[:PAIRS]
    rows = [
        (
            outcome.classes[kinds[i, 0]],
            outcome.classes[kinds[i, 1]],
            f"{counts[i]} of {total[kinds[i, 0]]}",
        )
        for i in most
    ]
    return table(("true class", "predicted as", "wells"), rows, numeric={2})


def _matrix(outcome: Outcome, group) -> str:
    """The matrix with one pixel a cell, which buttons enlarge; a touch reads a cell."""
    n = len(outcome.classes)
    true, predicted = outcome.truth.values, outcome.predicted
    counts = np.bincount(true * n + predicted, minlength=n * n).reshape(n, n)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    order = confusion_order(share, group)
    counts, share = counts[np.ix_(order, order)], share[np.ix_(order, order)]
    rows, columns = np.nonzero(counts)
    cells = np.stack([rows, columns, counts[rows, columns]], axis=1).ravel().tolist()
    names = [outcome.classes[label] for label in order]
    data = json.dumps({"names": names, "cells": cells}, separators=(",", ":"))
    data = data.replace("<", "\\u003c")  # ends no script
    buttons = "".join(
        f'<button type="button" data-zoom="{factor}" aria-label="{label}">{text}</button>'
        for text, factor, label in _ZOOMS
    )
    alt = escape(f"The same matrix of {n} classes, one pixel a cell, to be enlarged.")
    source = base64.b64encode(_pixels(share)).decode("ascii")
    return (
        f'<div class="matrix"><div class="buttons">{buttons}</div>'
        '<p class="read">Point at a cell, or touch it, to read it.</p>'
        f'<div class="view" tabindex="0"><img src="data:image/png;base64,{source}" alt="{alt}">'
        f'</div><script type="application/json">{data}</script></div>'
    )


def _pixels(share: np.ndarray) -> bytes:
    """White where nothing is, else the colours of the picture: darker is a larger share."""
    from matplotlib import colormaps

    colours = (colormaps["viridis_r"](np.linspace(0.15, 1, 255))[:, :3] * 255).round()
    palette = np.vstack([[255, 255, 255], colours]).astype(np.uint8)
    level = np.where(share > 0, 1 + np.round(254 * np.sqrt(share)), 0).astype(np.uint8)
    return indexed_png(level, palette)
