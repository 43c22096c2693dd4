"""Prediction piece by piece, so that what a kill interrupts goes on: a plate, or what shares
BatchNorm statistics, is written as soon as it is predicted.

The pieces lie beside the file that they will become, in a folder named by all that decides their
content, and go when it is there. Several processes share the pieces out, and stop together: on
request, or where the next pieces would not fit into the time budget.
"""

import logging
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.files import atomic_path, digest, open_arrays
from cellsignal.common.stopping import Pace, Stop
from cellsignal.prediction.container import narrow
from cellsignal.training.job import unit_codes
from cellsignal.training.ranks import ALONE, Ranks

log = logging.getLogger(__name__)


def pieces_of(
    samples: pd.DataFrame, chosen: np.ndarray, adapt: str, keys: np.ndarray
) -> list[np.ndarray]:
    """Places in `chosen`, (m,) int each: by model and plate, or the larger unit that is adapted as
    a whole.

    Args:
        samples: a samples table.
        chosen: (n,) positions in it.
        adapt: `predict.adapt` of the config.
        keys: (n,) text, the model that predicts each.
    """
    units = unit_codes(samples, "plate" if adapt == "none" else adapt)[chosen]
    models = np.unique(keys.astype(str), return_inverse=True)[1]
    order = np.lexsort((units, models))
    changes = (np.diff(units[order]) != 0) | (np.diff(models[order]) != 0)
    return np.split(order, np.flatnonzero(changes) + 1) if len(chosen) else []


def in_pieces(
    path: Path,
    made_from: Any,
    places: list[np.ndarray],
    compute: Callable[[np.ndarray], dict[str, np.ndarray]],
    ranks: Ranks = ALONE,
    stop: Stop | None = None,
) -> dict[str, np.ndarray] | None:
    """Compute what is not there yet, each piece by one process, and put all together.

    Args:
        path: the file that all of it will become.
        made_from: JSON-able; pieces made from something else are not used.
        places: of `pieces_of`; together 0..n-1, each once.
        compute: from a piece's places to arrays, one row a place.

    Returns:
        Name -> (n, D) float16, or float32 where `container.narrow` keeps a piece so, in the first
        process; None in the others. `forget` when the file is written.

    Raises:
        Interrupted: stopped by a signal, or by the time budget (`OutOfTime`); the pieces that are
        done are kept.
    """
    stop = stop or Stop()
    folder = pieces_folder(path) / digest(made_from)[:16]
    files = [folder / f"{number:04d}.npz" for number in range(len(places))]
    missing = [number for number, file in enumerate(files) if _read(file) is None]
    ranks.barrier()  # all have looked before any writes
    if len(missing) < len(files) and ranks.first:
        log.info(
            "%s: goes on, %d of %d pieces are there", path, len(files) - len(missing), len(files)
        )
    took, wrote = Pace(), 0.0  # seconds of a piece; of writing all that were made here
    for start in range(0, len(missing), ranks.world):
        _stop_together(
            ranks,
            stop,
            path,
            f"{len(files) - len(missing) + start} of {len(files)} pieces",
            "the next piece",
            took.high,
        )
        begun = time.perf_counter()
        # one, or none where they run out
        for number in missing[start + ranks.rank : start + ranks.world : ranks.world]:
            arrays = {name: narrow(values) for name, values in compute(places[number]).items()}
            made = time.perf_counter()
            with atomic_path(files[number]) as temporary, open(temporary, "wb") as file:
                np.savez(file, **arrays)
            wrote += time.perf_counter() - made
        took.add(time.perf_counter() - begun)
    # read and written once more
    together = 2 * wrote * ranks.world * len(files) / len(missing) if missing else None
    _stop_together(ranks, stop, path, f"all {len(files)} pieces", "putting them together", together)
    ranks.barrier()
    return _together(files, places) if ranks.first else None


def _stop_together(
    ranks: Ranks, stop: Stop, path: Path, saved: str, coming: str, seconds: float | None
) -> None:
    status = max(ranks.gather(stop.wish(seconds)))
    if status:
        raise stop.end(status, str(path), saved, coming, seconds)


def pieces_folder(path: Path) -> Path:
    return path.with_name(f".{path.stem}.pieces")


def forget(path: Path) -> None:
    """Remove the pieces of a file that is written."""
    shutil.rmtree(pieces_folder(path), ignore_errors=True)


def _together(files: list[Path], places: list[np.ndarray]) -> dict[str, np.ndarray]:
    whole: dict[str, np.ndarray] = {}
    for file, mine in zip(files, places, strict=True):
        for name, values in _read(file).items():
            rows = whole.get(name)
            if rows is None:
                rows = np.empty((sum(map(len, places)), *values.shape[1:]), values.dtype)
            whole[name] = rows.astype(np.result_type(rows, values), copy=False)
            whole[name][mine] = values
    return whole


def _read(file: Path) -> dict[str, np.ndarray] | None:
    """A piece's arrays; None where it is not there or damaged (zip holds every array to its
    checksum).
    """
    try:
        with open_arrays(file) as archive:
            return {name: archive[name] for name in archive.files}
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, OSError, EOFError):
        return None
