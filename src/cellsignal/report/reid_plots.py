"""Draw re-identification: CMC and ROC curves, and the nearest tracks of a query, frame by frame."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.evaluation.reid import ReId
from cellsignal.metrics.accuracy import wilson_interval
from cellsignal.report.figure_style import (
    BLUE,
    CYCLE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    VERMILION,
    save,
    styled_figure,
)

_STRETCH = 99.8  # percentile of a channel that becomes full brightness
_RANDOM_DASHES = ((4, 2), (1.2, 1.5), (7, 3))


def cmc_curves(
    path: Path | str,
    results: Mapping[str, ReId],
    *,
    ranks: int = 50,
    title: str = "Cumulative match characteristic",
) -> None:
    """Draw rank-k over k, a line a model with Wilson's 95 % band; dashed, a random order's.

    Args:
        results: name -> its figures; the random order is drawn once for each protocol and number of
            queries.
        ranks: the longest k, lowered to the longest list.

    Raises:
        InputError: nothing to draw.
    """
    if not results or ranks < 1:
        raise InputError("CMC curves: needs at least one model and one rank")
    ranks = min(ranks, max(len(result.cmc) for result in results.values()))
    k = np.arange(1, ranks + 1)
    step = max(1, round(ranks / 50) * 5 or ranks // 10)
    with styled_figure(6.2, 4.4) as figure:
        axis = figure.subplots()
        for number, (name, result) in enumerate(results.items()):
            # a line below another is wider, so that both are seen
            width = 1.6 + 1.5 * max(0, min(len(results), 3) - 1 - number)
            _draw_cmc(axis, k, name, result, CYCLE[number % len(CYCLE)], width)
        _draw_random_orders(axis, k, results)
        axis.set_xticks([1, *range(step, ranks + 1, step)] if step > 1 else k)
        axis.set(xlim=(1, max(ranks, 2)), ylim=(0, 1), xlabel="rank k", title=title)
        axis.set_ylabel("queries with a match among the first k")
        axis.grid(axis="y")
        figure.legend(loc="outside lower left", ncols=1, handlelength=2.8)
        save(figure, path)


def _draw_cmc(axis, k: np.ndarray, name: str, result: ReId, colour: str, width: float) -> None:
    share = result.cmc[np.minimum(k, len(result.cmc)) - 1]
    total = len(result.queries)
    ends = np.array([wilson_interval(round(value * total), total) for value in share])
    axis.fill_between(k, *ends.T, color=colour, alpha=0.13, lw=0)
    label = f"{name}: rank-1 {result.rank(1).format()}"
    marker = "o" if len(k) == 1 else None
    axis.plot(k, share, color=colour, lw=width, marker=marker, label=label)


def _draw_random_orders(axis, k: np.ndarray, results: Mapping[str, ReId]) -> None:
    """A dashed line for each protocol and number of queries."""
    kinds: dict[tuple[str, int], ReId] = {}
    for result in results.values():
        kinds.setdefault((result.protocol, len(result.queries)), result)
    for number, ((protocol, total), result) in enumerate(kinds.items()):
        label = "random order"
        if len(kinds) > 1:
            label += f" ({protocol}, {total} queries)"
        share = [result.random_rank(int(rank)) for rank in k]
        dashes = _RANDOM_DASHES[number % len(_RANDOM_DASHES)]
        axis.plot(k, share, color=MUTED, dashes=dashes, lw=1.1, label=label)


def roc_curves(
    path: Path | str,
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    title: str = "ROC, each mechanism against the rest",
) -> None:
    """Draw a thin ROC curve a class (softmax against all other queries), their mean thick.

    The mean is of the true positive rates at equal false positive rates.

    Args:
        logits: (Q, K) float.
        labels: (Q,) int below K; a class without a query, or with all of them, has no curve.

    Raises:
        InputError: shapes that do not fit, a logit that is not finite, or no class with a curve.
    """
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
    areas = [auc(false, true) for false, true in curves]
    spread = f"({min(areas):.2f} to {max(areas):.2f})"
    label = f"mean of {len(drawn)} classes: AUC {np.mean(areas):.3f} {spread}"
    with styled_figure(4.9, 4.9) as figure:
        axis = figure.subplots()
        for false, true in curves:
            axis.plot(false, true, color="#9CC3DE", lw=0.6)
        axis.plot([0, 1], [0, 1], color=MUTED, dashes=(3, 2), lw=1, label="chance")
        axis.plot(*_mean_curve(curves), color=BLUE, lw=2.2, label=label)
        axis.set(xlabel="false positive rate", ylabel="true positive rate", title=title)
        axis.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
        axis.grid()
        axis.legend(loc="lower right")
        save(figure, path)


def _mean_curve(curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean height at every false positive rate: upper ends of the steps, from (0, 0) on."""
    rates = np.unique(np.concatenate([false for false, _ in curves]))
    heights = [true[np.searchsorted(false, rates, side="right") - 1] for false, true in curves]
    return np.r_[0, rates], np.r_[0, np.mean(heights, axis=0)]


