"""CPJUMP1's images: which files a field has, and how its 16-bit planes become 8 bits.

Rows and files are joined by row, column and field, which both of them name, never by their order.

Planes get even light, equal shot noise and one fixed window a plate and channel, so that wells stay
comparable. What that needs is measured on each plate by `measure_plates` and kept in a file (see
`calibration`); no label is looked at. The shot noise of a count has an SD of about 1 after
Anscombe's transform at any brightness, so a window of 255 steps of about .5 loses little of dark
and bright pixels.
"""

import functools
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import ImageError, InputError
from cellsignal.common.tables import normalise_wells, read_table, refuse_rows
from cellsignal.competitions import calibration
from cellsignal.competitions.cpjump1 import metadata
from cellsignal.competitions.sample_files import Places, origins, refuse_misstated
from cellsignal.images import read_gray16
from cellsignal.images.intensity import anscombe, illumination, to_uint8

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same planes give another calibration
MAX_FIELDS = 384  # of a plate's 3,456 fields: one a well on average
WINDOW_FIELDS = 64
WINDOW = (0.1, 99.9)  # percentiles
SMOOTHING = 1 / 10  # radius of the illumination's median, in image heights


# which files a field has
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fields:
    """The rows of load_data.csv, joined with the files on disk.

    Attributes:
        rows: those that have a file: columns batch, plate, well, site (int), files (tuple, one
            path a channel, relative to the root), origin (see `check_samples`).
        without_file: "plate well site" of the rows that have none: not fetched.
        without_row: paths of files that no row names.
    """

    rows: pd.DataFrame
    without_file: tuple[str, ...]
    without_row: tuple[str, ...]


def join_fields(root: Path) -> Fields:
    """Join the fields of every plate that has a load_data.csv with their files.

    Raises:
        InputError: no load_data.csv; a row that contradicts its folder or its files' names; a
            field twice; a barcode in two batches; two image folders of one plate.
    """
    root = Path(root)
    paths = sorted((root / metadata.LOAD_DATA).glob("*/*/load_data.csv"))
    if not paths:
        raise InputError(f"{root / metadata.LOAD_DATA}: no <batch>/<plate>/load_data.csv here")
    folders: dict[str, Path] = {}
    for path in paths:
        plate = path.parent.name
        if plate in folders:
            places = f"plate {plate} also stands in {folders[plate]}"
            raise InputError(f"{path}: {places}; keep one imaging of a plate in a root")
        folders[plate] = path
    parts = [_join_plate(root, path) for path in paths]
    return Fields(
        pd.concat([part.rows for part in parts], ignore_index=True),
        sum((part.without_file for part in parts), ()),
        sum((part.without_row for part in parts), ()),
    )


def _join_plate(root: Path, path: Path) -> Fields:
    batch, plate = path.parts[-3:-1]
    table, names, keys = _read_load_data(root, path)
    folder = _image_folder(root, batch, plate)
    prefix = "" if folder is None else folder.relative_to(root).as_posix()
    paths = [] if folder is None else sorted(folder.iterdir())
    on_disk = {path.name.lower(): path.name for path in paths}
    files = [[on_disk.get(name.lower(), name) for name in row] for row in names.to_numpy()]
    has_file = np.array([any(name.lower() in on_disk for name in row) for row in files])
    rows = pd.DataFrame(
        {
            "batch": batch,
            "plate": plate,
            "well": metadata.wells_of(keys),
            "site": keys.str[7:9].astype(int),
            "files": [tuple(f"{prefix}/{name}" for name in row) for row in files],
            "origin": origins(f"{metadata.LOAD_DATA}/{batch}/{plate}/load_data.csv", table),
        }
    )
    columns = [column for column in table.columns if column.startswith("FileName_")]
    claimed = {name.lower() for column in columns for name in table[column]}
    unclaimed = sorted(set(on_disk) - claimed)
    orphans = [on_disk[name] for name in unclaimed if re.search(metadata.KEY, name)]
    return Fields(
        rows[has_file].reset_index(drop=True),
        tuple(f"{row.plate} {row.well} {row.site}" for row in rows[~has_file].itertuples()),
        tuple(f"{prefix}/{name}" for name in orphans),
    )


