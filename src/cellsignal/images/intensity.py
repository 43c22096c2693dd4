"""Convert 16-bit camera counts to 8 bits: correct uneven light, shot noise and range.

The SD of a photon count is the square root of its mean; Anscombe's transform makes it the same
everywhere, so that equal steps of 8 bits lose equally little of dark and of bright pixels.
"""

import cv2
import numpy as np


def anscombe(counts: np.ndarray) -> np.ndarray:
    """Return 2 sqrt(x + 3/8) of counts x >= 0, float32: a Poisson count then has an SD of about 1.

    Source: F. J. Anscombe, Biometrika 35, 1948.
    """
    return 2 * np.sqrt(np.asarray(counts, np.float32) + np.float32(0.375))


def to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale values linearly, `low` to 0 and `high` to 255, rounded and clipped."""
    assert high > low, (low, high)
    scaled = (np.asarray(values, np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def illumination(mean: np.ndarray, radius: int) -> np.ndarray:
    """Return the illumination to divide each plane of a plate by.

    The mean plane, smoothed by a median of a square window and scaled so that its 2nd percentile is
    1, never below 1: as CellProfiler's CorrectIlluminationCalculate with "All", a median filter and
    the robust minimum does (Singh et al., J Microsc 256:231, 2014).

    Args:
        mean: (H, W) mean of a plate's planes of one channel, in counts.
        radius: of the window, in pixels.

    Returns:
        (H, W) float32, 1 or more.
    """
    side = 2 * radius + 1
    mean = np.asarray(mean, np.float32)
    # a wide median of a smooth plane: take it of the plane shrunk, where it is quick
    shrink = max(1, side // 15)
    small = mean
    if shrink > 1:
        small = cv2.resize(mean, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
    smooth = _median(small, max(3, side // shrink | 1))
    smooth = cv2.resize(smooth, mean.shape[::-1], interpolation=cv2.INTER_LINEAR)
    floor = float(np.percentile(smooth, 2))
    if floor <= 0:
        return np.ones(mean.shape, np.float32)
    return np.maximum(smooth / floor, 1).astype(np.float32)


def _median(plane: np.ndarray, side: int) -> np.ndarray:
    from scipy.ndimage import median_filter

    return median_filter(plane, size=side, mode="nearest")
