"""The figures of the report: learning curves, confusion matrix and post-processing ladder; plates
and images in `plate_plots`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.evaluation.ladder import Step, score_title
from cellsignal.metrics.accuracy import accuracy, balanced_accuracy
from cellsignal.report.figure_style import (
    BLUE,
    CYCLE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    STYLE,
    VERMILION,
    new_figure,
    save,
)
from cellsignal.report.plate_plots import channel_montage, plate_map

__all__ = ["channel_montage", "confusion_matrix", "ladder_plot", "learning_curves", "plate_map"]

_LOG_COLUMNS = (
    "fold",
    "stage",
    "model",
    "epoch",
    "train_loss",
    "valid_loss",
    "valid_accuracy",
    "lr",
)
_MANY = 30  # classes from which on a confusion matrix is drawn without names and counts


def learning_curves(
    path: Path | str,
    logs: pd.DataFrame,
    *,
    chance: float | None = None,
    title: str = "Learning curves",
) -> None:
    """Loss, validation accuracy and learning rate by epoch: a column a stage, folds as thin lines,
    their mean thick.

    Args:
        logs: columns fold, stage, model, epoch, train_loss, valid_loss, valid_accuracy, lr; one row
        an epoch.
            Validation may be NaN (runs that train on everything).
        chance: accuracy of guessing, in [0, 1], drawn as a dashed line.

    Raises:
        InputError: a column is missing or there are no rows.
    """
    import matplotlib

    missing = [column for column in _LOG_COLUMNS if column not in logs.columns]
    if missing or logs.empty:
        raise InputError(
            f"training logs: no column {missing[0]!r}" if missing else "training logs: no rows"
        )
    stages, models = list(dict.fromkeys(logs.stage)), list(dict.fromkeys(logs.model))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(max(3.3 * len(stages) + 0.8, 5.2), 6.4, layout="constrained")
        axes = figure.subplots(
            3, len(stages), squeeze=False, sharex="col", sharey="row", height_ratios=(3, 3, 1.3)
        )
        colours = dict(
            zip(models, [CYCLE[at % len(CYCLE)] for at in range(len(models))], strict=True)
        )
        for column, stage in enumerate(stages):
            loss, score, rate = axes[:, column]
            part = logs[logs.stage == stage]
            for model, rows in part.groupby("model", sort=False):
                _folds(loss, rows, "train_loss", colours[model], dashes=(3, 1.5))
                _folds(loss, rows, "valid_loss", colours[model])
                _folds(score, rows, "valid_accuracy", colours[model])
                _folds(rate, rows, "lr", colours[model])
            n_folds = part.fold.nunique()
            loss.set_title(f"{stage}  ({n_folds} fold{'s' if n_folds != 1 else ''})")
            rate.set_xlabel("epoch")
            rate.xaxis.get_major_locator().set_params(integer=True)
            for axis in (loss, score, rate):
                axis.grid(axis="y")
            if chance is not None:
                score.axhline(chance, color=MUTED, dashes=(2, 2), lw=1)
                where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
                score.annotate(
                    f"chance {chance:.2g}",
                    (1, chance),
                    (0, 3),
                    ha="right",
                    color=MUTED,
                    size=7.5,
                    **where,
                )
        if logs.train_loss.max() > 0 and (logs[["train_loss", "valid_loss"]].stack() > 0).all():
            axes[0, 0].set_yscale("log")
            _plain_log_ticks(axes[0, 0])
        axes[1, 0].set_ylim(bottom=0)
        for axis, label in zip(
            axes[:, 0], ("loss", "validation accuracy", "learning rate"), strict=True
        ):
            axis.set_ylabel(label)
        axes[2, 0].ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        _curve_legend(figure, colours)
        figure.suptitle(title, x=0.01, ha="left", weight="bold", size=12)
        save(figure, path)


def _folds(axis, rows: pd.DataFrame, column: str, colour: str, dashes: tuple = ()) -> None:
    """One thin line a fold and the mean over folds, thick."""
    style = {"dashes": dashes} if dashes else {}
    for _, fold in rows.groupby("fold", sort=False):
        fold = fold.sort_values("epoch").dropna(subset=[column])
        axis.plot(fold.epoch, fold[column], color=colour, lw=0.7, alpha=0.4, **style)
    mean = rows.dropna(subset=[column]).groupby("epoch")[column].mean()
    axis.plot(
        mean.index,
        mean,
        color=colour,
        lw=2,
        solid_capstyle="round",
        marker="o" if len(mean) == 1 else None,
        ms=4,
        **style,
    )


def _plain_log_ticks(axis) -> None:
    """Numbers such as 0.5, 2, 5 on a log axis instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _curve_legend(figure, colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, lw=2, label=str(model)) for model, colour in colours.items()
    ]
    handles += [
        Line2D([], [], color=INK, lw=1.6, label="validation"),
        Line2D([], [], color=INK, lw=1.6, dashes=(3, 1.5), label="training"),
        Line2D([], [], color=INK, lw=0.7, alpha=0.5, label="one fold"),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=min(len(handles), 5),
        columnspacing=1.4,
        handlelength=2.2,
    )


