"""Write simulated files in parallel; their bytes depend only on the seed."""

import difflib
import functools
import hashlib
import inspect
import json
import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_json
from cellsignal.common.processes import start_worker
from cellsignal.common.progress import Progress

MARKER = "simulation.json"


def generator(seed: int, *key: Any) -> np.random.Generator:
    """Return the random generator of one thing (a class, a plate, a site).

    It is independent of all others and of the order of drawing.
    """
    words = hashlib.sha256("/".join(str(part) for part in (seed, *key)).encode()).digest()
    return np.random.Generator(np.random.SFC64(np.frombuffer(words, np.uint32)))


def claim_folder(out: Path, answers: Path, settings: dict[str, Any]) -> None:
    """Mark `out` as the folder of a simulation: new, empty, or holding the same simulation.

    Raises:
        InputError: `out` holds anything else, or `answers` is a file of something else.
    """
    marker = out / MARKER
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, not a folder to simulate into")
    if marker.is_file():
        if _read_settings(marker) != json.loads(json.dumps(settings)):
            raise InputError(
                f"{out}: holds another simulation (see its {MARKER}); choose a new folder or "
                "remove it first"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(
            f"{out}: is not empty and holds no simulation; choose a new folder, nothing was written"
        )
    elif answers.exists():
        raise InputError(
            f"{answers}: exists already, and would be overwritten by this simulation's answers; "
            "move it first"
        )
    write_json(marker, settings)


def _read_settings(marker: Path) -> Any:
    try:
        return json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        return None


def simulator(simulate: Callable[..., None]) -> Callable[..., None]:
    """Decorate a simulator: parameters that it does not have are refused by name.

    The message lists the keyword arguments whose default is a whole number; others are passed by
    code alone.
    """
    defaults = inspect.getfullargspec(simulate).kwonlydefaults or {}
    known = [name for name, default in defaults.items() if isinstance(default, int)]
    accepted = inspect.getfullargspec(simulate).kwonlyargs

    @functools.wraps(simulate)
    def checked(out: Path | str, seed: int = 0, **given: Any) -> None:
        for name in set(given) - set(accepted):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"simulate: no parameter {name!r}; {hint}There are {', '.join(known)}")
        simulate(out, seed, **given)

    return checked


def check_sizes(
    competition: str, sizes: dict[str, int], ranges: dict[str, tuple[int, int | None]]
) -> None:
    """Hold the sizes of a simulation to their ranges (least, most); None is no upper limit.

    Raises:
        InputError: a size is outside; names it and its range.
    """
    for name, (least, most) in ranges.items():
        if sizes[name] < least or (most is not None and sizes[name] > most):
            limits = f"at least {least}" if most is None else f"{least} to {most}"
            raise InputError(f"simulate {competition}: {name} is {sizes[name]}, {limits} needed")


def write_file(path: Path, data: bytes) -> None:
    """Write bytes to `path`, whose folder must exist."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror or error})") from error


def write_png(path: Path, image: np.ndarray) -> None:
    """Write (H, W) gray or (H, W, 3) RGB uint8 as a PNG; its folder must exist."""
    image = image if image.ndim == 2 else np.ascontiguousarray(image[:, :, ::-1])
    done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done, path
    write_file(path, data)


def run_jobs(draw: Callable[[Any], int], jobs: Iterable[Any], total: int, workers: int) -> None:
    """Draw every job (a plate), in `workers` processes if more than one.

    Args:
        draw: draws one job and returns how many of the `total` sites that were.
    """
    with Progress("simulating", total, "site") as progress:
        if workers <= 1:
            for job in jobs:
                progress.add(draw(job))
            return
        with multiprocessing.get_context("spawn").Pool(workers, initializer=start_worker) as pool:
            for drawn in pool.imap_unordered(draw, jobs):
                progress.add(drawn)
