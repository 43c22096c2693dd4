"""Fetching idr0088's images: plate by plate, well by well, field by field, a few requests a second,
resumable at any file.

What it writes under `out`:

- `idr0088-screenA-annotation.csv.zip`: the annotation table, from IDR's GitHub;
- `images/<plate>/<well>_f<field>_ch<c>.png`: 8-bit gray, one file a channel; the well as the table
  spells it ("L8");
- `images.csv`: plate, well, field, image_id, file_ch1, file_ch2, file_ch3 of every field that is
  there whole;
- `windows.json`: which counts became 0 and 255, the source of the planes and the size they were
  reduced to: one choice a folder;
- `failed.csv`: what could not be had, only while there is such;
- `.cache/`: the server's answers.

**The windows.** A plane is shown between two counts, the same in all wells or intensities could not
be compared: those that IDR itself renders the study with (`screenA/idr0088-render.yml` in its
GitHub repository), one a channel for all reporter lines. A marker that is dim in its line gets few
of the 256 levels; `windows=` takes others.

**Rendered or raw.** IDR's HTTP API serves rendered planes, as JPEGs: lossy even at the highest
quality, which is asked for. With `raw=True` each image is asked as a 16-bit OME-TIFF and brought to
8 bits here by the same windows, losing nothing but the rounding; whether IDR gives these to the
public is not known. The 16-bit planes of the whole screen (5.4 TB) are had from IDR by its bulk
download.
"""

import contextlib
import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from cellsignal.common.errors import ImageError, InputError
from cellsignal.common.files import atomic_path, sha256, write_csv, write_json
from cellsignal.common.tables import parse_integers, read_table
from cellsignal.competitions.idr0088 import api
from cellsignal.competitions.idr0088.annotation import FILE, read_annotation
from cellsignal.fetch import Fetcher
from cellsignal.images import check_png
from cellsignal.images.intensity import to_uint8

log = logging.getLogger(__name__)

ANNOTATION_URL = (
    f"https://raw.githubusercontent.com/IDR/idr0088-cox-phenomicprofiling/HEAD/screenA/{FILE}"
)
# of the copy this was written with
ANNOTATION_SHA256 = "fd8583e297c16895934f9a2e16e62d3cc6bc90360171aff5679aeaa691f2ff26"
WINDOWS = ((27.0, 4319.0), (0.0, 6193.0), (0.0, 3880.0))  # counts; channels 1 to 3
COLUMNS = ("plate", "well", "field", "image_id", "file_ch1", "file_ch2", "file_ch3")
LINE_KEY = "Cell Line with Markers"  # what IDR calls the reporter line
FAILURES = 5  # in a row: then it is not the images


@dataclass(frozen=True)
class Planes:
    """How planes become files.

    Attributes:
        windows: (low, high) in counts, of each channel.
        size: pixels of the longer side after reduction by area averaging; None keeps all.
        raw: from 16-bit TIFFs instead of rendered planes.
    """

    windows: tuple[tuple[float, float], ...] = WINDOWS
    size: int | None = None
    raw: bool = False


def download(
    out: Path,
    *,
    base: str = api.BASE,
    plates: Iterable[str] | None = None,
    wells: Iterable[str] | None = None,
    fields: Iterable[int] = (1,),
    limit: int | None = None,
    size: int | None = None,
    raw: bool = False,
    windows: tuple[tuple[float, float], ...] = WINDOWS,
    annotation_url: str = ANNOTATION_URL,
    fetcher: Fetcher | None = None,
) -> None:
    """Fetch the annotation table and the chosen images into `out`. The same call again goes on
    where it was stopped.

    Args:
        plates: names as in the table; None is all 1,199, which is over a million planes.
        wells: addresses ("L8", "L08") for every plate, or plate and address ("1013608248_L8"); None
        is all, 308 a plate. fields: counted from 1; the screen has two or three a well. limit:
        images (of three planes) in all. size, raw, windows: see `Planes`.

    Raises:
        InputError: no connection, an unknown plate, a folder filled in another way, or images that
        could not be had (after all others).
    """
    out, planes = Path(out), Planes(tuple((float(a), float(b)) for a, b in windows), size, raw)
    _check(planes, fields := tuple(fields))
    _one_choice(out, planes)
    with contextlib.nullcontext(fetcher) if fetcher else Fetcher() as session:
        lines = _reporter_lines(session.file(annotation_url, out / FILE))
        idr = api.Idr(session, out / ".cache", base.rstrip("/"))
        ids = api.plates(idr)
        chosen = _chosen(plates, ids)
        log.info(
            "%d plates; all 308 wells of one are %d planes",
            len(chosen),
            308 * len(fields) * len(WINDOWS),
        )
        wanted = None if wells is None else {_plain(well) for well in wells}
        rows = _read_images(out)
        failed: list[tuple] = []  # the columns of failed.csv
        had = 0
        for plate in chosen:
            jobs = _jobs(idr, plate, ids[plate], wanted, fields)[
                : None if limit is None else limit - had
            ]
            had += len(jobs)
            if jobs:
                _check_plate(idr, jobs[0], lines)
                _fetch_plate(idr, out, jobs, planes, rows, failed)
            if limit is not None and had >= limit:
                break
    _tell(out, had, failed)


