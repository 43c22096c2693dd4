"""Packing: from image files to a store, each image read once, by several processes, from wherever a kill left it.

How a kill at any moment is survived:
- The store's description, `store.json`, is written first and says that it is unfinished.
- A worker writes a site's chunk to a temporary name and renames it; only then does it report the row.
- The parent, and nobody else, appends the row to the journal: one checksummed line with the row's statistics. A torn
  line is dropped.
- A rerun keeps the journal's rows whose chunk lies there in its full length, and packs the others.
- When all rows are in, the journal is folded into the arrays, everything is flushed to the disk, and `store.json` is
  replaced by one that says complete. A kill before that means folding again; after it the journal is only litter.

A signal, or a time budget that the next sites would not keep to, stops it where all that is done is in the journal.
What a site becomes depends on its files alone, so an interrupted packing ends in the same store as an undisturbed one.
"""

import contextlib
import fcntl
import functools
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from cellsignal import __version__
from cellsignal.competitions.base import Competition
from cellsignal.data import renewal
from cellsignal.data import store as stored
from cellsignal.data.codec import Layout, layout_of
from cellsignal.data.sites import Entry, Packing, Read, Stamp, in_processes, pack_site, read_site, unwritable
from cellsignal.data.stamps import PACKING, UNKNOWN, stamp_nothing, stamp_source
from cellsignal.errors import ImageError, InputError
from cellsignal.files import atomic_path, digest, provenance, write_json, write_text
from cellsignal.stopping import Pace, Stop

ELSEWHERE = "pack into another folder or delete it"
EMPTY = {stored.CALIBRATION, "lost+found"}  # what an empty folder may hold: measured before the store is made, and a disk's own
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackReport:
    """What a store holds.

    Attributes:
        n_packed: sites in the store.
        skipped: (sample_id, why) of the sites that could not be read.
        flat: (sample_id, channel) of the packed channels in which all pixels are the same.
    """

    n_packed: int
    skipped: tuple[tuple[str, str], ...]
    flat: tuple[tuple[str, str], ...]


def prepare(
    competition: Competition,
    root: Path | str,
    out: Path | str,
    *,
    samples: pd.DataFrame | None = None,
    size: int | None = None,
    bad_site: Literal["skip", "refuse"] = "skip",
    workers: int = 0,
    codec: Literal["auto", "zstd", "raw"] = "auto",
) -> PackReport:
    """Pack a competition's samples under `root` into a store at `out`, or bring the store there up to date.

    What is measured of whole plates is kept in the store's folder `calibration`. See `pack`.

    Args:
        samples: rows of the samples table; None packs all.
    """
    root, out = Path(root).absolute(), Path(out).absolute()
    samples = competition.samples(root) if samples is None else samples
    with _one_line_ifunwritable(out):
        _check_place(out)
    competition = competition.calibrate(root, out / stored.CALIBRATION, workers)
    shape = competition.root_shape(root)
    return pack(
        samples,
        functools.partial(competition.read, root, shape=shape),
        out,
        channels=competition.channels,
        size=size,
        bad_site=bad_site,
        workers=workers,
        source={"competition": competition.id, "root": str(root), "classes": list(competition.classes(root))},
        shape=shape,
        codec=codec,
        stamp=functools.partial(stamp_source, competition, root),
        made_from={
            "reading": competition.reading,
            "calibration": competition.calibration.hashes if competition.calibration else {},
        },
    )


