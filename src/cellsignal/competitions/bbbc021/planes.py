"""From 16-bit planes to 8-bit crops, as Kensert, Harrison & Spjuth (SLAS Discovery 24:466, 2019)
describe it.

A plane is divided by its plate's illumination function, Anscombe-transformed, and standardised by
the mean and SD of the plate's DMSO wells in that channel; a field is then scaled to 8 bits between
its own least and greatest value and cut into four crops, of which empty ones are left out. Where
the publication leaves a choice:

- The least and the greatest value are those of the field's three channels together. Taken channel
  by channel they would undo the
  standardisation before, which is linear.
- A crop is empty where at most .2 % of its pixels exceed 50 in any channel: of the readings the one
  that drops least.
- The illumination function is a plate's mean plane under a median of an eighth of the height either
  way (see `intensity.illumination`).
"""

import functools
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import ImageError
from cellsignal.common.files import digest
from cellsignal.competitions.bbbc021.metadata import CHANNELS, CONTROL
from cellsignal.competitions.calibration import (
    NOT_CALIBRATED,
    PlateError,
    PlateJob,
    describe_planes,
    measure_changed,
    read_arrays,
)
from cellsignal.images import read_gray16
from cellsignal.images.intensity import anscombe, illumination, to_uint8

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same planes give another calibration
CROPS = (1, 2, 3, 4)  # quarters of a field, row by row
EMPTY_LEVEL, EMPTY_SHARE = 50, 0.002
_WINDOW = 8  # the illumination's median reaches a height / _WINDOW either way


@dataclass(frozen=True)
class Calibration:
    """What is known of one plate.

    Attributes:
        illumination: (3, H, W) float32, 1 or more: what a field's planes are divided by.
        mean, sd: (3,) float32, of the pixels of all DMSO fields after illumination correction and
        Anscombe transform.
    """

    illumination: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


def crop_names(files: tuple[str, ...], crop: int) -> tuple[str, ...]:
    """A crop of a field as `samples.files` names it: its planes, each with `#crop`."""
    return tuple(f"{name}#{crop}" for name in files)


def split_crop(name: str) -> tuple[str, int]:
    """The plane and the number of the crop that a name of `crop_names` means."""
    plane, _, crop = name.rpartition("#")
    assert plane and crop in map(str, CROPS), name
    return plane, int(crop)


