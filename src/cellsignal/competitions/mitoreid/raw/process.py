"""A library's fields to tracks: a field at a time, resumable, with a report of what was dropped and
why.

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
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, write_csv, write_json
from cellsignal.competitions.mitoreid.raw.crops import cut_track, write_track
from cellsignal.competitions.mitoreid.raw.fields import (
    drug_of,
    list_fields,
    plane_paths,
    read_field,
    replace_blurred,
    sharpness,
)
from cellsignal.competitions.mitoreid.raw.segment import segment
from cellsignal.competitions.mitoreid.raw.settings import CELL, NUCLEUS, Settings
from cellsignal.competitions.mitoreid.raw.track import (
    BOX,
    alive,
    choose_cells,
    follow,
    measure_cells,
)
from cellsignal.competitions.mitoreid.tracks import NOVEL, PARTS, STAINS

log = logging.getLogger(__name__)

REPORT = [
    "field",
    "drug",
    "tracks",
    "dropped",
    "replaced_frames",
    "brightest",
    "cells",
    "border",
    "small",
    "dead",
    "lost",
]

DIM = 64  # of 255; below it little is left of 8 bits


def process(
    root: Path | str,
    out: Path | str,
    library: str | None,
    part: str,
    workers: int = 0,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Make the tracks of all fields under `root`; call it again to go on after a break, or to add
    fields.

    Args:
        root: `{drug}/{drug}_{time}_{w1|w2|w3}.tif`; `{drug}-2` is a second field of a drug.
        out: gets `{library}/{part}/{drug}/{field}_{n}/1.jpg ...`, the report
        `processing/{library}_{part}.csv` and, of all that was ever
            processed into it, `statistics.json`.
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
    fields = list_fields(root)
    work = functools.partial(
        _process_field, target=target, records=out / "processing" / name, settings=settings
    )
    progress = functools.partial(
        tqdm, total=len(fields), desc=f"tracks of {name}", unit="field", disable=None
    )
    if not workers or len(fields) < 2:
        done = list(progress(map(work, fields.values())))
    else:
        pool = ProcessPoolExecutor(
            min(workers, len(fields)),
            multiprocessing.get_context("spawn"),
            initializer=cv2.setNumThreads,
            initargs=(1,),
        )
        try:
            done = list(progress(pool.map(work, fields.values())))
        except BrokenProcessPool:
            raise InputError(
                f"{root}: a worker process died (out of memory?); use fewer workers and run again"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    report = pd.DataFrame(done)[REPORT]
    write_csv(out / "processing" / f"{name}.csv", report)
    measure(out)
    if 0 < report.brightest.max() < DIM:
        log.warning(
            "%s: the brightest pixel is %d of 255; is `white` (%d) the camera's?",
            name,
            report.brightest.max(),
            settings.white,
        )
    log.info(
        "%s: %d tracks of %d fields, %d fields dropped",
        name,
        report.tracks.sum(),
        len(report),
        (report.dropped != "").sum(),
    )
    return report


def measure(out: Path | str) -> dict[str, Any]:
    """Mean and SD of all pixels of all tracks processed into `out`, a channel each, of 1; written
    to `out/statistics.json`.

    The authors normalise by such figures, theirs in the order of the JPEG's colours: w3, w2, w1.

    Returns:
        `channels`, `mean`, `sd` (None without a track), `tracks`, `pixels` (a channel).
    """
    out = Path(out)
    sums = np.zeros(len(STAINS), object)
    squares = np.zeros(len(STAINS), object)
    pixels = 0
    tracks = 0
    for path in sorted((out / "processing").glob("*/*.json")):
        record = _read_record(path)
        if record.get("finished"):
            sums = sums + np.array(record["sums"], object)
            squares = squares + np.array(record["squares"], object)
            pixels, tracks = pixels + record["pixels"], tracks + record["tracks"]
    found: dict[str, Any] = {
        "channels": list(STAINS),
        "mean": None,
        "sd": None,
        "tracks": tracks,
        "pixels": pixels,
    }
    if pixels:  # whole numbers until here: no rounding, whatever the order of the fields
        mean = [float(s) / pixels / 255 for s in sums]
        sd = [
            float(np.sqrt(float(pixels * q - s * s))) / pixels / 255
            for s, q in zip(sums, squares, strict=True)
        ]
        found |= {"mean": mean, "sd": sd}
    write_json(out / "statistics.json", found)
    return found


def _destination(out: Path, library: str | None, part: str) -> tuple[Path, str]:
    """Where the drugs' folders go, and what this part is called in `processing`."""
    if part not in (*PARTS, NOVEL):
        raise InputError(f"part: {part!r} is none of {', '.join((*PARTS, NOVEL))}")
    if part == NOVEL:
        if library is not None:
            raise InputError(f"library: novel drugs have none, not {library!r}")
        return out / part, part
    if not re.fullmatch(r"l\d+", library or ""):
        raise InputError(f"library: {library!r} is not l1, l2, l3 ...")
    return out / library / part, f"{library}_{part}"


