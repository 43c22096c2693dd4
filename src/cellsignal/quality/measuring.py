"""Measure all sites of a store, or of raw images, in processes; measured plates are kept."""

import functools
import logging
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cellsignal.common.errors import ImageError, InputError
from cellsignal.common.files import atomic_path, digest, limited_name, open_arrays
from cellsignal.common.places import Place
from cellsignal.competitions.base import Competition
from cellsignal.data.sites import in_processes, read_site
from cellsignal.data.store import Store
from cellsignal.quality.site_measures import GRID, MEASURES, count_nuclei, measure_channel, shrink

log = logging.getLogger(__name__)
CELLS = "cells"
VERSION = 1  # of what is measured: one more whenever the same image gives other numbers
NUCLEAR = ("nuclei", "nucleus", "dna", "dapi", "hoechst", "draq5", "h2b")  # names of a channel


@dataclass(frozen=True)
class Images:
    """Images to be measured.

    Attributes:
        samples: the samples table of what can be read.
        planes: channel's name -> number of its plane in an image; of a clip its middle frame.
        read: from an item to (C, H, W) uint8; it pickles.
        items: what `read` takes, one for each row of `samples`.
        content: hash of the pixels of each row; equal hashes, equal pixels.
        what: where they come from, in words.
    """

    samples: pd.DataFrame
    planes: dict[str, int]
    read: Callable
    items: Sequence
    content: Sequence[str]
    what: str


class Measured(NamedTuple):
    """What was measured of every sample.

    Attributes:
        values: (N, F) float64, a column for each of `columns`; NaN for a site that cannot be read.
        columns: (channel, measure) pairs; (`CELLS`, `CELLS`) is the count of nuclei.
        grids: (experiment, plate) -> (C, GRID, GRID), the plate's mean image.
        problems: (sample_id, message) of the sites that cannot be read.
    """

    values: np.ndarray
    columns: tuple[tuple[str, str], ...]
    grids: dict[tuple[str, str], np.ndarray]
    problems: tuple[tuple[str, str], ...]


def stored_images(store: Store, frames: int) -> Images:
    """Return the images of a store."""
    rows = store.samples.row.to_numpy()
    read = functools.partial(_read_stored, store.path)
    content = [f"{value:08x}" for value in store.checksum[rows]]
    height, width = store.shape[1:]
    what = f"{store.path.name}, {width}x{height} px"
    planes = channel_planes(store.channels, frames)
    return Images(store.samples, planes, read, rows.tolist(), content, what)


def raw_images(competition: Competition, root: Path, calibration: Path, workers: int) -> Images:
    """Return the raw images of a competition.

    Args:
        calibration: folder for what is measured of whole plates first (16-bit images).
    """
    root = Path(root).absolute()
    samples = competition.samples(root)
    competition = competition.calibrate(root, calibration, workers)
    shape = competition.root_shape(root)
    read = functools.partial(_read_raw, competition, root, shape)
    content = [digest([_state(root / name) for name in files]) for files in samples["files"]]
    planes = channel_planes(competition.channels_of(root), competition.frames)
    what = f"the raw images, {shape[1]}x{shape[0]} px"
    return Images(samples, planes, read, samples["files"].tolist(), content, what)


