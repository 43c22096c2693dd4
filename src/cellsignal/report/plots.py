"""Draw what training and post-processing did: learning curves, ladder, label distribution."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.evaluation.ladder import Step, metric_of
from cellsignal.metrics.intervals import interval_words
from cellsignal.report.figure_style import (
    BLUE,
    COLOURS,
    CYCLE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    VERMILION,
    mark_level,
    save,
    set_heading,
    styled_figure,
)

Score = Literal["accuracy", "average_precision"]
# what the score is called, and what guessing scores
SCORES = {
    "accuracy": ("validation accuracy", "chance"),
    "average_precision": ("validation AUC-PR", "prevalence"),
}
_LOG_COLUMNS = ("fold", "stage", "model", "epoch", "train_loss", "valid_loss", "lr")
_TRAINING_DASHES = (3, 1.5)
_NAMED = 60  # classes from which on a label distribution has no names


def learning_curves(
    path: Path | str,
    logs: pd.DataFrame,
    *,
    score: Score = "accuracy",
    guess: float | None = None,
    title: str = "Learning curves",
) -> None:
    """Draw loss, validation score and learning rate by epoch, a column a stage.

    Folds are thin lines, their mean is thick.

    Args:
        logs: columns fold, stage, model, epoch, train_loss, valid_loss, valid_<score>, lr; one row
            an epoch. Validation may be NaN (runs that train on everything).
        guess: what guessing scores, in [0, 1], drawn as a dashed line: chance, or the share of
            positives averaged over the classes.

    Raises:
        InputError: a column is missing or there are no rows.
    """
    missing = [name for name in (*_LOG_COLUMNS, f"valid_{score}") if name not in logs.columns]
    if missing:
        raise InputError(f"training logs: no column {missing[0]!r}")
    if logs.empty:
        raise InputError("training logs: no rows")
    stages = list(dict.fromkeys(logs.stage))
    models = list(dict.fromkeys(logs.model))
    colours = {model: CYCLE[number % len(CYCLE)] for number, model in enumerate(models)}
    score_name, guess_name = SCORES[score]
    with styled_figure(max(3.3 * len(stages) + 0.8, 5.2), 6.4) as figure:
        shape = {"squeeze": False, "sharex": "col", "sharey": "row"}
        axes = figure.subplots(3, len(stages), height_ratios=(3, 3, 1.3), **shape)
        for stage, column in zip(stages, axes.T, strict=True):
            _draw_stage(column, logs[logs.stage == stage], f"valid_{score}", colours)
            if guess is not None:
                mark_level(column[1], guess, f"{guess_name} {guess:.2g}")
        if logs.train_loss.max() > 0 and (logs[["train_loss", "valid_loss"]].stack() > 0).all():
            axes[0, 0].set_yscale("log")
            _use_plain_log_ticks(axes[0, 0])
        axes[1, 0].set_ylim(bottom=0)
        for axis, label in zip(axes[:, 0], ("loss", score_name, "learning rate"), strict=True):
            axis.set_ylabel(label)
        axes[2, 0].ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        _add_curve_legend(figure, colours)
        set_heading(figure, title)
        save(figure, path)


def _draw_stage(axes, logs: pd.DataFrame, score: str, colours: dict[str, str]) -> None:
    """Loss, score and learning rate of one stage, below each other."""
    loss_axis, score_axis, rate_axis = axes
    for model, rows in logs.groupby("model", sort=False):
        _draw_folds(loss_axis, rows, "train_loss", colours[model], dashes=_TRAINING_DASHES)
        _draw_folds(loss_axis, rows, "valid_loss", colours[model])
        _draw_folds(score_axis, rows, score, colours[model])
        _draw_folds(rate_axis, rows, "lr", colours[model])
    n_folds = logs.fold.nunique()
    loss_axis.set_title(f"{logs.stage.iloc[0]}  ({n_folds} fold{'s' if n_folds != 1 else ''})")
    rate_axis.set_xlabel("epoch")
    rate_axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes:
        axis.grid(axis="y")


def _draw_folds(axis, rows: pd.DataFrame, column: str, colour: str, **style) -> None:
    """Draw a thin line per fold and the thick mean; dots if there is only one epoch."""
    rows = rows.dropna(subset=[column]).sort_values("epoch")
    for _, fold in rows.groupby("fold", sort=False):
        axis.plot(fold.epoch, fold[column], color=colour, lw=0.7, alpha=0.4, **style)
    mean = rows.groupby("epoch")[column].mean()
    marker = "o" if len(mean) == 1 else None
    look = {"color": colour, "lw": 2, "solid_capstyle": "round", "marker": marker, "ms": 4}
    axis.plot(mean.index, mean, **look, **style)


def _use_plain_log_ticks(axis) -> None:
    """Numbers such as 0.5, 2, 5 on a log axis instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _add_curve_legend(figure, colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colours[name], lw=2, label=str(name)) for name in colours]
    handles += [
        Line2D([], [], color=INK, lw=1.6, label="validation"),
        Line2D([], [], color=INK, lw=1.6, dashes=_TRAINING_DASHES, label="training"),
        Line2D([], [], color=INK, lw=0.7, alpha=0.5, label="one fold"),
    ]
    shape = {"ncols": min(len(handles), 5), "columnspacing": 1.4, "handlelength": 2.2}
    figure.legend(handles=handles, loc="outside lower left", **shape)


