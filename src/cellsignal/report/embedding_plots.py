"""Pictures that a course or a multi-label task asks for beside those of `plots`: embeddings in the
plane, how many samples a class has, and average precision by epoch beside the prevalence that
guessing scores.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.report.figure_style import (
    BLUE,
    CYCLE,
    FAINT,
    INK,
    MUTED,
    STYLE,
    YELLOW,
    new_figure,
    save,
)

_LOG_COLUMNS = (
    "fold",
    "stage",
    "model",
    "epoch",
    "train_loss",
    "valid_loss",
    "valid_average_precision",
)
_COLOURS = (*CYCLE, YELLOW, "#000000")
_MARKERS = "osD^v"
_SHOWN = 10_000  # points of a t-SNE; more are drawn from at random
_NAMED = 60  # classes from which on a label distribution has no names


def tsne_plot(
    path: Path | str,
    embeddings: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    top: int = 12,
    perplexity: float = 30.0,
    seed: int = 0,
    title: str = "Embeddings (t-SNE)",
) -> None:
    """Embeddings in the plane (scikit-learn's t-SNE, started from the principal components): the
    largest classes coloured, the others grey.

    Distances between far groups mean nothing; what is near stays near.

    Args:
        embeddings: (N, D); more than 10,000 rows are drawn from.
        labels: (N,) int, indices into `names`.
        top: so many of the most frequent classes get colours.
        perplexity: effective number of neighbours, lowered for few points.

    Raises:
        InputError: fewer than three points, a value that is not finite, labels that do not fit.
    """
    import matplotlib

    embeddings, labels = np.asarray(embeddings, np.float64), np.asarray(labels, int)
    _check_points(embeddings, labels, len(names))
    if len(labels) > _SHOWN:
        chosen = np.sort(np.random.default_rng(seed).choice(len(labels), _SHOWN, replace=False))
        embeddings, labels = embeddings[chosen], labels[chosen]
    places = tsne(embeddings, perplexity, seed)
    counts = np.bincount(labels, minlength=len(names))
    largest = [int(label) for label in np.argsort(-counts, kind="stable")[:top] if counts[label]]
    others = ~np.isin(labels, largest)
    with matplotlib.rc_context(STYLE | {"axes.spines.left": False, "axes.spines.bottom": False}):
        figure = new_figure(7.6, 5.6, layout="constrained")
        axis = figure.subplots()
        size = float(np.clip(6000 / len(labels), 4, 36))  # points squared
        for number, label in enumerate(largest):
            marker = _MARKERS[number // len(_COLOURS) % len(_MARKERS)]
            mine = places[labels == label]
            axis.scatter(
                *mine.T,
                s=size,
                color=_COLOURS[number % len(_COLOURS)],
                marker=marker,
                lw=0,
                alpha=0.85,
                label=f"{names[label]} ({len(mine):,})",
            )
        if others.any():
            about = f"{len(np.unique(labels[others]))} others ({others.sum():,})"
            axis.scatter(*places[others].T, s=size, color="#BBBBBB", lw=0, zorder=0, label=about)
        axis.set(xticks=[], yticks=[], title=title)
        axis.set_aspect("equal", adjustable="datalim")
        figure.legend(
            loc="outside right upper", markerscale=max(1.0, 5 / size**0.5), handletextpad=0.3
        )
        save(figure, path)


def tsne(embeddings: np.ndarray, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """(N, D) -> (N, 2) by scikit-learn's t-SNE, the same for the same input and seed; at most N / 4
    neighbours, and 50 principal components of wide input.

    The start is that of `init="pca"` with a little noise: without it scikit-learn 1.9 crashes the
    interpreter where all points are in one place.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n, width = embeddings.shape
    points = (embeddings - embeddings.mean(axis=0)) / (embeddings.std() or 1.0)
    if points.any():
        points = PCA(
            min(n, width, 50), svd_solver="full" if width < 500 else "randomized", random_state=seed
        ).fit_transform(points)
    start = np.random.default_rng(seed).normal(0, 1e-6, (n, 2))
    # scikit-learn's own scale
    start[:, : min(2, points.shape[1])] += 1e-4 * points[:, :2] / (points[:, 0].std() or 1.0)
    return TSNE(
        2,
        perplexity=min(perplexity, max(n / 4, 1.0)),
        init=start.astype(np.float32),
        random_state=seed,
    ).fit_transform(points)


def label_distribution(
    path: Path | str,
    counts: pd.DataFrame,
    *,
    what: str = "samples",
    title: str = "Label distribution",
) -> None:
    """How many samples a class has, in all and by split or fold: bars with names up to 60 classes,
    a curve over the rank beyond.

    Args:
        counts: one row a class (the index is its name), one column a split or fold, whole numbers.
        what: what is counted, for the axis.

    Raises:
        InputError: no class, no column, or a count below 0.
    """
    import matplotlib

    if counts.empty or not (counts.to_numpy() >= 0).all():
        raise InputError(
            "label distribution: needs counts of 0 or more of at least one class and one part"
        )
    total = counts.sum(axis=1)
    counts = counts.loc[total.sort_values(ascending=False, kind="stable").index]
    many = len(counts) > _NAMED
    with matplotlib.rc_context(STYLE):
        longest = max(len(str(name)) for name in counts.index)
        height = 4.2 if many else 1.2 + 0.19 * max(len(counts), 5)
        figure = new_figure(7.2 + (0 if many else 0.06 * longest), height, layout="constrained")
        axis = figure.subplots()
        (_ranks if many else _bars)(axis, counts)
        axis.set_title(f"{title}: {len(counts):,} classes, {int(total.sum()):,} {what}")
        axis.set_ylabel(what if many else "")
        axis.set_xlabel("class, by rank" if many else what)
        if counts.shape[1] > 1:
            figure.legend(
                loc="outside lower left",
                ncols=min(counts.shape[1] + 1, 7),
                handlelength=1.2,
                columnspacing=1.2,
            )
        save(figure, path)


def _bars(axis, counts: pd.DataFrame) -> None:
    """A bar a class, stacked by part, with the sum at its end."""
    places, left = np.arange(len(counts)), np.zeros(len(counts))
    for number, part in enumerate(counts.columns):
        values = counts[part].to_numpy(float)
        axis.barh(
            places,
            values,
            left=left,
            height=0.78,
            color=_COLOURS[number % len(_COLOURS)],
            ec="white",
            lw=0.4,
            label=str(part),
        )
        left += values
    for place, value in zip(places, left, strict=True):
        axis.annotate(
            f"{value:,.0f}",
            (value, place),
            (3, 0),
            textcoords="offset points",
            va="center",
            size=7,
            color=MUTED,
        )
    axis.set_yticks(places, [str(name) for name in counts.index], size=7.5)
    axis.set(ylim=(len(counts) - 0.4, -0.6), xlim=(0, max(left.max(), 1) * 1.08))
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")


def _ranks(axis, counts: pd.DataFrame) -> None:
    """A line a part, each over the classes in its own order; logarithmic where the largest class
    has over fifty times the median.
    """
    rank = np.arange(1, len(counts) + 1)
    total = counts.sum(axis=1).to_numpy()
    axis.fill_between(rank, total, step="mid", color=FAINT, lw=0)
    axis.step(
        rank, total, where="mid", color=INK, lw=1.2, label="all" if counts.shape[1] > 1 else None
    )
    if counts.shape[1] > 1:
        for number, part in enumerate(counts.columns):
            axis.step(
                rank,
                np.sort(counts[part])[::-1],
                where="mid",
                color=_COLOURS[number % len(_COLOURS)],
                lw=0.9,
                label=str(part),
            )
    if total.max() > 50 * max(np.median(total), 1):
        axis.set_yscale("symlog", linthresh=1)
    axis.set(xlim=(1, len(counts)), ylim=(0, None))
    axis.grid(axis="y")


def average_precision_curves(
    path: Path | str,
    logs: pd.DataFrame,
    prevalence: float | None = None,
    *,
    title: str = "Loss and average precision",
) -> None:
    """Loss and validation AUC-PR by epoch, a column a stage: folds as thin lines, their mean thick,
    prevalence dashed.

    Args:
        logs: columns fold, stage, model, epoch, train_loss, valid_loss, valid_average_precision;
        one row an epoch. Validation may be NaN. prevalence: what guessing scores, in [0, 1]: the
        share of positives, averaged over the classes as the metric is.

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
    colours = {model: CYCLE[at % len(CYCLE)] for at, model in enumerate(models)}
    with matplotlib.rc_context(STYLE):
        figure = new_figure(max(3.6 * len(stages) + 0.8, 5.4), 5.4, layout="constrained")
        axes = figure.subplots(2, len(stages), squeeze=False, sharex="col", sharey="row")
        for (loss, score), stage in zip(axes.T, stages, strict=True):
            for model, rows in logs[logs.stage == stage].groupby("model", sort=False):
                _curves(loss, rows, "train_loss", colours[model], dashes=(3, 1.5))
                _curves(loss, rows, "valid_loss", colours[model])
                _curves(score, rows, "valid_average_precision", colours[model])
            loss.set_title(stage)
            score.set_xlabel("epoch")
            score.xaxis.get_major_locator().set_params(integer=True)
            for axis in (loss, score):
                axis.grid(axis="y")
            if prevalence is not None:
                score.axhline(prevalence, color=MUTED, dashes=(2, 2), lw=1)
                where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
                score.annotate(
                    f"prevalence {prevalence:.2g}",
                    (1, prevalence),
                    (0, 3),
                    ha="right",
                    color=MUTED,
                    size=7.5,
                    **where,
                )
        axes[0, 0].set(ylabel="loss", ylim=(0, None))
        axes[1, 0].set(ylabel="validation AUC-PR", ylim=(0, None))
        _key(figure, colours)
        figure.suptitle(title, x=0.01, ha="left", weight="bold", size=12)
        save(figure, path)


def _curves(axis, rows: pd.DataFrame, column: str, colour: str, dashes: tuple = ()) -> None:
    """One thin line a fold and the mean over the folds, thick; a dot where there is one epoch."""
    known = rows.dropna(subset=[column])
    style = {"dashes": dashes} if dashes else {}
    mean = known.groupby("epoch")[column].mean()
    if known.fold.nunique() > 1:
        for _, fold in known.sort_values("epoch").groupby("fold", sort=False):
            axis.plot(fold.epoch, fold[column], color=colour, lw=0.7, alpha=0.4, **style)
    axis.plot(
        mean.index, mean, color=colour, lw=2, marker="o" if len(mean) == 1 else None, ms=4, **style
    )


def _key(figure, colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = (
        [Line2D([], [], color=colour, lw=2, label=str(model)) for model, colour in colours.items()]
        if len(colours) > 1
        else []
    )
    shade = INK if handles else BLUE
    handles += [
        Line2D([], [], color=shade, lw=1.6, label="validation"),
        Line2D([], [], color=shade, lw=1.6, dashes=(3, 1.5), label="training"),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=min(len(handles), 5),
        columnspacing=1.4,
        handlelength=2.2,
    )


def _check_points(embeddings: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if embeddings.ndim != 2 or len(embeddings) < 3 or labels.shape != (len(embeddings),):
        raise InputError(
            f"t-SNE: needs three or more embeddings with a label each, not {embeddings.shape} and "
            f"{labels.shape}"
        )
    if not np.isfinite(embeddings).all():
        raise InputError(
            f"t-SNE: embedding {int(np.argmin(np.isfinite(embeddings).all(axis=1)))} is not finite"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"t-SNE: a label lies outside the {classes} class names")
