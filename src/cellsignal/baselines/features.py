"""Features of images for baselines: no network, no label."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from skimage.feature import graycomatrix, graycoprops

from cellsignal.common.places import Place
from cellsignal.data.sites import in_processes, resized
from cellsignal.data.store import Store
from cellsignal.profiles.image_features import clip_features, image_features
from cellsignal.quality.site_measures import count_nuclei, object_areas

LARGEST = 256  # side in pixels to which larger images are shrunk before texture is measured
_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
_DISTANCES, _LEVELS, _ANGLES = (1, 3), 16, (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
_RADII = (1, 2, 3, 4, 6, 8)  # pixels, of the openings


def intensity_features(store: Store, rows: np.ndarray) -> np.ndarray:
    """Return log mean and log SD of each plane, (N, 2 C), as packing stored them."""
    return np.log1p(np.hstack([store.mean[rows], store.sd[rows]]).astype(np.float64))


def classical_features(image: np.ndarray) -> np.ndarray:
    """Return hand-made features of a still image: intensity, texture, granularity, objects.

    Of every channel: mean, SD, quantiles, contrast at three scales (`image_features`, with the
    correlations of the channels); five properties of the grey-level co-occurrence matrix (Haralick
    et al. 1973) at 1 and 3 px, averaged over four angles; the share of the brightness that openings
    by growing disks remove (granularity); number, area and its SD, and share of the image, of
    bright regions.

    Args:
        image: (C, H, W) uint8; one larger than 256 px is shrunk first.

    Returns:
        (29 C + C (C - 1) / 2,) float64, always finite.
    """
    scale = LARGEST / max(image.shape[1:])
    if scale < 1:
        image = resized(image, tuple(max(round(side * scale), 1) for side in image.shape[1:]))
    parts = [image_features(image), *(_texture(plane) for plane in image)]
    return np.nan_to_num(np.concatenate(parts).astype(np.float64))


def _texture(plane: np.ndarray) -> np.ndarray:
    """Return the 20 features of one channel beyond `image_features`."""
    levels = (plane // (256 // _LEVELS)).astype(np.uint8)
    matrix = graycomatrix(levels, _DISTANCES, _ANGLES, _LEVELS, symmetric=True, normed=True)
    haralick = [graycoprops(matrix, name).mean(axis=1) for name in _PROPERTIES]
    total, left, removed = max(float(plane.mean()), 1e-6), float(plane.mean()), []
    for radius in _RADII:
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        opened = float(cv2.morphologyEx(plane, cv2.MORPH_OPEN, disk).mean())
        removed.append((left - opened) / total)
        left = opened
    areas = object_areas(plane)
    mean, sd = (areas.mean(), areas.std()) if len(areas) else (0.0, 0.0)
    objects = [np.log1p(len(areas)), np.log1p(mean), np.log1p(sd), areas.sum() / plane.size]
    return np.concatenate([*haralick, removed, objects])


def read_image_features(
    store: Store,
    rows: Sequence[int],
    *,
    frames: int = 1,
    nuclei: int | None = None,
    classical: bool = True,
    workers: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Measure stored images: the number of cells, (N,), and the classical features, (N, D).

    Args:
        rows: of the store.
        frames: of a clip; its features are the mean over time of `clip_features`.
        nuclei: plane in which cells are counted; without it the numbers are NaN.
        classical: False returns (N, 0).
    """
    measure = functools.partial(_measure_row, store.path, frames, nuclei, classical)
    items = [int(row) for row in rows]
    results = list(in_processes(measure, items, workers, "image features"))
    counts, features = zip(*results, strict=True)
    return np.array(counts, float), np.stack(features)


@functools.lru_cache(maxsize=1)
def open_store(path: Place) -> Store:
    """Open a store once in a process."""
    return Store.open(path)


def _measure_row(
    path: Place, frames: int, nuclei: int | None, classical: bool, row: int
) -> tuple[float, np.ndarray]:
    image = open_store(path).read(row)
    count = np.nan if nuclei is None else float(count_nuclei(image[nuclei]))
    if not classical:
        return count, np.zeros(0)
    if frames > 1:
        return count, clip_features(image, frames).mean(axis=0).astype(np.float64)
    return count, classical_features(image)


def with_plate_differences(x: np.ndarray, samples: pd.DataFrame) -> np.ndarray:
    """Return features, and beside each its difference from the plate's mean: (N, D) -> (N, 2 D).

    No label is looked at, so that wells which are to be predicted take part.
    """
    plates = samples.groupby(["experiment", "plate"], sort=False).indices.values()
    difference = np.empty(x.shape)
    for rows in plates:
        difference[rows] = x[rows] - x[rows].mean(axis=0)
    return np.hstack([x, difference])


def cached(file: Path, key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict:
    """Return arrays that were kept under a key; make and keep them if there are none."""
    import zipfile

    from cellsignal.common.files import atomic_path, open_arrays

    if file.is_file():
        try:
            with open_arrays(file) as archive:
                if str(archive["key"]) == key:
                    return {name: archive[name] for name in archive.files if name != "key"}
        except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile):
            pass  # damaged: made anew
    arrays = make()
    with atomic_path(file) as temporary, open(temporary, "wb") as out:
        np.savez(out, key=np.str_(key), **arrays)
    return arrays
