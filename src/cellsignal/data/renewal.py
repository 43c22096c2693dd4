"""Find what has changed since a store was packed, and replace the store.

A packed row carries a *stamp*, one number for the state of all that decides its pixels: the source
files' sizes and times of change, the calibration of the image's plate, and the version of the code.
A rerun over a complete store asks the file system for these alone and reads no image.

A complete store is never changed row by row. The new one is made in its folder `.next`, as any
store is made, and takes over every site that is still as its source says: the same file on the disk
under a second name, where the file system has such links. When it is complete it takes the old
one's place, piece by piece, `store.json` last; a kill between is finished by the next call. So the
old store can be read until the new one is whole.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import changed_inputs, write_json
from cellsignal.competitions.base import Competition
from cellsignal.competitions.sample_files import path_of
from cellsignal.data import store_files as stored
from cellsignal.data.journal import JOURNAL, Entry, journal_line
from cellsignal.data.shard_files import TABLE
from cellsignal.data.store_description import is_sharded

PACKING = 1  # raise it when a site's files become other pixels by `sites`: resizing, for example
UNKNOWN = 0  # a source file is not there, or the store is older than stamps
# what a new store's folder holds, in the order in which it takes the old one's place
ARRAY_PIECES = ("zarr.json", stored.IMAGES, *stored.ARRAYS, "stamp")
PIECES = (*ARRAY_PIECES, stored.SAMPLES, stored.LEFT_OUT, stored.INFO)
SHARD_PIECES = (*ARRAY_PIECES, *stored.SHARD_ARRAYS, TABLE, *PIECES[len(ARRAY_PIECES) :])
Stamp = Callable[[tuple[str, ...], str], int]  # of a sample's files and plate
log = logging.getLogger(__name__)


# stamps
# --------------------------------------------------------------------------------------------------


def stamp_source(competition: Competition, root: Path, files: tuple[str, ...], plate: str) -> int:
    """Return the stamp of one sample's source; UNKNOWN if a file is missing.

    Args:
        competition: As `Competition.calibrate` has given it back, where it calibrates.
        files: Of the samples table.
        plate: Of the samples table.
    """
    states, folder = [], competition.images_folder(root)
    for name in competition.image_files(files):
        try:
            state = os.stat(folder / path_of(name))
        except OSError:
            return UNKNOWN
        states.append((state.st_size, state.st_mtime_ns))
    calibration = competition.calibration.hashes.get(plate) if competition.calibration else None
    return make_stamp([competition.id, competition.reading, calibration, states])


def make_stamp(value: object = None) -> int:
    """Return the stamp of a JSON-able value: from 1 to 2**64 - 1."""
    text = json.dumps([PACKING, value]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") or 1


def stamp_nothing(files: tuple[str, ...], plate: str) -> int:
    """Return the stamp of samples without a watched source: of the code's version only."""
    return make_stamp()


def stamp_rows(stamp: Stamp, files: Sequence[tuple[str, ...]], plates: Sequence[str]) -> np.ndarray:
    """Return the stamps of many samples, (N,) uint64; several at a time, for slow disks."""
    with ThreadPoolExecutor(8) as pool:
        return np.fromiter(pool.map(stamp, files, plates), np.uint64, len(files))


