"""Move a store into shards, for a disk that cannot hold both (see `sharding`).

When the last shard is whole the old store is renamed, then removed: a kill leaves a store of which
some sites are in shards, or nothing that looks like a store.
"""

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256
from cellsignal.data import store_files as stored
from cellsignal.data.journal import read_journal_lines
from cellsignal.data.shard_files import SHARDS, read_shard_table
from cellsignal.data.shard_plan import ShardPlan
from cellsignal.data.shard_writing import Finished, Source, has_size
from cellsignal.data.store import Store
from cellsignal.data.store_description import is_sharded


@dataclass(frozen=True)
class ShardReport:
    """What a store of shards holds, and how many of its shards were written now."""

    sites: int
    shards: int
    bytes: int
    written: int


def moved_lengths(out: Path, store: Store) -> np.ndarray:
    """Return the bytes of the sites of `store` that shards hold, (N,) int64 by row; 0 elsewhere."""
    lengths = np.zeros(store.info["n"], np.int64)
    if (out / stored.INFO).is_file() and stored.read_info(out)["complete"]:
        with contextlib.suppress(InputError):
            lengths += _of_complete(out, store)
    for entry in read_journal_lines(out)[0]:
        if "rows" in entry and has_size(out, entry):
            lengths[entry["rows"]] = entry["lengths"]
    return lengths


def _of_complete(out: Path, store: Store) -> np.ndarray:
    info = stored.read_info(out)
    if info["samples_sha256"] != store.info["samples_sha256"]:
        return np.zeros(store.info["n"], np.int64)
    arrays = stored.read_arrays(out, info)
    return np.where(arrays["checksum"] == store.checksum, arrays["length"], 0).astype(np.int64)


def keep_sound(
    source: Source, out: Path, plans: list[ShardPlan], finished: dict[str, Finished], move: bool
) -> dict[str, Finished]:
    """Return the finished shards; to `move`, those that are sound, before their sites are removed.

    Shards whose sites are gone were looked at before that.

    Raises:
        InputError: sites are gone whose shard is not among the finished ones.
    """
    sound = dict(finished)
    for plan in plans:
        gone, entry = source.gone[plan.rows], finished.get(plan.key)
        if entry is None and gone.any():
            row = plan.rows[gone][0]
            raise InputError(
                f"{out}: {gone.sum()} sites, first row {row}, were moved into other shards than "
                "those to be written, or their shard is gone; go on with the --shard-mb that the "
                "moving began with, or run `cellsignal prepare` to pack them anew"
            )
        if not move or entry is None or gone.all():
            continue
        file = out / SHARDS / entry["file"]
        is_sound = sha256(file) == entry["sha256"]
        if not is_sound and gone.any():
            raise InputError(
                f"{file}: is damaged; delete it and run `cellsignal prepare` to pack its sites anew"
            )
        if not is_sound:
            del sound[plan.key]
    return sound


def refuse_unremovable(source: Path) -> None:
    """Refuse to move a store of which no file may be deleted."""
    target = source.resolve()
    for folder in (target / stored.IMAGES, target, target.parent):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(
                f"{folder}: nothing can be deleted there (no right to write); leave out --move"
            )


def remove_source(source: Path) -> None:
    """Remove a store whose sites are all in shards."""
    target = source.resolve()
    moved = _leftover(target)
    shutil.rmtree(moved, ignore_errors=True)
    target.rename(moved)
    shutil.rmtree(moved)
    if source.is_symlink():
        source.unlink()


def report_moved(source: Path, out: Path) -> ShardReport | None:
    """Return what `out` holds if it is complete and `source` was moved there; else None."""
    if source.exists() or not (out / stored.INFO).is_file():
        return None
    info = stored.read_info(out)
    if not is_sharded(info) or not info["complete"]:
        return None
    if info["shards"]["made_from"] != str(source):
        return None
    table = read_shard_table(out, info)
    shutil.rmtree(_leftover(source.resolve()), ignore_errors=True)
    if source.is_symlink():
        source.unlink()
    return ShardReport(int(table.sites.sum()), len(table), int(table.bytes.sum()), 0)


def _leftover(target: Path) -> Path:
    return target.with_name(f".{target.name}.moved")