def _chosen(plates: Iterable[str] | None, ids: dict[str, int]) -> list[str]:
    chosen = list(ids) if plates is None else list(dict.fromkeys(str(plate) for plate in plates))
    unknown = [plate for plate in chosen if plate not in ids]
    if unknown:
        raise InputError(
            f"idr0088: IDR has no plate {unknown[0]!r} ({len(unknown)} unknown); see the table's "
            "column Plate"
        )
    return chosen


@dataclass(frozen=True)
class _Job:
    """One image to fetch."""

    plate: str
    well: str
    field: int
    image_id: int
    well_id: int


def _jobs(
    idr: api.Idr, plate: str, plate_id: int, wanted: set[str] | None, fields: tuple[int, ...]
) -> list[_Job]:
    """The chosen images of a plate, in the order of its wells."""
    jobs = [
        _Job(plate, _plain(well), field, image.id, image.well_id)
        for field in fields
        for well, image in api.field_images(idr, plate_id, field).items()
    ]
    if wanted is not None:
        jobs = [job for job in jobs if job.well in wanted or f"{plate}_{job.well}" in wanted]
    return sorted(jobs, key=lambda job: (_place(job.well), job.field))


def _fetch_plate(
    idr: api.Idr, out: Path, jobs: list[_Job], planes: Planes, rows: dict, failed: list[tuple]
) -> None:
    """Fetch a plate's images and add them to `rows` or `failed`; `images.csv` lists what is there,
    also when it is stopped.
    """
    in_a_row = 0
    try:
        for job in tqdm(jobs, desc=jobs[0].plate, unit="image", disable=None):
            try:
                files = _fetch_image(idr, out, job, planes)
            except InputError as error:
                log.warning("%s %s field %d: %s", job.plate, job.well, job.field, error)
                failed.append((job.plate, job.well, job.field, job.image_id, str(error)))
                in_a_row += 1
                if in_a_row == FAILURES:
                    raise InputError(
                        f"idr0088: {FAILURES} images in a row failed, the last so: {error}"
                    ) from None
            else:
                in_a_row = 0
                rows[job.plate, job.well, job.field] = (job.image_id, *files)
    finally:
        _write_images(out, rows)


def _tell(out: Path, had: int, failed: list[tuple]) -> None:
    (path := out / "failed.csv").unlink(missing_ok=True)
    if failed:
        write_csv(
            path, pd.DataFrame(failed, columns=["plate", "well", "field", "image_id", "reason"])
        )
        raise InputError(
            f"{path}: lists {len(failed)} images that could not be had; the same command tries "
            "them again"
        )
    if not had:
        raise InputError("idr0088: IDR has no image of the chosen plates, wells and fields")
    log.info("%s: complete, %d images", out, had)


def _fetch_image(idr: api.Idr, out: Path, job: _Job, planes: Planes) -> list[str]:
    """The files of one image's channels, relative to `out`; those that are there whole are not
    asked again.
    """
    n_channels = len(planes.windows)
    files = [
        f"images/{job.plate}/{job.well}_f{job.field}_ch{channel}.png"
        for channel in range(1, n_channels + 1)
    ]
    missing = [channel for channel, file in enumerate(files) if not _whole(out / file)]
    if not missing:
        return files
    info = api.image_info(idr, job.image_id)
    if info.size.channels != n_channels:
        raise InputError(
            f"image {job.image_id}: {info.size.channels} channels, {n_channels} expected"
        )
    shape = (info.size.height, info.size.width)
    if planes.raw:
        counts = api.raw_planes(idr, job.image_id, n_channels, shape)
        for channel in missing:
            _write_png(
                out / files[channel],
                to_uint8(_reduced(counts[channel], planes.size), *planes.windows[channel]),
            )
        return files

    def one(channel: int) -> None:
        plane = api.rendered_plane(
            idr, job.image_id, channel + 1, n_channels, planes.windows[channel], shape
        )
        _write_png(out / files[channel], _reduced(plane, planes.size))

    # rendering takes IDR long; the fetcher keeps to its rate
    with ThreadPoolExecutor(len(missing)) as pool:
        list(pool.map(one, missing))
    return files


