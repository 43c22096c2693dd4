"""What the tests of remote stores share: a store of four bands a site, and a file system of fsspec
that counts its requests and fails when it is told to.
"""

import multiprocessing
import threading
import zlib
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.spec import AbstractFileSystem
from tiny_store import TinyCompetition, prepare_as_before, set_band, write_root

from cellsignal.data import transfer
from cellsignal.data.pack import prepare
from cellsignal.data.store import Store

SLOW_ENOUGH = 20  # seconds after which a test that waits for other requests gives up


class Flaky(AbstractFileSystem):
    """Serves `flaky://<path below root>`.

    `calls` holds (name, start, end, bytes) of each answered request. `plan` is what comes of the
    next requests, first to last: an exception is raised, a number cuts the answer to so many bytes,
    "ok" answers, as do all requests after the plan. `always` holds for names that end so.
    """

    protocol = "flaky"
    root: ClassVar[Path]
    calls: ClassVar[list[tuple]] = []
    plan: ClassVar[list] = []
    always: ClassVar[dict[str, object]] = {}
    barrier: ClassVar[threading.Barrier | None] = None

    def cat_file(self, path, start=None, end=None, **_):
        return self._answer(self._strip_protocol(path), start, end)

    def get_file(self, rpath, lpath, **_):
        Path(lpath).write_bytes(self._answer(self._strip_protocol(rpath), 0, None))

    def _answer(self, path, start, end):
        cls = type(self)
        if cls.barrier is not None and path.startswith("store/images/c."):
            cls.barrier.wait(SLOW_ENOUGH)
        step = cls.plan.pop(0) if cls.plan else "ok"
        step = next((value for name, value in cls.always.items() if path.endswith(name)), step)
        file = cls.root / path
        if isinstance(step, Exception):
            cls.calls.append((path, start, end, type(step).__name__))
            raise step
        if not file.is_file():
            cls.calls.append((path, start, end, 0))
            raise FileNotFoundError(path)
        data = file.read_bytes()[start:end]
        data = data if step == "ok" else data[:step]
        cls.calls.append((path, start, end, len(data)))
        return data

    @classmethod
    def serve(cls, root: Path) -> None:
        """Serve a folder, without failures, and count from 0."""
        fsspec.register_implementation("flaky", cls, clobber=True)
        cls.root, cls.barrier = root, None
        cls.calls.clear()
        cls.plan.clear()
        cls.always.clear()

    @classmethod
    def taken(cls) -> list[tuple]:
        """The requests for sites since the last call, as (name, bytes)."""
        calls = [(name, size) for name, _, _, size in cls.calls if is_of_sites(name)]
        cls.calls.clear()
        return calls


def is_of_sites(name: str) -> bool:
    """Whether a file of a store holds a site, or several."""
    return "/images/c." in name or "/shards/" in name


def read_in_bands(patch: pytest.MonkeyPatch, cache: Path, first_wait: float = 0.0) -> None:
    """Read sites of four bands, with hardly a wait between tries, and a cache of one's own."""
    set_band(patch, 4)
    patch.setattr(transfer, "FIRST_WAIT", first_wait)
    patch.setenv("CELLSIGNAL_CACHE", str(cache))


def pack_in_bands(folder: Path, kind: str, name: str = "store") -> np.ndarray:
    """Pack the tiny competition into `folder / name` by a codec; return its images. "zstd before" is
    of older versions.
    """
    with pytest.MonkeyPatch.context() as patch:
        set_band(patch, 4)
        images = write_root(folder / "root")
        if kind == "zstd before":
            prepare_as_before(folder / "root", folder / name)
        else:
            prepare(TinyCompetition(), folder / "root", folder / name, codec=kind)
    return images


def check_forks(store: Store, images: np.ndarray, rows: tuple[int, ...]) -> None:
    """Read rows in forked processes, one each, of a store that this process has read from."""
    store.read(0)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_send_sum, args=(store, row, queue)) for row in rows]
    for process in processes:
        process.start()
    seen = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(timeout=60)
    assert seen == {zlib.crc32(images[row]) for row in rows}
    np.testing.assert_array_equal(store.read(3), images[3])


def _send_sum(store: Store, row: int, queue: multiprocessing.Queue) -> None:
    queue.put(zlib.crc32(store.read(row)))
