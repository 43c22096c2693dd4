"""Write a store of shards (see `shard_files`) from a complete store with a file a site.

The store that is read stays as it is: packing, renewing and zarr go on there. Unless it is to be
moved: then the files of a shard's sites go once the shard is whole and flushed, and what is left of
the store at the end. How a kill at any moment is survived:

- A shard is written to a temporary name, flushed, and renamed to one that tells its bytes; then a
  checksummed line of the journal says that it is whole.
- A rerun keeps the shards that the journal names, or the complete store that is there, if they have
  their full size; it writes the others.
- When all are there, the tables and arrays are made in `.next` and take their places one by one,
  `store.json` last (as in `renewal`). Only then go shards that no row is in any more, so a complete
  store of shards can be read until the new one is whole.

Every site is checked while it is copied: a damaged one ends the writing, with one line.
"""

import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, provenance, refuse_unwritable, write_json
from cellsignal.common.stopping import Stop
from cellsignal.data import store_files as stored
from cellsignal.data.journal import JOURNAL, read_journal_lines
from cellsignal.data.pack_place import (
    check_place,
    create_folder,
    locked,
    refuse_other_store,
    resolved,
)
from cellsignal.data.pack_report import describe_left_out, read_left_out, write_left_out
from cellsignal.data.renewal import finish
from cellsignal.data.shard_files import COLUMNS, SHARDS, TABLE, read_shard_table
from cellsignal.data.shard_moving import (
    ShardReport,
    keep_sound,
    moved_lengths,
    refuse_unremovable,
    remove_source,
    report_moved,
)
from cellsignal.data.shard_plan import MOST_MB, ShardPlan, plan_shards
from cellsignal.data.shard_writing import (
    Finished,
    Source,
    has_size,
    is_ours,
    measure,
    open_source,
    reading,
    remove_sites,
    write_missing,
)
from cellsignal.data.store import Store
from cellsignal.data.store_description import SHARDED, is_sharded

log = logging.getLogger(__name__)
MB_BELOW = 1e6  # a shard has less than a terabyte
ADVICE = "shards that are whole are kept, run again to go on"


def write_shards(
    source: Path, out: Path, most_mb: float | None = None, move: bool = False
) -> ShardReport:
    """Write a store's sites into shards, go on with that, or bring them up to date.

    Args:
        source: a complete store with a file a site; it is only read, but for `move`.
        out: absent, empty, or a store of shards that was made from such a store.
        most_mb: megabytes (10**6 bytes) of a shard; None takes those of the shards that are there,
            or 512.
        move: delete each site's file once its shard is whole, and the store at the end.

    Raises:
        InputError: there is no complete store, or a damaged one, `out` is something else or holds
            shards of another kind of store, another process works there, or the disk is full.
        Interrupted: stopped by a signal or the time budget; whole shards are kept.
    """
    source, out = Path(source).absolute(), Path(out).absolute()
    if most_mb is not None and not 0 < most_mb < MB_BELOW:
        raise InputError(
            f"--shard-mb {most_mb:g}: give the megabytes of a shard, above 0 and below "
            f"{MB_BELOW:,.0f}"
        )
    if move and (report := report_moved(source, out)) is not None:
        return report
    with reading(source, alone=move):
        store = open_source(source)
        if move:
            refuse_unremovable(source)
        with refuse_unwritable(out, ADVICE):
            _check_place(out, store)
            create_folder(out)
            with locked(out), Stop() as stop:
                try:
                    report = _bring_up_to_date(store, out, most_mb, stop, move)
                finally:
                    stop.raise_if_signalled(str(out))
            if move:
                remove_source(source)
            return report


def _check_place(out: Path, store: Store) -> None:
    """Refuse a place that holds anything but a store of shards of the same kind, or nothing."""
    target, source = resolved(out), store.path.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise InputError(
            f"{out}: is, holds or lies in the store that is copied ({store.path}); name another "
            "folder for the shards"
        )
    check_place(out)
    if (out / stored.INFO).is_file():
        previous = stored.read_info(out)
        if not is_sharded(previous):
            raise InputError(
                f"{out}: is a store with a file a site; write the shards into another folder"
            )
        refuse_other_store(out, previous, store.info)


def _bring_up_to_date(
    store: Store, out: Path, most_mb: float | None, stop: Stop, move: bool
) -> ShardReport:
    finish(out)
    shutil.rmtree(out / stored.NEXT, ignore_errors=True)
    previous = stored.read_info(out) if (out / stored.INFO).is_file() else None
    if most_mb is None:
        most_mb = previous["shards"]["most_mb"] if previous else MOST_MB
    source = measure(store, moved_lengths(out, store))
    plans = plan_shards(store.samples, source.lengths, store.checksum, int(1e6 * most_mb))
    info = _describe(source, most_mb)
    if previous is None:
        write_json(out / stored.INFO, info)
    finished = keep_sound(source, out, plans, _finished(out, previous), move)
    missing = [plan for plan in plans if plan.key not in finished]
    report = ShardReport(len(store.samples), len(plans), sum(p.size for p in plans), len(missing))
    if previous is not None and previous["complete"]:
        if not missing and _is_current(out, source, plans, finished, info, previous):
            _remove_others(out, {plan.key: finished[plan.key] for plan in plans})
            return report
        numbers = f"{len(missing)} of {len(plans)} shards are to be written"
        log.warning("%s: is brought up to date, %s", out, numbers)
    if move:
        for plan in plans:
            if plan.key in finished:
                remove_sites(source, plan)
    sizes = [plan.size for plan in missing]
    _refuse_full_disk(out, max(sizes, default=0) if move else sum(sizes))
    write_missing(source, out, missing, finished, stop, move)
    _complete(source, out, plans, finished, info)
    _remove_others(out, {plan.key: finished[plan.key] for plan in plans})
    return report


