"""Fill a store that is begun: pack missing rows, note each in the journal, complete it.

See `pack` for how it survives a kill at any moment.
"""

import contextlib
import functools
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import ImageError, InputError
from cellsignal.common.files import atomic_path, provenance, refuse_unwritable, write_json
from cellsignal.common.stopping import Pace, Stop
from cellsignal.data import store_files as stored
from cellsignal.data.codec import Layout
from cellsignal.data.journal import JOURNAL, Entry, journal_line, read_journal
from cellsignal.data.pack_report import (
    PackReport,
    list_left_out,
    report_entries,
    update_left_out,
    write_left_out,
)
from cellsignal.data.renewal import UNKNOWN, Stamp
from cellsignal.data.sites import Read, channel_statistics, in_processes, read_site, resized

ADVICE = "what is packed is kept, run again to go on"


@dataclass(frozen=True)
class Making:
    """The store to be made: its description and samples, and how to read its sites.

    Attributes:
        info: the content of `store.json` while it is unfinished.
        text: the samples table as the store keeps it, of which `samples` is the parsed table.
        left_out: (reason, name) of what is in no sample.
    """

    info: dict[str, Any]
    layout: Layout
    text: str
    samples: pd.DataFrame
    read: Read
    stamp: Stamp
    bad_site: str
    workers: int
    left_out: Sequence[tuple[str, str]] = ()

    def report(self, entries: dict[int, Entry]) -> PackReport:
        """Return what a store with these finished rows holds."""
        return report_entries(entries, self.samples, self.info["channels"])


# one site
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SitePacking:
    """What all sites of a packing share."""

    out: str
    read: Read
    stamp: Stamp
    layout: Layout
    resize: bool


def pack_site(
    job: SitePacking, task: tuple[int, tuple[str, ...], str]
) -> tuple[Entry | None, InputError | None]:
    """Read, resize, measure and write one site, and return errors: they end nothing for the others.

    Returns:
        (entry, None) if packed, (entry, error) if the site is bad, (None, error) if it cannot be
        written.
    """
    row, files, plate = task
    # before reading: a file that changes meanwhile is read again next time
    stamp = job.stamp(files, plate)
    try:
        image = _read_expected(job, files)
    except ImageError as error:
        reason = error.kind.replace("_", " ")
        entry = {"row": row, "status": stored.SKIPPED, "reason": reason, "message": str(error)}
        return entry, error
    image = np.ascontiguousarray(resized(image, job.layout.shape[1:]) if job.resize else image)
    mean, sd = channel_statistics(image)
    try:
        with refuse_unwritable(job.out, ADVICE):
            size = stored.write_chunk(job.out, row, image, job.layout)
    except InputError as error:
        return None, error
    entry = {
        "row": row,
        "status": stored.PACKED,
        "bytes": size,
        "checksum": zlib.crc32(image),
        "mean": mean.tolist(),
        "sd": sd.tolist(),
        "stamp": stamp,
    }
    return entry, None


def _read_expected(job: SitePacking, files: tuple[str, ...]) -> np.ndarray:
    image = read_site(job.read, files)
    if len(image) != job.layout.shape[0]:
        detail = f"{len(image)} channels, {job.layout.shape[0]} expected"
        raise ImageError(files[0], "wrong_channels", detail)
    if not job.resize and image.shape[1:] != job.layout.shape[1:]:
        (height, width), (rows, columns) = image.shape[1:], job.layout.shape[1:]
        detail = f"{width}x{height} pixels, {columns}x{rows} expected"
        raise ImageError(files[0], "wrong_size", detail)
    return image


# all sites
# --------------------------------------------------------------------------------------------------


def read_entries(out: Path, info: dict[str, Any]) -> dict[int, Entry]:
    """Read the finished rows of a store, complete or not."""
    if not info["complete"]:
        return read_journal(out)[0]
    arrays = stored.read_arrays(out, info)
    stamps = arrays.get("stamp", np.full(info["n"], UNKNOWN))
    return {
        row: {
            "row": row,
            "status": stored.PACKED,
            "bytes": 0,  # the chunks' sizes are no longer known: any will do
            "checksum": int(arrays["checksum"][row]),
            "mean": arrays["mean"][row].tolist(),
            "sd": arrays["sd"][row].tolist(),
            "stamp": int(stamps[row]),
        }
        for row in np.flatnonzero(arrays["status"] == stored.PACKED).tolist()
    }


def is_whole(out: Path, entry: Entry) -> bool:
    """Return whether the chunk of a finished row exists with its full length."""
    try:
        size = os.stat(stored.chunk_path(out, entry["row"])).st_size
    except FileNotFoundError:
        return False
    return size == entry["bytes"] if entry["bytes"] else size > 0


