"""Pictures of one cell through time: cut out, faded at the edge of the cell, written as the
published layout has them.
"""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from cellsignal.competitions.mitoreid.raw.settings import JPEG_QUALITY


def soften(mask: np.ndarray, size: int) -> np.ndarray:
    """(H, W) bool to (H, W) float32 in [0, 1]: the mean over a box of `size` x `size`, nothing
    outside of the picture.
    """
    return cv2.blur(mask.astype(np.float32), (size, size), borderType=cv2.BORDER_CONSTANT)


def cut_track(
    planes: np.ndarray, masks: list[np.ndarray], boxes: np.ndarray, side: int, softening: int
) -> np.ndarray:
    """One cell's clip: squares of one size, each around the cell's box, all else of the field faded
    out.

    The square is as large as what the cell covers over all times, at most `side`; what lies beyond
    the field is black.

    Args:
        planes: (T, C, H, W) uint8.
        masks: T of (h, w) bool, the cell inside its box.
        boxes: (T, 4) int: top, left, bottom, right.

    Returns:
        (T, S, S, C) uint8, S even.
    """
    extent = (boxes[:, 2:].max(axis=0) - boxes[:, :2].min(axis=0)).max()
    half = max(1, int(min(extent, side)) // 2)
    middle = (boxes[:, :2] + boxes[:, 2:]) // 2
    margin = softening // 2  # what lies just outside of the square fades into it
    clip = np.empty((len(planes), 2 * half, 2 * half, planes.shape[1]), np.uint8)
    for t, (frame, mask, box, (y, x)) in enumerate(zip(planes, masks, boxes, middle, strict=True)):
        corner, length = (y - half, x - half), 2 * half
        own = _window(
            _filled(mask),
            (corner[0] - margin - box[0], corner[1] - margin - box[1]),
            length + 2 * margin,
        )
        weight = soften(own, softening)[margin : margin + length, margin : margin + length]
        for c, plane in enumerate(frame):
            clip[t, :, :, c] = np.rint(_window(plane, corner, length) * weight)
    return clip


def _filled(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_fill_holes

    return binary_fill_holes(mask)


def _window(plane: np.ndarray, corner: tuple[int, int], length: int) -> np.ndarray:
    """A square of a (H, W) plane from `corner` (row, column), 0 where it leaves the plane."""
    out = np.zeros((length, length), plane.dtype)
    top, left = max(corner[0], 0), max(corner[1], 0)
    part = plane[top : max(corner[0] + length, 0), left : max(corner[1] + length, 0)]
    at = (top - corner[0], left - corner[1])
    out[at[0] : at[0] + part.shape[0], at[1] : at[1] + part.shape[1]] = part
    return out


def encode(frame: np.ndarray) -> bytes:
    """(H, W, 3) uint8 in the order w1, w2, w3 to a JPEG whose blue is w1, green w2 and red w3, as
    in the published files.

    The colours are not subsampled: they are three stains, not a picture.
    """
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(frame), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *sampling]
    )
    assert done, frame.shape
    return data.tobytes()


def write_track(folder: Path, clip: np.ndarray) -> np.ndarray:
    """Write a clip as `folder`/1.jpg, 2.jpg ... and give back what a reader of them will see.

    Args:
        folder: new; a folder of that name is replaced.
        clip: (T, S, S, 3) uint8.

    Returns:
        (T, S, S, 3) uint8, decoded.

    Raises:
        OSError: the disk is full or the place cannot be written.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    seen = np.empty_like(clip)
    for t, frame in enumerate(clip):
        data = encode(frame)
        with open(folder / f"{t + 1}.jpg", "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        seen[t] = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return seen
