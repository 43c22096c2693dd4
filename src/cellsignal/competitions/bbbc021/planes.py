"""From 16-bit planes to 8-bit crops, as Kensert, Harrison & Spjuth (SLAS Discovery 24:466, 2019).

A plane is divided by its plate's illumination function, Anscombe-transformed, and standardised by
the mean and SD of the plate's DMSO wells in that channel; a field is then scaled to 8 bits between
its own least and greatest value and cut into four crops, of which empty ones are left out. Where
the publication leaves a choice:

- The least and the greatest value are those of the field's three channels together. Taken channel
  by channel they would undo the standardisation before, which is linear.
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
    """Illumination and statistics of one plate.

    Attributes:
        illumination: (3, H, W) float32, 1 or more: what a field's planes are divided by.
        mean, sd: (3,) float32, of the pixels of all DMSO fields after illumination correction and
        Anscombe transform.
    """

    illumination: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


def crop_names(files: tuple[str, ...], crop: int) -> tuple[str, ...]:
    """Name a crop of a field in a samples table: its planes, each with `#crop`."""
    return tuple(f"{name}#{crop}" for name in files)


def split_crop(name: str) -> tuple[str, int]:
    """Return the plane and the crop number of a name of `crop_names`."""
    plane, _, crop = name.rpartition("#")
    assert plane and crop in map(str, CROPS), name
    return plane, int(crop)


def read_crop(
    root: Path, files: tuple[str, ...], measured: Path, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Read one crop, (3, H / 2, W / 2) uint8.

    The last fields stay in memory, so that four crops in a row read each plane once.

    Args:
        files: three planes with the same `#crop`.
        measured: the file of the plate's calibration.
        shape: (height, width) that the crop must have; None takes any.

    Raises:
        ImageError: a plane is missing, damaged or of another size or depth; "empty": the crop shows
        no cells; "not_calibrated": the plate could not be measured.
    """
    root = Path(root)
    planes, crops = zip(*map(split_crop, files), strict=True)
    assert len(set(crops)) == 1, files
    paths = tuple(str(root / plane) for plane in planes)
    field = _read_field(paths, str(measured), tuple(map(_file_state, (*paths, measured))))
    height, width = field.shape[1] // 2, field.shape[2] // 2
    if shape is not None and (height, width) != tuple(shape):
        detail = f"crop of {width}x{height} pixels, {shape[1]}x{shape[0]} expected"
        raise ImageError(root / files[0], "wrong_size", detail)
    row, column = divmod(crops[0] - 1, 2)
    top, left = row * height, column * width
    image = field[:, top : top + height, left : left + width]
    shown = float((image > EMPTY_LEVEL).any(axis=0).mean())
    if shown <= EMPTY_SHARE:
        detail = f"shows no cells: {100 * shown:.2f} % of its pixels exceed {EMPTY_LEVEL}"
        raise ImageError(root / files[0], "empty", detail)
    return np.ascontiguousarray(image)


@functools.lru_cache(maxsize=2)
def _read_field(paths: tuple[str, ...], measured: str, states: tuple) -> np.ndarray:
    """Return a whole field, (3, H, W) uint8, read only.

    Args:
        states: of the files, so that a field whose files have changed is read anew.
    """
    planes = read_planes(paths)
    if states[-1] is None:
        raise ImageError(paths[0], "not_calibrated", NOT_CALIBRATED)
    plate = load_calibration(Path(measured), states[-1])
    if plate.illumination.shape != planes.shape:
        _, height, width = planes.shape
        _, plate_height, plate_width = plate.illumination.shape
        expected = f"{plate_width}x{plate_height} expected, as the plate's other planes"
        raise ImageError(paths[0], "wrong_size", f"{width}x{height} pixels, {expected}")
    values = standardised(planes, plate)
    low, high = float(values.min()), float(values.max())
    field = to_uint8(values, low, high) if high > low else np.zeros(values.shape, np.uint8)
    field.setflags(write=False)
    return field