def finish_rows(out: Path, making: Making, entries: dict[int, Entry], stop: Stop) -> PackReport:
    """Pack the rows that are not in `entries`, then complete the store."""
    info, samples = making.info, making.samples
    for leftover in (out / stored.IMAGES).glob(".c.*.tmp"):
        leftover.unlink()
    job = SitePacking(
        out=str(out),
        read=making.read,
        stamp=making.stamp,
        layout=making.layout,
        resize=info["size"] is not None,
    )
    missing = [row for row in range(len(samples)) if row not in entries]
    tasks = [(row, samples.files[row], samples.plate[row]) for row in missing]
    results = in_processes(functools.partial(pack_site, job), tasks, making.workers, "packing")
    with contextlib.closing(results):
        packed = _until_stopped(results, making, stop, out, len(tasks))
        if not stored.read_info(out)["complete"]:
            _append_to_journal(out, packed, entries)
        elif not _retry_skipped(out, making, packed, entries, missing):
            report = making.report(entries)
            rows = list_left_out(report, making.left_out)
            update_left_out(out, stored.read_info(out), rows, making.text)
            return report
    return complete(out, info, making.text, entries, samples, making.left_out)


def _append_to_journal(out: Path, packed: Iterator[Entry], entries: dict[int, Entry]) -> None:
    good = read_journal(out)[1]
    with open(out / JOURNAL, "ab") as lines:
        lines.truncate(good)
        for entry in packed:
            lines.write(journal_line(entry))
            lines.flush()
            entries[entry["row"]] = entry


def _retry_skipped(
    out: Path, making: Making, packed: Iterator[Entry], entries: dict[int, Entry], missing: list
) -> bool:
    """Try a complete store's bad sites again, and return whether there is something to change.

    A store that is up to date may lie where nothing can be written.
    """
    journal = out / JOURNAL
    arrays = stored.read_arrays(out, stored.read_info(out))
    skipped_before = set(np.flatnonzero(arrays["status"] == stored.SKIPPED).tolist())
    entries |= {entry["row"]: entry for entry in packed}
    skipped = {row for row, entry in entries.items() if entry["status"] == stored.SKIPPED}
    if skipped == skipped_before and set(missing) <= skipped_before:
        if journal.exists():
            journal.unlink()
        return False
    with atomic_path(journal) as temporary:
        temporary.write_bytes(b"".join(map(journal_line, entries.values())))
    write_json(out / stored.INFO, making.info)
    return True


def _until_stopped(
    results: Iterator[tuple[Entry | None, InputError | None]],
    making: Making,
    stop: Stop,
    out: Path,
    todo: int,
) -> Iterator[Entry]:
    """Yield the entries of `todo` sites; raise `Interrupted` when it is time to stop.

    Raises:
        InputError: a site cannot be written, or is bad and `bad_site` is "refuse".
    """
    n, workers = making.info["n"], making.workers
    # sites that the processes take at a time, all together
    at_once = max(1, min(16 * workers, todo // 4))
    took, begun = Pace(), time.perf_counter()
    for number, (entry, error) in enumerate(results, 1):
        if entry is None or (error is not None and making.bad_site == "refuse"):
            raise error
        yield entry
        if number % at_once == 0:
            now = time.perf_counter()
            took.add(now - begun)
            begun = now
        # stopping waits for what the processes have begun and for what they were handed besides
        if number < todo:
            seconds = took.high and took.high * (3 if workers else 1)
            stop.check(str(out), f"{n - todo + number} of {n} sites", "the next sites", seconds)


def complete(
    out: Path,
    info: dict[str, Any],
    text: str,
    entries: dict[int, Entry],
    samples: pd.DataFrame,
    left_out: Sequence[tuple[str, str]] = (),
) -> PackReport:
    """Fold the journal into the arrays and declare the store complete.

    Args:
        info, text, samples, left_out: as of `Making`.
        entries: of all rows.
    """
    n, channels = info["n"], len(info["channels"])
    arrays = {
        "mean": np.full((n, channels), np.nan, np.float32),
        "sd": np.full((n, channels), np.nan, np.float32),
        "checksum": np.zeros(n, np.uint32),
        "status": np.zeros(n, np.uint8),
        "stamp": np.full(n, UNKNOWN, np.uint64),
    }
    for row, entry in entries.items():
        for name, values in arrays.items():
            if name in entry:
                values[row] = entry[name]
    assert (arrays["status"] != stored.PENDING).all()
    if not (arrays["status"] == stored.PACKED).any():
        raise InputError(
            f"{out}: none of the {n} sites can be read; the first: {entries[0]['message']}"
        )
    report = report_entries(entries, samples, info["channels"])
    flat = [{"sample_id": name, "channel": channel} for name, channel in report.flat]
    complete = {
        **info,
        "complete": True,
        "arrays_digest": stored.write_arrays(out, arrays),
        **write_left_out(out, list_left_out(report, left_out)),
        "flat": flat,
        "made_by": provenance(),
    }
    stored.write_samples(out, text)
    for old in (stored.OLD_SAMPLES, stored.OLD_LEFT_OUT):
        (out / old).unlink(missing_ok=True)
    os.sync()  # the chunks first, then the word that they are there
    write_json(out / stored.INFO, complete)
    (out / JOURNAL).unlink(missing_ok=True)
    return report
