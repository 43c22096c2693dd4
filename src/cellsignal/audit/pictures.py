"""Small versions of every image of a store, and which of them nearly equal each other.

Each image is read once and shrunk to 16 x 16 pixels a channel. The mean of all images (uneven
illumination) is taken off, so that what is left is this image's own. A difference hash (64 bits:
is a pixel darker than its right neighbour?) names candidates, in all eight turns and flips; the
correlation of the small images confirms them. Found are copies that were saved anew, brightened,
blurred, turned or flipped; not copies that were moved by more than a few per cent of their width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from cellsignal.profiles.image_features import image_features

SIDE, BITS = 16, 64
MOST_PLANES = 8  # clips: planes beyond it are averaged in groups
DISTANCE = 12  # bits in which candidates may differ; unrelated images differ in half
CORRELATION = 0.8  # unrelated images: below .5
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
    small, blank, features = [], [], {}
    shrunk = set(rows.tolist())
    for position in sorted(shrunk | wanted):
        image = read(int(store_row[position]))
        if position in wanted:
            features[position] = image_features(image)
        if position in shrunk:
            small.append(shrink(image))
            blank.append(bool((image.reshape(len(image), -1).std(axis=1) < BLANK).all()))
    return Pictures(np.array(sorted(shrunk), int), np.stack(small), np.array(blank), features)


def shrink(image: np.ndarray) -> np.ndarray:
    """Return (P, 16, 16) float32 of a (C, H, W) image; planes beyond `MOST_PLANES` are averaged."""
    planes = [image]
    if len(image) > MOST_PLANES:
        planes = np.array_split(image, MOST_PLANES)
        image = np.stack([part.mean(axis=0) for part in planes])
    return np.stack(
        [
            cv2.resize(plane.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            for plane in image
        ]
    )


def near_pairs(pictures: Pictures) -> pd.DataFrame:
    """Find pairs of images that nearly equal each other, in any turn or flip.

    Returns:
        Columns first, second (positions in the samples, first < second) and correlation.
    """
    shown = np.flatnonzero(~pictures.blank)
    columns = ["first", "second", "correlation"]
    if len(shown) < 2:
        return pd.DataFrame({name: [] for name in columns})
    own = _standardise(pictures.small[shown])
    own = _standardise(own - own.mean(axis=0))
    hashes = dhash(own)
    best: dict[tuple[int, int], float] = {}
    for orientation in range(8):
        turned = turn(own, orientation)
        for first, second in _candidates(hashes, dhash(turned)):
            value = float((own[first] * turned[second]).mean())
            if value >= CORRELATION:
                pair = (int(min(first, second)), int(max(first, second)))
                best[pair] = max(value, best.get(pair, 0.0))
    rows = pictures.rows[shown]
    pairs = [(rows[a], rows[b], value) for (a, b), value in sorted(best.items())]
    return pd.DataFrame(pairs, columns=columns)


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
    rows = gray.reshape(len(gray), 8, 2, SIDE).mean(axis=2)  # (N, 8, 16)
    columns = np.stack([rows[..., (SIDE - 1) * k // 8 : (SIDE - 1) * k // 8 + 2] for k in range(9)])
    grid = columns.mean(axis=-1).transpose(1, 2, 0)  # (N, 8, 9)
    return np.where(np.diff(grid, axis=2) > 0, 1, -1).reshape(len(gray), BITS).astype(np.float32)


def _candidates(left: np.ndarray, right: np.ndarray):
    """Yield index pairs (i < j for unturned, any i != j else) whose hashes nearly agree."""
    least = BITS - 2 * DISTANCE
    for top in range(0, len(left), _BLOCK):
        for start in range(0, len(right), _BLOCK):
            agree = left[top : top + _BLOCK] @ right[start : start + _BLOCK].T
            for i, j in np.argwhere(agree >= least):
                if top + i != start + j:
                    yield top + i, start + j
