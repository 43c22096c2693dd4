"""16-bit planes to 8 bits: even light, equal shot noise, one fixed window a plate and channel, so
that wells stay comparable.

What that needs of the plate is measured by `measure_plates` and kept in a file a plate (see
`calibration`); no label is looked at. The shot noise of a count has an SD of about 1 after
Anscombe's transform wherever it stands, so a window of 255 steps of about .5 loses little of dark
and bright pixels.
"""

import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellsignal.common.errors import ImageError
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
MOST_FIELDS = 384  # of a plate's 3,456 fields: one a well on average
WINDOW_FIELDS = 64
WINDOW = (0.1, 99.9)  # percentiles
SMOOTHING = 1 / 10  # radius of the illumination's median, in image heights


@dataclass(frozen=True)
class Calibration:
    """How a plate's planes become bytes. `illumination` (C, H, W) float32; `low`, `high` (C,) on
    Anscombe's scale.
    """

    illumination: np.ndarray
    low: np.ndarray
    high: np.ndarray


def measure_plates(
    root: Path, folder: Path, plates: Mapping[str, Sequence[tuple[str, ...]]], workers: int = 0
) -> dict[str, str]:
    """Measure the plates whose planes have changed since their file in `folder` was made.

    Args:
        plates: plate -> the files of its fields, one a channel.
        workers: processes, a plate each; 0 works in this one.

    Returns:
        Plate -> hash of its calibration.

    Raises:
        InputError: no plate has a readable field, or the disk cannot be written.
    """
    jobs = {}
    for plate, fields in plates.items():
        planes = describe_planes(root, fields)
        measure = functools.partial(measure_plate, root, plate, tuple(fields))
        jobs[plate] = PlateJob({"version": VERSION, **(planes or {})}, measure)
    return measure_changed(folder, jobs, workers)


def read_field(
    root: Path, files: tuple[str, ...], measured: Path, shape: tuple[int, int] | None
) -> np.ndarray:
    """One field, (C, H, W) uint8.

    Args:
        measured: the file of the plate's calibration.

    Raises:
        ImageError: a file is missing, damaged or of another size or depth than `shape`, the first
        file's or the plate's calibration;
            "not_calibrated": the plate could not be measured.
    """
    root = Path(root)
    planes = _read_planes(root, files, shape)
    try:
        stamp = measured.stat().st_mtime_ns
    except OSError:
        raise ImageError(root / files[0], "not_calibrated", NOT_CALIBRATED) from None
    calibration = _load(measured, stamp)
    _, height, width = calibration.illumination.shape
    if planes.shape[1:] != (height, width):
        size = f"{planes.shape[2]}x{planes.shape[1]} pixels"
        raise ImageError(
            root / files[0], "wrong_size", f"{size}, the plate's others {width}x{height}"
        )
    return apply(planes, calibration)


def _read_planes(
    root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
) -> np.ndarray:
    """A field's planes, (C, H, W) uint16, all of the first one's size (or of `shape`)."""
    first = read_gray16(root / files[0], shape)
    return np.stack([first, *(read_gray16(root / file, first.shape) for file in files[1:])])


def apply(planes: Sequence[np.ndarray], calibration: Calibration) -> np.ndarray:
    """Planes (H, W) uint16, one a channel, to (C, H, W) uint8: light divided out, Anscombe, the
    window.
    """
    parts = zip(planes, calibration.illumination, calibration.low, calibration.high, strict=True)
    return np.stack(
        [to_uint8(anscombe(plane / light), low, high) for plane, light, low, high in parts]
    )


def _windowed(light: Sequence[np.ndarray], fields: Sequence[np.ndarray]) -> Calibration:
    bounds = []
    for channel, even in enumerate(light):
        step = max(1, even.shape[0] // 256)
        values = [
            anscombe(field[channel][::step, ::step] / even[::step, ::step]) for field in fields
        ]
        low, high = np.percentile(values, WINDOW)
        bounds.append((low, max(high, low + 1)))  # a channel of one grey level has no window
    low, high = np.array(bounds, np.float32).T
    return Calibration(np.stack(light), low, high)


def measure_plate(
    root: Path, plate: str, fields: tuple[tuple[str, ...], ...]
) -> dict[str, np.ndarray]:
    """Measure one plate from up to MOST_FIELDS of its fields drawn at random.

    Unreadable fields are left out (packing and `verify` name each).

    Returns:
        The attributes of its `Calibration`.
    """
    # shape -> the sum of its fields, then some of them
    found: dict[tuple[int, ...], list[np.ndarray]] = {}
    counts: Counter[tuple[int, ...]] = Counter()
    for number in np.random.default_rng(0).permutation(len(fields))[:MOST_FIELDS]:
        try:
            field = _read_planes(root, fields[number])
        except ImageError as error:
            log.warning("calibration of plate %s: left out a field: %s", plate, error)
            continue
        counts[field.shape] += 1
        known = found.setdefault(field.shape, [np.zeros(field.shape)])
        known[0] += field
        if len(known) <= WINDOW_FIELDS:
            known.append(field)
    if not counts:
        raise PlateError(
            f"{root}: plate {plate} has no readable field to calibrate it from, first "
            f"{fields[0][0] if fields else 'none'}"
        )
    shape, count = counts.most_common(1)[0]
    total, *some = found[shape]
    made = _windowed(
        [illumination(mean, max(1, round(shape[1] * SMOOTHING))) for mean in total / count], some
    )
    return {"illumination": made.illumination, "low": made.low, "high": made.high}


@functools.lru_cache(maxsize=4)
def _load(path: Path, stamp: int) -> Calibration:
    return Calibration(*read_arrays(path, ("illumination", "low", "high")))
