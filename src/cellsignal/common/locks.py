"""Locks on folders: who works in one, and who may have it alone."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cellsignal.common.errors import InputError


@contextlib.contextmanager
def work_in(folder: Path) -> Iterator[None]:
    """Mark a folder as in use within the block; other processes may use it too.

    The mark ends with the process. Does nothing if the folder does not exist or its disk has no
    locks.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def is_worked_in(folder: Path) -> bool:
    """Return whether a process of this machine works in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a disk without locks
        return False
    finally:
        os.close(handle)
    return False


@contextlib.contextmanager
def hold_alone(file: Path, what: str) -> Iterator[None]:
    """Hold a lock file within the block, alone.

    Raises:
        InputError: Another process holds it; the message begins with `what`.
    """
    with open(file, "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{what}: another process works at this job") from None
        yield
