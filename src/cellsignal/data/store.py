"""Read a store (see `store_files` for what is in its folder).

`Store.read` reads a site's file straight into the caller's buffer, without zarr: faster, in parts
where parts are asked for, and free of zarr's background thread, which a forked worker would lack.
Damage on disk is an error when read, never a wrong picture: compressed pixels carry their own
checksum, and a raw row is held to `checksum` the first time that it is read.

A store may also lie on object storage (`s3://bucket/store.zarr`, see `remote`): same pixels, same
checks.
"""

import functools
import hashlib
import json
import mmap
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.common.places import Place, RemoteFolder, as_place
from cellsignal.data.codec import Layout
from cellsignal.data.journal import read_journal
from cellsignal.data.local_sites import LocalSites, ShardedSites
from cellsignal.data.pack_report import skipped_samples
from cellsignal.data.remote import RemoteSites
from cellsignal.data.remote_tables import fetch_tables, read_remote_info
from cellsignal.data.shard_files import Shards, read_shards
from cellsignal.data.store_description import is_sharded
from cellsignal.data.store_files import (
    IMAGES,
    INFO,
    PACKED,
    PENDING,
    layout_in,
    read_arrays,
    read_info,
    read_samples,
)


def has_store(place: Place) -> bool:
    """Return whether a store, complete or not, is there; of a remote one that costs a request.

    Raises:
        InputError: the remote place cannot be asked.
    """
    if isinstance(place, RemoteFolder):
        return read_remote_info(place) is not None
    return (place / INFO).is_file()


def info_file(place: Place) -> Path:
    """Return the local file that says what a store is; of a remote store the copy of it.

    Raises:
        InputError: the remote store cannot be read.
    """
    return (fetch_tables(place)[-1] if isinstance(place, RemoteFolder) else place) / INFO