def ladder_plot(
    path: Path | str, steps: Sequence[Step], *, title: str = "What each step adds"
) -> None:
    """Draw the score with its 95 % interval after each post-processing step, beside chance.

    Raises:
        InputError: there are no steps.
    """
    if not steps:
        raise InputError("ladder: no steps")
    with styled_figure(7.6, 1.3 + 0.42 * len(steps)) as figure:
        axis = figure.subplots()
        values = [step.score.value for step in steps]
        axis.plot(values, range(len(steps)), color=FAINT, lw=2, zorder=1)
        for row, step in enumerate(steps):
            _draw_step(axis, row, step, values[row] - values[row - 1] if row else None)
        axis.set_yticks(range(len(steps)), [step.name for step in steps])
        axis.set(ylim=(len(steps) - 0.4, -0.6), xlim=(-0.01, 1.01), title=title)
        total = f"n = {steps[-1].score.total:,}"
        last = steps[-1].score
        over = interval_words(last.unit, last.units) if last.unit else "95 % Wilson interval"
        axis.set_xlabel(f"{metric_of(steps)}, {over}, {total};   ▎chance")
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0, labelsize=9)
        axis.spines["left"].set_visible(False)
        save(figure, path)


def _draw_step(axis, row: int, step: Step, gain: float | None) -> None:
    """Interval, value, chance, and the figures beside the axis. `gain` is None at the first."""
    score = step.score
    colour = INK if gain is None else BLUE if gain >= 0 else VERMILION
    band = {"lw": 4, "alpha": 0.35, "solid_capstyle": "butt"}
    axis.plot([score.low, score.high], [row, row], color=colour, **band)
    axis.plot(score.value, row, "o", color=colour, ms=7, mec="white", mew=1)
    axis.plot(step.chance, row, "|", color=MUTED, ms=12, mew=2)
    beside = {"xycoords": ("axes fraction", "data"), "va": "center"}
    axis.annotate(f"{score.value:.4f}", (1.02, row), weight="bold", **beside)
    if gain is not None:
        shade = GREEN if gain > 0 else VERMILION if gain < 0 else MUTED
        text = f"{gain:+.4f}".replace("-", "−")
        axis.annotate(text, (1.14, row), size=8, color=shade, **beside)


def label_distribution(
    path: Path | str,
    counts: pd.DataFrame,
    *,
    what: str = "samples",
    title: str = "Label distribution",
) -> None:
    """Draw how many samples each class has, in all and by split or fold.

    Up to 60 classes are bars with names; more are curves over the rank.

    Args:
        counts: one row a class (the index is its name), one column a split or fold, whole numbers.
        what: what is counted, for the axis.

    Raises:
        InputError: no class, no column, or a count below 0.
    """
    if counts.empty or not (counts.to_numpy() >= 0).all():
        raise InputError(
            "label distribution: needs counts of 0 or more of at least one class and one part"
        )
    total = counts.sum(axis=1)
    counts = counts.loc[total.sort_values(ascending=False, kind="stable").index]
    many = len(counts) > _NAMED
    longest = max(len(str(name)) for name in counts.index)
    width = 7.2 if many else 7.2 + 0.06 * longest
    height = 4.2 if many else 1.2 + 0.19 * max(len(counts), 5)
    with styled_figure(width, height) as figure:
        axis = figure.subplots()
        if many:
            _draw_ranks(axis, counts)
            axis.set(xlabel="class, by rank", ylabel=what)
        else:
            _draw_bars(axis, counts)
            axis.set(xlabel=what)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(f"{title}: {len(counts):,} classes, {int(total.sum()):,} {what}")
        if counts.shape[1] > 1:
            shape = {"ncols": min(counts.shape[1] + 1, 7), "handlelength": 1.2}
            figure.legend(loc="outside lower left", columnspacing=1.2, **shape)
        save(figure, path)


def _draw_bars(axis, counts: pd.DataFrame) -> None:
    """A bar a class, stacked by part, with the sum at its end."""
    places, left = np.arange(len(counts)), np.zeros(len(counts))
    look = {"height": 0.78, "ec": "white", "lw": 0.4}
    for number, part in enumerate(counts.columns):
        values = counts[part].to_numpy(float)
        colour = COLOURS[number % len(COLOURS)]
        axis.barh(places, values, left=left, color=colour, label=str(part), **look)
        left += values
    beside = {"textcoords": "offset points", "va": "center", "size": 7, "color": MUTED}
    for place, value in zip(places, left, strict=True):
        axis.annotate(f"{value:,.0f}", (value, place), (3, 0), **beside)
    axis.set_yticks(places, [str(name) for name in counts.index], size=7.5)
    axis.set(ylim=(len(counts) - 0.4, -0.6), xlim=(0, max(left.max(), 1) * 1.08))
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")


def _draw_ranks(axis, counts: pd.DataFrame) -> None:
    """Draw a line per part, each with its own order of classes.

    Logarithmic where the largest class has over fifty times the median.
    """
    rank = np.arange(1, len(counts) + 1)
    total = counts.sum(axis=1).to_numpy()
    several = counts.shape[1] > 1
    axis.fill_between(rank, total, step="mid", color=FAINT, lw=0)
    axis.step(rank, total, where="mid", color=INK, lw=1.2, label="all" if several else None)
    for number, part in enumerate(counts.columns if several else ()):
        look = {"color": COLOURS[number % len(COLOURS)], "lw": 0.9, "label": str(part)}
        axis.step(rank, np.sort(counts[part])[::-1], where="mid", **look)
    if total.max() > 50 * max(np.median(total), 1):
        axis.set_yscale("symlog", linthresh=1)
    axis.set(xlim=(1, len(counts)), ylim=(0, None))
    axis.grid(axis="y")
