"""Measure hand-made features of images and of clips, as a baseline for networks.

`image_features` are a few numbers a channel. `clip_features` are what a biologist would name,
measured in every frame: areas, shapes, objects, intensity, texture, skeleton, place in the cell,
movement. They follow the description of the "image processing pipeline" of the MitoReID paper (Li
et al., Nat Comput Sci 2024), which does not print its list of features. Every channel is measured
in the same way, so none has to be known as nuclei or mitochondria. Lengths are pixels of the stored
clip, intensities grey levels.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from cellsignal.common.errors import InputError

_QUANTILES = (0.1, 0.5, 0.9, 0.99)
_BLURS = (1.0, 2.0, 4.0)  # pixels

CELL = ("area", "perimeter", "eccentricity", "solidity", "displacement")
CHANNEL = (
    *("area", "perimeter", "eccentricity", "solidity"),
    *("objects", "object_area", "object_eccentricity", "skeleton"),
    *("mean", "sd", "object_mean", "contrast", "homogeneity", "texture_correlation"),
    *("ring1", "ring2", "ring3", "ring4", "flow", "change"),
)
# grey levels of the co-occurrence matrix; rings of the cell; pixels of an object
_LEVELS, _RINGS, _SMALLEST = 16, 4, 4
_ELLIPSE = ("area", "perimeter", "eccentricity", "solidity")


def image_features(image: np.ndarray) -> np.ndarray:
    """Return log mean, SD, quantiles and contrast of each channel, and channel correlations.

    (C, H, W) uint8 -> (9 C + C (C - 1) / 2,) float32. Contrast is taken at three scales.
    """
    x = image.astype(np.float32)
    parts = []
    for channel in x:
        blurred = [cv2.GaussianBlur(channel, (0, 0), sigma) for sigma in _BLURS]
        contrast = [float((channel - smooth).std()) for smooth in blurred]
        parts += [channel.mean(), channel.std(), *np.quantile(channel, _QUANTILES), *contrast]
    flat = x.reshape(len(x), -1)
    centred = flat - flat.mean(axis=1, keepdims=True)
    norm = np.maximum(np.linalg.norm(centred, axis=1), 1e-6)
    correlation = (centred @ centred.T) / np.outer(norm, norm)
    upper = correlation[np.triu_indices(len(x), 1)]
    return np.concatenate([np.log1p(parts), upper]).astype(np.float32)


def feature_names(channels: int = 3) -> tuple[str, ...]:
    """The F features of one frame: "cell area", ..., "w1 area", ..., "w1 w2 correlation", ..."""
    pairs = [
        f"w{a + 1} w{b + 1} correlation" for a in range(channels) for b in range(a + 1, channels)
    ]
    each = [f"w{c + 1} {name}" for c in range(channels) for name in CHANNEL]
    return (*(f"cell {name}" for name in CELL), *each, *pairs)


def clip_features(clip: np.ndarray, frames: int = 16) -> np.ndarray:
    """Measure the features of every frame of one clip.

    Args:
        clip: (C * T, H, W) uint8, plane c * T + t.
        frames: T.

    Returns:
        (T, F) float32 in the order of `feature_names(C)`, always finite: what cannot be measured
        (shapes of nothing, movement into the first frame) is 0.

    Raises:
        InputError: the planes are not a clip of that many frames.
    """
    if clip.ndim != 3 or frames < 2 or not clip.size or len(clip) % frames:
        raise InputError(
            f"hand-made features over time need clips of {frames} frames (two or more); an image "
            f"of shape {clip.shape} is none"
        )
    video = clip.reshape(-1, frames, *clip.shape[1:]).swapaxes(0, 1)
    # of each channel, over the clip: stains are dim, and frames must stay comparable
    top = video.max(axis=(0, 2, 3))
    rows, before = [], None
    for frame in video:
        mask = cell_mask(frame)
        centre = np.argwhere(mask).mean(0) if mask.any() else None
        moved = (
            0.0
            if before is None or centre is None or before[1] is None
            else math.dist(centre, before[1])
        )
        ring = _rings(mask)
        values = [*_shape(mask), moved]
        for c, plane in enumerate(frame):
            values += _channel(plane, mask, ring, int(top[c]))
            values += _movement(None if before is None else before[0][c], plane, mask)
        rows.append([*values, *_correlations(frame, mask)])
        before = frame, centre
    return np.array(rows, np.float32)


def cell_mask(frame: np.ndarray) -> np.ndarray:
    """Find the largest region that any channel stains: (C, H, W) uint8 -> (H, W) bool.

    Otsu's threshold of log intensity, of which a bright nucleus does not hide dim cytoplasm; gaps
    between fibres are closed first, holes filled after.
    """
    from scipy.ndimage import binary_fill_holes
    from skimage.filters import threshold_otsu
    from skimage.measure import label

    radius = max(1, min(frame.shape[1:]) // 32)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    stain = np.log1p(cv2.morphologyEx(frame.max(0), cv2.MORPH_CLOSE, kernel).astype(np.float32))
    if stain.min() == stain.max():
        return np.zeros(stain.shape, bool)
    parts = label(stain > threshold_otsu(stain))
    return binary_fill_holes(parts == np.bincount(parts.ravel())[1:].argmax() + 1)


def _shape(mask: np.ndarray) -> list[float]:
    """Measure area, perimeter, eccentricity and solidity of a mask as one region."""
    from skimage.measure import regionprops

    regions = regionprops(mask.astype(np.uint8))
    if not regions:
        return [0.0] * len(_ELLIPSE)
    with warnings.catch_warnings():
        # the convex hull of pixels in one line is none: solidity 1 or inf
        warnings.simplefilter("ignore")
        values = [float(regions[0][name]) for name in _ELLIPSE]
    return [value if math.isfinite(value) else 1.0 for value in values]


def _channel(plane: np.ndarray, mask: np.ndarray, ring: np.ndarray, top: int) -> list[float]:
    """Measure all features of `CHANNEL` but the last two, of movement."""
    from skimage.morphology import skeletonize

    inside = plane[mask].astype(np.float64)
    objects, areas, roundness = _objects(plane, mask)
    total = inside.sum()
    shares = (
        np.bincount(ring[mask], weights=inside, minlength=_RINGS) / total
        if total
        else np.zeros(_RINGS)
    )
    counts = (
        [len(areas), areas.mean(), (roundness * areas).sum() / areas.sum()]
        if len(areas)
        else [0.0] * 3
    )
    level = [inside.mean(), inside.std()] if len(inside) else [0.0] * 2
    bright = plane[objects].mean() if len(areas) else 0.0
    skeleton = skeletonize(objects).sum() if len(areas) else 0
    return [
        *_shape(objects),
        *counts,
        skeleton,
        *level,
        bright,
        *_texture(plane, mask, top),
        *shares,
    ]


def _objects(plane: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objects above Otsu's threshold of the cell: mask, area and eccentricity of each."""
    from skimage.filters import threshold_otsu
    from skimage.measure import label

    inside = plane[mask]
    if not len(inside) or inside.min() == inside.max():
        return np.zeros_like(mask), np.zeros(0), np.zeros(0)
    parts = label(mask & (plane > threshold_otsu(inside)))
    parts[np.bincount(parts.ravel())[parts] < _SMALLEST] = 0
    return parts > 0, *_sizes_and_eccentricities(parts)