def read_crop(
    root: Path, files: tuple[str, ...], measured: Path, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """One crop, (3, H / 2, W / 2) uint8. The last fields stay in memory, so that four crops in a
    row read each plane once.

    Args:
        files: three planes with the same `#crop`.
        measured: the file of the plate's calibration.
        shape: (height, width) that the crop must have; None takes any.

    Raises:
        ImageError: a plane is missing, damaged or of another size or depth; "empty": the crop shows
        no cells;
            "not_calibrated": the plate could not be measured.
    """
    root = Path(root)
    planes, crops = zip(*map(split_crop, files), strict=True)
    assert len(set(crops)) == 1, files
    paths = tuple(str(root / plane) for plane in planes)
    field = _field(paths, str(measured), tuple(map(_mark, (*paths, measured))))
    height, width = (side // 2 for side in field.shape[1:])
    if shape is not None and (height, width) != tuple(shape):
        raise ImageError(
            root / files[0],
            "wrong_size",
            f"crop of {width}x{height} pixels, {shape[1]}x{shape[0]} expected",
        )
    top, left = ((crops[0] - 1) // 2 * height, (crops[0] - 1) % 2 * width)
    image = field[:, top : top + height, left : left + width]
    seen = float((image > EMPTY_LEVEL).any(axis=0).mean())
    if seen <= EMPTY_SHARE:
        raise ImageError(
            root / files[0],
            "empty",
            f"shows no cells: {100 * seen:.2f} % of its pixels exceed {EMPTY_LEVEL}",
        )
    return np.ascontiguousarray(image)


@functools.lru_cache(maxsize=2)
def _field(paths: tuple[str, ...], measured: str, marks: tuple) -> np.ndarray:
    """A whole field, (3, H, W) uint8, read only. `marks` are there to forget a field whose files
    have changed.
    """
    planes = read_planes(paths)
    if marks[-1] is None:
        raise ImageError(paths[0], "not_calibrated", NOT_CALIBRATED)
    plate = load_calibration(Path(measured), marks[-1])
    if plate.illumination.shape != planes.shape:
        height, width = planes.shape[1:]
        expected = "x".join(map(str, plate.illumination.shape[:0:-1]))
        raise ImageError(
            paths[0],
            "wrong_size",
            f"{width}x{height} pixels, {expected} expected, as the plate's other planes",
        )
    values = standardised(planes, plate)
    low, high = float(values.min()), float(values.max())
    field = to_uint8(values, low, high) if high > low else np.zeros(values.shape, np.uint8)
    field.setflags(write=False)
    return field


def read_planes(paths: tuple[str, ...], shape: tuple[int, int] | None = None) -> np.ndarray:
    """A field's planes, (3, H, W) uint16, all of the first one's size (or of `shape`).

    Raises:
        ImageError: a plane is missing, damaged or of another size or depth.
    """
    first = read_gray16(paths[0], shape)
    return np.stack([first, *(read_gray16(path, first.shape) for path in paths[1:])])


def standardised(planes: np.ndarray, plate: Calibration) -> np.ndarray:
    """(3, H, W) counts to float32: even light, even noise, the plate's DMSO pixels at mean 0 and SD
    1 in each channel.
    """
    values = anscombe(planes / plate.illumination)
    return (values - plate.mean[:, None, None]) / plate.sd[:, None, None]


# calibration
# --------------------------------------------------------------------------------------------------


def load_calibration(path: Path, mark: tuple | None = None) -> Calibration:
    """The calibration of one plate.

    Raises:
        InputError: there is none, or it is damaged.
    """
    return _load_calibration(str(path), mark or _mark(path))


@functools.lru_cache(maxsize=2)
def _load_calibration(path: str, mark: tuple | None) -> Calibration:
    return Calibration(*read_arrays(Path(path), ("illumination", "mean", "sd")))


def measure_plates(
    root: Path, folder: Path, fields: pd.DataFrame, shape: tuple[int, int], workers: int = 0
) -> dict[str, str]:
    """Measure every plate that has images and is not measured yet, or whose planes or wells have
    changed since.

    Planes that cannot be read are left out, and logged.

    Args:
        folder: where a file a plate is kept.
        fields: the table of `metadata.read_fields`.
        shape: (height, width) of a whole field.
        workers: processes; 0 works in this one.

    Returns:
        Plate -> hash of its calibration, for the plates that have images.

    Raises:
        InputError: all plates with images lack a readable DMSO field, or have a flat channel.
    """
    jobs = {}
    for plate, rows in fields.groupby("plate", sort=True):
        planes = list(rows[list(CHANNELS)].itertuples(index=False, name=None))
        control = (rows.compound == CONTROL).to_list()
        description = describe_planes(root, planes)
        if description is None:
            log.warning(
                "%s: none of its %d fields is there, so it is not calibrated", plate, len(rows)
            )
            continue
        made_from = {
            "version": VERSION,
            "size": list(shape),
            "controls": digest(control),
            **description,
        }
        jobs[plate] = PlateJob(
            made_from, functools.partial(_measure_arrays, root, plate, planes, control, shape)
        )
    return measure_changed(folder, jobs, workers)


def measure_plate(
    root: Path,
    plate: str,
    planes: list[tuple[str, ...]],
    is_control: list[bool],
    shape: tuple[int, int],
) -> Calibration:
    """One plate's illumination from all its fields, then the mean and SD of its DMSO pixels under
    it.

    Args:
        planes: a field's three files, relative to the root.
        is_control: whether a field shows a DMSO well.

    Raises:
        PlateError: no DMSO field can be read, or a channel of them is flat.
    """
    total, sound = np.zeros((len(CHANNELS), *shape)), []
    for names, control in zip(planes, is_control, strict=True):
        try:
            total += read_planes(tuple(str(root / name) for name in names), shape)
        except ImageError as error:
            log.warning("%s: not used to calibrate plate %s", error, plate)
            continue
        if control:
            sound.append(names)
    if not sound:
        raise PlateError(
            f"plate {plate}: none of its {sum(is_control)} DMSO fields under {root} can be read; "
            "it cannot be standardised"
        )
    light = np.stack([illumination(channel, max(1, shape[0] // _WINDOW)) for channel in total])
    sums = np.zeros((2, len(CHANNELS)))
    for names in sound:
        values = anscombe(
            read_planes(tuple(str(root / name) for name in names), shape) / light
        ).astype(float)
        sums += values.sum(axis=(1, 2)), (values**2).sum(axis=(1, 2))
    mean, square = sums / (len(sound) * shape[0] * shape[1])
    sd = np.sqrt(np.maximum(square - mean**2, 0))
    if not (sd > 1e-6).all():
        raise PlateError(
            f"plate {plate}: its DMSO fields under {root} are flat in "
            f"{list(CHANNELS)[int(sd.argmin())]}"
        )
    return Calibration(light, mean.astype(np.float32), sd.astype(np.float32))


def _measure_arrays(
    root: Path,
    plate: str,
    planes: list[tuple[str, ...]],
    is_control: list[bool],
    shape: tuple[int, int],
) -> dict[str, np.ndarray]:
    calibration = measure_plate(root, plate, planes, is_control, shape)
    return {
        "illumination": calibration.illumination,
        "mean": calibration.mean,
        "sd": calibration.sd,
    }


def _mark(path: Path | str) -> tuple[int, int] | None:
    """Tells a file from a later one of the same name; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