def pack(
    samples: pd.DataFrame,
    read: Read,
    out: Path | str,
    *,
    channels: tuple[str, ...],
    size: int | None = None,
    bad_site: Literal["skip", "refuse"] = "skip",
    workers: int = 0,
    source: dict[str, Any],
    shape: tuple[int, int] | None = None,
    codec: Literal["auto", "zstd", "raw"] = "auto",
    stamp: Stamp = stamp_nothing,
    made_from: dict[str, Any] | None = None,
) -> PackReport:
    """Pack samples into a store, go on with an unfinished one, or bring a complete one up to date.

    Sites skipped earlier are tried again, so mending their files and calling again completes a store. Where packed sites
    are no longer as their sources say, a new store is made in the old one's folder and takes its place when it is whole
    (see `renewal`); a log line says what has changed.

    Args:
        samples: a samples table.
        read: from a sample's files to (C, H, W) uint8; must pickle where workers > 0.
        out: the store's folder, or a link to one: absent, empty, or a store of the same source, channels, size and codec.
        channels: the channels' names.
        size: resize to size x size pixels (area average when shrinking, bilinear when enlarging); None keeps the size.
        bad_site: a site that cannot be read is left out and listed ("skip"), or ends the packing ("refuse"); what is
            packed by then is kept.
        workers: processes; 0 packs in this one.
        source: what the samples come from; must equal the store's when going on, but for `classes`.
        shape: (height, width) of the images; None takes those of the first readable one.
        codec: how the pixels are stored (see `codec`); "auto" is raw up to 256 x 256 pixels, zstd above.
        stamp: from a sample's files and plate to the state of its source (see `stamps`).
        made_from: what else decides the pixels, by name: is kept in `store.json`, and named when it has changed. The
            stamps must change with it.

    Raises:
        ImageError: a bad site, with bad_site="refuse".
        InputError: `out` is something else, the disk is full, no site is readable, another process packs into `out`, or
            packed sites would be lost.
        Interrupted: stopped by a signal, or by the time budget (`OutOfTime`); what is packed is kept.
    """
    out = Path(out).absolute()
    text = stored.samples_text(samples)
    samples = stored.parse_samples(text, "samples to pack")
    if samples.empty:
        raise InputError(f"{out}: there are no samples to pack")
    if size is not None:
        shape = (size, size)
    elif shape is None:
        shape = stored.read_info(out)["shape"] if (out / stored.INFO).is_file() else _first_shape(samples, read, bad_site)
    layout = layout_of(codec, (len(channels), *shape))
    info = {
        "format": stored.FORMAT,
        "cellsignal": __version__,
        "source": dict(source),
        "channels": list(channels),
        "shape": list(shape),
        "codec": layout.codec,
        "size": size,
        "n": len(samples),
        "samples_sha256": digest(text),
        "made_from": {"packing": PACKING, **(made_from or {})},
        "complete": False,
    }
    making = Making(info, layout, text, samples, read, stamp, bad_site, workers)
    with _one_line_ifunwritable(out):
        _check_place(out)
        _create_folder(out)
        with _locked(out), Stop() as stop:
            try:
                return _bring_up_to_date(out, making, stop)
            finally:
                stop.finish(str(out))  # also where the worker processes died of the signal


@dataclass(frozen=True)
class Making:
    """A store as it is to be: its description and samples, and how its sites are read.

    Attributes:
        info: the content of `store.json` while it is unfinished.
        text: the content of `samples.csv`, of which `samples` is the parsed table.
    """

    info: dict[str, Any]
    layout: Layout
    text: str
    samples: pd.DataFrame
    read: Read
    stamp: Stamp
    bad_site: str
    workers: int


def _bring_up_to_date(out: Path, making: Making, stop: Stop) -> PackReport:
    """Pack what is missing in place; make the store anew where what is there has changed."""
    info, samples = making.info, making.samples
    renewal.finish(out)
    if not (out / stored.INFO).exists():
        _create(out, making)
    previous = stored.read_info(out)
    _match(out, previous, info)
    if not previous["complete"] and not (out / stored.JOURNAL).exists():
        _create(out, making)  # nothing is packed yet; what is there may be half-made
        previous = info
    entries = {
        row: entry
        for row, entry in read_entries(out, previous).items()
        if entry["status"] == stored.PACKED and _is_whole(out, entry)
    }
    plan = renewal.compare(out, previous, entries, info, samples, making.stamp)
    if plan.reasons and (previous["complete"] or previous["samples_sha256"] != info["samples_sha256"]):
        log.warning("%s: %s", out, plan.text(len(samples)))
        following = out / stored.NEXT
        if not renewal.can_go_on(following, info):
            shutil.rmtree(following, ignore_errors=True)
            following.mkdir()
            _create(following, making)
            renewal.take_over(out, following, plan.kept)
        fresh = {r: e for r, e in read_entries(following, info).items() if _is_whole(following, e)}
        fresh = renewal.compare(following, info, fresh, info, samples, making.stamp).kept
        report = _finish_rows(following, making, fresh, stop)
        renewal.finish(out)
        return report
    shutil.rmtree(out / stored.NEXT, ignore_errors=True)
    return _finish_rows(out, making, plan.kept, stop)


