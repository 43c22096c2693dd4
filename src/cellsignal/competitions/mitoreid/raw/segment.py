"""Find the cells of one frame: by scikit-image, or by Cellpose if it is installed.

The published tracks are Cellpose's (`cyto`, diameter 300, mitochondria and nucleus). The default
needs no weights and no GPU; it finds separate and lightly touching cells, and is worse than
Cellpose in dense fields.
"""

import functools

import cv2
import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.competitions.mitoreid.raw import METHODS

# a cell's diameter in the shrunk plane that is segmented, in pixels; Cellpose itself works at 30
_WORKING = 60
_SMOOTHING = 1 / 20  # SD of the Gaussian that closes the gaps between mitochondria, in diameters
_SMALLEST = 1 / 16  # least area of what can be a cell, in discs of the diameter
# foreground less background in SDs of the background. By Otsu pure noise has 2.65, a ramp 3.46, an
# exponential 4.65
_CONTRAST = 3.0


def segment(
    cell: np.ndarray,
    nucleus: np.ndarray | None = None,
    diameter: float = 300.0,
    method: str = "scikit-image",
) -> np.ndarray:
    """Find the cells of one frame.

    Args:
        cell: (H, W) the stain that fills the cells (here the mitochondria), background subtracted.
        nucleus: (H, W) the stain of the nuclei. Without it (None, or a flat plane) cells are split
            by their shape.
        diameter: of a cell, in pixels.
        method: one of `METHODS`.

    Returns:
        (H, W) int32, 0 the background, each cell a number from 1.

    Raises:
        InputError: unknown method, or no Cellpose that has the published model is installed.
    """
    if method not in METHODS:
        raise InputError(f"method: {method!r} is not one of {', '.join(METHODS)}")
    find = _cellpose if method == "cellpose" else _watershed
    return find(cell, nucleus, diameter)


def _watershed(cell: np.ndarray, nucleus: np.ndarray | None, diameter: float) -> np.ndarray:
    """Threshold the smoothed plane by Otsu, and part touching cells by a watershed.

    The watershed starts from the nuclei, or from the distance to the edge.
    """
    from scipy.ndimage import distance_transform_edt
    from skimage.segmentation import relabel_sequential, watershed

    scale = min(1.0, _WORKING / diameter)
    size = (max(1, round(cell.shape[1] * scale)), max(1, round(cell.shape[0] * scale)))
    small_diameter = diameter * scale
    mask = _foreground(cv2.resize(cell, size, interpolation=cv2.INTER_AREA), small_diameter)
    nuclei = np.zeros_like(mask)
    if nucleus is not None:
        small = cv2.resize(nucleus, size, interpolation=cv2.INTER_AREA)
        nuclei = _foreground(small, small_diameter)
    if not mask.any():
        return np.zeros(cell.shape, np.int32)
    seeds = _seeds(nuclei if nuclei.any() else mask)
    labels = watershed(-distance_transform_edt(mask), seeds, mask=mask | nuclei)
    areas = np.bincount(labels.ravel())
    is_small = areas < _SMALLEST * np.pi / 4 * small_diameter**2
    labels[is_small[labels]] = 0
    labels, *_ = relabel_sequential(labels)
    labels = labels.astype(np.float32)
    full = cv2.resize(labels, cell.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return full.astype(np.int32)


def _foreground(plane: np.ndarray, diameter: float) -> np.ndarray:
    """Return (H, W) bool: above Otsu's threshold, holes filled; nothing if it is mere noise."""
    from scipy.ndimage import binary_fill_holes
    from skimage.filters import threshold_otsu

    root = np.sqrt(plane.astype(np.float32))  # dim cells count too
    smooth = cv2.GaussianBlur(root, (0, 0), max(0.5, diameter * _SMOOTHING))
    if smooth.max() - smooth.min() < 1e-3:
        return np.zeros(plane.shape, bool)
    mask = smooth > threshold_otsu(smooth)
    if smooth[mask].mean() - smooth[~mask].mean() < _CONTRAST * smooth[~mask].std():
        return np.zeros(plane.shape, bool)
    return binary_fill_holes(mask)


def _seeds(mask: np.ndarray) -> np.ndarray:
    """Return (H, W) int: one seed for each object, several for an object with necks."""
    from scipy.ndimage import distance_transform_edt
    from skimage.measure import label
    from skimage.morphology import h_maxima

    distance = cv2.GaussianBlur(distance_transform_edt(mask).astype(np.float32), (0, 0), 1)
    return label(h_maxima(distance, float(distance.max()) / 10))


def _cellpose(cell: np.ndarray, nucleus: np.ndarray | None, diameter: float) -> np.ndarray:
    """Call Cellpose's `cyto` as the authors do: green the cell, blue the nucleus, all flows."""
    empty = np.zeros_like(cell)
    image = np.stack([empty, cell, empty if nucleus is None else nucleus], axis=-1)
    channels = [2, 0 if nucleus is None else 3]
    masks, *_ = _cyto().eval(image, diameter=diameter, channels=channels, flow_threshold=None)
    return np.asarray(masks).astype(np.int32)


@functools.cache
def _cyto():
    try:
        from cellpose import models
    except ImportError:
        raise InputError(
            "method 'cellpose': Cellpose is not installed; pip install 'cellpose<4', or take "
            "'scikit-image'"
        ) from None
    if not hasattr(models, "Cellpose"):
        raise InputError(
            "method 'cellpose': this Cellpose has no model `cyto`; pip install 'cellpose<4'"
        )
    return models.Cellpose(gpu=False, model_type="cyto")
