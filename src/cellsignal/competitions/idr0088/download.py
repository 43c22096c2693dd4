"""Fetch idr0088's images: plate by plate and well by well, a few requests a second, resumable.

What it writes under `out`:

- `idr0088-screenA-annotation.csv.zip`: the annotation, from IDR's GitHub;
- `images/<plate>/<well>_f<field>_ch<c>.png`: 8-bit gray, one file a channel; the well as the table
  spells it ("L8");
- `images.csv`: plate, well, field, image_id, file_ch1, file_ch2, file_ch3 of every field that is
  there whole;
- `windows.json`: which counts became 0 and 255, the source of the planes and their size: one choice
  a folder;
- `failed.csv`: the images that could not be fetched, if there are any;
- `.cache/`: the server's answers.

**The windows.** All planes of a channel are shown between the same two counts, or intensities could
not be compared: those with which IDR itself renders the study (`screenA/idr0088-render.yml` in its
GitHub repository). A marker that is dim in its line gets few of the 256 levels; `windows=` takes
others.

**Rendered or raw.** IDR's HTTP API serves rendered planes as JPEGs: lossy even at the highest
quality, which is used. With `raw=True` each image is requested as a 16-bit OME-TIFF and brought to
8 bits here by the same windows, which loses nothing but the rounding. Whether IDR gives these to
the public is not known. The 16-bit planes of the whole screen (5.4 TB) come by IDR's bulk download.
"""

import contextlib
import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv, write_json
from cellsignal.competitions.idr0088 import images
from cellsignal.competitions.idr0088.api import BASE, QUALITY, Idr
from cellsignal.competitions.idr0088.metadata import FILE, read_reporter_lines
from cellsignal.fetch import Fetcher
from cellsignal.images.intensity import to_uint8

log = logging.getLogger(__name__)

ANNOTATION_URL = (
    f"https://raw.githubusercontent.com/IDR/idr0088-cox-phenomicprofiling/HEAD/screenA/{FILE}"
)
WINDOWS = ((27.0, 4319.0), (0.0, 6193.0), (0.0, 3880.0))  # counts; channels 1 to 3
LINE_KEY = "Cell Line with Markers"  # what IDR calls the reporter line
FAILURES = 5  # in a row: then it is not the images


@dataclass(frozen=True)
class PlaneSettings:
    """How planes become files.

    Attributes:
        windows: (low, high) in counts, of each channel.
        size: pixels of the longer side after reduction by area averaging; None keeps all.
        raw: from 16-bit TIFFs instead of rendered planes.
    """

    windows: tuple[tuple[float, float], ...] = WINDOWS
    size: int | None = None
    raw: bool = False


@dataclass(frozen=True)
class ImageJob:
    """One image to fetch."""

    plate: str
    well: str
    field: int
    image_id: int
    well_id: int

    @property
    def files(self) -> list[str]:
        """The files of its channels, relative to `out`."""
        name = f"images/{self.plate}/{self.well}_f{self.field}"
        return [f"{name}_ch{channel}.png" for channel in range(1, len(WINDOWS) + 1)]