def read_entries(out: Path, info: dict[str, Any]) -> dict[int, Entry]:
    """The finished rows of a store, complete or not."""
    return _arrays_as_entries(out, info) if info["complete"] else stored.read_journal(out)[0]


def _finish_rows(out: Path, making: Making, entries: dict[int, Entry], stop: Stop) -> PackReport:
    """Pack the rows that are not in `entries`, then complete the store."""
    info, samples = making.info, making.samples
    previous, journal = stored.read_info(out), out / stored.JOURNAL
    known = {item["sample_id"] for item in previous.get("skipped", ())}
    for litter in (out / stored.IMAGES).glob(".c.*.tmp"):
        litter.unlink()

    job = Packing(
        str(out),
        making.read,
        making.stamp,
        len(info["channels"]),
        tuple(info["shape"]),
        info["codec"],
        info["size"] is not None,
    )
    tasks = [(row, samples.files[row], samples.plate[row]) for row in range(len(samples)) if row not in entries]
    results = in_processes(functools.partial(pack_site, job), tasks, making.workers, "packing")
    with contextlib.closing(results):
        good_ones = _until_stopped(
            _good_or_raise(results, making.bad_site), stop, out, len(tasks), len(samples), making.workers
        )
        if not previous["complete"]:
            good = stored.read_journal(out)[1]
            with open(journal, "ab") as lines:
                lines.truncate(good)
                for entry in good_ones:
                    lines.write(stored.journal_line(entry))
                    lines.flush()
                    entries[entry["row"]] = entry
        else:  # its few bad sites, tried again: the store stays complete until there is something to change
            entries |= {entry["row"]: entry for entry in good_ones}
            report = _report(entries, samples, info["channels"])
            if {sample_id for sample_id, _ in report.skipped} == known and all(samples.sample_id[row] in known for row, *_ in tasks):
                journal.unlink(missing_ok=True)
                return report
            with atomic_path(journal) as temporary:
                temporary.write_bytes(b"".join(map(stored.journal_line, entries.values())))
            write_json(out / stored.INFO, info)
    _complete(out, info, entries, samples)
    return _report(entries, samples, info["channels"])


def _good_or_raise(results: Iterator[tuple[Entry | None, InputError | None]], bad_site: str) -> Iterator[Entry]:
    for entry, error in results:
        if entry is None or (error is not None and bad_site == "refuse"):
            raise error
        yield entry