def _reduced(plane: np.ndarray, size: int | None) -> np.ndarray:
    longest = max(plane.shape)
    if size is None or size >= longest:
        return plane
    height, width = (max(1, round(side * size / longest)) for side in plane.shape)
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)


def _write_png(path: Path, plane: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", plane)[1].tobytes())


def _whole(path: Path) -> bool:
    try:
        check_png(path, path.read_bytes())
    except (OSError, ImageError):
        return False
    return True


def _check(planes: Planes, fields: tuple[int, ...]) -> None:
    if not fields or min(fields) < 1:
        raise InputError(f"fields: {list(fields)} names none, or one below 1")
    if len(planes.windows) != len(WINDOWS) or any(low >= high for low, high in planes.windows):
        raise InputError(
            f"windows: {planes.windows} is not a lower and a higher count for each of "
            f"{len(WINDOWS)} channels"
        )
    if planes.size is not None and planes.size < 1:
        raise InputError(f"size: {planes.size} is below 1")


def _one_choice(out: Path, planes: Planes) -> None:
    """Write down how this folder's planes are made, or hold this call to what is written there."""
    path = out / "windows.json"
    now = {
        "windows": {
            f"ch{channel}": list(window) for channel, window in enumerate(planes.windows, 1)
        },
        "longer_side": planes.size,
        "planes": "16-bit OME-TIFF"
        if planes.raw
        else f"rendered by IDR, JPEG of quality {api.QUALITY:g}",
    }
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_json(path, now)
        return
    except (OSError, ValueError):
        raise InputError(
            f"{path}: cannot be read; it says how the planes in this folder were made"
        ) from None
    if before != now:
        raise InputError(
            f"{path}: the planes in this folder were made in another way (windows, size or raw); "
            "take another folder"
        )


def _reporter_lines(annotation: Path) -> dict[str, str]:
    """Plate -> reporter line, as the table has them."""
    if sha256(annotation) != ANNOTATION_SHA256:
        log.warning(
            "%s: is another version of the table than the one this was written with", annotation
        )
    table = read_annotation(annotation).drop_duplicates("plate")
    return dict(zip(table.plate.astype(str), table.reporter_line.astype(str), strict=True))


def _check_plate(idr: api.Idr, job: _Job, lines: dict[str, str]) -> None:
    """Is IDR's plate of this name the table's? Asked of one well's reporter line, where both say
    it.
    """
    said, expected = api.annotations(idr, job.well_id).get(LINE_KEY), lines.get(job.plate)
    if expected is None:
        log.warning("plate %s is not in the annotation table", job.plate)
    elif said is not None and said != expected:
        raise InputError(
            f"plate {job.plate}: IDR says its cells are {said!r}, the annotation table {expected!r}"
        )


def _plain(well: str) -> str:
    """A well address without zeros before its number: "L08" -> "L8"; a plate before it stays."""
    plate, bar, address = str(well).strip().rpartition("_")
    letters, digits = address.rstrip("0123456789"), address[len(address.rstrip("0123456789")) :]
    if not letters.isalpha() or not digits or int(digits) < 1:
        raise InputError(f"wells: {well!r} is no well address such as L8 or 1013608248_L8")
    return f"{plate}{bar}{letters.upper()}{int(digits)}"


def _place(well: str) -> tuple[int, str, int]:
    letters = well.rstrip("0123456789")
    return len(letters), letters, int(well[len(letters) :])


def _read_images(out: Path) -> dict[tuple[str, str, int], tuple]:
    """The rows of an earlier call whose files are all still there."""
    path = out / "images.csv"
    if not path.exists():
        return {}
    try:
        frame = read_table(path, COLUMNS)
        numbers = [parse_integers(path, frame, column) for column in ("field", "image_id")]
    except InputError as error:
        raise InputError(
            f"{error}; remove the list of images, and the same command writes it anew"
        ) from None
    if list(frame.columns) != list(COLUMNS):
        raise InputError(
            f"{path}: is not the list of images; remove it, and the same command writes it anew"
        )
    frame["field"], frame["image_id"] = numbers
    there = [
        row
        for row in frame.itertuples(index=False)
        if all((out / file).is_file() for file in row[4:])
    ]
    return {(row.plate, row.well, int(row.field)): (int(row.image_id), *row[4:]) for row in there}


def _write_images(out: Path, rows: dict[tuple[str, str, int], tuple]) -> None:
    ordered = sorted(rows, key=lambda key: (key[0], _place(key[1]), key[2]))
    write_csv(
        out / "images.csv",
        pd.DataFrame([(*key, *rows[key]) for key in ordered], columns=list(COLUMNS)),
    )
