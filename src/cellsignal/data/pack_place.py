"""Check the folder of a store: what it holds, and that no other process packs there."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.data import store_files as stored

ELSEWHERE = "pack into another folder or delete it"
# what an empty folder may hold: measured before the store is made, and a disk's own
EMPTY = {stored.CALIBRATION, "lost+found"}
# a store's first file, of which a killed process had not written all
UNFINISHED = re.compile(rf"\.{re.escape(stored.INFO)}\..+\.tmp")


def check_place(out: Path) -> None:
    """Refuse a place that holds anything but a store, one that was begun, or nothing."""
    if not out.exists():
        if out.is_symlink():
            target = resolved(out)
            if not target.parent.is_dir():
                raise InputError(
                    f"{out}: is a link to {target}, which cannot be made; make that folder first"
                )
        return
    if not out.is_dir() or not (
        (out / stored.INFO).exists()
        or all(path.name in EMPTY or UNFINISHED.fullmatch(path.name) for path in out.iterdir())
    ):
        raise InputError(f"{out}: is neither empty nor a store; {ELSEWHERE}")


def resolved(out: Path) -> Path:
    """Return the folder that a path leads to; refuse a link that leads back to itself."""
    try:
        return out.resolve()
    except (OSError, RuntimeError):  # RuntimeError up to Python 3.12
        raise InputError(f"{out}: is a link that leads back to itself; {ELSEWHERE}") from None


def create_folder(out: Path) -> None:
    """Make the store's folder; if `out` is a link, where it points to."""
    out.resolve().mkdir(parents=True, exist_ok=True)


def refuse_other_store(out: Path, previous: dict, info: dict) -> None:
    """Refuse to mix: name the first thing in which the store and the call differ."""
    keys = [key for key in info["source"] if key != "classes"]
    pairs = [(key, previous["source"].get(key), info["source"][key]) for key in keys]
    pairs += [(key, previous[key], info[key]) for key in ("channels", "size", "shape", "codec")]
    for name, old, new in pairs:
        if old != new:
            raise InputError(
                f"{out}: this store was made with another {name}: {old}, now {new}; {ELSEWHERE}"
            )


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
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
