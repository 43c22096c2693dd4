"""Make tracks of a library's fields, a field at a time, resumable, with a report of the drops.

Each finished field leaves a record in `out/processing`: what it was made from, its tracks, its
drops, the sums for the data set's mean and SD. A field whose files and settings are those of its
record is not done again.
"""

import functools
import json
import logging
import multiprocessing
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, write_csv, write_json
from cellsignal.common.processes import start_worker
from cellsignal.competitions.mitoreid.images import STAINS
from cellsignal.competitions.mitoreid.metadata import NOVEL, PARTS
from cellsignal.competitions.mitoreid.raw import CELL, NUCLEUS, Settings, fields, tracks
from cellsignal.competitions.mitoreid.raw.segment import segment

log = logging.getLogger(__name__)

COUNTS = ["replaced_frames", "brightest", "cells", "border", "small", "dead", "lost"]
REPORT = ["field", "drug", "tracks", "dropped", *COUNTS]
DIM = 64  # of 255; below it little is left of 8 bits


def process(
    root: Path | str,
    out: Path | str,
    library: str | None,
    part: str,
    workers: int = 0,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Make the tracks of all fields under `root`; call it again to resume, or to add fields.

    Args:
        root: `{drug}/{drug}_{time}_{w1|w2|w3}.tif`; `{drug}-2` is a second field of a drug.
        out: gets `{library}/{part}/{drug}/{field}_{n}/1.jpg ...`, the report
            `processing/{library}_{part}.csv` and, of all that was ever processed into it,
            `statistics.json`.
        library: l1, l2, l3 ...; None for `novel`, which has none.
        part: train, query, gallery or nc of a library, or novel.
        workers: processes, a field each (about 0.75 GB for 16 times of 2048 x 2048); 0 works in
            this one.

    Returns:
        The report, one row a field: `tracks` made; `dropped`, why there are none;
        `replaced_frames`, the blurred ones; `brightest`, of 255; then of the first frame's objects
        the `cells` whole and large enough, those cut by the `border`, `small` or `dead`, and the
        tracks `lost` before the last frame.

    Raises:
        InputError: no fields, a wrong library or part, a track's folder that something else made,
            Cellpose missing, a full disk.
    """
    root, out, settings = Path(root), Path(out), settings or Settings()
    target, name = _destination(out, library, part)
    folders = list(fields.list_fields(root).values())
    records = out / "processing" / name
    work = functools.partial(_process_field, target=target, records=records, settings=settings)
    done = _map_fields(work, folders, workers, root)
    progress = tqdm(done, total=len(folders), desc=f"tracks of {name}", unit="field", disable=None)
    report = pd.DataFrame(list(progress))[REPORT]
    write_csv(out / "processing" / f"{name}.csv", report)
    measure(out)
    _log_report(report, name, settings)
    return report


def _map_fields(work, folders: list[Path], workers: int, root: Path) -> Iterator[dict[str, Any]]:
    if not workers or len(folders) < 2:
        yield from map(work, folders)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(folders)),
        multiprocessing.get_context("spawn"),
        initializer=start_worker,
    )
    try:
        yield from pool.map(work, folders)
    except BrokenProcessPool:
        hint = "a worker process died (out of memory?); use fewer workers and run again"
        raise InputError(f"{root}: {hint}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _log_report(report: pd.DataFrame, name: str, settings: Settings) -> None:
    brightest = report.brightest.max()
    if 0 < brightest < DIM:
        log.warning(
            "%s: the brightest pixel is %d of 255; is `white` (%d) the camera's?",
            name,
            brightest,
            settings.white,
        )
    n_tracks, n_dropped = report.tracks.sum(), (report.dropped != "").sum()
    log.info(
        "%s: %d tracks of %d fields, %d fields dropped", name, n_tracks, len(report), n_dropped
    )


def measure(out: Path | str) -> dict[str, Any]:
    """Measure mean and SD of all pixels of all tracks processed into `out`, a channel each, of 1.

    Writes `out/statistics.json`. The authors normalise by such figures, theirs in the order of the
    JPEG's colours: w3, w2, w1.

    Returns:
        `channels`, `mean`, `sd` (None without a track), `tracks`, `pixels` (a channel).
    """
    out = Path(out)
    records = [_read_record(path) for path in sorted((out / "processing").glob("*/*.json"))]
    records = [record for record in records if record.get("finished")]
    statistics: dict[str, Any] = {
        "channels": list(STAINS),
        "mean": None,
        "sd": None,
        "tracks": sum(record["tracks"] for record in records),
        "pixels": sum(record["pixels"] for record in records),
    }
    n = statistics["pixels"]
    if n:  # whole numbers until here: no rounding, whatever the order of the fields
        sums = [sum(values) for values in zip(*(r["sums"] for r in records), strict=True)]
        squares = [sum(values) for values in zip(*(r["squares"] for r in records), strict=True)]
        pairs = zip(sums, squares, strict=True)
        statistics["mean"] = [float(total) / n / 255 for total in sums]
        statistics["sd"] = [
            float(np.sqrt(float(n * square - total * total))) / n / 255 for total, square in pairs
        ]
    write_json(out / "statistics.json", statistics)
    return statistics


def _destination(out: Path, library: str | None, part: str) -> tuple[Path, str]:
    """Return the folder for the drugs' folders, and this part's name in `processing`."""
    if part not in (*PARTS, NOVEL):
        raise InputError(f"part: {part!r} is not one of {', '.join((*PARTS, NOVEL))}")
    if part == NOVEL:
        if library is not None:
            raise InputError(f"library: novel drugs have none, not {library!r}")
        return out / part, part
    if not re.fullmatch(r"l\d+", library or ""):
        raise InputError(f"library: {library!r} is not l1, l2, l3 ...")
    return out / library / part, f"{library}_{part}"


def _process_field(folder: Path, target: Path, records: Path, settings: Settings) -> dict[str, Any]:
    """Return a field's record: the old one if nothing changed, else its tracks are made anew.

    A crash leaves the names of the tracks in an unfinished record, so that the next run knows them
    for its own.
    """
    drug = fields.drug_of(folder.name)
    path, place = records / f"{folder.name}.json", target / drug
    made_from, old = _fingerprint(folder, settings), _read_record(path)
    is_current = old.get("finished") and old["made_from"] == made_from
    if is_current and all((place / name).is_dir() for name in old["names"]):
        return old
    scratch = records / f".{folder.name}.partial"
    try:
        for name in old.get("names", []):
            shutil.rmtree(place / name, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
        record = {"field": folder.name, "drug": drug, "made_from": made_from}
        record |= _make_tracks(folder, scratch, settings)
        for name in record["names"]:
            if (place / name).exists():
                why = f"already exists and was not made from {folder}; choose another place"
                raise InputError(f"{place / name}: {why}")
        write_json(path, record)
        for name in record["names"]:
            place.mkdir(parents=True, exist_ok=True)
            (scratch / name).rename(place / name)
        record["finished"] = True
        write_json(path, record)
    except OSError as error:
        reason = f"tracks could not be written ({error.strerror or error})"
        raise InputError(f"{error.filename or place}: {reason}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return record


def _make_tracks(folder: Path, scratch: Path, settings: Settings) -> dict[str, Any]:
    """Write a field's tracks to `scratch`; return its record, `dropped` says why there are none."""
    zeros = [0] * len(STAINS)
    record: dict[str, Any] = dict.fromkeys(["tracks", *COUNTS], 0)
    record |= {"dropped": "", "names": [], "pixels": 0, "sums": zeros, "squares": zeros}
    try:
        paths = fields.plane_paths(folder, settings.frames)
        planes = fields.read_field(paths, settings.white)
    except InputError as error:
        log.warning("%s: left out: %s", folder.name, error)
        return record | {"dropped": str(error)}
    record["brightest"] = int(planes.max())
    values = np.array([fields.sharpness(frame[CELL]) for frame in planes])
    sources = fields.replace_blurred(values, settings.blur_ratio, settings.most_bad)
    if sources is None:
        spread = " ".join(f"{value:.3g}" for value in values)
        why = f"more than {settings.most_bad} frames stand out in sharpness ({spread})"
        return record | {"dropped": f"blurred: {why}"}
    record["replaced_frames"] = int((sources != np.arange(len(sources))).sum())
    for t, source in enumerate(sources):
        if source != t:
            planes[t] = planes[source]
    frames, counts = _find_cells(planes, sources, settings)
    record |= counts
    if not record["cells"]:
        return record | {"dropped": "no whole cell in the first frame"}
    rows = tracks.follow([cells[["y", "x"]].to_numpy() for cells, _ in frames], settings.reach)
    record |= {"lost": record["cells"] - len(rows), "tracks": len(rows)}
    if not len(rows):
        return record | {"dropped": "no cell was found in every frame"}
    return record | _write_tracks(folder.name, scratch, planes, frames, rows, settings)


def _write_tracks(
    field: str,
    scratch: Path,
    planes: np.ndarray,
    frames: list[tuple[pd.DataFrame, list[np.ndarray]]],
    rows: np.ndarray,
    settings: Settings,
) -> dict[str, Any]:
    """Write the tracks of a field; return their names and the sums of their pixels."""
    names = [f"{field}_{number}" for number in range(len(rows))]
    sums, squares = np.zeros((2, len(STAINS)), np.int64)
    n_pixels = 0
    for name, track in zip(names, rows, strict=True):
        pairs = list(zip(track, frames, strict=True))
        boxes = np.stack([cells.loc[i, tracks.BOX].to_numpy(int) for i, (cells, _) in pairs])
        masks = [masks[i] for i, (_, masks) in pairs]
        clip = tracks.cut_track(planes, masks, boxes, settings.side, settings.softening)
        seen = tracks.write_track(scratch / name, clip).astype(np.int64)
        sums += seen.sum(axis=(0, 1, 2))
        squares += (seen**2).sum(axis=(0, 1, 2))
        n_pixels += seen[..., 0].size
    sums, squares = sums.tolist(), squares.tolist()
    return {"names": names, "pixels": n_pixels, "sums": sums, "squares": squares}


def _find_cells(
    planes: np.ndarray, sources: np.ndarray, settings: Settings
) -> tuple[list[tuple[pd.DataFrame, list[np.ndarray]]], dict[str, int]]:
    """Find the cells and their masks in each frame; frames with one source share them.

    Returns:
        The cells and masks of each frame; what was dropped of the first frame's objects.
    """
    cells_of: dict[int, tuple[pd.DataFrame, list[np.ndarray]]] = {}
    counts: dict[str, int] = {}
    for t, source in enumerate(sources):
        if source in cells_of:
            continue
        labels = segment(planes[t, CELL], planes[t, NUCLEUS], settings.diameter, settings.method)
        objects = tracks.measure_cells(labels)
        cells, dropped = tracks.choose_cells(objects, labels.shape, settings.least_area)
        if not cells_of:
            is_alive = tracks.find_living(cells, planes[t, NUCLEUS], settings.most_nucleus)
            cells = cells[is_alive].reset_index(drop=True)
            counts = {"cells": len(cells), "dead": int((~is_alive).sum()), **dropped}
        masks = [labels[c.top : c.bottom, c.left : c.right] == c.label for c in cells.itertuples()]
        cells_of[source] = cells, masks
    return [cells_of[source] for source in sources], counts


def _fingerprint(folder: Path, settings: Settings) -> str:
    """Return a hash of the files and settings that a field's tracks depend on."""
    states = [(path.name, path.stat()) for path in folder.iterdir()]
    files = sorted((name, state.st_size, state.st_mtime_ns) for name, state in states)
    return digest([files, asdict(settings)])


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        hint = "remove it to process its field again"
        raise InputError(f"{path}: is not JSON ({error}); {hint}") from None
