"""A folder of copies with a limit, which all processes of a machine share.

The copies used least recently go first. In an epoch every site is read once, in an order that
changes: were every new site let in, half a store would serve 15 % of the reads of a cache that
holds half of it, since most sites would be thrown out before their turn came again
(f + (1 - f) ln(1 - f) of a cache for a share f of the sites). So a full cache lets in one new copy
in ten, unless it holds what nobody used for a day: a cache of half the sites then serves nearly
half.

A copy is written under a temporary name and renamed. Whoever reads it checks it: what is damaged is
dropped, and fetched anew. The limit holds but for what is being written at the moment.
"""

import contextlib
import fcntl
import logging
import os
import platform
import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cellsignal.data.frames import scratch

log = logging.getLogger(__name__)

BLOCK = 4096  # bytes; what a small file takes of a disk
SHARE = 0.1  # of the new copies come in where all is in use
UNUSED = 24 * 3600  # seconds after which a copy makes room for any other
LEFT_FREE = 0.05  # of the limit, after some copies were removed
NOTED = 60  # seconds: a use is noted no more often than that
ORPHANED = 3600  # seconds after which a temporary file is nobody's


class DiskCache:
    """Copies by name, of `limit` bytes in all; `used` in their folder holds what they take.

    Names are relative paths without a leading dot. Threads may share an object; processes have one
    each.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self._random = random.Random()  # never the one that a training draws from
        self._oldest = 0.0  # when the copy used least recently was used, as far as is known
        self._off = limit <= 0

    def __reduce__(self) -> tuple:
        return DiskCache, (self.folder, self.limit)

    def path(self, name: str) -> Path:
        """Return where a copy is, or would be."""
        return self.folder / name

    def read(self, name: str) -> np.ndarray | None:
        """Return a copy's bytes, (n,) uint8, in a buffer that this thread's next call reuses; None
        if there is none.
        """
        if self._off:
            return None
        try:
            with open(self.path(name), "rb", buffering=0) as file:
                state = os.fstat(file.fileno())
                data = scratch(state.st_size)
                if file.readinto(memoryview(data)) != state.st_size:
                    return None
                if state.st_mtime < time.time() - NOTED:
                    os.utime(file.fileno())
        except OSError:
            return None
        return data

    def write(self, name: str, parts: Sequence[bytes | np.ndarray]) -> None:
        """Keep a copy, if there is room for it. A disk that is full ends the keeping, with one
        warning.
        """
        size = sum(memoryview(part).nbytes for part in parts)
        if self._off or _taken(size) > self.limit:
            return
        path = self.path(name)
        temporary = path.parent / f".{platform.node()}-{os.getpid()}-{threading.get_ident()}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._make_room(_taken(size)):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.writelines(parts)
            os.replace(temporary, path)
        except OSError as error:
            self._off = True
            log.warning(
                "%s: no more sites are kept there (%s); they are fetched each time",
                self.folder,
                error.strerror or error,
            )
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def drop(self, name: str) -> None:
        """Remove a copy, if it is there."""
        with contextlib.suppress(OSError):
            self.path(name).unlink()

    def _make_room(self, size: int) -> bool:
        """Count `size` bytes as used; remove copies for them, or return False."""
        with self._locked() as file:
            used = _number(file)
            if used is None:
                used = sum(taken for _, taken, _ in self._copies())
            if used + size > self._filled and not self._lets_in():
                return False
            if used + size > self.limit:
                used = self._remove_unused(self._filled - size)
            os.pwrite(file, b"%020d" % (used + size), 0)
        return True

    def _lets_in(self) -> bool:
        return self._oldest < time.time() - UNUSED or self._random.random() < SHARE

    @property
    def _filled(self) -> int:
        return int((1 - LEFT_FREE) * self.limit)

    def _remove_unused(self, most: int) -> int:
        """Remove the copies used least recently, until the rest takes `most` bytes; return its
        bytes.
        """
        copies = sorted(self._copies())
        used = sum(taken for _, taken, _ in copies)
        while copies and used > most:
            _, taken, path = copies.pop(0)
            with contextlib.suppress(OSError):
                os.unlink(path)
            used -= taken
        self._oldest = copies[0][0] if copies else time.time()
        return used

    def _copies(self) -> Iterator[tuple[float, int, str]]:
        """Yield (last use, bytes, path) of each copy; remove what killed processes left."""
        folders = [str(self.folder)]
        while folders:
            with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                        elif not entry.name.startswith("."):
                            state = entry.stat()
                            yield state.st_mtime, _taken(state.st_size), entry.path
                        elif entry.name.endswith(".tmp") and _is_orphan(entry.stat()):
                            os.unlink(entry.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the count, alone; a disk without locks has none, and the count may drift."""
        file = os.open(self.folder / ".used", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)


def _is_orphan(state: os.stat_result) -> bool:
    return state.st_mtime < time.time() - ORPHANED


def _number(file: int) -> int | None:
    text = os.pread(file, 32, 0)
    return int(text) if len(text) == 20 and text.isdigit() else None


def _taken(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
