"""Small versions of every image of a store, and which of them nearly equal each other.

Each image is read once and shrunk to 16 x 16 pixels a channel. The mean of all images (uneven
illumination) is taken off, so that what is left is this image's own. A difference hash (64 bits:
is a pixel darker than its right neighbour?) names candidates, in all eight turns and flips; the
correlation of the small images confirms them, where it is higher than unrelated images of this
store reach: how alike these are is measured on random pairs. Last, both are read again at 64 x 64:
what the small images do not hold, the fine detail, must agree as well, which it never does in
another image. Found are copies that were saved anew, brightened, blurred, turned or flipped; not
copies that were moved by more than a few per cent of their width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from cellsignal.profiles.image_features import image_features

SIDE, BITS = 16, 64
MOST_PLANES = 8  # clips: planes beyond it are averaged in groups
DISTANCE = 14  # bits in which candidates may differ; unrelated images differ in half
CORRELATION = 0.8  # at least
ALARM = 1e-6  # chance that any of all pairs is named where none is a copy
_RANDOM_PAIRS = 20_000
DETAIL, FINE = 0.15, 64  # least correlation of the fine detail, and its side in pixels
BLANK = 0.5  # grey levels of SD; below it an image shows nothing
_BLOCK = 4096


@dataclass(frozen=True)
class Pictures:
    """Small images, in the order of the samples that were read.

    Attributes:
        rows: (N,) positions in the samples.
        small: (N, P, 16, 16) float32.
        blank: (N,) bool, images that show nothing.
        features: position -> `image_features`, of the samples that were asked for.
    """

    rows: np.ndarray
    small: np.ndarray
    blank: np.ndarray
    features: dict[int, np.ndarray]


def read_pictures(
    samples: pd.DataFrame,
    read: Callable[[int], np.ndarray],
    rows: np.ndarray,
    featured: np.ndarray,
) -> Pictures:
    """Read images once.

    Args:
        samples: has the column `row` of the store.
        read: store row -> (C, H, W) uint8.
        rows: positions of the images to shrink.
        featured: positions of those whose features are needed, too.
    """
    store_row, wanted = samples["row"].to_numpy(), set(featured.tolist())
    small, blank, features = np.empty((0, 0, SIDE, SIDE), np.float32), [], {}
    shrunk = set(rows.tolist())
    positions = sorted(shrunk | wanted)
    for position in tqdm(positions, desc="reading images", unit="image", disable=None):
        image = read(int(store_row[position]))
        image = few_planes(image)
        if position in wanted:
            features[position] = image_features(image)
        if position in shrunk:
            values = shrink(image)
            if not blank:  # filled row by row: a list and its stack would take the memory twice
                small = np.empty((len(shrunk), *values.shape), np.float32)
            small[len(blank)] = values
            blank.append(bool((image.reshape(len(image), -1).std(axis=1) < BLANK).all()))
    return Pictures(np.array(sorted(shrunk), int), small, np.array(blank, bool), features)


def few_planes(image: np.ndarray) -> np.ndarray:
    """Return (P, H, W) uint8 of a (C, H, W) image; of clips, planes are averaged in groups."""
    if len(image) <= MOST_PLANES:
        return image
    groups = np.array_split(image, MOST_PLANES)
    return np.stack([np.round(planes.mean(axis=0)).astype(np.uint8) for planes in groups])


def shrink(image: np.ndarray) -> np.ndarray:
    """Return (P, 16, 16) float32 of a (P, H, W) image."""
    return np.stack([_resize(plane, SIDE) for plane in image])


def near_pairs(pictures: Pictures, read: Callable[[int], np.ndarray]) -> pd.DataFrame:
    """Find pairs of images that nearly equal each other, in any turn or flip.

    Args:
        read: position in the samples -> (C, H, W) uint8.

    Returns:
        Columns first, second (positions in the samples, first < second) and correlation.
    """
    shown = np.flatnonzero(~pictures.blank)
    columns = ["first", "second", "correlation"]
    if len(shown) < 2:
        return pd.DataFrame({name: [] for name in columns})
    own = _own_content(pictures.small[shown])
    hashes, least = dhash(own), least_correlation(own)
    rows = pictures.rows[shown]
    best: dict[tuple[int, int], float] = {}
    for orientation in range(8):
        turned = turn(own, orientation)
        for first, second in _candidates(hashes, dhash(turned)):
            value = float((own[first] * turned[second]).mean())
            pair = (int(rows[first]), int(rows[second]))
            if value < max(least, best.get(pair, 0.0)):
                continue
            if _detail_agrees(read(int(rows[first])), read(int(rows[second])), orientation):
                best[pair] = value
    pairs = [(*pair, value) for pair, value in sorted(best.items())]
    return pd.DataFrame(pairs, columns=columns)


def _own_content(small: np.ndarray) -> np.ndarray:
    """Standardise (N, P, 16, 16) images, take their mean off, standardise again: in place."""
    _standardise_blocks(small)
    small -= small.mean(axis=0)
    _standardise_blocks(small)
    return small


def _standardise_blocks(small: np.ndarray) -> None:
    """Standardise images in place, a few at a time: a copy of all would be as large again."""
    for start in range(0, len(small), _BLOCK):
        small[start : start + _BLOCK] = _standardise(small[start : start + _BLOCK])


def _detail_agrees(first: np.ndarray, second: np.ndarray, orientation: int) -> bool:
    """Return whether what two images hold beyond their small versions agrees, or is nothing."""
    side = min(FINE, *first.shape[1:])
    if side < 1.5 * SIDE:
        return True  # there is no finer detail
    details = []
    for image in (first, turn(second, orientation)):
        fine = np.stack([_resize(plane, side) for plane in image])
        coarse = np.stack([_resize(_resize(plane, SIDE), side, cv2.INTER_LINEAR) for plane in fine])
        details.append(_standardise(fine - coarse))
    return float((details[0] * details[1]).mean()) >= DETAIL


def _resize(plane: np.ndarray, side: int, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
    values = np.ascontiguousarray(plane, dtype=np.float32)
    return cv2.resize(values, (side, side), interpolation=interpolation)


def least_correlation(own: np.ndarray, seed: int = 0) -> float:
    """Return the correlation from which on two images are taken for copies.

    Fisher's z of unrelated pairs is taken as normal, with the wider of its SD and what its 99.9 %
    quantile tells (heavier tails); all pairs in all eight turns are allowed for.

    Args:
        own: (N, P, 16, 16) standardised images.
    """
    from scipy.stats import norm

    rng = np.random.default_rng(seed)
    first, second = rng.integers(len(own), size=(2, _RANDOM_PAIRS))
    first, second = first[first != second], second[first != second]
    values = np.concatenate(
        [
            (own[first[start::64]] * own[second[start::64]]).mean(axis=(1, 2, 3))
            for start in range(64)
        ]
    )
    z = np.abs(np.arctanh(np.clip(values, -0.999, 0.999)))
    spread = max(float(np.sqrt(np.square(z).mean())), float(np.quantile(z, 0.999)) / 3.29)
    comparisons = 8 * len(own) * (len(own) - 1) / 2
    return max(CORRELATION, float(np.tanh(norm.isf(ALARM / comparisons) * spread)))


def turn(images: np.ndarray, orientation: int) -> np.ndarray:
    """Turn the last two axes by quarter turns (`orientation` % 4), and flip them from 4 on."""
    turned = np.rot90(images, orientation % 4, axes=(-2, -1))
    return turned[..., ::-1] if orientation >= 4 else turned


def _standardise(small: np.ndarray) -> np.ndarray:
    """Give each plane of each image mean 0 and mean square 1; a blank plane is 0."""
    centred = small - small.mean(axis=(-2, -1), keepdims=True)
    size = np.sqrt(np.square(centred).mean(axis=(-2, -1), keepdims=True))
    return np.divide(centred, size, out=np.zeros_like(centred), where=size > 1e-3)


def dhash(small: np.ndarray) -> np.ndarray:
    """Return the (N, 64) difference hash, as -1 and 1, of (N, P, 16, 16) standardised images."""
    gray = small.mean(axis=1)
    grid = _averages(8) @ gray @ _averages(9).T  # (N, 8, 9)
    return np.where(np.diff(grid, axis=2) > 0, 1, -1).reshape(len(gray), BITS).astype(np.float32)


def _averages(cells: int) -> np.ndarray:
    """Return (cells, 16) weights that average 16 pixels to so many cells of equal width."""
    edges = np.linspace(0, SIDE, cells + 1)
    pixel = np.arange(SIDE)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (np.clip(overlap, 0, None) * cells / SIDE).astype(np.float32)


def _candidates(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield index pairs i < j whose hashes nearly agree.

    The turns are closed under inversion, so the pair (j, i) is met in another one.
    """
    least = BITS - 2 * DISTANCE
    for top in range(0, len(left), _BLOCK):
        for start in range(top, len(right), _BLOCK):
            agree = left[top : top + _BLOCK] @ right[start : start + _BLOCK].T
            for i, j in np.argwhere(agree >= least):
                if top + i < start + j:
                    yield int(top + i), int(start + j)