def channel_planes(names: Sequence[str], frames: int) -> dict[str, int]:
    """Return the plane of each channel: of a clip the one in the middle, named by the channel."""
    if frames == 1:
        return {name: number for number, name in enumerate(names)}
    middle = range(frames // 2, len(names), frames)
    return {names[number].rpartition(" ")[0] or names[number]: number for number in middle}


def nuclear_channel(planes: dict[str, int], given: str | None) -> str | None:
    """Return the channel in which nuclei are counted; None where none is named like one.

    Args:
        given: its name, or its number from 1; "none" counts nothing.

    Raises:
        InputError: there is no such channel.
    """
    names = list(planes)
    if given is None:
        named = [name for name in names if any(word in name.lower() for word in NUCLEAR)]
        return named[0] if named else None
    if given in names:
        return given
    if given.isdigit() and 1 <= int(given) <= len(names):
        return names[int(given) - 1]
    if given == "none":
        return None
    raise InputError(f"--nuclei {given}: there is no such channel; there are {', '.join(names)}")


def measure(images: Images, nuclei: str | None, workers: int, kept: Path | None = None) -> Measured:
    """Measure every sample; a plate that was measured before is not read again.

    Args:
        nuclei: the channel of the nuclei; None counts none.
        kept: folder of the measured plates, a file each; None keeps nothing.

    Raises:
        InputError: no sample can be read.
    """
    samples = images.samples
    columns = [(channel, name) for channel in images.planes for name in MEASURES]
    columns += [(CELLS, CELLS)] if nuclei is not None else []
    plates = {
        plate: rows
        for plate, rows in samples.groupby(["experiment", "plate"], sort=True).indices.items()
    }
    keys = {plate: _key(images, rows, columns, nuclei) for plate, rows in plates.items()}
    pieces = {plate: _load(_piece_file(kept, plate), keys[plate]) for plate in plates}
    missing = [plate for plate in plates if pieces[plate] is None]
    if len(missing) < len(plates):
        log.info("%d of %d plates were measured before", len(plates) - len(missing), len(plates))
    todo = [images.items[row] for plate in missing for row in plates[plate]]
    work = functools.partial(_measure_site, images.read, tuple(images.planes.values()))
    number = None if nuclei is None else list(images.planes).index(nuclei)
    results = in_processes(functools.partial(work, number), todo, workers, "measuring")
    try:
        for plate in missing:
            of_plate = [next(results) for _ in plates[plate]]
            pieces[plate] = _join(of_plate, len(columns), len(images.planes))
            if kept is not None:
                _save(_piece_file(kept, plate), keys[plate], pieces[plate])
    finally:
        results.close()
    return _all_plates(images, plates, pieces, tuple(columns))


def _all_plates(images: Images, plates: dict, pieces: dict, columns: tuple) -> Measured:
    values = np.full((len(images.samples), len(columns)), np.nan)
    grids, problems = {}, []
    for plate, rows in plates.items():
        piece = pieces[plate]
        values[rows], grids[plate] = piece["values"], piece["grid"]
        for row, message in zip(rows, piece["problem"], strict=True):
            if message:
                problems.append((images.samples.sample_id.iloc[row], str(message)))
    if len(problems) == len(values):
        raise InputError(
            f"none of the {len(values)} sites can be read; the first: {problems[0][1]}"
        )
    return Measured(values, columns, grids, tuple(problems))


@functools.lru_cache(maxsize=1)
def _open(path: Place) -> Store:
    return Store.open(path)


def _read_stored(path: Place, row: int) -> np.ndarray:
    return _open(path).read(row)


def _read_raw(
    competition: Competition, root: Path, shape: tuple[int, int], files: tuple[str, ...]
) -> np.ndarray:
    return read_site(functools.partial(competition.read, root, shape=shape), files)


def _state(path: Path) -> tuple[str, int, int]:
    """Return a file's name, size and time of change; a part of a picture is named by its file."""
    file = Path(str(path).partition("#")[0])
    if not file.is_file():
        return str(path.name), -1, -1
    status = file.stat()
    return str(path.name), status.st_size, status.st_mtime_ns


def _measure_site(read: Callable, planes: Sequence[int], nuclei: int | None, item):
    """Return (values, shrunken image, ""), or (None, None, what is wrong with the site)."""
    try:
        image = read(item)[list(planes)]
    except ImageError as error:
        return None, None, str(error)
    values = [measure_channel(plane) for plane in image]
    if nuclei is not None:
        values.append(np.array([count_nuclei(image[nuclei])], float))
    return np.concatenate(values), shrink(image), ""


def _join(results: list, width: int, channels: int) -> dict[str, np.ndarray]:
    """Join the sites of a plate; the grid is the mean over those that could be read."""
    values = [np.full(width, np.nan) if one is None else one for one, _, _ in results]
    grids = [grid for _, grid, _ in results if grid is not None]
    empty = np.full((channels, GRID, GRID), np.nan)
    return {
        "values": np.stack(values),
        "grid": np.mean(grids, axis=0, dtype=np.float64) if grids else empty,
        "problem": np.array([message for *_, message in results], dtype=np.str_),
    }


def _key(images: Images, rows: np.ndarray, columns: list, nuclei: str | None) -> str:
    """Return the hash of all that decides what is measured of a plate."""
    of_plate = [(images.samples.sample_id.iloc[row], images.content[row]) for row in rows]
    return digest([VERSION, images.what, list(images.planes.items()), columns, nuclei, of_plate])


def _piece_file(kept: Path | None, plate: tuple[str, str]) -> Path | None:
    if kept is None:
        return None
    return kept / f"{limited_name('_'.join(map(str, plate)))}-{digest(list(plate))[:8]}.npz"


def _load(path: Path | None, key: str) -> dict[str, np.ndarray] | None:
    """Return a plate's piece; None where there is none, or it is of other images or damaged."""
    if path is None or not path.is_file():
        return None
    try:
        with open_arrays(path) as archive:
            if str(archive["key"]) != key:
                return None
            return {name: archive[name] for name in ("values", "grid", "problem")}
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error):
        log.warning("%s: is damaged; measuring the plate anew", path)
    return None


def _save(path: Path, key: str, piece: dict[str, np.ndarray]) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, key=np.str_(key), **piece)