def _sizes_and_eccentricities(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area and eccentricity of each label above 0, as regionprops at a tenth of its time.

    Of the ellipse with the same second moments.
    """
    y, x = np.nonzero(parts)
    number = parts[y, x]
    area = np.bincount(number).astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(number, weights=values, minlength=len(area)) / np.maximum(area, 1)

    y, x = y - mean(y)[number], x - mean(x)[number]
    yy, xx, xy = mean(y * y), mean(x * x), mean(x * y)
    # the eigenvalues are middle +- spread
    middle, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    longest = middle + spread
    eccentricity = np.sqrt(
        np.where(longest > 1e-12, 2 * spread / np.maximum(longest, 1e-12), 0).clip(0, 1)
    )
    return area[area > 0], eccentricity[area > 0]


def _texture(plane: np.ndarray, mask: np.ndarray, top: int) -> list[float]:
    """Measure contrast, homogeneity and correlation of neighbours in the cell (Haralick 1973).

    IEEE SMC 3: 16 levels up to `top`, mean over four directions.

    16 levels up to `top`, mean over four directions.
    """
    from skimage.feature import graycomatrix, graycoprops

    if not mask.any():
        return [0.0] * 3
    # 0 is outside, and left out
    levels = np.where(mask, plane.astype(np.int32) * _LEVELS // (top + 1) + 1, 0).astype(np.uint8)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    levels = levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    pairs = graycomatrix(
        levels, [1], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], levels=_LEVELS + 1, symmetric=True
    )[1:, 1:]
    return [
        float(graycoprops(pairs, name).mean())
        for name in ("contrast", "homogeneity", "correlation")
    ]


def _rings(mask: np.ndarray) -> np.ndarray:
    """(H, W) int: the quarter of the way from the cell's border (0) to its deepest point (3)."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    return np.minimum((depth * _RINGS / max(depth.max(), 1e-6)).astype(np.int64), _RINGS - 1)


def _movement(before: np.ndarray | None, plane: np.ndarray, mask: np.ndarray) -> list[float]:
    """Mean length of optical flow (Farneback's, pixels); mean change over mean intensity."""
    if before is None or not mask.any():
        return [0.0] * 2
    flow = cv2.calcOpticalFlowFarneback(before, plane, None, 0.5, 2, 9, 3, 5, 1.1, 0)
    change = cv2.absdiff(before, plane)[mask].mean() / max(plane[mask].mean(), 1.0)
    return [float(np.hypot(flow[..., 0], flow[..., 1])[mask].mean()), float(change)]


def _correlations(frame: np.ndarray, mask: np.ndarray) -> list[float]:
    """Pearson's correlation of each two channels inside the cell."""
    inside = frame[:, mask].astype(np.float64)
    inside -= inside.mean(1, keepdims=True) if inside.size else 0.0
    norm = np.maximum(np.linalg.norm(inside, axis=1), 1e-6)
    return list(((inside @ inside.T) / np.outer(norm, norm))[np.triu_indices(len(frame), 1)])


def read_features(
    rows: Sequence[int], read: Callable[[int], np.ndarray], frames: int = 16, workers: int = 0
) -> np.ndarray:
    """Measure `clip_features` of many clips: (N, T, F) float32, in the order of `rows`.

    Args:
        read: row of the store -> (C * T, H, W) uint8; with workers it must pickle.
        workers: processes; 0 works in this one.
    """
    from cellsignal.data.sites import in_processes

    measure = functools.partial(_read_one, read, frames)
    rows = [int(row) for row in rows]
    return np.stack(list(in_processes(measure, rows, workers, "features over time")))


def _read_one(read: Callable[[int], np.ndarray], frames: int, row: int) -> np.ndarray:
    return clip_features(read(row), frames)