def _read_load_data(root: Path, path: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Read a load_data.csv, its five columns of files, and the key of each row."""
    batch, plate = path.parts[-3:-1]
    named = [f"FileName_Orig{channel}" for channel in metadata.CHANNELS]
    columns = (*named, "Metadata_Plate", "Metadata_Well", "Metadata_Site")
    table = read_table(path, columns, any_row=True)
    wells, sites = normalise_wells(table.Metadata_Well), table.Metadata_Site
    other_plate = table.Metadata_Plate != plate
    why = f"is not the plate {plate} of its folder"
    refuse_rows(path, table, other_plate, "Metadata_Plate", why)
    refuse_rows(path, table, ~wells.str.fullmatch(metadata.WELL), "Metadata_Well", metadata.NO_WELL)
    no_site = ~sites.str.fullmatch(r"[1-9]\d?")
    refuse_rows(path, table, no_site, "Metadata_Site", "is not a site number")
    row = wells.str[0].map(lambda letter: f"r{ord(letter) - 64:02d}")
    keys = row + "c" + wells.str[1:] + "f" + sites.str.zfill(2)
    refuse_rows(path, table, keys.duplicated(), "Metadata_Site", "of this well occurs twice")
    for column in named:
        other_key = metadata.keys_of(table[column]) != keys
        refuse_rows(path, table, other_key, column, "is not a file of the row's well and site")
    files = list(_with_folders(table, named).itertuples(index=False, name=None))
    origin = origins(f"{metadata.LOAD_DATA}/{batch}/{plate}/load_data.csv", table)
    stating = pd.DataFrame({"files": files, "plate": plate, "origin": origin.to_numpy()})
    refuse_misstated(stating, Places(root, stating), metadata.CHANNELS, metadata.stated)
    return table, table[named], keys


def _with_folders(table: pd.DataFrame, named: list[str]) -> pd.DataFrame:
    """Put the last two folders of each file before its name, because they say the plate."""
    files = table[named].copy()
    for column in named:
        folder = column.replace("FileName_", "PathName_")
        if folder in table.columns:
            last = table[folder].str.rstrip("/").str.split("/").str[-2:].str.join("/")
            files[column] = (last + "/").where(last != "", "") + files[column]
    return files


def _image_folder(root: Path, batch: str, plate: str) -> Path | None:
    """Return a plate's folder of images, `<barcode>__<time>/Images`; None if none was fetched."""
    parent = root / "images" / batch / "images"
    folders = sorted(parent.glob(f"{plate}*/Images"))
    folders = [folder for folder in folders if folder.parent.name.split("__")[0] == plate]
    if len(folders) > 1:
        first, second = folders[0].parent.name, folders[1].parent.name
        raise InputError(f"{parent}: two folders of plate {plate}: {first} and {second}")
    return folders[0] if folders else None


# how planes become bytes
# --------------------------------------------------------------------------------------------------


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
        planes = calibration.describe_planes(root, fields)
        measure = functools.partial(measure_plate, root, plate, tuple(fields))
        jobs[plate] = calibration.PlateJob({"version": VERSION, **(planes or {})}, measure)
    return calibration.measure_changed(folder, jobs, workers)


def measure_plate(
    root: Path, plate: str, fields: tuple[tuple[str, ...], ...]
) -> dict[str, np.ndarray]:
    """Measure a plate from up to MAX_FIELDS of its fields, drawn at random.

    Unreadable fields are left out, and so are those of another size than most.

    Returns:
        `illumination`, (C, H, W) float32; `low` and `high`, (C,): the window on Anscombe's scale.
    """
    counts: Counter[tuple[int, ...]] = Counter()
    sums: dict[tuple[int, ...], np.ndarray] = {}
    examples: dict[tuple[int, ...], list[np.ndarray]] = {}
    for number in np.random.default_rng(0).permutation(len(fields))[:MAX_FIELDS]:
        try:
            field = _read_planes(root, fields[number])
        except ImageError as error:
            log.warning("calibration of plate %s: left out a field: %s", plate, error)
            continue
        shape = field.shape
        counts[shape] += 1
        sums.setdefault(shape, np.zeros(shape))
        sums[shape] += field
        examples.setdefault(shape, [])
        if len(examples[shape]) < WINDOW_FIELDS:
            examples[shape].append(field)
    if not counts:
        first = fields[0][0] if fields else "none"
        raise calibration.PlateError(
            f"{root}: plate {plate} has no readable field to calibrate it from, first {first}"
        )
    shape, count = counts.most_common(1)[0]
    radius = max(1, round(shape[1] * SMOOTHING))
    light = np.stack([illumination(mean, radius) for mean in sums[shape] / count])
    low, high = _measure_window(light, examples[shape])
    return {"illumination": light, "low": low, "high": high}


def _measure_window(
    light: np.ndarray, fields: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper bound of each channel, (C,) float32, from every n-th pixel."""
    step = max(1, light.shape[1] // 256)
    bounds = []
    for channel, even in enumerate(light[:, ::step, ::step]):
        values = [anscombe(field[channel][::step, ::step] / even) for field in fields]
        low, high = np.percentile(values, WINDOW)
        bounds.append((low, max(high, low + 1)))  # a channel of one grey level has no window
    low, high = np.array(bounds, np.float32).T
    return low, high


def read_field(
    root: Path, files: tuple[str, ...], measured: Path, shape: tuple[int, int] | None
) -> np.ndarray:
    """Read one field, (C, H, W) uint8.

    Args:
        measured: the file of the plate's calibration.

    Raises:
        ImageError: a file is missing, damaged, or of another size or depth than `shape`, the first
            file or the plate's calibration; "not_calibrated": the plate could not be measured.
    """
    root = Path(root)
    planes = _read_planes(root, files, shape)
    try:
        changed_at = measured.stat().st_mtime_ns
    except OSError:
        raise ImageError(root / files[0], "not_calibrated", calibration.NOT_CALIBRATED) from None
    lights, lows, highs = _load_calibration(measured, changed_at)
    _, height, width = lights.shape
    if planes.shape[1:] != (height, width):
        size = f"{planes.shape[2]}x{planes.shape[1]} pixels"
        message = f"{size}, the plate's others {width}x{height}"
        raise ImageError(root / files[0], "wrong_size", message)
    parts = zip(planes, lights, lows, highs, strict=True)
    return np.stack(
        [to_uint8(anscombe(plane / light), low, high) for plane, light, low, high in parts]
    )


def _read_planes(
    root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Read a field's planes, (C, H, W) uint16, all of the first one's size (or of `shape`)."""
    first = read_gray16(root / files[0], shape)
    return np.stack([first, *(read_gray16(root / file, first.shape) for file in files[1:])])


@functools.lru_cache(maxsize=4)
def _load_calibration(path: Path, changed_at: int) -> list[np.ndarray]:
    return calibration.read_arrays(path, ("illumination", "low", "high"))
