"""Predict piece by piece, so that an interrupted prediction resumes where it stopped.

A piece is a plate, or what shares BatchNorm statistics; it is written as soon as it is predicted.
The pieces lie beside the file that they will become, in a folder named by all that decides their
content, and are removed when it is written. Several processes share the pieces out, and stop
together: on request, or where the next pieces would not fit into the time budget.
"""

import logging
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.files import atomic_path, digest, open_arrays
from cellsignal.common.progress import Progress
from cellsignal.common.stopping import Pace, Stop
from cellsignal.prediction.halves import narrow
from cellsignal.training.job import unit_codes
from cellsignal.training.ranks import ALONE, Ranks

log = logging.getLogger(__name__)


def pieces_of(
    samples: pd.DataFrame, chosen: np.ndarray, adapt: str, keys: np.ndarray
) -> list[np.ndarray]:
    """Split samples by model and by plate, or by the larger unit that is adapted as a whole.

    Args:
        samples: a samples table.
        chosen: (n,) positions in it.
        adapt: `predict.adapt` of the config.
        keys: (n,) text, the model that predicts each.

    Returns:
        (m,) int each, places in `chosen`.
    """
    if not len(chosen):
        return []
    units = unit_codes(samples, "plate" if adapt == "none" else adapt)[chosen]
    models = np.unique(keys.astype(str), return_inverse=True)[1]
    order = np.lexsort((units, models))
    changes = (np.diff(units[order]) != 0) | (np.diff(models[order]) != 0)
    return np.split(order, np.flatnonzero(changes) + 1)


def in_pieces(
    path: Path,
    made_from: Any,
    places: list[np.ndarray],
    compute: Callable[[np.ndarray], dict[str, np.ndarray]],
    ranks: Ranks = ALONE,
    stop: Stop | None = None,
) -> "Joined | None":
    """Compute the pieces that do not exist yet, each by one process, and join them all.

    Args:
        path: the file that all of it will become.
        made_from: JSON-able; pieces made from something else are not used.
        places: of `pieces_of`; together 0..n-1, each once.
        compute: from a piece's places to arrays, one row a place.

    Returns:
        Name -> (n, D) float16, or float32 where `container.narrow` keeps a piece so, in rank 0;
        None in the others. They are read when they are looked up; call `remove_pieces` when the
        file is written.

    Raises:
        Interrupted: stopped by a signal, or by the time budget (`OutOfTime`); the pieces that are
            done are kept.
    """
    stop = stop or Stop()
    folder = pieces_folder(path) / digest(made_from)[:16]
    files = [folder / f"{number:04d}.npz" for number in range(len(places))]
    missing = _missing(path, files, ranks)
    n_done = len(files) - len(missing)
    pace, write_seconds = Pace(), 0.0
    sizes = [len(places[number]) for number in missing]
    with Progress(f"predicting {path}", sum(sizes), "sample", leave=False) as progress:
        for start in range(0, len(missing), ranks.world):
            saved = f"{n_done + start} of {len(files)} pieces"
            _stop_together(ranks, stop, path, saved, "the next piece", pace.high)
            started = time.perf_counter()
            if start + ranks.rank < len(missing):
                number = missing[start + ranks.rank]
                arrays = {name: narrow(values) for name, values in compute(places[number]).items()}
                write_seconds += _write(files[number], arrays)
            pace.add(time.perf_counter() - started)
            progress.add(sum(sizes[start : start + ranks.world]))
    join_seconds = None
    if missing:  # every piece is read and written once more
        join_seconds = 2 * write_seconds * ranks.world * len(files) / len(missing)
    saved = f"all {len(files)} pieces"
    _stop_together(ranks, stop, path, saved, "putting them together", join_seconds)
    ranks.barrier()
    return Joined(files, places) if ranks.first else None


def _missing(path: Path, files: list[Path], ranks: Ranks) -> list[int]:
    """Return the numbers of the pieces that do not exist yet, and log that there are others."""
    missing = [number for number, file in enumerate(files) if _read(file) is None]
    ranks.barrier()  # every process has looked before any writes
    n_done = len(files) - len(missing)
    if n_done and ranks.first:
        log.info("%s: resumes, %d of %d pieces are done", path, n_done, len(files))
    return missing


def _stop_together(
    ranks: Ranks, stop: Stop, path: Path, saved: str, next_step: str, seconds: float | None
) -> None:
    status = max(ranks.gather(stop.stop_status(seconds)))
    if status:
        raise stop.make_exception(status, str(path), saved, next_step, seconds)


def pieces_folder(path: Path) -> Path:
    """Return the folder of a file's pieces."""
    return path.with_name(f".{path.stem}.pieces")


def remove_pieces(path: Path) -> None:
    """Remove the pieces of a file that is written."""
    shutil.rmtree(pieces_folder(path), ignore_errors=True)


def _write(path: Path, arrays: dict[str, np.ndarray]) -> float:
    """The seconds that it took."""
    started = time.perf_counter()
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return time.perf_counter() - started


class Joined(Mapping):
    """The arrays of all pieces put together, by name; each is read when it is looked up.

    All views of RxRx1's sites would be more than a gibibyte at once.

    Args:
        files: of the pieces.
        places: the rows of each.
    """

    def __init__(self, files: list[Path], places: list[np.ndarray]):
        self.files, self.places = files, places
        self.names: list[str] = []
        if files:
            with open_arrays(files[0]) as archive:
                self.names = list(archive.files)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise KeyError(name)
        whole = None
        for file, rows in zip(self.files, self.places, strict=True):
            with open_arrays(file) as archive:
                values = archive[name]
            if whole is None:
                shape = (sum(map(len, self.places)), *values.shape[1:])
                whole = np.empty(shape, values.dtype)
            whole = whole.astype(np.result_type(whole, values), copy=False)
            whole[rows] = values
        return whole


def _read(file: Path) -> dict[str, np.ndarray] | None:
    """Read a piece's arrays; None if it is missing or damaged (zip checks every array)."""
    try:
        with open_arrays(file) as archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError):
        return None