# what has changed
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Which packed rows of a store are kept, and which sites are packed again.

    Attributes:
        kept: row of the new table -> entry of the row that holds its image; the entry's `row` is
            that of the old one.
        reasons: what has changed, in words; empty where nothing has.
    """

    kept: dict[int, Entry]
    reasons: tuple[str, ...]

    def text(self, n: int) -> str:
        """The reasons and the number of sites to pack, of `n`."""
        todo = n - len(self.kept)
        reasons = "; ".join(self.reasons)
        return f"is brought up to date: {reasons}. {todo} of {n} sites are to be packed"


def compare(
    out: Path,
    previous: dict[str, Any],
    entries: dict[int, Entry],
    info: dict[str, Any],
    samples: pd.DataFrame,
    stamp: Stamp,
) -> Plan:
    """Compare a store's packed rows with the current table and sources.

    Args:
        previous: what its `store.json` says.
        entries: its packed rows whose files are whole.
        info: what `store.json` will say.
        samples: the table of now.
        stamp: of a sample's source now.

    Raises:
        InputError: packed sites would be lost, because the table has them no more or their files
            are gone.
    """
    reasons, carried = [], dict(entries)
    if previous["samples_sha256"] != info["samples_sha256"]:
        old = stored.read_samples(out, previous)
        carried = _carry(out, old, entries, samples, previous["complete"])
        reasons.append(_table_change(old, samples))
    elif previous["source"].get("classes") != info["source"].get("classes"):
        reasons.append("other classes")
    before = previous.get("made_from")
    changed = changed_inputs(before, info["made_from"]) if before else []
    kept, stale = _keep_current(out, previous, carried, info, samples, stamp)
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        reasons.append(f"changed: {', '.join(changed[:5])}{more}")
    elif stale:
        why = "image files have changed" if before else "an earlier version made it"
        reasons.append(f"{why}, first of {samples.sample_id[stale[0]]}")
    elif before is None and previous["complete"]:
        reasons.append(
            "an earlier version made it, which did not note its image files: they are taken to be "
            "the same"
        )
    return Plan(kept, tuple(reasons))


def _keep_current(
    out: Path,
    previous: dict[str, Any],
    carried: dict[int, Entry],
    info: dict[str, Any],
    samples: pd.DataFrame,
    stamp: Stamp,
) -> tuple[dict[int, Entry], list[int]]:
    """Split packed rows into those whose source is unchanged, and the changed ones."""
    rows = sorted(carried)
    stamps = stamp_rows(stamp, samples.files[rows], samples.plate[rows]).tolist()
    unstamped = "made_from" not in previous and not info["made_from"].get("calibration")
    kept, gone, lost, stale = {}, [], [], []
    for row, now in zip(rows, stamps, strict=True):
        entry = carried[row]
        recorded = entry.get("stamp", UNKNOWN)
        if now == UNKNOWN and previous["complete"]:
            gone.append(row)
            if _same_making(previous.get("made_from"), info["made_from"], samples.plate[row]):
                kept[row] = entry
            else:
                lost.append(row)
        elif recorded == now != UNKNOWN:
            kept[row] = entry
        elif recorded == UNKNOWN and unstamped:
            kept[row] = {**entry, "stamp": now}
        else:
            stale.append(row)
    if lost:
        raise InputError(
            f"{out}: {len(lost)} packed sites are out of date and their image files are gone, "
            f"first {samples.sample_id[lost[0]]}: bring the files back, pack into another folder "
            "or delete it"
        )
    if gone:
        log.warning(
            "%s: files of %d packed sites are gone, first %s; kept as they were packed",
            out,
            len(gone),
            samples.sample_id[gone[0]],
        )
    return kept, stale


def _same_making(before: dict[str, Any] | None, after: dict[str, Any], plate: str) -> bool:
    """Return whether an image whose files are missing would be packed today in the same way."""
    before = before or {"packing": PACKING, "reading": after.get("reading")}
    old, new = ((making.get("calibration") or {}).get(plate) for making in (before, after))
    same_code = all(before.get(name) == after.get(name) for name in ("packing", "reading"))
    return same_code and new in (None, old)


def _carry(
    out: Path, old: pd.DataFrame, entries: dict[int, Entry], samples: pd.DataFrame, complete: bool
) -> dict[int, Entry]:
    """Give the packed rows of an old table the row of the same sample and files in the new one."""
    new_rows = {sample_id: row for row, sample_id in enumerate(samples.sample_id)}
    lost = [old.sample_id[row] for row in entries if old.sample_id[row] not in new_rows]
    if lost and complete:
        raise InputError(
            f"{out}: this store holds {len(lost)} samples that the data no longer have, first "
            f"{lost[0]}; bring them back, pack into another folder or delete it"
        )
    carried = {}
    for row, entry in entries.items():
        new = new_rows.get(old.sample_id[row])
        if new is not None and all(
            old[name][row] == samples[name][new] for name in ("files", "plate")
        ):
            carried[new] = entry
    return carried


def _table_change(old: pd.DataFrame, new: pd.DataFrame) -> str:
    if len(old) != len(new):
        return f"another number of samples: {len(old)}, now {len(new)}"
    column = next(name for name in new if not old[name].equals(new[name]))
    row = next(
        row
        for row in range(len(new))
        if not old[column].iloc[[row]].equals(new[column].iloc[[row]])
    )
    before, after = (
        None if table[column].isna()[row] else table[column].astype(object)[row]
        for table in (old, new)
    )
    return f"another samples table: {column} of {new.sample_id[row]} was {before!r}, now {after!r}"


# the new store
# --------------------------------------------------------------------------------------------------


def can_resume(following: Path, info: dict[str, Any]) -> bool:
    """Return whether the folder of an interrupted renewal holds rows of the same store."""
    if not (following / JOURNAL).is_file():
        return False
    try:
        begun = stored.read_info(following)
    except InputError:
        return False
    return not begun["complete"] and not changed_inputs(begun, info)


def take_over(out: Path, following: Path, kept: dict[int, Entry]) -> None:
    """Put kept rows' images and entries into the store that is being made."""
    lines = []
    for row, entry in kept.items():
        source, target = stored.chunk_path(out, entry["row"]), stored.chunk_path(following, row)
        try:
            os.link(source, target)
        except OSError:  # a file system without such links
            shutil.copyfile(source, target)
        size = os.stat(target).st_size
        lines.append(journal_line({**entry, "row": row, "bytes": size}))
    (following / JOURNAL).write_bytes(b"".join(lines))


def finish(out: Path) -> None:
    """Let a complete new store, if there is one, take the old one's place, or finish doing so."""
    following = out / stored.NEXT
    try:
        new = stored.read_info(following)
    except InputError:
        return
    if not new["complete"]:
        return
    pieces = SHARD_PIECES if is_sharded(new) else PIECES
    old = stored.read_info(out)
    if old["complete"]:
        write_json(out / stored.INFO, {**old, "complete": False})
    (out / JOURNAL).unlink(missing_ok=True)
    for name in (stored.OLD_SAMPLES, *pieces):
        if not (following / name).exists():
            continue  # moved before a kill, or of another format
        if name == stored.SAMPLES:
            (out / stored.OLD_SAMPLES).unlink(missing_ok=True)
        if name == stored.LEFT_OUT:
            (out / stored.OLD_LEFT_OUT).unlink(missing_ok=True)
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        elif (following / name).is_dir():
            (out / name).unlink(missing_ok=True)
        os.replace(following / name, out / name)
    shutil.rmtree(following, ignore_errors=True)