def _until_stopped(entries: Iterator[Entry], stop: Stop, out: Path, todo: int, n: int, workers: int) -> Iterator[Entry]:
    """The entries of `todo` of `n` sites; asked for the next one, when the last is written, it may raise `Interrupted` instead."""
    at_once = max(1, min(16 * workers, todo // 4))  # sites that the processes take at a time, all together
    took, begun = Pace(), time.perf_counter()
    for number, entry in enumerate(entries, 1):
        yield entry
        if number % at_once == 0:
            now = time.perf_counter()
            took.add(now - begun)
            begun = now
        if number < todo:  # stopping waits for what the processes have begun, and for what they have been handed besides
            seconds = took.high and took.high * (3 if workers else 1)
            stop.check(str(out), f"{n - todo + number} of {n} sites", "the next sites", seconds)


def _first_shape(samples: pd.DataFrame, read: Read, bad_site: str) -> tuple[int, int]:
    first = None
    for files in samples.files:
        try:
            return read_site(read, files).shape[1:]
        except ImageError as error:
            if bad_site == "refuse":
                raise
            first = first or error
    raise InputError(f"none of the {len(samples)} sites can be read; the first: {first}")


def _check_place(out: Path) -> None:
    """Refuse a place that holds anything but a store, one that was begun, or nothing."""
    if not out.exists():
        if out.is_symlink() and not out.resolve().parent.is_dir():
            raise InputError(f"{out}: is a link to {out.resolve()}, which cannot be made; make that folder first")
        return
    if not out.is_dir() or not ((out / stored.INFO).exists() or {path.name for path in out.iterdir()} <= EMPTY):
        raise InputError(f"{out}: is neither empty nor a store; {ELSEWHERE}")


def _create_folder(out: Path) -> None:
    """Make the store's folder, at a link's end where it is one."""
    out.resolve().mkdir(parents=True, exist_ok=True)


def _create(out: Path, making: Making) -> None:
    """Make the empty store in an empty folder, whatever file system that is on.

    Its description is first, so that a folder half-made is known as ours.
    """
    write_json(out / stored.INFO, making.info)
    stored.create_arrays(out, making.info["n"], making.layout)
    write_text(out / stored.SAMPLES, making.text)


def _match(out: Path, there: dict, info: dict) -> None:
    """Refuse to mix: name the first thing in which the store and the call differ."""
    keys = [key for key in info["source"] if key != "classes"]
    pairs = [(key, there["source"].get(key), info["source"][key]) for key in keys]
    pairs += [(key, there[key], info[key]) for key in ("channels", "size", "shape", "codec")]
    for name, old, new in pairs:
        if old != new:
            raise InputError(f"{out}: this store was made with another {name}: {old}, now {new}; {ELSEWHERE}")


def _is_whole(out: Path, entry: Entry) -> bool:
    try:
        size = os.stat(stored.chunk_path(out, entry["row"])).st_size
    except FileNotFoundError:
        return False
    return size == entry["bytes"] if entry["bytes"] else size > 0


def _arrays_as_entries(out: Path, info: dict) -> dict[int, Entry]:
    """A complete store's packed rows as journal entries. Their chunks' sizes are no longer known: any will do."""
    arrays = stored.read_arrays(out, info)
    stamps = arrays.get("stamp", np.full(info["n"], UNKNOWN))
    entries = {}
    for row in np.flatnonzero(arrays["status"] == stored.PACKED).tolist():
        values = {"checksum": int(arrays["checksum"][row]), "mean": arrays["mean"][row].tolist(), "sd": arrays["sd"][row].tolist()}
        values["stamp"] = int(stamps[row])
        entries[row] = {"row": row, "status": stored.PACKED, "bytes": 0, **values}
    return entries


def _complete(out: Path, info: dict, entries: dict[int, Entry], samples: pd.DataFrame) -> None:
    """Fold the journal into the arrays and declare the store complete."""
    n, channels = info["n"], len(info["channels"])
    mean, sd = (np.full((n, channels), np.nan, np.float32) for _ in range(2))
    checksum, status = np.zeros(n, np.uint32), np.zeros(n, np.uint8)
    stamp = np.full(n, UNKNOWN, np.uint64)
    for row, entry in entries.items():
        status[row] = entry["status"]
        if entry["status"] == stored.PACKED:
            mean[row], sd[row], checksum[row] = entry["mean"], entry["sd"], entry["checksum"]
            stamp[row] = entry.get("stamp", UNKNOWN)
    assert (status != stored.PENDING).all()
    if not (status == stored.PACKED).any():
        raise InputError(f"{out}: none of the {n} sites can be read; the first: {entries[0]['message']}")
    hashed = stored.write_arrays(out, {"mean": mean, "sd": sd, "checksum": checksum, "status": status, "stamp": stamp})
    report = _report(entries, samples, info["channels"])
    listed = {
        "skipped": [{"sample_id": sample_id, "message": message} for sample_id, message in report.skipped],
        "flat": [{"sample_id": sample_id, "channel": channel} for sample_id, channel in report.flat],
    }
    os.sync()  # the chunks first, then the word that they are there
    write_json(out / stored.INFO, {**info, "complete": True, "arrays_digest": hashed, **listed, "made_by": provenance()})
    (out / stored.JOURNAL).unlink(missing_ok=True)


def _report(entries: dict[int, Entry], samples: pd.DataFrame, channels: list[str]) -> PackReport:
    packed = [entries[row] for row in sorted(entries) if entries[row]["status"] == stored.PACKED]
    skipped = [entries[row] for row in sorted(entries) if entries[row]["status"] == stored.SKIPPED]
    ids = samples.sample_id
    flat = [(ids[entry["row"]], name) for entry in packed for name, sd in zip(channels, entry["sd"], strict=True) if sd == 0]
    return PackReport(len(packed), tuple((ids[entry["row"]], entry["message"]) for entry in skipped), tuple(flat))


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the store for this process alone; the lock ends with the process, however that ends."""
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{out}: another process is packing into this store") from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _one_line_ifunwritable(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(out, error) from error
