"""16-bit planes to 8 bits: even light, equal shot noise, one fixed window a plate and channel, so that wells stay comparable.

What that needs of the plate is measured once by `calibrate_plates` and kept in `root/calibration/<plate>.npz`; no label is looked at. The shot noise of
a count has an SD of about 1 after Anscombe's transform wherever it stands, so a window of 255 steps of about .5 loses little of dark and bright pixels.
"""

import functools
import logging
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from cellsignal.errors import ImageError, InputError
from cellsignal.files import atomic_path
from cellsignal.images import read_gray16
from cellsignal.intensity import anscombe, illumination, to_uint8

log = logging.getLogger(__name__)

MOST_FIELDS = 384  # of a plate's 3,456 fields: one a well on average
WINDOW_FIELDS = 64
WINDOW = (0.1, 99.9)  # percentiles
SMOOTHING = 1 / 10  # radius of the illumination's median, in image heights


@dataclass(frozen=True)
class Calibration:
    """How a plate's planes become bytes. `illumination` (C, H, W) float32; `low`, `high` (C,) on Anscombe's scale."""

    illumination: np.ndarray
    low: np.ndarray
    high: np.ndarray


def calibrate_plates(root: Path, plates: Mapping[str, Sequence[tuple[str, ...]]], workers: int = 0) -> None:
    """Measure the plates that have no file in `root/calibration` yet; each is written when it is done, so a broken run goes on.

    Args:
        plates: plate -> the files of its fields, one a channel.
        workers: processes, a plate each; 0 works in this one.

    Raises:
        InputError: a plate has no readable field, or the disk cannot be written.
    """
    root = Path(root)
    todo = [(root, plate, tuple(fields)) for plate, fields in plates.items() if not calibration_path(root, plate).is_file()]
    if workers <= 1 or len(todo) < 2:
        for job in todo:
            _calibrate(job)
        return
    with ProcessPoolExecutor(min(workers, len(todo)), mp_context=get_context("spawn")) as pool:
        list(pool.map(_calibrate, todo))


def calibration_path(root: Path, plate: str) -> Path:
    """Where a plate's calibration lies. Remove it to measure anew, as after fetching more of the plate."""
    return Path(root) / "calibration" / f"{plate}.npz"


def read_field(root: Path, plate: str, files: tuple[str, ...], shape: tuple[int, int] | None) -> np.ndarray:
    """One field, (C, H, W) uint8.

    Raises:
        ImageError: a file is missing, damaged or of another size or depth than `shape`, the first file's or the plate's calibration.
        InputError: the plate is not calibrated.
    """
    root = Path(root)
    planes = _read_planes(root, files, shape)
    path = calibration_path(root, plate)
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        raise InputError(f"{path}: no such file; run `cellsignal prepare` or `cellsignal verify`, which measure a plate first") from None
    calibration = _load(path, stamp)
    _, height, width = calibration.illumination.shape
    if planes.shape[1:] != (height, width):
        size = f"{planes.shape[2]}x{planes.shape[1]} pixels"
        raise ImageError(root / files[0], "wrong_size", f"{size}, the plate's others {width}x{height}")
    return apply(planes, calibration)


def _read_planes(
    root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
) -> np.ndarray:
    """A field's planes, (C, H, W) uint16, all of the first one's size (or of `shape`)."""
    first = read_gray16(root / files[0], shape)
    return np.stack([first, *(read_gray16(root / file, first.shape) for file in files[1:])])


def apply(planes: Sequence[np.ndarray], calibration: Calibration) -> np.ndarray:
    """Planes (H, W) uint16, one a channel, to (C, H, W) uint8: light divided out, Anscombe, the window."""
    parts = zip(planes, calibration.illumination, calibration.low, calibration.high, strict=True)
    return np.stack([to_uint8(anscombe(plane / light), low, high) for plane, light, low, high in parts])


def _windowed(light: Sequence[np.ndarray], fields: Sequence[np.ndarray]) -> Calibration:
    bounds = []
    for channel, even in enumerate(light):
        step = max(1, even.shape[0] // 256)
        values = [anscombe(field[channel][::step, ::step] / even[::step, ::step]) for field in fields]
        low, high = np.percentile(values, WINDOW)
        bounds.append((low, max(high, low + 1)))  # a channel of one grey level has no window
    low, high = np.array(bounds, np.float32).T
    return Calibration(np.stack(light), low, high)


def _calibrate(job: tuple[Path, str, tuple[tuple[str, ...], ...]]) -> None:
    """One plate, from up to MOST_FIELDS of its fields drawn at random; unreadable fields are left out (packing and `verify` name each)."""
    root, plate, fields = job
    found: dict[tuple[int, ...], list[np.ndarray]] = {}  # shape -> the sum of its fields, then some of them
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
        raise InputError(f"{root}: plate {plate} has no readable field to calibrate it from, first {fields[0][0] if fields else 'none'}")
    shape, count = counts.most_common(1)[0]
    total, *some = found[shape]
    made = _windowed([illumination(mean, max(1, round(shape[1] * SMOOTHING))) for mean in total / count], some)
    with atomic_path(calibration_path(root, plate)) as temporary, open(temporary, "wb") as file:
        np.savez(file, illumination=made.illumination, low=made.low, high=made.high)


@functools.lru_cache(maxsize=4)
def _load(path: Path, stamp: int) -> Calibration:
    try:
        with np.load(path) as found:
            return Calibration(found["illumination"], found["low"], found["high"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is no calibration ({str(error).splitlines()[0]}); remove it to measure the plate anew") from None
