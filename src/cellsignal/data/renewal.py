"""Renewing a store: what has changed since it was packed, and how the new one takes its place.

A complete store is never changed row by row. The new one is made in its folder `.next`, as any
store is made, and takes over every site that is still as its source says: the same file on the disk
under a second name, where the file system has such links. When it is complete it takes the old
one's place, piece by piece, `store.json` last; a kill between is finished by the next call. So the
old store can be read until the new one is whole.
"""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import changed_inputs, write_json
from cellsignal.data import store as stored
from cellsignal.data.journal import JOURNAL, journal_line
from cellsignal.data.sites import Entry, Stamp
from cellsignal.data.stamps import PACKING, UNKNOWN, stamp_rows

log = logging.getLogger(__name__)
# in this order
PIECES = ("zarr.json", stored.IMAGES, *stored.ARRAYS, "stamp", stored.SAMPLES, stored.INFO)


@dataclass(frozen=True)
class Plan:
    """What becomes of a store's packed rows.

    Attributes:
        kept: row of the new table -> entry of the row that holds its image; the entry's `row` is
        that of the old one. reasons: what has changed, in words; empty where nothing has.
    """

    kept: dict[int, Entry]
    reasons: tuple[str, ...]

    def text(self, n: int) -> str:
        """The reasons and the number of sites to pack, of `n`."""
        return f"is brought up to date: {'; '.join(self.reasons)}. {n - len(self.kept)} of {n} sites are to be packed"


def compare(
    out: Path,
    previous: dict[str, Any],
    entries: dict[int, Entry],
    info: dict[str, Any],
    samples: pd.DataFrame,
    stamp: Stamp,
) -> Plan:
    """Hold a store's packed rows to the table and the sources of now.

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
    before, after = previous.get("made_from"), info["made_from"]
    changed = changed_inputs(before, after) if before else []
    kept, stale = _keep_current(out, previous, carried, info, samples, stamp)
    if changed:
        reasons.append(f"changed: {_shown(changed)}")
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
    """Part packed rows into those that are still as their source says, and the others. See
    `compare`.
    """
    rows = sorted(carried)
    stamps = stamp_rows(stamp, samples.files[rows], samples.plate[rows]).tolist()
    kept, gone, stale = {}, [], []
    for row, now in zip(rows, stamps, strict=True):
        entry = carried[row]
        recorded = entry.get("stamp", UNKNOWN)
        if now == UNKNOWN and previous["complete"]:
            gone.append(row)
            if _same_making(previous.get("made_from"), info["made_from"], samples.plate[row]):
                kept[row] = entry
        elif recorded == now != UNKNOWN:
            kept[row] = entry
        elif (
            recorded == UNKNOWN
            and "made_from" not in previous
            and not info["made_from"].get("calibration")
        ):
            kept[row] = {**entry, "stamp": now}
        else:
            stale.append(row)
    lost = [row for row in gone if row not in kept]
    if lost:
        raise InputError(
            f"{out}: {len(lost)} packed sites are out of date and their image files are gone, "
            "first "
            f"{samples.sample_id[lost[0]]}: bring the files back, pack into another folder or "
            "delete it"
        )
    if gone:
        first = samples.sample_id[gone[0]]
        log.warning(
            "%s: files of %d packed sites are gone, first %s; kept as they were packed",
            out,
            len(gone),
            first,
        )
    return kept, stale


def _same_making(before: dict[str, Any] | None, after: dict[str, Any], plate: str) -> bool:
    """Whether an image without its files would be made today as it was made."""
    before = before or {"packing": PACKING, "reading": after.get("reading")}
    measured = [(making.get("calibration") or {}).get(plate) for making in (before, after)]
    same_code = all(before.get(name) == after.get(name) for name in ("packing", "reading"))
    return same_code and measured[1] in (None, measured[0])


def _carry(
    out: Path, old: pd.DataFrame, entries: dict[int, Entry], samples: pd.DataFrame, complete: bool
) -> dict[int, Entry]:
    """The packed rows of an old table by the row that has the same sample and files in the new one."""
    places = {sample_id: row for row, sample_id in enumerate(samples.sample_id)}
    lost = [old.sample_id[row] for row in entries if old.sample_id[row] not in places]
    if lost and complete:
        raise InputError(
            f"{out}: this store holds {len(lost)} samples that the data no longer have, first "
            f"{lost[0]}; "
            "bring them back, pack into another folder or delete it"
        )
    carried = {}
    for row, entry in entries.items():
        place = places.get(old.sample_id[row])
        if (
            place is not None
            and old.files[row] == samples.files[place]
            and old.plate[row] == samples.plate[place]
        ):
            carried[place] = entry
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


def _shown(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def can_go_on(following: Path, info: dict[str, Any]) -> bool:
    """Whether the folder of an interrupted renewal holds rows of the same store to be."""
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
        lines.append(journal_line({**entry, "row": row, "bytes": os.stat(target).st_size}))
    with open(following / JOURNAL, "wb") as journal:
        journal.write(b"".join(lines))


def finish(out: Path) -> None:
    """Let a complete new store take the old one's place, or finish doing so; nothing where there is
    none.
    """
    following = out / stored.NEXT
    try:
        if not stored.read_info(following)["complete"]:
            return
    except InputError:
        return
    old = stored.read_info(out)
    if old["complete"]:
        write_json(out / stored.INFO, {**old, "complete": False})
    (out / JOURNAL).unlink(missing_ok=True)
    for name in PIECES:
        if not (following / name).exists():
            continue  # moved before a kill
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        os.replace(following / name, out / name)
    shutil.rmtree(following, ignore_errors=True)
