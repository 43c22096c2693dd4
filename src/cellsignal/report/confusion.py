"""Draw a confusion matrix of few or of many classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.metrics.accuracy import accuracy, balanced_accuracy
from cellsignal.report.figure_style import INK, MUTED, save, styled_figure

MANY = 30  # classes from which on it is drawn without names and counts


def confusion_matrix(
    path: Path | str,
    true,
    predicted,
    class_names: Sequence[str],
    *,
    group=None,
    title: str = "Confusion matrix",
) -> None:
    """Draw the share of each true class (row) that was predicted as each class (column).

    Up to 30 classes keep their order, names and the counts in the cells. More are ordered so that
    what is confused stands together (by `group` first, then by average-linkage clustering of the
    symmetrised matrix) and drawn without names, off-diagonal dots enlarged.

    Args:
        true, predicted: (N,) int, indices into `class_names`.
        group: (K,) int or None, e.g. the plate group of each class; lines are drawn between groups.

    Raises:
        InputError: an index that names no class, or nothing to draw.
    """
    true, predicted = np.asarray(true, dtype=int), np.asarray(predicted, dtype=int)
    k = len(class_names)
    share_right = accuracy(true, predicted)
    if min(true.min(), predicted.min()) < 0 or max(true.max(), predicted.max()) >= k:
        raise InputError(f"confusion matrix: a label lies outside the {k} class names")
    counts = np.bincount(true * k + predicted, minlength=k * k).reshape(k, k)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    balanced = f"balanced accuracy {balanced_accuracy(true, predicted):.3f}"
    many = k > MANY
    # inches
    side = 6.6 if many else min(max(0.6 * k, 3.6), 11)
    names = 0.0 if many else 0.075 * max(map(len, class_names))
    spines = {"axes_spines_top": True, "axes_spines_right": True}
    with styled_figure(side + names + 1.6, side + 0.7 * names + 0.9, **spines) as figure:
        axis = figure.subplots()
        if many:
            picture = _draw_many(axis, share, group)
        else:
            picture = _draw_few(axis, share, counts, class_names)
        look = {"shrink": 0.6, "pad": 0.02, "label": "share of the true class"}
        figure.colorbar(picture, ax=axis, **look).outline.set_visible(False)
        axis.set(xlabel="predicted class", ylabel="true class")
        axis.set_title(f"{title}\n", pad=6)
        above = {"xycoords": "axes fraction", "textcoords": "offset points"}
        heading = f"accuracy {share_right.value:.3f} ({share_right.counted})   {balanced}"
        axis.annotate(heading, (0, 1), (0, 6), size=8, color=MUTED, **above)
        save(figure, path)


def _draw_few(axis, share: np.ndarray, counts: np.ndarray, names: Sequence[str]):
    """Names on both axes, counts in the cells that have any."""
    from matplotlib.patches import Rectangle

    k = len(names)
    picture = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(k), names, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(k), names)
    axis.tick_params(length=0)
    axis.set_xticks(np.arange(k + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", lw=1.5)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)
    look = {"ha": "center", "va": "center", "size": 8 if k <= 15 else 6.5}
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if share[row, column] > 0.55 else INK
        axis.text(column, row, f"{counts[row, column]:,}", color=colour, **look)
    for place in range(k):
        axis.add_patch(Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, ec=MUTED, lw=0.8))
    return picture


def _draw_many(axis, share: np.ndarray, group):
    """Dots of visible size: a cell of 1/1000 of the axis would vanish."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, PowerNorm

    # its yellow would not show on white
    shades = ListedColormap(colormaps["viridis_r"](np.linspace(0.15, 1, 256)))
    order = confusion_order(share, group)
    share = share[np.ix_(order, order)]
    rows, columns = np.nonzero(share)
    ascending = np.argsort(share[rows, columns], kind="stable")
    rows, columns = rows[ascending], columns[ascending]
    size = max(460.0 / len(order), 1.4) ** 2  # points squared; the axis is about 460 points wide
    look = {"marker": "s", "lw": 0, "cmap": shades, "norm": PowerNorm(0.5, 0, 1)}
    picture = axis.scatter(columns, rows, c=share[rows, columns], s=size, **look)
    limits = (-0.5, len(order) - 0.5)
    axis.set(xlim=limits, ylim=limits[::-1], aspect="equal", xticks=[], yticks=[])
    if group is not None:
        for edge in np.flatnonzero(np.diff(np.asarray(group)[order])) + 0.5:
            axis.axhline(edge, color=MUTED, lw=0.8)
            axis.axvline(edge, color=MUTED, lw=0.8)
    return picture


def confusion_order(share: np.ndarray, group) -> np.ndarray:
    """Return the class order (K,): by group, then by the leaves of a tree of mutual confusion."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    group = np.zeros(len(share), dtype=int) if group is None else np.asarray(group)
    parts = []
    for value in np.unique(group):
        members = np.flatnonzero(group == value)
        if len(members) > 2:
            within = share[np.ix_(members, members)]
            distance = 1 - (within + within.T) / 2
            np.fill_diagonal(distance, 0)
            tree = linkage(squareform(distance, checks=False), "average")
            members = members[leaves_list(tree)]
        parts.append(members)
    return np.concatenate(parts)
