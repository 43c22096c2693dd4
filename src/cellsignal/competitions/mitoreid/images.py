"""MitoReID's images: a track is a folder of 16 colour JPEGs of one cell.

A JPEG's red, green and blue are the stains w3, w2 and w1. A truncated JPEG is refused for its
missing end marker. Bytes that were changed inside an otherwise whole file go unnoticed, because a
JPEG has no checksums.
"""

import os
from pathlib import Path

import cv2
import numpy as np

from cellsignal.common.errors import ImageError
from cellsignal.images import JPEG, decode_image, read_bytes

FRAMES = 16
STAINS = ("w1", "w2", "w3")
FILES = tuple(f"{time}.jpg" for time in range(1, FRAMES + 1))


def read_track(folder: Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Read one track.

    Args:
        shape: (height, width) of the same proportions to scale the track to, because each cell was
            cropped to a size of its own (by area average when shrinking, bilinear when enlarging).
            None keeps the size.

    Returns:
        (48, H, W) uint8; plane c * 16 + t is stain w(c + 1) in frame t + 1.

    Raises:
        ImageError: a frame is missing or too many, truncated, damaged, gray, of another size than
            the first, or of other proportions than `shape`. Its `path` is the frame's.
    """
    _check_frames(folder)
    frames = [
        decode_image(folder / file, read_bytes(folder / file), channels=(3,), formats=(JPEG,))
        for file in FILES
    ]
    size = frames[0].shape[:2]
    for number, (file, frame) in enumerate(zip(FILES, frames, strict=True), 1):
        if frame.shape[:2] != size:
            sizes = f"{_pixels(frame.shape)} pixels, frame 1 has {_pixels(size)}"
            raise ImageError(folder / file, "wrong_size", f"frame {number} has {sizes}")
    if shape is not None and shape != size:
        if shape[0] * size[1] != shape[1] * size[0]:
            change = f"{_pixels(size)} pixels cannot be scaled to {_pixels(shape)}"
            raise ImageError(folder / FILES[0], "wrong_size", f"{change} without stretching")
        method = cv2.INTER_AREA if shape[0] < size[0] else cv2.INTER_LINEAR
        frames = [cv2.resize(frame, shape[::-1], interpolation=method) for frame in frames]
    stains = np.stack(frames, axis=-1)[:, :, ::-1]  # w1, w2, w3 are blue, green, red
    planes = stains.transpose(2, 3, 0, 1)
    return planes.reshape(-1, *planes.shape[2:])


def _check_frames(folder: Path) -> None:
    """Refuse a track with other files than its 16 frames.

    A track of 15 or 17 is of another recording, and which frame is too many cannot be known.
    """
    try:
        names = {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise ImageError(folder, "missing", f"cannot be read ({error.strerror})") from None
    names = {name for name in names if name.lower().endswith((".jpg", ".jpeg"))}
    missing = [file for file in FILES if file not in names]
    if missing:
        count = f"the track has {FRAMES - len(missing)} of {FRAMES} frames"
        raise ImageError(folder / missing[0], "missing", f"frame {missing[0]} is missing; {count}")
    surplus = sorted(names - set(FILES))
    if surplus:
        count = f"a track has {FRAMES} frames, not {len(names)}"
        message = f"frame {surplus[0]} is too many; {count}"
        raise ImageError(folder / surplus[0], "wrong_channels", message)


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"