def _process_field(folder: Path, target: Path, records: Path, settings: Settings) -> dict[str, Any]:
    """One field's record: the old one where nothing changed, else its tracks are made anew.

    A crash leaves the names of the tracks in an unfinished record, so that the next run knows them
    for its own.
    """
    path, scratch = records / f"{folder.name}.json", records / f".{folder.name}.partial"
    made_from, old = _fingerprint(folder, settings), _read_record(path)
    place = target / drug_of(folder.name)
    if (
        old.get("finished")
        and old["made_from"] == made_from
        and all((place / name).is_dir() for name in old["names"])
    ):
        return old
    try:
        for name in old.get("names", []):
            shutil.rmtree(place / name, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
        record = {"field": folder.name, "drug": drug_of(folder.name), "made_from": made_from}
        record |= _make_tracks(folder, scratch, settings)
        for name in record["names"]:
            if (place / name).exists():
                raise InputError(
                    f"{place / name}: is there already, and was not made from {folder}; choose "
                    "another place"
                )
        write_json(path, record)
        for name in record["names"]:
            place.mkdir(parents=True, exist_ok=True)
            (scratch / name).rename(place / name)
        record["finished"] = True
        write_json(path, record)
    except OSError as error:
        raise InputError(
            f"{error.filename or place}: tracks could not be written ({error.strerror or error})"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return record


def _make_tracks(folder: Path, scratch: Path, settings: Settings) -> dict[str, Any]:
    """Write a field's tracks to `scratch`; what is to be known of it, `dropped` saying why there
    are none.
    """
    nothing = [0] * len(STAINS)
    record: dict[str, Any] = dict.fromkeys(REPORT[2:], 0) | {
        "dropped": "",
        "names": [],
        "pixels": 0,
        "sums": nothing,
        "squares": nothing,
    }
    try:
        planes = read_field(plane_paths(folder, settings.frames), settings.white)
    except InputError as error:
        log.warning("%s: left out: %s", folder.name, error)
        return record | {"dropped": str(error)}
    record["brightest"] = int(planes.max())
    values = np.array([sharpness(frame[CELL]) for frame in planes])
    sources = replace_blurred(values, settings.blur_ratio, settings.most_bad)
    if sources is None:
        spread = " ".join(f"{value:.3g}" for value in values)
        return record | {
            "dropped": f"blurred: more than {settings.most_bad} frames stand out in sharpness ({spread})"
        }
    record["replaced_frames"] = int((sources != np.arange(len(sources))).sum())
    for t, source in enumerate(sources):
        if source != t:
            planes[t] = planes[source]
    found, counts = _find_cells(planes, sources, settings)
    record |= counts
    if not record["cells"]:
        return record | {"dropped": "no whole cell in the first frame"}
    rows = follow([cells[["y", "x"]].to_numpy() for cells, _ in found], settings.reach)
    record |= {"lost": record["cells"] - len(rows), "tracks": len(rows)}
    if not len(rows):
        return record | {"dropped": "no cell was found in every frame"}
    sums, squares = np.zeros((2, len(STAINS)), np.int64)
    for number, row in enumerate(rows):
        boxes = np.stack(
            [cells.loc[i, BOX].to_numpy(int) for i, (cells, _) in zip(row, found, strict=True)]
        )
        masks = [masks[i] for i, (_, masks) in zip(row, found, strict=True)]
        clip = cut_track(planes, masks, boxes, settings.side, settings.softening)
        record["names"].append(f"{folder.name}_{number}")
        seen = write_track(scratch / record["names"][-1], clip).astype(np.int64)
        sums += seen.sum(axis=(0, 1, 2))
        squares += (seen**2).sum(axis=(0, 1, 2))
        record["pixels"] += seen[..., 0].size
    return record | {"sums": sums.tolist(), "squares": squares.tolist()}


def _find_cells(
    planes: np.ndarray, sources: np.ndarray, settings: Settings
) -> tuple[list[tuple[pd.DataFrame, list[np.ndarray]]], dict[str, int]]:
    """The cells and their masks in each frame, one segmentation for frames with one source; what
    was dropped of the first frame's.
    """
    by_source, counts = {}, {}
    for t in sources:
        if t in by_source:
            continue
        labels = segment(planes[t, CELL], planes[t, NUCLEUS], settings.diameter, settings.method)
        cells, dropped = choose_cells(measure_cells(labels), labels.shape, settings.least_area)
        if not by_source:
            living = alive(cells, planes[t, NUCLEUS], settings.most_nucleus)
            cells = cells[living].reset_index(drop=True)
            counts = {"cells": len(cells), "dead": int((~living).sum()), **dropped}
        masks = [labels[c.top : c.bottom, c.left : c.right] == c.label for c in cells.itertuples()]
        by_source[t] = cells, masks
    return [by_source[t] for t in sources], counts


def _fingerprint(folder: Path, settings: Settings) -> str:
    """What a field's tracks depend on: names, sizes and times of its files, and the settings."""
    files = sorted(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()
    )
    return digest([files, asdict(settings)])


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(
            f"{path}: is no JSON ({error}); remove it to process its field again"
        ) from None