def read_planes(paths: tuple[str, ...], shape: tuple[int, int] | None = None) -> np.ndarray:
    """Read a field's planes, (3, H, W) uint16, all of the first one's size (or of `shape`).

    Raises:
        ImageError: a plane is missing, damaged or of another size or depth.
    """
    first = read_gray16(paths[0], shape)
    return np.stack([first, *(read_gray16(path, first.shape) for path in paths[1:])])


def standardised(planes: np.ndarray, plate: Calibration) -> np.ndarray:
    """Return (3, H, W) float32 of counts: even light and noise, DMSO pixels at mean 0 and SD 1."""
    values = anscombe(planes / plate.illumination)
    return (values - plate.mean[:, None, None]) / plate.sd[:, None, None]


# calibration
# --------------------------------------------------------------------------------------------------


def load_calibration(path: Path, state: tuple | None = None) -> Calibration:
    """Read the calibration of one plate.

    Raises:
        InputError: there is none, or it is damaged.
    """
    return _load_calibration(str(path), state or _file_state(path))


@functools.lru_cache(maxsize=2)
def _load_calibration(path: str, state: tuple | None) -> Calibration:
    return Calibration(*read_arrays(Path(path), ("illumination", "mean", "sd")))


def measure_plates(
    root: Path, folder: Path, fields: pd.DataFrame, shape: tuple[int, int], workers: int = 0
) -> dict[str, str]:
    """Measure every plate that is not measured yet, or whose planes or wells have changed since.

    Plates without images are passed over; planes that cannot be read are left out. Both are logged.

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
            count = len(rows)
            log.warning("%s: none of its %d fields is there, so it is not calibrated", plate, count)
            continue
        made_from = {
            "version": VERSION,
            "size": list(shape),
            "controls": digest(control),
            **description,
        }
        measure = functools.partial(_measure_arrays, root, plate, planes, control, shape)
        jobs[plate] = PlateJob(made_from, measure)
    return measure_changed(folder, jobs, workers)


def _measure_arrays(*plate) -> dict[str, np.ndarray]:
    return vars(measure_plate(*plate))


def measure_plate(
    root: Path,
    plate: str,
    planes: list[tuple[str, ...]],
    is_control: list[bool],
    shape: tuple[int, int],
) -> Calibration:
    """Measure a plate's illumination from all its fields, then its DMSO pixels under it.

    Args:
        planes: a field's three files, relative to the root.
        is_control: whether a field shows a DMSO well.

    Raises:
        PlateError: no DMSO field can be read, or a channel of them is flat.
    """
    total = np.zeros((len(CHANNELS), *shape))
    control_paths = []
    for names, control in zip(planes, is_control, strict=True):
        paths = tuple(str(root / name) for name in names)
        try:
            total += read_planes(paths, shape)
        except ImageError as error:
            log.warning("%s: not used to calibrate plate %s", error, plate)
            continue
        if control:
            control_paths.append(paths)
    if not control_paths:
        raise PlateError(
            f"plate {plate}: none of its {sum(is_control)} DMSO fields under {root} can be read; "
            "it cannot be standardised"
        )
    light = np.stack([illumination(channel, max(1, shape[0] // _WINDOW)) for channel in total])
    sums = np.zeros((2, len(CHANNELS)))
    for paths in control_paths:
        values = anscombe(read_planes(paths, shape) / light).astype(float)
        sums += values.sum(axis=(1, 2)), (values**2).sum(axis=(1, 2))
    mean, square = sums / (len(control_paths) * shape[0] * shape[1])
    sd = np.sqrt(np.maximum(square - mean**2, 0))
    if not (sd > 1e-6).all():
        flat = list(CHANNELS)[int(sd.argmin())]
        raise PlateError(f"plate {plate}: its DMSO fields under {root} are flat in {flat}")
    return Calibration(light, mean.astype(np.float32), sd.astype(np.float32))


def _file_state(path: Path | str) -> tuple[int, int] | None:
    """Return a file's modification time and size; None if it does not exist."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size
