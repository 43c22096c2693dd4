"""Read a field through time: its planes without their background and without blurred frames.

A broken file is never guessed: the field is left out, and the report says which file.
"""

import re
from pathlib import Path

import cv2
import numpy as np

from cellsignal.common.errors import ImageError, InputError
from cellsignal.competitions.mitoreid.images import STAINS
from cellsignal.competitions.mitoreid.metadata import CONTROL
from cellsignal.images import decode_image, read_bytes

_PLANE = re.compile(
    r"(?P<field>.+)_(?P<time>\d+)_(?P<channel>w\d+)\.(tiff?|png|jpe?g)", re.IGNORECASE
)
_FIELD = re.compile(r"(?P<drug>\d+|ctrl|dmso)(-\d+)?", re.IGNORECASE)
_PICTURES = {".tif", ".tiff", ".png", ".jpg", ".jpeg"}


def list_fields(root: Path | str) -> dict[str, Path]:
    """List the fields under `root`, one folder each: name -> folder, numbers in their order.

    Raises:
        InputError: `root` is not a folder or has none.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if not folders:
        layout = "{drug}/{drug}_{time}_{w1|w2|w3}.tif"
        raise InputError(f"{root}: has no folders; fields lie in {layout}")
    return {path.name: path for path in sorted(folders, key=lambda path: _field_order(path.name))}


def _field_order(name: str) -> list[tuple[int, str]]:
    return [(len(part), part) if part.isdigit() else (99, part) for part in name.split("-")]


def drug_of(field: str) -> str:
    """Return the drug that a field's folder is named after.

    `5` and `5-2` (its second field) show drug 5; `ctrl`, `dmso-3` show DMSO.
    """
    match = _FIELD.fullmatch(field)
    if not match:
        return field
    return match["drug"] if match["drug"].isdigit() else CONTROL


def plane_paths(folder: Path, frames: int) -> list[list[Path]]:
    """List a field's files by time and channel; thumbnails and other files are passed over.

    Returns:
        `frames` lists of one path a channel.

    Raises:
        InputError: a picture of another name, two of one time and channel, one missing, a time that
            is not 1 to `frames`.
    """
    paths: dict[tuple[int, str], Path] = {}
    for path in sorted(folder.iterdir()):
        is_picture = path.suffix.lower() in _PICTURES and not path.name.startswith(".")
        if not is_picture or "_thumb" in path.stem.lower():
            continue
        match = _PLANE.fullmatch(path.name)
        if not match or match["field"] != folder.name or match["channel"].lower() not in STAINS:
            raise InputError(f"{path}: is not called {folder.name}_{{time}}_{{{'|'.join(STAINS)}}}")
        time, channel = int(match["time"]), match["channel"].lower()
        if not 1 <= time <= frames:
            raise InputError(f"{path}: time {time}, 1 to {frames} expected")
        if (time, channel) in paths:
            other = paths[time, channel].name
            raise InputError(f"{path}: shows the same time and channel as {other}")
        paths[time, channel] = path
    for time in range(1, frames + 1):
        for channel in STAINS:
            if (time, channel) not in paths:
                name = f"{folder.name}_{time}_{channel}"
                raise InputError(f"{folder}: time {time} of {channel} is missing ({name})")
    return [[paths[time, channel] for channel in STAINS] for time in range(1, frames + 1)]


def read_field(paths: list[list[Path]], white: int) -> np.ndarray:
    """Read a field's planes, each less its own minimum, the background.

    Args:
        paths: of `plane_paths`.
        white: the count that becomes 255; of 16-bit planes, 8-bit ones stay as they are.

    Returns:
        (T, C, H, W) uint8.

    Raises:
        ImageError: a file is missing, damaged, not gray, or of another size than the first.
    """
    field = None
    for t, row in enumerate(paths):
        for c, path in enumerate(row):
            plane = read_plane(path)
            if field is None:
                field = np.empty((len(paths), len(row), *plane.shape), np.uint8)
            if plane.shape != field.shape[2:]:
                (height, width), (rows, columns) = plane.shape, field.shape[2:]
                raise ImageError(
                    path, "wrong_size", f"{width}x{height} pixels, {columns}x{rows} expected"
                )
            field[t, c] = without_background(plane, white)
    return field


def read_plane(path: Path) -> np.ndarray:
    """Read one gray picture, (H, W) uint8 or uint16: TIFF, PNG or JPEG, by its first bytes.

    Raises:
        ImageError: missing, damaged, not gray, of another depth, or several planes.
    """
    return decode_image(path, read_bytes(path), depths=(8, 16))


def without_background(plane: np.ndarray, white: int) -> np.ndarray:
    """Subtract the minimum of a uint8 or uint16 plane; a 16-bit `white` becomes 255 of uint8."""
    above = plane - plane.min()
    if plane.dtype == np.uint8:
        return above
    scaled = np.minimum(above.astype(np.float32) * np.float32(255 / white), 255)
    return np.rint(scaled).astype(np.uint8)


def sharpness(plane: np.ndarray) -> float:
    """Return the variance of the Laplacian of a plane scaled to 255; blur lowers it."""
    brightest = float(plane.max())
    if brightest == 0:
        return 0.0
    scaled = plane.astype(np.float32) * np.float32(255 / brightest)
    return float(cv2.Laplacian(scaled, cv2.CV_32F).var())


def replace_blurred(values: np.ndarray, ratio: float, most_bad: int) -> np.ndarray | None:
    """Return the frame to use for each frame: itself, or the nearest sharp one if it is blurred.

    A frame is bad whose sharpness is more than `ratio` times below the field's median (out of
    focus) or above it (lit dirt, a jolt). The authors' program measures against the field's *least*
    sharp frame instead: there a single blurred frame makes all others bad, and the whole field is
    lost. A field that is blurred throughout passes both.

    Args:
        values: (T,) `sharpness` of the frames.
        most_bad: with more bad frames the field is given up.

    Returns:
        (T,) int, the earlier of two; or None: give the field up.
    """
    values = np.asarray(values, float)
    median = np.median(values)
    is_good = (values <= median * ratio) & (values * ratio >= median) & (values > 0)
    if (~is_good).sum() > most_bad or not is_good.any():
        return None
    good = np.flatnonzero(is_good)
    distance = np.abs(np.arange(len(values))[:, None] - good)
    return good[distance.argmin(axis=1)]
