"""Filling a store that is begun: pack the rows that are missing, note each in the journal, and
complete it.

See `pack` for how it survives a kill at any moment.
"""

import contextlib
import functools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path, provenance, write_json
from cellsignal.common.stopping import Pace, Stop
from cellsignal.data import journal as journals
from cellsignal.data import store as stored
from cellsignal.data.codec import Layout
from cellsignal.data.journal import read_journal
from cellsignal.data.sites import Entry, Packing, Read, Stamp, in_processes, pack_site
from cellsignal.data.stamps import UNKNOWN


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


def read_entries(out: Path, info: dict[str, Any]) -> dict[int, Entry]:
    """The finished rows of a store, complete or not."""
    return _arrays_as_entries(out, info) if info["complete"] else read_journal(out)[0]


def finish_rows(out: Path, making: Making, entries: dict[int, Entry], stop: Stop) -> PackReport:
    """Pack the rows that are not in `entries`, then complete the store."""
    info, samples = making.info, making.samples
    previous, journal = stored.read_info(out), out / journals.JOURNAL
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
    tasks = [
        (row, samples.files[row], samples.plate[row])
        for row in range(len(samples))
        if row not in entries
    ]
    results = in_processes(functools.partial(pack_site, job), tasks, making.workers, "packing")
    with contextlib.closing(results):
        good_ones = _until_stopped(
            _good_or_raise(results, making.bad_site),
            stop,
            out,
            len(tasks),
            len(samples),
            making.workers,
        )
        if not previous["complete"]:
            good = read_journal(out)[1]
            with open(journal, "ab") as lines:
                lines.truncate(good)
                for entry in good_ones:
                    lines.write(journals.journal_line(entry))
                    lines.flush()
                    entries[entry["row"]] = entry
        # its few bad sites, tried again: the store stays complete until there is something to
        # change
        else:
            entries |= {entry["row"]: entry for entry in good_ones}
            report = _report(entries, samples, info["channels"])
            if {sample_id for sample_id, _ in report.skipped} == known and all(
                samples.sample_id[row] in known for row, *_ in tasks
            ):
                # asked first: a complete store may lie where nothing can be written
                if journal.exists():
                    journal.unlink()
                return report
            with atomic_path(journal) as temporary:
                temporary.write_bytes(b"".join(map(journals.journal_line, entries.values())))
            write_json(out / stored.INFO, info)
    _complete(out, info, entries, samples)
    return _report(entries, samples, info["channels"])


def _good_or_raise(
    results: Iterator[tuple[Entry | None, InputError | None]], bad_site: str
) -> Iterator[Entry]:
    for entry, error in results:
        if entry is None or (error is not None and bad_site == "refuse"):
            raise error
        yield entry


def _until_stopped(
    entries: Iterator[Entry], stop: Stop, out: Path, todo: int, n: int, workers: int
) -> Iterator[Entry]:
    """The entries of `todo` of `n` sites; asked for the next one, when the last is written, it may
    raise `Interrupted` instead.
    """
    # sites that the processes take at a time, all together
    at_once = max(1, min(16 * workers, todo // 4))
    took, begun = Pace(), time.perf_counter()
    for number, entry in enumerate(entries, 1):
        yield entry
        if number % at_once == 0:
            now = time.perf_counter()
            took.add(now - begun)
            begun = now
        # stopping waits for what the processes have begun, and for what they have been handed
        # besides
        if number < todo:
            seconds = took.high and took.high * (3 if workers else 1)
            stop.check(str(out), f"{n - todo + number} of {n} sites", "the next sites", seconds)


def is_whole(out: Path, entry: Entry) -> bool:
    try:
        size = os.stat(stored.chunk_path(out, entry["row"])).st_size
    except FileNotFoundError:
        return False
    return size == entry["bytes"] if entry["bytes"] else size > 0


def _arrays_as_entries(out: Path, info: dict) -> dict[int, Entry]:
    """A complete store's packed rows as journal entries. Their chunks' sizes are no longer known:
    any will do.
    """
    arrays = stored.read_arrays(out, info)
    stamps = arrays.get("stamp", np.full(info["n"], UNKNOWN))
    entries = {}
    for row in np.flatnonzero(arrays["status"] == stored.PACKED).tolist():
        values = {
            "checksum": int(arrays["checksum"][row]),
            "mean": arrays["mean"][row].tolist(),
            "sd": arrays["sd"][row].tolist(),
        }
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
        raise InputError(
            f"{out}: none of the {n} sites can be read; the first: {entries[0]['message']}"
        )
    hashed = stored.write_arrays(
        out, {"mean": mean, "sd": sd, "checksum": checksum, "status": status, "stamp": stamp}
    )
    report = _report(entries, samples, info["channels"])
    listed = {
        "skipped": [
            {"sample_id": sample_id, "message": message} for sample_id, message in report.skipped
        ],
        "flat": [
            {"sample_id": sample_id, "channel": channel} for sample_id, channel in report.flat
        ],
    }
    os.sync()  # the chunks first, then the word that they are there
    write_json(
        out / stored.INFO,
        {**info, "complete": True, "arrays_digest": hashed, **listed, "made_by": provenance()},
    )
    (out / journals.JOURNAL).unlink(missing_ok=True)


def _report(entries: dict[int, Entry], samples: pd.DataFrame, channels: list[str]) -> PackReport:
    packed = [entries[row] for row in sorted(entries) if entries[row]["status"] == stored.PACKED]
    skipped = [entries[row] for row in sorted(entries) if entries[row]["status"] == stored.SKIPPED]
    ids = samples.sample_id
    flat = [
        (ids[entry["row"]], name)
        for entry in packed
        for name, sd in zip(channels, entry["sd"], strict=True)
        if sd == 0
    ]
    return PackReport(
        len(packed), tuple((ids[entry["row"]], entry["message"]) for entry in skipped), tuple(flat)
    )
