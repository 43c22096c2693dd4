"""Pictures of re-identification: CMC and ROC curves, query and gallery in one plane, and the tracks
that a query found, frame by frame.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.evaluation.reid import ReId
from cellsignal.metrics.accuracy import wilson_interval
from cellsignal.report.embedding_plots import tsne
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

_COLOURS = (*CYCLE, "#F0E442", "#000000")
_OTHER = "#BBBBBB"
_SHOWN = 5_000  # points of a t-SNE; more are drawn from at random
_STRETCH = 99.8  # percentile of a channel that becomes full brightness


def cmc_curves(
    path: Path | str,
    found: Mapping[str, ReId],
    *,
    ranks: int = 50,
    title: str = "Cumulative match characteristic",
) -> None:
    """Rank-k over k, a line a model with Wilson's 95 % band; dashed, what a random order scores.

    Args:
        found: name -> its figures; the random order is drawn once for each protocol and number of
        queries. ranks: the longest k, lowered to the longest list.

    Raises:
        InputError: nothing to draw.
    """
    import matplotlib

    if not found or ranks < 1:
        raise InputError("CMC curves: needs at least one model and one rank")
    ranks = min(ranks, max(len(one.cmc) for one in found.values()))
    k = np.arange(1, ranks + 1)
    randoms = {}
    with matplotlib.rc_context(STYLE):
        figure = new_figure(6.2, 4.4, layout="constrained")
        axis = figure.subplots()
        for at, (name, one) in enumerate(found.items()):
            share = one.cmc[np.minimum(k, len(one.cmc)) - 1]
            total = len(one.queries)
            colour = CYCLE[at % len(CYCLE)]
            # what lies on another line is narrower, so that both are seen
            width = 1.6 + 1.5 * max(0, min(len(found), 3) - 1 - at)
            ends = np.array([wilson_interval(round(value * total), total) for value in share])
            axis.fill_between(k, *ends.T, color=colour, alpha=0.13, lw=0)
            axis.plot(
                k,
                share,
                color=colour,
                lw=width,
                marker="o" if ranks == 1 else None,
                label=f"{name}: rank-1 {one.rank(1).format()}",
            )
            randoms.setdefault((one.protocol, total), one)
        for at, ((protocol, total), one) in enumerate(randoms.items()):
            told = (
                "random order"
                if len(randoms) == 1
                else f"random order ({protocol}, {total} queries)"
            )
            axis.plot(
                k,
                [one.random_rank(int(n)) for n in k],
                color=MUTED,
                dashes=((4, 2), (1.2, 1.5), (7, 3))[at % 3],
                lw=1.1,
                label=told,
            )
        step = max(1, round(ranks / 50) * 5 or ranks // 10)
        axis.set_xticks([1, *range(step, ranks + 1, step)] if step > 1 else k)
        axis.set(
            xlim=(1, max(ranks, 2)),
            ylim=(0, 1),
            xlabel="rank k",
            ylabel="queries with a match among the first k",
            title=title,
        )
        axis.grid(axis="y")
        figure.legend(loc="outside lower left", ncols=1, handlelength=2.8)
        save(figure, path)


def roc_curves(
    path: Path | str,
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    title: str = "ROC, each mechanism against the rest",
) -> None:
    """A thin line a class (softmax against all other queries), their mean thick: the true positive
    rates averaged at equal false positive rates.

    Args:
        logits: (Q, K) float.
        labels: (Q,) int below K; a class without a query, or with all of them, has no curve.

    Raises:
        InputError: shapes that do not fit, a logit that is not finite, or no class with a curve.
    """
    import matplotlib
    from scipy.special import softmax
    from sklearn.metrics import auc, roc_curve

    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, int)
    if logits.ndim != 2 or labels.shape != (len(logits),) or not np.isfinite(logits).all():
        raise InputError(
            f"ROC curves: logits {logits.shape} and labels {labels.shape} do not fit, or a logit "
            "is not finite"
        )
    scores = softmax(logits, axis=1)
    drawn = [k for k in range(logits.shape[1]) if 0 < (labels == k).sum() < len(labels)]
    if not drawn:
        raise InputError("ROC curves: no class has queries of its own and others")
    curves = [roc_curve(labels == k, scores[:, k], drop_intermediate=False)[:2] for k in drawn]
    grid = np.unique(np.concatenate([false for false, _ in curves]))
    areas = [auc(false, true) for false, true in curves]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(4.9, 4.9, layout="constrained")
        axis = figure.subplots()
        for false, true in curves:
            axis.plot(false, true, color="#9CC3DE", lw=0.6)
        axis.plot([0, 1], [0, 1], color=MUTED, dashes=(3, 2), lw=1, label="chance")
        # upper ends of the steps, from (0, 0) on
        mean = np.mean(
            [
                [true[np.searchsorted(false, at, side="right") - 1] for at in grid]
                for false, true in curves
            ],
            axis=0,
        )
        label = f"mean of {len(drawn)} classes: AUC {np.mean(areas):.3f} ({min(areas):.2f} to {max(areas):.2f})"
        axis.plot(np.r_[0, grid], np.r_[0, mean], color=BLUE, lw=2.2, label=label)
        axis.set(
            xlim=(-0.01, 1),
            ylim=(0, 1.01),
            xlabel="false positive rate",
            ylabel="true positive rate",
            title=title,
        )
        axis.set_aspect("equal")
        axis.grid()
        axis.legend(loc="lower right")
        save(figure, path)


def reid_tsne(
    path: Path | str,
    query: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    names: Sequence[str],
    *,
    top: int = 8,
    perplexity: float = 30.0,
    seed: int = 0,
    title: str = "Query and gallery (t-SNE)",
) -> None:
    """Query tracks as points and gallery tracks as stars in one plane, by cosine: the classes with
    most queries coloured, the others grey.

    Args:
        query, gallery: (Q, D) and (G, D) embeddings, scaled to length one here; more than 5,000
        together are drawn from. query_labels, gallery_labels: int, indices into `names`. top: so
        many classes get colours.

    Raises:
        InputError: fewer than three tracks, a value that is not finite, or labels that do not fit.
    """
    import matplotlib

    if np.ndim(query) != 2 or np.ndim(gallery) != 2 or np.shape(query)[1] != np.shape(gallery)[1]:
        raise InputError(
            f"t-SNE: query {np.shape(query)} and gallery {np.shape(gallery)} embeddings do not "
            "fit together"
        )
    points = np.concatenate([query, gallery]).astype(np.float64)
    labels = np.concatenate([query_labels, gallery_labels]).astype(int)
    asked = np.arange(len(points)) < len(query)
    if (
        len(points) < 3
        or labels.shape != (len(points),)
        or not np.isfinite(points).all()
        or labels.min() < 0
        or labels.max() >= len(names)
    ):
        raise InputError(
            f"t-SNE: needs three or more finite embeddings with a label each below {len(names)}"
        )
    counts = np.bincount(labels[asked], minlength=len(names))
    largest = [int(k) for k in np.argsort(-counts, kind="stable")[:top] if counts[k]]
    if len(points) > _SHOWN:
        chosen = np.sort(np.random.default_rng(seed).choice(len(points), _SHOWN, replace=False))
        points, labels, asked = points[chosen], labels[chosen], asked[chosen]
    places = tsne(
        points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12), perplexity, seed
    )
    with matplotlib.rc_context(STYLE | {"axes.spines.left": False, "axes.spines.bottom": False}):
        figure = new_figure(7.6, 5.6, layout="constrained")
        axis = figure.subplots()
        size = float(np.clip(8000 / len(labels), 6, 36))  # points squared
        others = ~np.isin(labels, largest)
        for part, colour, order in [(others, _OTHER, 1)] + [
            (labels == k, _COLOURS[at % len(_COLOURS)], 2) for at, k in enumerate(largest)
        ]:
            axis.scatter(
                *places[part & asked].T, s=size, color=colour, lw=0, alpha=0.85, zorder=order
            )
            axis.scatter(
                *places[part & ~asked].T,
                s=2.4 * size,
                color=colour,
                marker="*",
                ec=MUTED if order == 1 else INK,
                lw=0.4,
                zorder=order + 1,
            )
        axis.set(xticks=[], yticks=[], title=title)
        axis.set_aspect("equal", adjustable="datalim")
        figure.legend(
            handles=_key(
                [names[k] for k in largest],
                int(asked.sum()),
                int((~asked).sum()),
                bool(others.any()),
            ),
            loc="outside right upper",
        )
        save(figure, path)


def _key(names: Sequence[str], queries: int, gallery: int, others: bool) -> list:
    from matplotlib.lines import Line2D

    marks = [("o", MUTED, f"query ({queries:,})"), ("*", MUTED, f"gallery ({gallery:,})")]
    marks += [("s", _COLOURS[at % len(_COLOURS)], name) for at, name in enumerate(names)] + [
        ("s", _OTHER, "others")
    ] * others
    return [
        Line2D(
            [],
            [],
            ls="",
            marker=marker,
            color=colour,
            ms=9 if marker == "*" else 6,
            mew=0,
            label=label,
        )
        for marker, colour, label in marks
    ]


def clip_frames(planes: np.ndarray, frames: int) -> np.ndarray:
    """A stored clip, (C * T, H, W) with plane c * T + t, C up to 3 -> (T, H, W, 3): channels 1 to 3
    as red, green and blue, those missing black.
    """
    clip = planes.reshape(-1, frames, *planes.shape[1:])
    assert len(clip) <= 3, "a picture has three colours"
    out = np.zeros((frames, *planes.shape[1:], 3), planes.dtype)
    out[..., : len(clip)] = clip.transpose(1, 2, 3, 0)
    return out


def nearest_tracks_picture(
    path: Path | str,
    query_frames: np.ndarray,
    neighbours_frames: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    matches: Sequence[bool] | None = None,
    stretch: bool = True,
    title: str = "Nearest tracks",
) -> None:
    """A query's frames in the first row, below it those of the tracks it found, nearest first; time
    runs to the right.

    Args:
        query_frames: (T, H, W, 3) or (T, H, W) uint8; see `clip_frames`.
        neighbours_frames: the same of each neighbour; sizes may differ, every row is as wide.
        captions: of the query and of each neighbour, written above its row.
        matches: whether each neighbour has the query's mechanism; marks its row right or wrong.
        None marks none. stretch: bring each channel of each track to full brightness by one factor
        for all its frames (change over time stays; brightness
            of two tracks cannot be compared).

    Raises:
        InputError: no neighbour, captions that do not fit, or an array that is no clip of as many
        frames as the query.
    """
    import matplotlib

    clips = [query_frames, *neighbours_frames]
    if (
        len(clips) < 2
        or len(captions) != len(clips)
        or (matches is not None and len(matches) != len(clips) - 1)
    ):
        raise InputError(
            f"nearest tracks: {len(clips) - 1} neighbours with {len(captions)} captions; one for "
            "each and the query is needed"
        )
    strips = [_strip(clip, np.shape(query_frames)[0], stretch) for clip in clips]
    frames = len(query_frames)
    width = min(max(0.62 * frames, 5.0), 14.0)
    with matplotlib.rc_context(STYLE):
        heights = [strip.shape[0] / strip.shape[1] * width for strip in strips]
        figure = new_figure(width, sum(heights) + 0.27 * len(strips) + 0.55, layout="constrained")
        axes = figure.subplots(len(strips), 1, height_ratios=heights)
        for row, (axis, strip, caption) in enumerate(zip(axes, strips, captions, strict=True)):
            axis.imshow(strip, interpolation="nearest" if strip.shape[0] < 100 else "antialiased")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            told = None if row == 0 or matches is None else bool(matches[row - 1])
            mark = {None: "", True: "  =  same mechanism", False: "  ≠  another mechanism"}[told]
            colour = {None: INK, True: GREEN, False: VERMILION}[told]
            axis.set_title(
                f"{caption}{mark}",
                size=8.5,
                color=colour,
                weight="bold" if row == 0 else "normal",
                pad=3,
            )
        places = (np.arange(frames) + 0.5) * strips[-1].shape[1] / frames
        axes[-1].set_xticks(places, [str(at + 1) for at in range(frames)], size=7)
        axes[-1].tick_params(axis="x", length=0, pad=2)
        axes[-1].set_xlabel("frame")
        figure.suptitle(title, x=0.01, ha="left", weight="bold", size=11)
        save(figure, path)


def _strip(clip: np.ndarray, frames: int, stretch: bool) -> np.ndarray:
    """(T, H, W[, 3]) uint8 -> (H, T (W + gap) - gap, 3) uint8, the frames side by side."""
    clip = np.asarray(clip)
    if (
        clip.ndim not in (3, 4)
        or len(clip) != frames
        or not clip.size
        or clip.dtype != np.uint8
        or (clip.ndim == 4 and clip.shape[3] != 3)
    ):
        raise InputError(
            f"nearest tracks: {clip.dtype} {clip.shape} is no clip of {frames} frames, (T, H, W) "
            "or (T, H, W, 3) uint8"
        )
    clip = np.repeat(clip[..., None], 3, axis=3) if clip.ndim == 3 else clip
    if stretch:
        full = np.maximum(np.percentile(clip, _STRETCH, axis=(0, 1, 2)), 1)
        clip = np.minimum(clip * (255 / full), 255).round().astype(np.uint8)
    gap = max(1, clip.shape[2] // 24)
    paper = np.full((frames, clip.shape[1], gap, 3), int(FAINT[1:3], 16), np.uint8)
    return np.concatenate(np.concatenate([clip, paper], axis=2), axis=1)[:, :-gap]