def clip_frames(planes: np.ndarray, frames: int) -> np.ndarray:
    """Return the frames of a stored clip in colour: (C * T, H, W) -> (T, H, W, 3).

    Plane c * T + t is frame t of channel c. Channels 1 to 3 are red, green and blue; those missing
    are black.
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
    """Draw a query's frames and below them those of its nearest tracks; time runs to the right.

    Args:
        query_frames: (T, H, W, 3) or (T, H, W) uint8; see `clip_frames`.
        neighbours_frames: the same of each neighbour, nearest first; sizes may differ, every row is
            as wide.
        captions: of the query and of each neighbour, written above its row.
        matches: whether each neighbour has the query's mechanism; marks its row right or wrong.
            None marks none.
        stretch: bring each channel of each track to full brightness by one factor for all its
            frames (change over time stays; brightness of two tracks cannot be compared).

    Raises:
        InputError: there is no neighbour, the captions do not fit, or an array is not a clip with
            as many frames as the query.
    """
    clips = [query_frames, *neighbours_frames]
    fits = matches is None or len(matches) == len(clips) - 1
    if len(clips) < 2 or len(captions) != len(clips) or not fits:
        raise InputError(
            f"nearest tracks: {len(clips) - 1} neighbours with {len(captions)} captions; one for "
            "each and the query is needed"
        )
    frames = len(query_frames)
    strips = [_strip(clip, frames, stretch) for clip in clips]
    marks = [None] * len(clips) if matches is None else [None, *map(bool, matches)]
    width = min(max(0.62 * frames, 5.0), 14.0)
    heights = [strip.shape[0] / strip.shape[1] * width for strip in strips]
    with styled_figure(width, sum(heights) + 0.27 * len(strips) + 0.55) as figure:
        axes = figure.subplots(len(strips), 1, height_ratios=heights)
        for axis, strip, caption, mark in zip(axes, strips, captions, marks, strict=True):
            _draw_strip(axis, strip, caption, mark, "bold" if axis is axes[0] else "normal")
        places = (np.arange(frames) + 0.5) * strips[-1].shape[1] / frames
        axes[-1].set_xticks(places, [str(frame + 1) for frame in range(frames)], size=7)
        axes[-1].tick_params(axis="x", length=0, pad=2)
        axes[-1].set_xlabel("frame")
        figure.suptitle(title, x=0.01, ha="left", weight="bold", size=11)
        save(figure, path)


def _draw_strip(axis, strip: np.ndarray, caption: str, mark: bool | None, weight: str) -> None:
    axis.imshow(strip, interpolation="nearest" if strip.shape[0] < 100 else "antialiased")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    text = {None: "", True: "  =  same mechanism", False: "  ≠  another mechanism"}[mark]
    colour = {None: INK, True: GREEN, False: VERMILION}[mark]
    axis.set_title(f"{caption}{text}", size=8.5, color=colour, weight=weight, pad=3)


def _strip(clip: np.ndarray, frames: int, stretch: bool) -> np.ndarray:
    """(T, H, W[, 3]) uint8 -> (H, T (W + gap) - gap, 3) uint8, the frames side by side."""
    clip = np.asarray(clip)
    grey, colour = clip.ndim == 3, clip.ndim == 4 and clip.shape[3] == 3
    if not (grey or colour) or len(clip) != frames or not clip.size or clip.dtype != np.uint8:
        raise InputError(
            f"nearest tracks: {clip.dtype} {clip.shape} is not a clip of {frames} frames, "
            "(T, H, W) or (T, H, W, 3) uint8"
        )
    if grey:
        clip = np.repeat(clip[..., None], 3, axis=3)
    if stretch:
        full = np.maximum(np.percentile(clip, _STRETCH, axis=(0, 1, 2)), 1)
        clip = np.minimum(clip * (255 / full), 255).round().astype(np.uint8)
    gap = max(1, clip.shape[2] // 24)
    paper = np.full((frames, clip.shape[1], gap, 3), int(FAINT[1:3], 16), np.uint8)
    return np.concatenate(np.concatenate([clip, paper], axis=2), axis=1)[:, :-gap]
