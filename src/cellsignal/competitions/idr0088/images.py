"""idr0088's images: `images.csv`, which lists the fields on disk, and their 8-bit gray PNGs."""

import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cellsignal.common.errors import ImageError, InputError
from cellsignal.common.files import atomic_path, write_csv
from cellsignal.common.tables import parse_integers, read_table, refuse_rows
from cellsignal.competitions.idr0088.metadata import plain_wells
from cellsignal.images import check_png, read_png8

IMAGES = "images.csv"
FILE_COLUMNS = ("file_ch1", "file_ch2", "file_ch3")
IMAGE_COLUMNS = ("plate", "well", "field", "image_id", *FILE_COLUMNS)
_OUTSIDE = r"/|[A-Za-z]:|\\|(?:.*/)?\.\.(?:/|$)"
_FILE = re.compile(
    r"(?:(?:^|/)images/(?P<plate>[^/]+)/|^|/)"
    r"(?P<well>[A-P]\d{1,2})_f(?P<site>\d+)_ch(?P<channel>\d+)\.\w+$"
)


def read_images(path: Path) -> pd.DataFrame:
    """Read `images.csv`: the fields with images, and their three files relative to the root.

    Raises:
        InputError: the file is missing or has other columns; a cell is empty; a field is not a
            number from 1 or is listed twice; a file is outside the root. The message names the row.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; `cellsignal download` writes it")
    table = read_table(path, IMAGE_COLUMNS, any_row=True)
    table["well"] = plain_wells(table.well)
    no_number = ~table.field.str.fullmatch(r"[1-9]\d{0,3}")
    refuse_rows(path, table, no_number, "field", "is not a number from 1")
    doubled = table.duplicated(["plate", "well", "field"])
    refuse_rows(path, table, doubled, "field", "of this well stands there twice")
    for column in FILE_COLUMNS:
        is_outside = table[column].str.match(_OUTSIDE)
        refuse_rows(path, table, is_outside, column, "lies outside the root")
    return table


def stated(name: str) -> dict[str, str]:
    """Parse a name such as `images/1013608248/L8_f1_ch2.png`; see `Competition.stated`."""
    match = _FILE.search(name)
    if match is None:
        return {}
    facts = {key: text for key, text in match.groupdict().items() if text}
    return facts | {"channel": f"ch{int(match['channel'])}", "site": str(int(match["site"]))}


def read_planes(root: Path, files: tuple[str, ...], shape: tuple[int, int] | None) -> np.ndarray:
    """Read a field, (C, H, W) uint8: all planes of the first one's size, or of `shape`."""
    first = read_png8(root / files[0], shape)
    return np.stack([first, *(read_png8(root / name, first.shape) for name in files[1:])])


# what the download writes
# --------------------------------------------------------------------------------------------------


def reduce_plane(plane: np.ndarray, size: int | None) -> np.ndarray:
    """Reduce a plane by area averaging to `size` pixels of its longer side; None keeps all."""
    longest = max(plane.shape)
    if size is None or size >= longest:
        return plane
    height, width = (max(1, round(side * size / longest)) for side in plane.shape)
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)


def write_png(path: Path, plane: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", plane)[1].tobytes())


def is_whole_png(path: Path) -> bool:
    try:
        check_png(path, path.read_bytes())
    except (OSError, ImageError):
        return False
    return True


def well_order(well: str) -> tuple[int, str, int]:
    """Return a sort key: L8 before L10."""
    letters = well.rstrip("0123456789")
    return len(letters), letters, int(well.removeprefix(letters))


def read_earlier_images(out: Path) -> dict[tuple[str, str, int], tuple]:
    """Return the rows of an earlier call whose files are all still there."""
    path = out / IMAGES
    if not path.exists():
        return {}
    hint = "the list of images, and the same command writes it anew"
    try:
        table = read_table(path, IMAGE_COLUMNS)
        table["field"] = parse_integers(path, table, "field")
        table["image_id"] = parse_integers(path, table, "image_id")
    except InputError as error:
        raise InputError(f"{error}; remove {hint}") from None
    if list(table.columns) != list(IMAGE_COLUMNS):
        raise InputError(
            f"{path}: is not the list of images; remove it, and the same command writes it anew"
        )
    rows = {}
    for row in table.itertuples(index=False):
        files = [getattr(row, column) for column in FILE_COLUMNS]
        if all((out / file).is_file() for file in files):
            rows[row.plate, row.well, int(row.field)] = (int(row.image_id), *files)
    return rows


def write_images(out: Path, rows: dict[tuple[str, str, int], tuple]) -> None:
    keys = sorted(rows, key=lambda key: (key[0], well_order(key[1]), key[2]))
    table = pd.DataFrame([(*key, *rows[key]) for key in keys], columns=list(IMAGE_COLUMNS))
    write_csv(out / IMAGES, table)
