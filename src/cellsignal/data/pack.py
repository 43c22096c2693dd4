"""Packing: from image files to a store, each image read once, by several processes, from wherever a kill left it.

How a kill at any moment is survived:
- The empty store appears under its name by one rename.
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
from cellsignal.data import store as stored
from cellsignal.data.codec import Layout, layout_of
from cellsignal.data.sites import Entry, Packing, Read, in_processes, pack_site, read_site, unwritable
from cellsignal.errors import ImageError, InputError
from cellsignal.files import atomic_path, digest, provenance, write_json, write_text
from cellsignal.stopping import Pace, Stop

ELSEWHERE = "pack into another folder or delete it"


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
    size: int | None = None,
    bad_site: Literal["skip", "refuse"] = "skip",
    workers: int = 0,
    codec: Literal["auto", "zstd", "raw"] = "auto",
) -> PackReport:
    """Pack every sample of a competition's data under `root` into a store at `out`. See `pack`."""
    root = Path(root).absolute()
    competition.calibrate(root, workers)
    shape = competition.root_shape(root)
    return pack(
        competition.samples(root),
        functools.partial(competition.read, root, shape=shape),
        out,
        channels=competition.channels,
        size=size,
        bad_site=bad_site,
        workers=workers,
        source={"competition": competition.id, "root": str(root), "classes": list(competition.classes(root))},
        shape=shape,
        codec=codec,
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
) -> PackReport:
    """Pack samples into a store, or go on with a store that an earlier call left unfinished.

    Sites skipped earlier are tried again, so mending their files and calling again completes a store.

    Args:
        samples: a samples table.
        read: from a sample's files to (C, H, W) uint8; must pickle where workers > 0.
        out: the store's folder: absent, empty, or a store of the same samples, source, channels, size and codec.
        channels: the channels' names.
        size: resize to size x size pixels (area average when shrinking, bilinear when enlarging); None keeps the size.
        bad_site: a site that cannot be read is left out and listed ("skip"), or ends the packing ("refuse"); what is
            packed by then is kept.
        workers: processes; 0 packs in this one.
        source: what the samples come from; must equal the store's when going on.
        shape: (height, width) of the images; None takes those of the first readable one.
        codec: how the pixels are stored (see `codec`); "auto" is raw up to 256 x 256 pixels, zstd above.

    Raises:
        ImageError: a bad site, with bad_site="refuse".
        InputError: `out` is something else, the disk is full, no site is readable, or another process packs into `out`.
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
        "complete": False,
    }
    with _one_line_ifunwritable(out):
        _create_or_match(out, info, layout, text, samples)
        with _locked(out), Stop() as stop:
            try:
                return _finish_rows(out, info, samples, read, bad_site, workers, stop)
            finally:
                stop.finish(str(out))  # also where the worker processes died of the signal


def _finish_rows(out: Path, info: dict, samples: pd.DataFrame, read: Read, bad_site: str, workers: int, stop: Stop) -> PackReport:
    """Pack the rows that are not packed yet, then complete the store."""
    previous, journal = stored.read_info(out), out / stored.JOURNAL
    entries, good = (_arrays_as_entries(out, previous), 0) if previous["complete"] else stored.read_journal(out)
    entries = {row: entry for row, entry in entries.items() if entry["status"] == stored.PACKED and _is_whole(out, entry)}
    known = {item["sample_id"] for item in previous.get("skipped", ())}
    for litter in (out / stored.IMAGES).glob(".c.*.tmp"):
        litter.unlink()

    job = Packing(str(out), read, len(info["channels"]), tuple(info["shape"]), info["codec"], info["size"] is not None)
    tasks = [(row, samples.files[row]) for row in range(len(samples)) if row not in entries]
    results = in_processes(functools.partial(pack_site, job), tasks, workers, "packing")
    with contextlib.closing(results):
        good_ones = _until_stopped(_good_or_raise(results, bad_site), stop, out, len(tasks), len(samples), workers)
        if not previous["complete"]:
            with open(journal, "ab") as lines:
                lines.truncate(good)
                for entry in good_ones:
                    lines.write(stored.journal_line(entry))
                    lines.flush()
                    entries[entry["row"]] = entry
        else:  # its few bad sites, tried again: the store stays complete until there is something to change
            entries |= {entry["row"]: entry for entry in good_ones}
            report = _report(entries, samples, info["channels"])
            if {sample_id for sample_id, _ in report.skipped} == known and all(samples.sample_id[row] in known for row, _ in tasks):
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


def _create_or_match(out: Path, info: dict, layout: Layout, text: str, samples: pd.DataFrame) -> None:
    """Make the empty store, or make sure that the one there is of the same making."""
    if out.is_dir() and (out / stored.INFO).exists():
        _match(out, stored.read_info(out), info, samples)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is neither empty nor a store; {ELSEWHERE}")
    building = out.with_name(f".{out.name}.new")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        stored.create_arrays(building, info["n"], layout)
        write_text(building / stored.SAMPLES, text)
        write_json(building / stored.INFO, info)
        os.replace(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _match(out: Path, there: dict, info: dict, samples: pd.DataFrame) -> None:
    """Refuse to mix: name the first thing in which the store and the call differ."""
    pairs = [(key, there["source"].get(key), value) for key, value in info["source"].items()]
    pairs += [(key, there[key], info[key]) for key in ("channels", "size", "shape", "codec")]
    pairs += [("number of samples", there["n"], info["n"])]
    for name, old, new in pairs:
        if old != new:
            raise InputError(f"{out}: this store was made with another {name}: {old}, now {new}; {ELSEWHERE}")
    if there["samples_sha256"] != info["samples_sha256"]:
        old = stored.read_samples(out, there)
        column = next(name for name in samples if not old[name].equals(samples[name]))
        row = next(row for row in range(len(samples)) if not old[column].iloc[[row]].equals(samples[column].iloc[[row]]))
        changed = f"in row {row + 2} {column} was {old[column][row]!r}, now {samples[column][row]!r}"
        raise InputError(f"{out}: this store was made from another samples table: {changed}; {ELSEWHERE}")


def _is_whole(out: Path, entry: Entry) -> bool:
    try:
        size = os.stat(stored.chunk_path(out, entry["row"])).st_size
    except FileNotFoundError:
        return False
    return size == entry["bytes"] if entry["bytes"] else size > 0


def _arrays_as_entries(out: Path, info: dict) -> dict[int, Entry]:
    """A complete store's packed rows as journal entries. Their chunks' sizes are no longer known: any will do."""
    arrays = stored.read_arrays(out, info)
    entries = {}
    for row in np.flatnonzero(arrays["status"] == stored.PACKED).tolist():
        values = {"checksum": int(arrays["checksum"][row]), "mean": arrays["mean"][row].tolist(), "sd": arrays["sd"][row].tolist()}
        entries[row] = {"row": row, "status": stored.PACKED, "bytes": 0, **values}
    return entries


def _complete(out: Path, info: dict, entries: dict[int, Entry], samples: pd.DataFrame) -> None:
    """Fold the journal into the arrays and declare the store complete."""
    n, channels = info["n"], len(info["channels"])
    mean, sd = (np.full((n, channels), np.nan, np.float32) for _ in range(2))
    checksum, status = np.zeros(n, np.uint32), np.zeros(n, np.uint8)
    for row, entry in entries.items():
        status[row] = entry["status"]
        if entry["status"] == stored.PACKED:
            mean[row], sd[row], checksum[row] = entry["mean"], entry["sd"], entry["checksum"]
    assert (status != stored.PENDING).all()
    if not (status == stored.PACKED).any():
        raise InputError(f"{out}: none of the {n} sites can be read; the first: {entries[0]['message']}")
    hashed = stored.write_arrays(out, {"mean": mean, "sd": sd, "checksum": checksum, "status": status})
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