def _describe(source: Source, most_mb: float) -> dict[str, Any]:
    """Return the description of a store of shards that is not complete."""
    info = {k: v for k, v in source.store.info.items() if k not in ("skipped", "made_by")}
    about = {"most_mb": most_mb, "made_from": str(source.store.path)}
    return {**info, "format": SHARDED, "complete": False, "shards": about}


# finished shards
# --------------------------------------------------------------------------------------------------


def _finished(out: Path, previous: dict[str, Any] | None) -> dict[str, Finished]:
    """Return the shards that are whole, by their keys."""
    entries = read_journal_lines(out)[0]
    if previous is not None and previous["complete"]:
        with contextlib.suppress(InputError):  # damaged tables: all shards are written anew
            entries = _of_complete(out, previous) + entries
    return {entry["key"]: entry for entry in entries if has_size(out, entry)}


def _of_complete(out: Path, info: dict[str, Any]) -> list[Finished]:
    """Return the shards of a complete store, as the journal had them."""
    table = read_shard_table(out, info).astype(object)
    return [
        {name: value if isinstance(value, str) else int(value) for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def _refuse_full_disk(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if needed > free:
        raise InputError(
            f"{out}: the shards still to be written take {needed / 1e9:.3g} GB, "
            f"{free / 1e9:.3g} GB are free; {ADVICE}"
        )


# the new store
# --------------------------------------------------------------------------------------------------


def _target(
    source: Source, plans: list[ShardPlan], finished: dict[str, Finished], info: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
    """Return description, arrays and table of the store of shards that is complete."""
    n = len(source.lengths)
    places = {
        "shard": np.zeros(n, np.uint32),
        "offset": np.zeros(n, np.uint64),
        "length": source.lengths.astype(np.uint32),
    }
    for number, plan in enumerate(plans):
        places["shard"][plan.rows] = number
        places["offset"][plan.rows] = plan.offsets
    arrays = source.arrays | places
    rows = [[finished[plan.key][name] for name in COLUMNS] for plan in plans]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False, lineterminator="\n")
    store = source.store
    about = {"number": len(plans), "table_sha256": digest(table)}
    complete = {
        **info,
        **describe_left_out(read_left_out(store.path, store.info)),
        "complete": True,
        "arrays_digest": stored.hash_arrays(arrays),
        "shards": info["shards"] | about,
    }
    return complete, arrays, table


def _is_current(
    out: Path,
    source: Source,
    plans: list[ShardPlan],
    finished: dict[str, Finished],
    info: dict[str, Any],
    previous: dict[str, Any],
) -> bool:
    """Return whether the complete store that is there says what it would say now, and is whole."""
    target = _target(source, plans, finished, info)[0]
    if target != {name: value for name, value in previous.items() if name != "made_by"}:
        return False
    try:
        stored.read_arrays(out, previous)
        stored.read_samples_text(out, previous)
        read_left_out(out, previous)
    except InputError as error:
        log.warning("%s", str(error).rpartition(";")[0])  # what to do is being done
        return False
    return True


def _complete(
    source: Source,
    out: Path,
    plans: list[ShardPlan],
    finished: dict[str, Finished],
    info: dict[str, Any],
) -> None:
    """Write arrays and tables, and declare the store complete."""
    store, following = source.store, out / stored.NEXT
    target, arrays, table = _target(source, plans, finished, info)
    following.mkdir()
    zarr.open_group(following, mode="w", zarr_format=3)
    stored.write_arrays(following, arrays)
    stored.write_gzip(
        following / stored.SAMPLES, stored.read_samples_text(store.path, store.info)[0]
    )
    write_left_out(following, read_left_out(store.path, store.info))
    stored.write_gzip(following / TABLE, table)
    if (store.path / stored.CALIBRATION).is_dir():
        calibration = out / stored.CALIBRATION
        shutil.copytree(store.path / stored.CALIBRATION, calibration, dirs_exist_ok=True)
    os.sync()  # the shards first, then the word that they are there
    write_json(following / stored.INFO, {**target, "made_by": provenance()})
    finish(out)


def _remove_others(out: Path, kept: dict[str, Finished]) -> None:
    """Remove shards in which no row is any more, and what is left of the writing."""
    names = {entry["file"] for entry in kept.values()}
    for path in (out / SHARDS).iterdir():
        if path.name not in names and is_ours(path.name) and not path.is_dir():
            path.unlink()
    if (out / JOURNAL).exists():  # a store that is current may lie where nothing can be written
        (out / JOURNAL).unlink()
