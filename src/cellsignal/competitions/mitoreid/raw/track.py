"""The same cell through time: which objects of a frame are cells, and which cell of the next frame
each of them is.
"""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

BOX = ["top", "left", "bottom", "right"]


def measure_cells(labels: np.ndarray) -> pd.DataFrame:
    """What tracking needs of each object of a (H, W) label image.

    Returns:
        One row an object: `label`; `y`, `x` of the centroid; `area`; `top`, `left`, `bottom`,
        `right` of its box (the last two exclusive).
    """
    from skimage.measure import regionprops_table

    columns = {"label": "label", "centroid-0": "y", "centroid-1": "x", "area": "area"}
    columns |= {f"bbox-{i}": name for i, name in enumerate(BOX)}
    found = regionprops_table(labels, properties=("label", "centroid", "area", "bbox"))
    return pd.DataFrame(found).rename(columns=columns)[list(columns.values())]


def choose_cells(
    cells: pd.DataFrame, shape: tuple[int, int], least_area: float
) -> tuple[pd.DataFrame, Counter]:
    """Drop cells that the border cuts, then those of at most `least_area` of the mean area of the
    others.

    Returns:
        The cells that stay; how many went as `border` and as `small`.
    """
    cut = (
        (cells.top == 0)
        | (cells.left == 0)
        | (cells.bottom == shape[0])
        | (cells.right == shape[1])
    )
    whole = cells[~cut]
    small = whole.area <= whole.area.mean() * least_area
    return whole[~small].reset_index(drop=True), Counter(
        border=int(cut.sum()), small=int(small.sum())
    )


def alive(cells: pd.DataFrame, nucleus: np.ndarray, most: float) -> np.ndarray:
    """(N,) bool: the nucleus, at the cell's centroid, is at most `most` times as bright as the mean
    over the cells. Dead ones shrink and glow.
    """
    if cells.empty:
        return np.zeros(0, bool)
    values = nucleus[cells.y.round().astype(int), cells.x.round().astype(int)].astype(float)
    return values <= values.mean() * most


def link(before: np.ndarray, after: np.ndarray, reach: float) -> np.ndarray:
    """Which cell of the next frame each cell is: one to one, the least sum of distances, none
    farther than `reach`.

    A cell without a partner costs `reach`, so that nobody is torn from the nearest cell to help a
    hopeless one. The authors' program takes the nearest for each cell by itself, so that two tracks
    may end up in one cell.

    Args:
        before: (N, 2) centroids in pixels.
        after: (M, 2) those of the next frame.

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
    """The cells of the first frame that are found in every frame.

    Args:
        centres: (N_t, 2) centroids of each frame.

    Returns:
        (K, T) int, the row of each track in each frame, K <= N_0; in the order of the first frame's
        cells.
    """
    tracks = np.arange(len(centres[0]))[:, None]
    for before, after in itertools.pairwise(centres):
        partner = link(before, after, reach)
        tracks = np.column_stack([tracks, partner[tracks[:, -1]]])
        tracks = tracks[tracks[:, -1] >= 0]
    return tracks
