"""Copy the sites of a store into shards, each site checked on the way (see `sharding`)."""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.progress import Progress
from cellsignal.common.stopping import Pace, Stop
from cellsignal.data import store_files as stored
from cellsignal.data.codec import Layout
from cellsignal.data.frames import fill_image
from cellsignal.data.journal import JOURNAL, journal_line, read_journal_lines
from cellsignal.data.local_sites import LocalSites
from cellsignal.data.shard_files import SHARDS
from cellsignal.data.shard_plan import ShardPlan
from cellsignal.data.store import Store
from cellsignal.data.store_description import is_sharded

AT_ONCE = 32  # sites that are read ahead
NAMED = 16  # hexadecimal digits of its hash in a shard's name
# a shard that is whole: its row of the table
Finished = dict[str, Any]


def is_ours(name: str) -> bool:
    """Return whether a file's name is one that shards get, whole or half-written."""
    return re.fullmatch(rf"[A-Za-z0-9._-]+_[0-9a-f]{{{NAMED}}}|\..+\.tmp", name) is not None


def has_size(out: Path, entry: Finished) -> bool:
    """Return whether a finished shard is there in its full size."""
    try:
        return os.stat(out / SHARDS / entry["file"]).st_size == entry["bytes"]
    except OSError:
        return False


@dataclass(frozen=True, eq=False)
class Source:
    """The store that is read.

    Attributes:
        lengths: (N,) int64 by row, bytes of the sites' files; 0 where nothing is packed.
        gone: (N,) bool by row, whether a site's file was moved into a shard.
    """

    store: Store
    arrays: dict[str, np.ndarray]
    lengths: np.ndarray
    gone: np.ndarray
    layout: Layout


def open_source(source: Path) -> Store:
    """Open a complete store with a file a site, to write its sites into shards."""
    info = stored.read_info(source)
    if is_sharded(info):
        raise InputError(
            f"{source}: is made of shards already; shards are written from the store with a file a "
            f"site ({info['shards']['made_from']})"
        )
    return Store.open(source)


def measure(store: Store, moved: np.ndarray) -> Source:
    """Measure the files of a store's sites.

    Args:
        moved: (N,) int by row, bytes of a site whose shard is whole, or 0: its file may be gone.

    Raises:
        InputError: another site's file is not there.
    """
    lengths, gone = np.zeros(store.info["n"], np.int64), np.zeros(store.info["n"], bool)
    for row in store.samples.row.tolist():
        file = stored.chunk_path(store.path, row)
        try:
            lengths[row] = os.stat(file).st_size
        except FileNotFoundError:
            lengths[row], gone[row] = moved[row], True
            if not moved[row]:
                raise InputError(
                    f"{file}: is not there; run `cellsignal prepare` to pack its site anew"
                ) from None
    if lengths.max() > np.iinfo(np.uint32).max:
        raise InputError(f"{store.path}: a site of {lengths.max()} bytes is too large for a shard")
    arrays = stored.read_arrays(store.path, store.info)
    return Source(store, arrays, lengths, gone, stored.layout_in(store.info))


@contextlib.contextmanager
def reading(source: Path, alone: bool) -> Iterator[None]:
    """Keep others from packing into the store while it is read, where its disk has locks.

    Args:
        alone: its sites are moved; keep others from reading it in this way, too.
    """
    try:
        handle = os.open(source, os.O_RDONLY)
    except OSError:  # it is said where it is opened
        yield
        return
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{source}: another process is packing into this store") from None
        yield
    finally:
        os.close(handle)


def write_missing(
    source: Source,
    out: Path,
    missing: list[ShardPlan],
    finished: dict[str, Finished],
    stop: Stop,
    move: bool,
) -> None:
    """Write shards, and note each in the journal and in `finished`.

    With `move` the files of its sites go once a shard is whole and on the disk.
    """
    folder = out / SHARDS
    folder.mkdir(exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()
    good = read_journal_lines(out)[1]
    sites = sum(len(plan.rows) for plan in missing)
    took = Pace()
    with (
        open(out / JOURNAL, "ab") as lines,
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        Progress("writing shards", sites, "site") as progress,
    ):
        lines.truncate(good)
        for number, plan in enumerate(missing, 1):
            begun = time.perf_counter()
            entry = _write_shard(source, folder, plan, pool, progress)
            moved = {"rows": plan.rows.tolist(), "lengths": plan.lengths.tolist()} if move else {}
            lines.write(journal_line(entry | moved))
            lines.flush()
            finished[plan.key] = entry
            if move:
                _flush(lines.fileno(), folder)
                remove_sites(source, plan)
            took.add(time.perf_counter() - begun)
            if number < len(missing):
                saved = f"{number} of {len(missing)} shards"
                stop.check(str(out), saved, "the next shard", took.high)


def _flush(lines: int, folder: Path) -> None:
    """Wait until the journal's lines and the names in a folder are on the disk."""
    os.fsync(lines)
    names = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(names)
    finally:
        os.close(names)


def remove_sites(source: Source, plan: ShardPlan) -> None:
    """Remove the files of a shard's sites, as far as they are there."""
    for row in plan.rows.tolist():
        Path(stored.chunk_path(source.store.path, row)).unlink(missing_ok=True)


def _write_shard(
    source: Source, folder: Path, plan: ShardPlan, pool: ThreadPoolExecutor, progress: Progress
) -> Finished:
    """Write one shard whole, or not at all."""
    temporary, value = folder / f".{plan.label}.tmp", hashlib.sha256()
    read = functools.partial(_read_site, source)
    try:
        with open(temporary, "wb") as file:
            for first in range(0, len(plan.rows), AT_ONCE):
                for data in pool.map(read, plan.rows[first : first + AT_ONCE].tolist()):
                    file.write(data)
                    value.update(data)
                    progress.add()
            file.flush()
            os.fsync(file.fileno())
        name = f"{plan.label}_{value.hexdigest()[:NAMED]}"
        os.replace(temporary, folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    about = {"sites": len(plan.rows), "bytes": plan.size, "sha256": value.hexdigest()}
    return {"file": name, **about, "key": plan.key}


def _read_site(source: Source, row: int) -> bytes:
    """Return the bytes of a site's file, which are checked.

    Raises:
        InputError: it is damaged, has changed since, or cannot be read.
    """
    store, layout = source.store, source.layout
    file = stored.chunk_path(store.path, row)
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); {LocalSites.repair}"
        ) from None
    image = np.empty(layout.shape, np.uint8)
    try:
        if len(data) != source.lengths[row]:
            raise ValueError("another length than before")
        fill_image(data, layout, image)
        if zlib.crc32(image) != int(store.checksum[row]):
            raise ValueError("other pixels than were packed")
    except ValueError as error:
        raise InputError(f"{file}: row {row} is damaged ({error}); {LocalSites.repair}") from None
    return data