@dataclass(frozen=True, eq=False)
class Store:
    """A complete store, opened for reading. Holds no file or connection that a fork would spoil:
    safe to fork and to pickle into DataLoader workers.

    Attributes:
        path: its folder, absolute, or its URL.
        samples: the samples table of the packed rows, plus the int column `row`, their index in the
            arrays.
        mean, sd: (N, C) float32 by row, grey levels of the stored pixels; NaN in skipped rows.
        checksum: (N,) uint32 by row, crc32 of the raw pixels.
        info: what `store.json` says.
        shards: where the sites are; None where each has a file of its own.
    """

    path: Place
    samples: pd.DataFrame
    mean: np.ndarray
    sd: np.ndarray
    checksum: np.ndarray
    info: dict[str, Any]
    shards: Shards | None = None
    _layout: Layout = field(init=False, repr=False)
    _sites: LocalSites | ShardedSites | RemoteSites = field(init=False, repr=False)
    # (N,) bool: raw rows known to be whole; threads and forked workers share it
    _seen: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        layout = layout_in(self.info)
        if isinstance(self.path, RemoteFolder):
            sites = RemoteSites(self.path, layout, self.checksum, self.info, self.shards)
        elif self.shards is not None:
            sites = ShardedSites(self.path, layout, self.shards)
        else:
            sites = LocalSites(self.path, layout)
        object.__setattr__(self, "_layout", layout)
        object.__setattr__(self, "_sites", sites)
        object.__setattr__(
            self, "_seen", np.frombuffer(mmap.mmap(-1, len(self.checksum)), np.bool_)
        )

    def __reduce__(self) -> tuple:
        parts = self.path, self.samples, self.mean, self.sd, self.checksum, self.info, self.shards
        return Store, parts

    @classmethod
    def open(cls, path: Place | str) -> "Store":
        """Open a complete store: a folder, or a URL that fsspec knows (`remote`).

        Raises:
            InputError: there is none, its packing is unfinished, it is damaged, something else made
            it, or it cannot be fetched.
        """
        path = as_place(path)
        if isinstance(path, RemoteFolder):
            info, arrays, samples, shards, _ = fetch_tables(path)
            return cls._of(path, info, arrays, samples, shards)
        path = path.absolute()
        info = read_info(path)
        if not info["complete"] and is_sharded(info):
            raise InputError(
                f"{path}: its shards are not all written; run `cellsignal prepare CONFIG --shards "
                f"{path}` again to go on"
            )
        if not info["complete"]:
            packed = sum(entry["status"] != PENDING for entry in read_journal(path)[0].values())
            raise InputError(
                f"{path}: packing is unfinished, {info['n'] - packed} of {info['n']} sites are "
                "missing; run `cellsignal prepare` with the same config to go on"
            )
        arrays = read_arrays(path, info)
        samples, shards = read_samples(path, info), read_shards(path, info, arrays)
        return cls._of(path, info, arrays, samples, shards)

    @classmethod
    def _of(
        cls,
        path: Place,
        info: dict[str, Any],
        arrays: dict[str, np.ndarray],
        samples: pd.DataFrame,
        shards: Shards | None,
    ) -> "Store":
        samples["row"] = np.arange(len(samples))
        samples = samples[arrays["status"] == PACKED].reset_index(drop=True)
        return cls(path, samples, arrays["mean"], arrays["sd"], arrays["checksum"], info, shards)

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels' names."""
        return tuple(self.info["channels"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return (len(self.info["channels"]), *self.info["shape"])

    @property
    def source(self) -> dict[str, Any]:
        """What it was packed from: competition, root."""
        return self.info["source"]

    @functools.cached_property
    def content_hash(self) -> str:
        """Return the SHA-256 of channels, shape, sample ids and image checksums, as hex.

        Stores of the same images have the same hash, wherever they lie and however they are
        compressed; one image more, fewer or other changes it. Labels and other columns of `samples`
        are not in it (`info["samples_sha256"]` is of the whole table).
        """
        value = hashlib.sha256(json.dumps([self.channels, self.shape]).encode())
        value.update(json.dumps(self.samples.sample_id.to_list()).encode())
        value.update(self.checksum[self.samples.row.to_numpy()].astype("<u4").tobytes())
        return value.hexdigest()

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(sample_id, why) of the sites that could not be packed."""
        return skipped_samples(info_file(self.path).parent, self.info)

    @property
    def images(self) -> zarr.Array:
        """All images as a read-only zarr array (N, C, H, W) uint8; skipped rows are zeros. For one
        site use `read`.

        Raises:
            InputError: the store is made of shards, which zarr cannot read.
        """
        if self.shards is not None:
            raise InputError(
                f"{self.path}: zarr cannot read a store of shards; use Store.read, or the store "
                f"that it was made from ({self.info['shards']['made_from']})"
            )
        return zarr.open_array(f"{self.path}/{IMAGES}", mode="r")

    def threads(self, workers: int) -> int:
        """Return how many threads should read: `workers`, or more where most of them wait for
        requests; 0 stays 0.
        """
        if isinstance(self.path, RemoteFolder) and workers:
            return max(workers, self.path.requests)
        return workers

    def read(
        self, row: int, out: np.ndarray | None = None, rows: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Read one site, (C, H, W) uint8, into `out` if given (C-contiguous).

        Args:
            rows: (top, bottom): only the image's rows top to bottom - 1 are needed. What the other
            rows then hold is left open.

        Raises:
            InputError: nothing is packed in that row, or its file is damaged.
        """
        if out is None:
            out = np.empty(self.shape, np.uint8)
        elif out.shape != self.shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(
                f"out must be C-contiguous {self.shape} uint8, not {out.shape} {out.dtype}"
            )
        if rows is not None and not 0 <= rows[0] < rows[1] <= self.shape[1]:
            raise ValueError(f"rows must be some of 0 to {self.shape[1]}, not {rows}")
        known = self._layout.codec != "raw" or (0 <= row < len(self._seen) and self._seen[row])
        self._fill(row, out, rows if known else None)
        if not known:
            if zlib.crc32(out) != int(self.checksum[row]):
                raise InputError(self._other_pixels(row))
            self._seen[row] = True
        return out

    def _fill(self, row: int, out: np.ndarray, rows: tuple[int, int] | None = None) -> None:
        try:
            file = self._sites.name(row)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None
        try:
            self._sites.read(row, out, rows)
        except FileNotFoundError:
            raise InputError(
                f"{self.path}: row {row} holds no image ({file} is not there); {self._sites.lost}"
            ) from None
        except InputError:
            raise
        except OSError as error:  # a disk that fails, no right to read
            why = error.strerror or error
            raise InputError(f"{file}: row {row} cannot be read ({why})") from None
        except ValueError as error:
            raise InputError(
                f"{file}: row {row} is damaged ({error}); {self._sites.repair}"
            ) from None

    def check(self, rows: np.ndarray | None = None) -> list[tuple[int, str]]:
        """Read rows (None: all packed ones) and compare the pixels with their checksums.

        Returns:
            (row, what is wrong) of every damaged row.
        """
        rows = (self.samples.row.to_numpy() if rows is None else np.asarray(rows)).tolist()
        with ThreadPoolExecutor(self.threads(min(4, os.cpu_count() or 1))) as pool:
            messages = pool.map(self._damage, rows)
            bar = tqdm(messages, total=len(rows), desc="checking", unit="site", disable=None)
            return [(row, message) for row, message in zip(rows, bar, strict=True) if message]

    def _damage(self, row: int) -> str | None:
        image = np.empty(self.shape, np.uint8)
        try:
            self._fill(row, image)
        except InputError as error:
            return str(error)
        return None if zlib.crc32(image) == int(self.checksum[row]) else self._other_pixels(row)

    def _other_pixels(self, row: int) -> str:
        file = self._sites.name(row)
        return f"{file}: row {row} holds other pixels than were packed; {self._sites.repair}"
