"""Measure whole plates before their images are read, and keep the measurements in files.

A file holds the arrays, what they were measured from (the planes' names, sizes and times of change,
settings, the version of the code) and the arrays' hash. Planes that were only copied or touched are
measured again, and give the same hash: the images made with it stay valid.
"""

import copy
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np
from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path, changed_inputs, digest, open_arrays
from cellsignal.common.processes import start_worker

log = logging.getLogger(__name__)
CALIBRATE_FIRST = "`cellsignal prepare` does that before it reads"
NOT_CALIBRATED = (
    "its plate could not be calibrated (the log says why), or is not yet; `cellsignal prepare` "
    "does it"
)
_MADE_FROM, _HASH = "made_from", "hash"


class PlateError(InputError):
    """A plate that lacks what is measured of it. The others are measured all the same."""


@dataclass(frozen=True)
class Calibration:
    """What `Calibrates.calibrate` has measured.

    Attributes:
        folder: where it lies, a file a plate.
        hashes: plate, as in the samples table -> hash of what was measured. Two equal hashes make
        the same images.
    """

    folder: Path
    hashes: dict[str, str]


class Calibrates:
    """The part of a competition that measures plates; most have nothing to measure.

    Attributes:
        calibration: what it reads by; None before `calibrate`, or with nothing to measure.
    """

    calibration: Calibration | None = None

    def calibrate(self, root: Path, folder: Path, workers: int = 0) -> Self:
        """Measure what `read` must know of whole plates (illumination, statistics of controls).

        A plate is measured again, and a log line says why, when its planes have changed since
        (their names, sizes or times of change), or the code that measures. Nothing is written under
        `root`.

        Args:
            folder: where it is kept: `calibration` in the store. Made if need be.
            workers: processes; 0 works in this one.

        Returns:
            A competition that reads by it; this one where there is nothing to measure.

        Raises:
            InputError: every plate lacks what is measured, or the disk cannot be written.
        """
        hashes = self.measure_plates(Path(root), Path(folder), workers)
        if hashes is None:
            return self
        calibrated = copy.copy(self)
        calibrated.calibration = Calibration(Path(folder), hashes)
        return calibrated

    def measure_plates(self, root: Path, folder: Path, workers: int) -> dict[str, str] | None:
        """Measure the plates; return `Calibration.hashes`, or None if there is nothing to measure.

        Planes that cannot be read are left out: they are named where they are read for themselves.
        So are plates that lack what is measured; each of their images is then an `ImageError` of
        kind "not_calibrated".
        """
        return None


@dataclass(frozen=True)
class PlateJob:
    """A plate that may have to be measured.

    Attributes:
        made_from: name -> version, setting or hash; all that decides the measurement.
        measure: gives name -> array. Must pickle where there are workers.
    """

    made_from: dict[str, Any]
    measure: Callable[[], dict[str, np.ndarray]]


def describe_planes(root: Path, fields: Sequence[tuple[str, ...]]) -> dict[str, Any] | None:
    """Describe the planes of a plate that are on disk, for `PlateJob.made_from`.

    Args:
        fields: the files of each field, relative to `root`.

    Returns:
        Their number and the hash of their names, sizes and times of change; None where none is
        there.
    """
    states = {}
    for name in (name for names in fields for name in names):
        try:
            state = os.stat(root / name)
        except OSError:
            continue
        states[name] = (state.st_size, state.st_mtime_ns)
    return {"number of planes": len(states), "planes": digest([fields, states])} if states else None


def calibration_file(folder: Path, plate: str) -> Path:
    """Return the file of a plate's measurements."""
    return Path(folder) / f"{plate}.npz"


def measure_changed(
    folder: Path, plates: Mapping[str, PlateJob], workers: int = 0
) -> dict[str, str]:
    """Measure the plates that are not measured yet, or of which something has changed.

    Each is kept when it is done.

    Args:
        workers: processes, a plate each; 0 works in this one.

    Returns:
        Plate -> hash of its arrays; without the plates that cannot be measured (a `PlateError`),
        which are logged.

    Raises:
        InputError: no plate can be measured, or the disk cannot be written.
    """
    jobs = []
    for plate, job in plates.items():
        path = calibration_file(folder, plate)
        recorded = _read_about(path)[0]
        changed = changed_inputs(recorded, job.made_from)
        if changed:
            jobs.append((path, job))
        if changed and recorded:
            names = ", ".join(changed)
            log.warning("plate %s: its calibration is measured anew; changed: %s", plate, names)
    progress = partial(tqdm, total=len(jobs), desc="calibrating", unit="plate", disable=None)
    if workers <= 1 or len(jobs) < 2:
        failures = [_measure(job) for job in progress(jobs)]
    else:
        processes, spawn = min(workers, len(jobs)), get_context("spawn")
        with ProcessPoolExecutor(processes, spawn, initializer=start_worker) as pool:
            try:
                failures = list(progress(pool.map(_measure, jobs)))
            finally:
                pool.shutdown(cancel_futures=True)
    failures = [failure for failure in failures if failure is not None]
    if failures and len(failures) == len(plates):
        raise failures[0]
    for failure in failures:
        log.warning("%s; its images are left out", failure)
    measured = [plate for plate in plates if calibration_file(folder, plate).is_file()]
    return {plate: _read_about(calibration_file(folder, plate))[1] for plate in measured}


def find_calibration(calibration: Calibration | None, competition_id: str, plate: str) -> Path:
    """Return the file of the measurements that a competition reads a plate by.

    Raises:
        InputError: `Competition.calibrate` has not been called.
    """
    if calibration is None:
        raise InputError(
            f"{competition_id}: plate {plate} is not calibrated yet; {CALIBRATE_FIRST}"
        )
    return calibration_file(calibration.folder, plate)


def read_arrays(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Read arrays of a plate's measurements.

    Raises:
        InputError: the plate is not measured, or the file is damaged.
    """
    try:
        with open_arrays(path) as file:
            return [file[name] for name in names]
    except FileNotFoundError:
        raise InputError(f"{path}: the plate is not calibrated yet; {CALIBRATE_FIRST}") from None
    except Exception as error:  # a damaged zip file ends in errors of many kinds
        why = " ".join(str(error).split())
        raise InputError(
            f"{path}: is damaged ({why}); remove it and run again to measure the plate anew"
        ) from None


def _measure(item: tuple[Path, PlateJob]) -> PlateError | None:
    """Measure one plate and keep it; return why if it lacks what is measured."""
    path, job = item
    try:
        arrays = job.measure()
    except PlateError as error:
        path.unlink(missing_ok=True)
        return error
    about = {
        _MADE_FROM: np.array(json.dumps(job.made_from, default=str)),
        _HASH: np.array(_hash(arrays)),
    }
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays, **about)
    return None


def _read_about(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the provenance and the arrays' hash of a file; (None, "") if it is damaged."""
    try:
        with open_arrays(path) as file:
            return json.loads(str(file[_MADE_FROM])), str(file[_HASH])
    except Exception:  # whatever is wrong with it: it is measured anew
        return None, ""


def _hash(arrays: dict[str, np.ndarray]) -> str:
    value = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        value.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        value.update(np.ascontiguousarray(array).tobytes())
    return value.hexdigest()
