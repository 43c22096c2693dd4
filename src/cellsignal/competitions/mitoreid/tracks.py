"""Tracks on disk: one folder of 16 JPEGs for each cell that was followed, and what is wrong with
one.

Layout: `l1..l3/{train,query,gallery,nc}/{drug}/{track}/1..16.jpg` and
`novel/{drug}/{track}/1..16.jpg`. A JPEG's red, green and blue are the stains w3, w2 and w1. A
truncated JPEG is refused for its missing end marker; bytes that were changed inside an otherwise
whole file cannot be told: a JPEG has no checksums.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cellsignal.common.errors import ImageError, InputError
from cellsignal.competitions.mitoreid.annotation import drug_of
from cellsignal.images import JPEG, decode_image, read_bytes

FRAMES = 16
STAINS = ("w1", "w2", "w3")
PARTS = ("train", "query", "gallery", "nc")  # of a library
NOVEL = "novel"
COLUMNS = ("sample_id", "library", "part", "drug", "path")


def list_tracks(root: Path) -> pd.DataFrame:
    """Every track under `root`, sorted; no image is opened.

    Returns:
        Columns sample_id, library (l1, l2, ... or novel), part (`PARTS` or novel), drug, path (of
        the folder, relative to root).

    Raises:
        InputError: no library, a library without `train`, `query` or `gallery` tracks anywhere, a
        name with white space (a ranking
            separates ids by spaces), or a folder that cannot be read.
    """
    root = Path(root)
    libraries = [name for name in _folders(root) if re.fullmatch(r"l\d+", name)]
    if not libraries:
        raise InputError(f"{root}: no library folder (l1, l2, l3); it has {_folders(root)[:5]}")
    rows = []
    for library in libraries:
        for part in set(_folders(root / library)) & set(PARTS):
            rows += [
                (
                    f"{library}_{part}_{drug}_{track}",
                    library,
                    part,
                    drug_of(drug),
                    f"{library}/{part}/{drug}/{track}",
                )
                for drug, track in _tracks(root / library / part)
            ]
    if (root / NOVEL).is_dir():
        rows += [
            (f"{NOVEL}_{drug}_{track}", NOVEL, NOVEL, drug_of(drug), f"{NOVEL}/{drug}/{track}")
            for drug, track in _tracks(root / NOVEL)
        ]
    frame = pd.DataFrame(sorted(rows, key=lambda row: row[-1]), columns=list(COLUMNS), dtype=object)
    for part in PARTS[:3]:
        if part not in set(frame.part):
            raise InputError(
                f"{root}: no track in any library's folder {part!r}, first looked for in "
                f"{libraries[0]}/{part}"
            )
    spaced = frame.sample_id.str.contains(r"\s")
    if spaced.any():
        raise InputError(
            f"{root / frame.path[spaced].iloc[0]}: white space in the name of a drug or track; "
            "rename the folder"
        )
    return frame


def read_track(folder: Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """One track.

    Args:
        shape: (height, width) to scale the track to (area average when shrinking, bilinear when
        enlarging), for each cell was cropped to
            a size of its own. It must be of the same proportions. None keeps the size.

    Returns:
        (48, H, W) uint8; plane c * 16 + t is stain w(c + 1) in frame t + 1.

    Raises:
        ImageError: a frame is missing or too many, truncated, damaged, gray, of another size than
        the first, or of other proportions
            than `shape`. Its `path` is the frame's.
    """
    _check_frames(folder)
    planes, size = None, None
    for t in range(FRAMES):
        path = folder / f"{t + 1}.jpg"
        image = decode_image(path, read_bytes(path), channels=(3,), formats=(JPEG,))
        size = size or image.shape[:2]
        if image.shape[:2] != size:
            raise ImageError(
                path,
                "wrong_size",
                f"frame {t + 1} has {_shown(image.shape)} pixels, frame 1 has {_shown(size)}",
            )
        if shape is not None and shape != size:
            if shape[0] * size[1] != shape[1] * size[0]:
                raise ImageError(
                    path,
                    "wrong_size",
                    f"{_shown(size)} pixels cannot be scaled to {_shown(shape)} without stretching",
                )
            image = cv2.resize(
                image,
                shape[::-1],
                interpolation=cv2.INTER_AREA if shape[0] < size[0] else cv2.INTER_LINEAR,
            )
        if planes is None:
            planes = np.empty((len(STAINS), FRAMES, *image.shape[:2]), np.uint8)
        planes[:, t] = image[:, :, ::-1].transpose(2, 0, 1)  # w1, w2, w3 are blue, green, red
    return planes.reshape(-1, *planes.shape[2:])


def _check_frames(folder: Path) -> None:
    """All frames and no other: a track of 15 or 17 is of another recording, and which frame is too
    many cannot be known.
    """
    try:
        found = {
            entry.name
            for entry in os.scandir(folder)
            if entry.name.lower().endswith((".jpg", ".jpeg"))
        }
    except OSError as error:
        raise ImageError(folder, "missing", f"cannot be read ({error.strerror})") from None
    wanted = [f"{t}.jpg" for t in range(1, FRAMES + 1)]
    missing, more = [name for name in wanted if name not in found], sorted(found - set(wanted))
    if missing:
        raise ImageError(
            folder / missing[0],
            "missing",
            f"frame {missing[0]} is missing; the track has {FRAMES - len(missing)} of {FRAMES} "
            "frames",
        )
    if more:
        raise ImageError(
            folder / more[0],
            "wrong_channels",
            f"frame {more[0]} is too many; a track has {FRAMES} frames, not {len(found)}",
        )


def _shown(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"


def _tracks(folder: Path) -> Iterator[tuple[str, str]]:
    """(drug folder, track folder) names."""
    for drug in _folders(folder):
        for track in _folders(folder / drug):
            yield drug, track


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.is_dir() and not entry.name.startswith(".")
        )
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from None