def confusion_matrix(
    path: Path | str,
    true,
    predicted,
    class_names: Sequence[str],
    *,
    group=None,
    title: str = "Confusion matrix",
) -> None:
    """Rows are true classes, each adding up to 1; columns are predicted classes.

    Up to 30 classes keep their order, names and the counts in the cells. More are ordered so that
    what is confused stands together (by `group` first, then by average-linkage clustering of the
    symmetrised matrix) and drawn without names, off-diagonal dots enlarged.

    Args:
        true, predicted: (N,) int, indices into `class_names`.
        group: (K,) int or None, e.g. the plate group of each class; lines are drawn between groups.

    Raises:
        InputError: an index that names no class, or nothing to draw.
    """
    import matplotlib

    true = np.asarray(true, dtype=int)
    predicted = np.asarray(predicted, dtype=int)
    k = len(class_names)
    figure_of_merit = accuracy(true, predicted)
    if min(true.min(), predicted.min()) < 0 or max(true.max(), predicted.max()) >= k:
        raise InputError(f"confusion matrix: a label lies outside the {k} class names")
    counts = np.bincount(true * k + predicted, minlength=k * k).reshape(k, k)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    heading = f"accuracy {figure_of_merit.format()}   balanced accuracy {balanced_accuracy(true, predicted):.3f}"
    with matplotlib.rc_context(STYLE | {"axes.spines.top": True, "axes.spines.right": True}):
        side, names = (
            (6.6, 0.0)
            if k > _MANY
            else (min(max(0.6 * k, 3.6), 11), 0.075 * max(map(len, class_names)))
        )
        # inches
        figure = new_figure(side + names + 1.6, side + 0.7 * names + 0.9, layout="constrained")
        axis = figure.subplots()
        picture = (
            _draw_many(axis, share, group)
            if k > _MANY
            else _draw_few(axis, share, counts, class_names)
        )
        bar = figure.colorbar(
            picture, ax=axis, shrink=0.6, pad=0.02, label="share of the true class"
        )
        bar.outline.set_visible(False)
        axis.set(xlabel="predicted class", ylabel="true class")
        axis.set_title(f"{title}\n", pad=6)
        above = {"xycoords": "axes fraction", "textcoords": "offset points"}
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
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if share[row, column] > 0.55 else INK
        text = f"{counts[row, column]:,}"
        axis.text(
            column, row, text, ha="center", va="center", color=colour, size=8 if k <= 15 else 6.5
        )
    for at in range(k):
        axis.add_patch(Rectangle((at - 0.5, at - 0.5), 1, 1, fill=False, ec=MUTED, lw=0.8))
    return picture


def _draw_many(axis, share: np.ndarray, group):
    """Dots of visible size: a cell of 1/1000 of the axis would vanish."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, PowerNorm

    # its yellow would not show on white
    shades = ListedColormap(colormaps["viridis_r"](np.linspace(0.15, 1, 256)))
    order = _confusion_order(share, group)
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
        ordered = np.asarray(group)[order]
        for edge in np.flatnonzero(np.diff(ordered)) + 0.5:
            axis.axhline(edge, color=MUTED, lw=0.8)
            axis.axvline(edge, color=MUTED, lw=0.8)
    return picture


def _confusion_order(share: np.ndarray, group) -> np.ndarray:
    """(K,) class order: by group, within a group by the leaves of an average-linkage tree over 1 -
    mutual confusion.
    """
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
            members = members[leaves_list(linkage(squareform(distance, checks=False), "average"))]
        parts.append(members)
    return np.concatenate(parts)


def ladder_plot(
    path: Path | str, steps: Sequence[Step], *, title: str = "What each step adds"
) -> None:
    """Accuracy with its 95 % interval after each post-processing step, beside what guessing would
    score there.

    Raises:
        InputError: there are no steps.
    """
    import matplotlib

    if not steps:
        raise InputError("ladder: no steps")
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.6, 1.3 + 0.42 * len(steps), layout="constrained")
        axis = figure.subplots()
        values = [step.accuracy.value for step in steps]
        axis.plot(values, range(len(steps)), color=FAINT, lw=2, zorder=1)
        for row, step in enumerate(steps):
            _draw_step(axis, row, step, values[row] - values[row - 1] if row else None)
        axis.set_yticks(range(len(steps)), [step.name for step in steps])
        axis.set(ylim=(len(steps) - 0.4, -0.6), xlim=(-0.01, 1.01))
        axis.set_xlabel(
            f"{score_title(steps)} with 95 % interval, n = {steps[-1].accuracy.total:,};   ▎chance"
        )
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0, labelsize=9)
        axis.spines["left"].set_visible(False)
        axis.set_title(title)
        save(figure, path)


def _draw_step(axis, row: int, step: Step, gain: float | None) -> None:
    """One rung: interval, value, chance, and the figures beside the axis. `gain` is None at the
    first.
    """
    figure, beside = step.accuracy, {"xycoords": ("axes fraction", "data"), "va": "center"}
    colour = INK if gain is None else BLUE if gain >= 0 else VERMILION
    axis.plot(
        [figure.low, figure.high], [row, row], color=colour, lw=4, alpha=0.35, solid_capstyle="butt"
    )
    axis.plot(figure.value, row, "o", color=colour, ms=7, mec="white", mew=1)
    axis.plot(step.chance, row, "|", color=MUTED, ms=12, mew=2)
    axis.annotate(f"{figure.value:.4f}", (1.02, row), weight="bold", **beside)
    if gain is not None:
        shade = GREEN if gain > 0 else VERMILION if gain < 0 else MUTED
        axis.annotate(f"{gain:+.4f}".replace("-", "−"), (1.14, row), size=8, color=shade, **beside)
