"""Draw embeddings in the plane by t-SNE: classes, or queries beside a gallery."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.report.figure_style import COLOURS, INK, MUTED, OTHER, save, styled_figure

_MARKERS = "osD^v"
_SHOWN = 10_000  # points of a t-SNE; more are drawn from at random
_SHOWN_TRACKS = 5_000
_NO_AXES = {"axes_spines_left": False, "axes_spines_bottom": False}


def tsne_plot(
    path: Path | str,
    embeddings: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    top: int = 12,
    seed: int = 0,
    title: str = "Embeddings (t-SNE)",
) -> None:
    """Draw embeddings in the plane, the largest classes coloured, the others grey.

    Distances between far groups mean nothing; what is near stays near.

    Args:
        embeddings: (N, D); of more than 10,000 rows some are drawn.
        labels: (N,) int, indices into `names`.
        top: so many of the most frequent classes get colours.

    Raises:
        InputError: fewer than three points, a value that is not finite, labels that do not fit.
    """
    embeddings, labels = np.asarray(embeddings, np.float64), np.asarray(labels, int)
    _check_points(embeddings, labels, len(names))
    chosen = _choose(len(labels), _SHOWN, seed)
    labels = labels[chosen]
    places = tsne(embeddings[chosen], seed)
    largest = _largest(labels, len(names), top)
    others = ~np.isin(labels, largest)
    size = float(np.clip(6000 / len(labels), 4, 36))  # points squared
    with styled_figure(7.6, 5.6, **_NO_AXES) as figure:
        axis = figure.subplots()
        for number, label in enumerate(largest):
            points = places[labels == label]
            look = {
                "color": COLOURS[number % len(COLOURS)],
                "marker": _MARKERS[number // len(COLOURS) % len(_MARKERS)],
                "label": f"{names[label]} ({len(points):,})",
            }
            axis.scatter(*points.T, s=size, lw=0, alpha=0.85, **look)
        if others.any():
            text = f"{len(np.unique(labels[others]))} others ({others.sum():,})"
            axis.scatter(*places[others].T, s=size, color=OTHER, lw=0, zorder=0, label=text)
        _set_plane(axis, title)
        shape = {"markerscale": max(1.0, 5 / size**0.5), "handletextpad": 0.3}
        figure.legend(loc="outside right upper", **shape)
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
    seed: int = 0,
    title: str = "Query and gallery (t-SNE)",
) -> None:
    """Draw query tracks as points and gallery tracks as stars in one plane, by cosine.

    The classes with most queries are coloured, the others grey.

    Args:
        query, gallery: (Q, D) and (G, D) embeddings; of more than 5,000 together some are drawn.
        query_labels, gallery_labels: int, indices into `names`.
        top: so many classes get colours.

    Raises:
        InputError: fewer than three tracks, a value that is not finite, or labels that do not fit.
    """
    query, gallery = np.asarray(query), np.asarray(gallery)
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        shapes = f"query {query.shape} and gallery {gallery.shape} embeddings"
        raise InputError(f"t-SNE: {shapes} do not fit together")
    points = np.concatenate([query, gallery]).astype(np.float64)
    labels = np.concatenate([query_labels, gallery_labels]).astype(int)
    _check_points(points, labels, len(names))
    is_query = np.arange(len(points)) < len(query)
    largest = _largest(labels[is_query], len(names), top)
    chosen = _choose(len(points), _SHOWN_TRACKS, seed)
    points, labels, is_query = points[chosen], labels[chosen], is_query[chosen]
    length = np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    places = tsne(points / length, seed)
    others = ~np.isin(labels, largest)
    size = float(np.clip(8000 / len(labels), 6, 36))  # points squared
    with styled_figure(7.6, 5.6, **_NO_AXES) as figure:
        axis = figure.subplots()
        _scatter_tracks(axis, places, is_query, others, size, color=OTHER, edge=MUTED, order=1)
        for number, label in enumerate(largest):
            look = {"color": COLOURS[number % len(COLOURS)], "edge": INK, "order": 2}
            _scatter_tracks(axis, places, is_query, labels == label, size, **look)
        _set_plane(axis, title)
        counts = int(is_query.sum()), int((~is_query).sum())
        handles = _track_handles([names[label] for label in largest], *counts, others.any())
        figure.legend(handles=handles, loc="outside right upper")
        save(figure, path)


def _scatter_tracks(axis, places, is_query, mask, size, *, color, edge, order) -> None:
    """Draw the tracks of a mask, query tracks as points and gallery tracks as stars."""
    points, stars = places[mask & is_query], places[mask & ~is_query]
    axis.scatter(*points.T, s=size, color=color, lw=0, alpha=0.85, zorder=order)
    look = {"s": 2.4 * size, "marker": "*", "ec": edge, "lw": 0.4, "zorder": order + 1}
    axis.scatter(*stars.T, color=color, **look)


def _track_handles(names: Sequence[str], queries: int, gallery: int, others: bool) -> list:
    from matplotlib.lines import Line2D

    marks = [("o", MUTED, f"query ({queries:,})"), ("*", MUTED, f"gallery ({gallery:,})")]
    marks += [("s", COLOURS[n % len(COLOURS)], name) for n, name in enumerate(names)]
    if others:
        marks.append(("s", OTHER, "others"))
    handles = []
    for marker, colour, label in marks:
        look = {"marker": marker, "color": colour, "ms": 9 if marker == "*" else 6}
        handles.append(Line2D([], [], ls="", mew=0, label=label, **look))
    return handles


def tsne(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Lay embeddings in the plane by scikit-learn's t-SNE: (N, D) -> (N, 2).

    The same input and seed give the same plane. The perplexity is 30, or N / 4 for few points; of
    wide input 50 principal components are used. The start is that of `init="pca"` with a little
    noise: without it scikit-learn 1.9 crashes the interpreter where all points are in one place.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n, width = embeddings.shape
    points = (embeddings - embeddings.mean(axis=0)) / (embeddings.std() or 1.0)
    if points.any():
        solver = "full" if width < 500 else "randomized"
        pca = PCA(min(n, width, 50), svd_solver=solver, random_state=seed)
        points = pca.fit_transform(points)
    start = np.random.default_rng(seed).normal(0, 1e-6, (n, 2))
    # scikit-learn's own scale
    start[:, : min(2, points.shape[1])] += 1e-4 * points[:, :2] / (points[:, 0].std() or 1.0)
    perplexity = min(30.0, max(n / 4, 1.0))
    start = start.astype(np.float32)
    return TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(points)


def _choose(n: int, most: int, seed: int) -> np.ndarray:
    """Positions of all points, or of `most` that are drawn at random, in order."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def _largest(labels: np.ndarray, n_names: int, top: int) -> list[int]:
    counts = np.bincount(labels, minlength=n_names)
    return [int(label) for label in np.argsort(-counts, kind="stable")[:top] if counts[label]]


def _set_plane(axis, title: str) -> None:
    axis.set(xticks=[], yticks=[], title=title)
    axis.set_aspect("equal", adjustable="datalim")


def _check_points(embeddings: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if embeddings.ndim != 2 or len(embeddings) < 3 or labels.shape != (len(embeddings),):
        raise InputError(
            f"t-SNE: needs three or more embeddings with a label each, not {embeddings.shape} and "
            f"{labels.shape}"
        )
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise InputError(f"t-SNE: embedding {int(np.argmin(finite))} is not finite")
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"t-SNE: a label lies outside the {classes} class names")
