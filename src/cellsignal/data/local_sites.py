"""Read the sites of a store on a disk: each from its own file, or from a shard with others."""

from pathlib import Path

import numpy as np

from cellsignal.data.codec import Layout
from cellsignal.data.frames import read_file
from cellsignal.data.shard_files import Shards
from cellsignal.data.store_files import chunk_path


class LocalSites:
    """Reads the sites of a local store into arrays.

    Attributes:
        repair: what to do where a site is damaged.
        lost: what to do where its file is not there.
    """

    lost = "run `cellsignal prepare` again to pack the site anew"
    repair = f"delete that file and {lost}"

    def __init__(self, path: Path, layout: Layout):
        self.path, self.layout = path, layout

    def name(self, row: int) -> str:
        """Return the path of a site's file."""
        return chunk_path(self.path, row)

    def read(self, row: int, out: np.ndarray, rows: tuple[int, int] | None = None) -> None:
        """Read a site, or at least its pixels' rows `rows`, as `frames.read_file`."""
        read_file(chunk_path(self.path, row), self.layout, out, rows)


class ShardedSites:
    """Reads the sites of a local store of shards into arrays.

    Attributes:
        repair, lost: as of `LocalSites`.
    """

    def __init__(self, path: Path, layout: Layout, shards: Shards):
        self.path, self.layout, self.shards = path, layout, shards
        self.lost = f"run `cellsignal prepare CONFIG --shards {path}` to write it anew"
        self.repair = f"delete that file and {self.lost}"

    def name(self, row: int) -> str:
        """Return the path of the shard that holds a site."""
        return f"{self.path}/{self.shards.place(row)[0]}"

    def read(self, row: int, out: np.ndarray, rows: tuple[int, int] | None = None) -> None:
        """Read a site, or at least its pixels' rows `rows`, as `frames.read_file`."""
        file, offset, length = self.shards.place(row)
        read_file(f"{self.path}/{file}", self.layout, out, rows, (offset, length))