def download(
    out: Path,
    *,
    base: str = BASE,
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
    """Fetch the annotation and the chosen images into `out`. The same call again resumes.

    Args:
        plates: names as in the table; None is all 1,199, which is over a million planes.
        wells: addresses ("L8") for every plate, or with the plate ("1013608248_L8"); None is all.
        fields: counted from 1; the screen has two or three a well.
        limit: images (of three planes) in all.
        size, raw, windows: see `PlaneSettings`.

    Raises:
        InputError: no connection, an unknown plate, a folder filled in another way, a failed image.
    """
    out, fields = Path(out), tuple(fields)
    settings = PlaneSettings(tuple((float(low), float(high)) for low, high in windows), size, raw)
    _check_settings(settings, fields)
    _keep_settings(out, settings)
    with contextlib.nullcontext(fetcher) if fetcher else Fetcher() as session:
        line_of = read_reporter_lines(session.file(annotation_url, out / FILE))
        idr = Idr(session, out / ".cache", base.rstrip("/"))
        id_of = idr.list_plates()
        chosen = _choose_plates(plates, id_of)
        log.info("%d plates; a whole one has %d planes", len(chosen), 308 * 3 * len(fields))
        chosen_wells = None if wells is None else {_plain_well(well) for well in wells}
        rows = images.read_earlier_images(out)
        failed: list[tuple] = []  # the columns of failed.csv
        n_images = 0
        for plate in chosen:
            if limit is not None and n_images >= limit:
                break
            jobs = _list_jobs(idr, plate, id_of[plate], chosen_wells, fields)
            jobs = jobs[: None if limit is None else limit - n_images]
            n_images += len(jobs)
            if jobs:
                _check_reporter_line(idr, jobs[0], line_of)
                _fetch_plate(idr, out, jobs, settings, rows, failed)
    _report(out, n_images, failed)


def _choose_plates(plates: Iterable[str] | None, id_of: dict[str, int]) -> list[str]:
    chosen = list(id_of) if plates is None else list(dict.fromkeys(str(plate) for plate in plates))
    unknown = [plate for plate in chosen if plate not in id_of]
    if unknown:
        count = f"({len(unknown)} unknown); see the table's column Plate"
        raise InputError(f"idr0088: IDR has no plate {unknown[0]!r} {count}")
    return chosen


def _list_jobs(
    idr: Idr, plate: str, plate_id: int, wells: set[str] | None, fields: tuple[int, ...]
) -> list[ImageJob]:
    """List the chosen images of a plate, in the order of its wells."""
    jobs = []
    for field in fields:
        for address, image in idr.list_images(plate_id, field).items():
            well = _plain_well(address)
            if wells is None or well in wells or f"{plate}_{well}" in wells:
                jobs.append(ImageJob(plate, well, field, image.id, image.well_id))
    return sorted(jobs, key=lambda job: (images.well_order(job.well), job.field))


def _fetch_plate(
    idr: Idr,
    out: Path,
    jobs: list[ImageJob],
    settings: PlaneSettings,
    rows: dict,
    failed: list[tuple],
) -> None:
    """Fetch a plate's images and add them to `rows` or `failed`.

    `images.csv` lists what is there, also when the download is stopped.
    """
    n_failed = 0
    try:
        for job in tqdm(jobs, desc=jobs[0].plate, unit="image", disable=None):
            try:
                _fetch_image(idr, out, job, settings)
            except InputError as error:
                log.warning("%s %s field %d: %s", job.plate, job.well, job.field, error)
                failed.append((job.plate, job.well, job.field, job.image_id, str(error)))
                n_failed += 1
                if n_failed == FAILURES:
                    last = f"{FAILURES} images in a row failed, the last so: {error}"
                    raise InputError(f"idr0088: {last}") from None
            else:
                n_failed = 0
                rows[job.plate, job.well, job.field] = (job.image_id, *job.files)
    finally:
        images.write_images(out, rows)


def _report(out: Path, n_images: int, failed: list[tuple]) -> None:
    path = out / "failed.csv"
    path.unlink(missing_ok=True)
    if failed:
        columns = ["plate", "well", "field", "image_id", "reason"]
        write_csv(path, pd.DataFrame(failed, columns=columns))
        raise InputError(
            f"{path}: lists {len(failed)} images that could not be had; the same command tries "
            "them again"
        )
    if not n_images:
        raise InputError("idr0088: IDR has no image of the chosen plates, wells and fields")
    log.info("%s: complete, %d images", out, n_images)


def _fetch_image(idr: Idr, out: Path, job: ImageJob, settings: PlaneSettings) -> None:
    """Fetch the channels of an image that are missing or incomplete."""
    n_channels = len(settings.windows)
    is_whole = [images.is_whole_png(out / file) for file in job.files]
    missing = [channel for channel in range(n_channels) if not is_whole[channel]]
    if not missing:
        return
    info = idr.read_image_info(job.image_id)
    if info.size.channels != n_channels:
        channels = f"{info.size.channels} channels, {n_channels} expected"
        raise InputError(f"image {job.image_id}: {channels}")
    shape = (info.size.height, info.size.width)
    if settings.raw:
        counts = idr.fetch_raw_planes(job.image_id, n_channels, shape)
        for channel in missing:
            plane = images.reduce_plane(counts[channel], settings.size)
            images.write_png(out / job.files[channel], to_uint8(plane, *settings.windows[channel]))
        return

    def fetch_channel(channel: int) -> None:
        window = settings.windows[channel]
        plane = idr.fetch_rendered_plane(job.image_id, channel + 1, n_channels, window, shape)
        images.write_png(out / job.files[channel], images.reduce_plane(plane, settings.size))

    # rendering takes IDR long; the fetcher keeps to its rate
    with ThreadPoolExecutor(len(missing)) as pool:
        list(pool.map(fetch_channel, missing))


def _check_settings(settings: PlaneSettings, fields: tuple[int, ...]) -> None:
    windows = settings.windows
    if not fields or min(fields) < 1:
        raise InputError(f"fields: {list(fields)} names none, or one below 1")
    if len(windows) != len(WINDOWS) or any(low >= high for low, high in windows):
        wanted = f"a lower and a higher count for each of {len(WINDOWS)} channels"
        raise InputError(f"windows: {windows} is not {wanted}")
    if settings.size is not None and settings.size < 1:
        raise InputError(f"size: {settings.size} is below 1")


def _keep_settings(out: Path, settings: PlaneSettings) -> None:
    """Write the settings of this folder's planes; raise if others are written there already."""
    path = out / "windows.json"
    rendered = f"rendered by IDR, JPEG of quality {QUALITY:g}"
    current: dict[str, Any] = {
        "windows": {f"ch{i}": list(window) for i, window in enumerate(settings.windows, 1)},
        "longer_side": settings.size,
        "planes": "16-bit OME-TIFF" if settings.raw else rendered,
    }
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_json(path, current)
        return
    except (OSError, ValueError):
        why = "it says how the planes in this folder were made"
        raise InputError(f"{path}: cannot be read; {why}") from None
    if earlier != current:
        raise InputError(
            f"{path}: the planes in this folder were made in another way (windows, size or raw); "
            "take another folder"
        )


def _check_reporter_line(idr: Idr, job: ImageJob, line_of: dict[str, str]) -> None:
    """Raise if a plate's reporter line at IDR differs from the table's."""
    line = idr.read_annotations(job.well_id).get(LINE_KEY)
    expected = line_of.get(job.plate)
    if expected is None:
        log.warning("plate %s is not in the annotation table", job.plate)
    elif line is not None and line != expected:
        lines = f"IDR says its cells are {line!r}, the annotation table {expected!r}"
        raise InputError(f"plate {job.plate}: {lines}")


def _plain_well(well: str) -> str:
    """Write a well without zeros before its number: "L08" -> "L8"; a plate before it stays."""
    plate, bar, address = str(well).strip().rpartition("_")
    letters = address.rstrip("0123456789")
    digits = address.removeprefix(letters)
    if not letters.isalpha() or not digits or int(digits) < 1:
        raise InputError(f"wells: {well!r} is not a well address such as L8 or 1013608248_L8")
    return f"{plate}{bar}{letters.upper()}{int(digits)}"
