"""Measure the image of one site, channel by channel.

The measures follow CellProfiler's MeasureImageQuality and Bray et al., J Biomol Screen 17:266
(2012). Intensities are grey levels of the 8-bit image that a competition reads, or of the store.
"""

import functools

import cv2
import numpy as np
from scipy import fft, ndimage
from skimage.filters import threshold_otsu

MEASURES = ("mean", "sd", "background", "saturated", "focus_slope", "focus_laplacian")
GRID = 16  # side of the shrunken image from which a plate's illumination is measured
_FULL = 255  # grey level that counts as saturated
_DARKEST = 0.1  # share of the pixels that are background
_SMALLEST = 1e-4  # share of the image that a nucleus covers at least, and pixels
_FEWEST_PIXELS = 4
_BACKGROUND_SDS = 3.0  # a nucleus is this many robust SDs above the median


def measure_channel(plane: np.ndarray) -> np.ndarray:
    """Return the `MEASURES` of one channel, (6,) float64.

    mean, sd: of all pixels. background: mean of the darkest tenth of the pixels. saturated: share
    of pixels at 255. focus_slope: see `focus_slope`. focus_laplacian: log10 of the variance of the
    Laplacian over the variance of the image (Pech-Pacheco et al., ICPR 2000, made independent of
    brightness). Both focus measures are lower when the image is out of focus, and NaN in a channel
    without contrast.

    Args:
        plane: (H, W) uint8.
    """
    counts = np.bincount(plane.ravel(), minlength=256).astype(float)
    levels, total = np.arange(256), plane.size
    mean = counts @ levels / total
    variance = counts @ np.square(levels - mean) / total
    taken = np.minimum(np.cumsum(counts), _DARKEST * total)
    background = np.diff(taken, prepend=0) @ levels / (_DARKEST * total)
    slope = laplacian = np.nan
    if np.ptp(plane):
        slope = focus_slope(plane)
        edges = cv2.Laplacian(plane, cv2.CV_32F)
        laplacian = np.log10(max(float(edges.var()), 1e-12) / variance)
    saturated = counts[_FULL] / total
    return np.array([mean, np.sqrt(variance), background, saturated, slope, laplacian])


def focus_slope(plane: np.ndarray) -> float:
    """Return the slope of log power over log frequency; steeper (lower) is out of focus.

    The power spectrum is averaged over rings of one frequency, from 2 cycles an image to a quarter
    of a cycle a pixel. A Hann window is laid over the image first, which CellProfiler does not:
    without it the jump between opposite borders adds power to all frequencies. NaN where the image
    is smaller than 16 px or has no power.
    """
    side = min(plane.shape)
    if side < 16:
        return np.nan
    window, ring, frequency, size = _rings(plane.shape)
    x = plane.astype(np.float32)
    power = np.square(np.abs(fft.rfft2((x - x.mean()) * window)))
    total = np.bincount(ring.ravel(), weights=power.ravel(), minlength=len(size))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / size
    used = slice(2, side // 4 + 1)
    y, f = mean[used], frequency[used]
    good = np.isfinite(y) & (y > 0)
    if good.sum() < 3:
        return np.nan
    return float(np.polyfit(np.log(f[good]), np.log(y[good]), 1)[0])


@functools.lru_cache(maxsize=4)
def _rings(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the window, the ring of each frequency, each ring's frequency and its size."""
    window = np.outer(*(np.hanning(side) for side in shape)).astype(np.float32)
    distance = np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None])
    ring = np.rint(distance * min(shape)).astype(int)
    size = np.bincount(ring.ravel())
    frequency = np.bincount(ring.ravel(), weights=distance.ravel()) / np.maximum(size, 1)
    return window, ring, frequency, size


def count_nuclei(plane: np.ndarray) -> int:
    """Estimate the number of nuclei: bright connected regions, see `bright_objects`.

    Nuclei that touch count as one: it is an estimate, for comparing wells of one plate.
    """
    return len(object_areas(plane))


def object_areas(plane: np.ndarray) -> np.ndarray:
    """Return the areas in pixels of the regions of `bright_objects`, (n,) int."""
    return np.bincount(bright_objects(plane).ravel())[1:]


def bright_objects(plane: np.ndarray) -> np.ndarray:
    """Label bright connected regions: (H, W) int32, 0 is background, then 1 to n.

    The plane is smoothed a little (sigma 1 px). The threshold is Otsu's, but at least three robust
    SDs above the median, so that noise alone counts as hardly anything. Regions smaller than a
    ten-thousandth of the image (4 px at least) are left out.
    """
    smooth = cv2.GaussianBlur(plane.astype(np.float32), (0, 0), 1.0)
    if not np.ptp(smooth):
        return np.zeros(plane.shape, np.int32)
    middle = np.median(smooth)
    spread = 1.4826 * np.median(np.abs(smooth - middle))
    threshold = max(float(threshold_otsu(smooth)), float(middle + _BACKGROUND_SDS * spread))
    labels, number = ndimage.label(smooth > threshold)
    large = np.bincount(labels.ravel(), minlength=number + 1) >= max(
        _FEWEST_PIXELS, _SMALLEST * plane.size
    )
    large[0] = False
    return (np.cumsum(large) * large).astype(np.int32)[labels]


def shrink(image: np.ndarray) -> np.ndarray:
    """Return each channel's mean grey level over a grid, (C, GRID, GRID) float32."""
    size = (GRID, GRID)
    planes = [cv2.resize(p.astype(np.float32), size, interpolation=cv2.INTER_AREA) for p in image]
    return np.stack(planes)


def corner_centre_ratio(grid: np.ndarray) -> np.ndarray:
    """Return the light in the corners over that in the centre, (C,); 1 is even.

    The corners are the four squares with an eighth of the side, the centre the square with a
    quarter of it. NaN where the centre is black.

    Args:
        grid: (C, GRID, GRID), the mean image of a plate.
    """
    part, middle = GRID // 8, slice(3 * GRID // 8, 5 * GRID // 8)
    ends = (slice(None, part), slice(-part, None))
    corners = np.mean([grid[:, a, b].mean(axis=(1, 2)) for a in ends for b in ends], axis=0)
    centre = grid[:, middle, middle].mean(axis=(1, 2))
    return np.divide(corners, centre, out=np.full(len(grid), np.nan), where=centre > 0)
