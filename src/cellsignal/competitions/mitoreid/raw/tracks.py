"""Find cells in each frame, link them over time, and write their pictures.

The pictures of a cell are cut out, faded at the cell's edge, and written in the published layout.
"""

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

BOX = ["top", "left", "bottom", "right"]
JPEG_QUALITY = 95


# cells
# --------------------------------------------------------------------------------------------------


def measure_cells(labels: np.ndarray) -> pd.DataFrame:
    """Measure each object of a (H, W) label image.

    Returns:
        One row an object: `label`; `y`, `x` of the centroid; `area`; `top`, `left`, `bottom`,
        `right` of its box (the last two exclusive).
    """
    from skimage.measure import regionprops_table

    name_of = {"label": "label", "centroid-0": "y", "centroid-1": "x", "area": "area"}
    name_of |= {f"bbox-{i}": name for i, name in enumerate(BOX)}
    table = regionprops_table(labels, properties=("label", "centroid", "area", "bbox"))
    return pd.DataFrame(table).rename(columns=name_of)[list(name_of.values())]


def choose_cells(
    cells: pd.DataFrame, shape: tuple[int, int], least_area: float
) -> tuple[pd.DataFrame, Counter]:
    """Drop the cells that the border cuts, then the small ones.

    Args:
        least_area: cells of at most this share of the others' mean area are small.

    Returns:
        The cells that stay; the number that went as `border` and as `small`.
    """
    is_first = (cells.top == 0) | (cells.left == 0)
    is_cut = is_first | (cells.bottom == shape[0]) | (cells.right == shape[1])
    whole = cells[~is_cut]
    is_small = whole.area <= whole.area.mean() * least_area
    counts = Counter(border=int(is_cut.sum()), small=int(is_small.sum()))
    return whole[~is_small].reset_index(drop=True), counts


def find_living(cells: pd.DataFrame, nucleus: np.ndarray, most: float) -> np.ndarray:
    """Return (N,) bool: the nucleus is at most `most` times as bright as the mean over the cells.

    The nucleus is taken at the cell's centroid. Those of dead cells shrink and glow.
    """
    if cells.empty:
        return np.zeros(0, bool)
    values = nucleus[cells.y.round().astype(int), cells.x.round().astype(int)].astype(float)
    return values <= values.mean() * most


# tracks
# --------------------------------------------------------------------------------------------------


def link(before: np.ndarray, after: np.ndarray, reach: float) -> np.ndarray:
    """Match cells to those of the next frame: one to one, with the least sum of distances.

    A cell without a partner costs `reach`, so that no cell loses its nearest one to help a hopeless
    one. The authors' program takes the nearest for each cell by itself, so that two tracks may end
    up in one cell.

    Args:
        before: (N, 2) centroids in pixels.
        after: (M, 2) those of the next frame.
        reach: the farthest partner, in pixels.

    Returns:
        (N,) int, the row of `after`, or -1.
    """
    from scipy.optimize import linear_sum_assignment

    partner = np.full(len(before), -1)
    if len(before) and len(after):
        distance = np.linalg.norm(before[:, None] - after[None], axis=-1)
        rows, columns = linear_sum_assignment(np.minimum(distance, reach))
        near = distance[rows, columns] <= reach
        partner[rows[near]] = columns[near]
    return partner


def follow(centres: Sequence[np.ndarray], reach: float) -> np.ndarray:
    """Follow the cells of the first frame that are in every frame.

    Args:
        centres: (N_t, 2) centroids of each frame.

    Returns:
        (K, T) int, the row of each track in each frame, in the order of the first frame's cells.
    """
    tracks = np.arange(len(centres[0]))[:, None]
    for before, after in itertools.pairwise(centres):
        partner = link(before, after, reach)
        tracks = np.column_stack([tracks, partner[tracks[:, -1]]])
        tracks = tracks[tracks[:, -1] >= 0]
    return tracks


# pictures
# --------------------------------------------------------------------------------------------------


def soften(mask: np.ndarray, size: int) -> np.ndarray:
    """Return (H, W) float32: the mean of a mask over boxes of `size` x `size`, 0 outside."""
    return cv2.blur(mask.astype(np.float32), (size, size), borderType=cv2.BORDER_CONSTANT)


def cut_track(
    planes: np.ndarray, masks: list[np.ndarray], boxes: np.ndarray, side: int, softening: int
) -> np.ndarray:
    """Cut out one cell's clip: squares of one size around its box, all else faded out.

    The square is as large as what the cell covers over all times, at most `side`; what lies beyond
    the field is black.

    Args:
        planes: (T, C, H, W) uint8.
        masks: T of (h, w) bool, the cell inside its box.
        boxes: (T, 4) int: top, left, bottom, right.

    Returns:
        (T, S, S, C) uint8, S even.
    """
    from scipy.ndimage import binary_fill_holes

    extent = (boxes[:, 2:].max(axis=0) - boxes[:, :2].min(axis=0)).max()
    half = max(1, int(min(extent, side)) // 2)
    length = 2 * half
    corners = (boxes[:, :2] + boxes[:, 2:]) // 2 - half
    margin = softening // 2  # what lies just outside of the square fades into it
    clip = np.empty((len(planes), length, length, planes.shape[1]), np.uint8)
    for t, (frame, mask, box, corner) in enumerate(zip(planes, masks, boxes, corners, strict=True)):
        cell = _window(binary_fill_holes(mask), corner - margin - box[:2], length + 2 * margin)
        weight = soften(cell, softening)[margin : margin + length, margin : margin + length]
        for c, plane in enumerate(frame):
            clip[t, :, :, c] = np.rint(_window(plane, corner, length) * weight)
    return clip


def _window(plane: np.ndarray, corner: np.ndarray, length: int) -> np.ndarray:
    """Cut a square at `corner` (row, column) from a plane; 0 outside the plane."""
    window = np.zeros((length, length), plane.dtype)
    first = np.maximum(corner, 0)
    last = np.maximum(corner + length, 0)
    part = plane[first[0] : last[0], first[1] : last[1]]
    top, left = first - corner
    window[top : top + part.shape[0], left : left + part.shape[1]] = part
    return window


def write_track(folder: Path, clip: np.ndarray) -> np.ndarray:
    """Write a clip as `folder`/1.jpg, 2.jpg ...; return it as decoded from the JPEGs.

    The blue of a JPEG is w1, green w2 and red w3, as in the published files. The colours are not
    subsampled: they are three stains, not a picture.

    Args:
        folder: new; a folder of that name is replaced.
        clip: (T, S, S, 3) uint8, w1, w2, w3.

    Returns:
        (T, S, S, 3) uint8, decoded.

    Raises:
        OSError: the disk is full or the place cannot be written.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *sampling]
    decoded = np.empty_like(clip)
    for t, frame in enumerate(clip):
        done, data = cv2.imencode(".jpg", np.ascontiguousarray(frame), settings)
        assert done, frame.shape
        with open(folder / f"{t + 1}.jpg", "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        decoded[t] = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return decoded
