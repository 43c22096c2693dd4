"""Read the sites of a store that lies on object storage or a web server.

Requests ask for just the bytes that are needed:

- a whole site: one request;
- some rows of a zstd or lz4 site: one for the bands, and before it one for the index, unless the
  lengths of its frames are noted from before (12 bytes for a site of two bands). In a store of
  shards, where a site's length is known, one for the whole site instead of these two if no more
  than `ALONG` bytes come in vain;
- some rows of a raw site: one for each channel, or one for all where little lies between.

What was fetched is kept on disk by bands (`disk_cache`), with the checksums that the frames carry.
"""

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.places import RemoteFolder
from cellsignal.data.codec import CHECKSUM, Layout
from cellsignal.data.disk_cache import DiskCache
from cellsignal.data.frames import (
    Frame,
    bands_of,
    checked,
    decode,
    frames_of,
    index_length,
    parse_index,
    raw_parts,
    span,
)
from cellsignal.data.remote_tables import TABLES, cache_folder, key_of
from cellsignal.data.shard_files import Shards
from cellsignal.data.store_files import IMAGES
from cellsignal.data.transfer import Transfer

GIB = 2**30
GAP = 2**17  # bytes that are read along rather than asking twice
# the same for a site whose index is not known: at some 50 MB/s a connection they take 20 ms, and an
# answer, until its first byte is there, 30 to 50 ms
ALONG = 2**20
SITES, LENGTHS = "sites", "lengths"


class RemoteSites:
    """Reads the sites of a remote store into arrays; see the module. Threads may share it, and so
    may a process and its forks.
    """

    def __init__(
        self,
        place: RemoteFolder,
        layout: Layout,
        checksum: np.ndarray,
        info: dict[str, Any],
        shards: Shards | None = None,
    ):
        """Note where the sites are; nothing is fetched yet.

        Args:
            checksum: (N,) crc32 of the raw pixels, by row.
            shards: where the sites are, in a store of shards.
        """
        key, folder = key_of(place, info), cache_folder()
        self.place, self.layout, self._checksum, self._shards = place, layout, checksum, shards
        self._transfer = Transfer(place)
        self._cache = DiskCache(folder / SITES, int(place.cache_gib * GIB))
        self._key = key
        self._lengths = _Lengths(folder / TABLES / key / LENGTHS, layout)

    lost = "copy the store there anew"

    @property
    def repair(self) -> str:
        """What to do where a site is damaged."""
        if self._shards is None:
            return "pack the site anew where the store was made, and copy its file again"
        return (
            "check the store that it was copied from (`cellsignal verify --store`), and copy that "
            "file again"
        )

    def name(self, row: int) -> str:
        """Return the URL of a site's file, or of the shard that holds it."""
        return f"{self.place}/{self._file(row)[0]}"

    def read(self, row: int, out: np.ndarray, rows: tuple[int, int] | None = None) -> None:
        """Read a site, or at least its pixels' rows `rows` (top, bottom), as `frames.read_file`.

        Raises:
            FileNotFoundError: its file is not there.
            ValueError: it is damaged, also when fetched again.
            InputError: it cannot be fetched.
        """
        rows = rows or (0, self.layout.shape[1])
        (self._read_raw if self.layout.codec == "raw" else self._read_framed)(row, out, rows)

    def _fetch(self, row: int, start: int = 0, length: int | None = None) -> np.ndarray:
        file, offset, size = self._file(row)
        if size is not None:  # then the end is known, too
            start = start if start >= 0 else max(0, size + start)
            length = size - start if length is None else length
        data = self._transfer.fetch(file, offset + start, length, f"row {row}")
        return np.frombuffer(data, np.uint8)

    def _file(self, row: int) -> tuple[str, int, int | None]:
        """Return the file that holds a site, where it begins there, and its bytes, if known."""
        if self._shards is None:
            return f"{IMAGES}/c.{row}.0.0.0", 0, None
        return self._shards.place(row)

    def _read_framed(self, row: int, out: np.ndarray, rows: tuple[int, int]) -> None:
        missing = [
            band for band in bands_of(self.layout, rows) if not self._from_cache(row, band, out)
        ]
        if not missing:
            return
        try:
            self._from_server(row, out, missing, anew=False)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            # what was noted of the index may be wrong, or bytes were damaged on the way: once more
            self._from_server(row, out, missing, anew=True)

    def _from_server(self, row: int, out: np.ndarray, bands: list[int], *, anew: bool) -> None:
        layout, size = self.layout, self._file(row)[2]
        whole = len(bands) == layout.bands
        index = None if whole or anew else self._lengths.read(row)
        if index is None and size is not None:
            whole = whole or size * (1 - len(bands) / layout.bands) <= ALONG
        if whole:
            data, start = self._fetch(row), 0
            index = parse_index(data, layout, len(data))
        else:
            if index is None:
                index = parse_index(self._fetch(row, -index_length(layout)), layout, size)
            start, end = span(frames_of(index, layout, bands))
            data = self._fetch(row, start, end - start)
        decode(data, start, frames_of(index, layout, bands), layout, out)
        self._lengths.write(row, index)
        for band in range(layout.bands) if whole else bands:
            self._keep(row, band, data, start, frames_of(index, layout, [band]))

    def _entry(self, row: int, part: int | str) -> str:
        return f"{self._key}/{row // 1000}/{row}.{part}"

    def _from_cache(self, row: int, band: int, out: np.ndarray) -> bool:
        """Read a band from its copy: the frames' lengths, then the frames. False if there is none,
        or a damaged one, which is dropped.
        """
        name, head = self._entry(row, band), 4 * self.layout.frames
        data = self._cache.read(name)
        if data is None:
            return False
        frames, offset = [], head
        try:
            lengths = struct.unpack(f"<{self.layout.frames}I", data[:head])
            for channel, length in enumerate(lengths):
                frames.append(Frame(channel, band, offset, length))
                offset += length
            if offset != len(data):
                raise ValueError("other lengths than it says")
            decode(data, 0, frames, self.layout, out)
        except (ValueError, struct.error):
            self._cache.drop(name)
            return False
        return True

    def _keep(self, row: int, band: int, data: np.ndarray, start: int, frames: list[Frame]) -> None:
        parts = [data[f.offset - start : f.offset - start + f.length] for f in frames]
        try:
            list(map(checked, parts))  # of a band that was read along
        except ValueError:
            return
        head = struct.pack(f"<{len(parts)}I", *map(len, parts))
        self._cache.write(self._entry(row, band), [head, *parts])

    def _read_raw(self, row: int, out: np.ndarray, rows: tuple[int, int]) -> None:
        """Read raw pixels. A whole read, which the first of each row is, is held to `checksum`: a
        damaged copy is dropped, damaged bytes are fetched once more.
        """
        whole, name = rows == (0, self.layout.shape[1]), self._entry(row, "raw")
        wanted = raw_parts(self.layout, out, rows)
        copy = self._cache.read(name)
        if copy is not None and len(copy) == out.nbytes:
            for offset, part in wanted:
                np.copyto(part.reshape(-1), copy[offset : offset + part.nbytes])
            if not whole or zlib.crc32(out) == int(self._checksum[row]):
                return
        if copy is not None:
            self._cache.drop(name)
        if not whole:
            self._read_raw_parts(row, wanted)
            return
        for _ in range(2):
            data = self._fetch(row)
            if zlib.crc32(data) == int(self._checksum[row]):
                self._cache.write(name, [data])
                break
        if len(data) != out.nbytes:
            raise ValueError(f"{len(data)} bytes, {out.nbytes} expected")
        np.copyto(out.reshape(-1), data)  # other pixels than were packed are the caller's to refuse

    def _read_raw_parts(self, row: int, wanted: list[tuple[int, np.ndarray]]) -> None:
        gap = wanted[1][0] - wanted[0][0] - wanted[0][1].nbytes if len(wanted) > 1 else 0
        groups = [wanted] if gap <= GAP else [[part] for part in wanted]
        for group in groups:
            start = group[0][0]
            data = self._fetch(row, start, group[-1][0] + group[-1][1].nbytes - start)
            for offset, part in group:
                first = offset - start
                np.copyto(part.reshape(-1), data[first : first + part.nbytes])


class _Lengths:
    """Notes the lengths of each site's frames in a sparse file: then its index need not be fetched.

    A row is the lengths in the file's order, uint32, and their crc32c. All processes share the
    file. What cannot be read or written is not noted.
    """

    def __init__(self, path: Path, layout: Layout):
        self.path, self.layout = path, layout
        self._size = 4 * layout.frames * layout.bands
        self._file: int | None = None

    def read(self, row: int) -> list[tuple[int, int]] | None:
        """Return (offset, length) of each frame, as `parse_index`; None if they are not noted."""
        size = self._size + CHECKSUM
        try:
            data = os.pread(self._handle(), size, row * size)
        except OSError:
            return None
        content = data[: self._size]
        if google_crc32c.value(content).to_bytes(CHECKSUM, "little") != data[self._size :]:
            return None
        lengths = np.frombuffer(content, "<u4").astype(np.int64)
        offsets = np.cumsum(lengths) - lengths
        order = np.arange(len(lengths)).reshape(self.layout.bands, -1).T.ravel()
        return list(zip(offsets[order].tolist(), lengths[order].tolist(), strict=True))

    def write(self, row: int, index: list[tuple[int, int]]) -> None:
        """Note an index whose frames lie one band after another, as `codec.encode` writes them."""
        in_order = sorted(index)
        content = np.array([length for _, length in in_order], "<u4").tobytes()
        with contextlib.suppress(OSError):
            size = self._size + CHECKSUM
            if self.read(row) is None:
                check = google_crc32c.value(content).to_bytes(CHECKSUM, "little")
                os.pwrite(self._handle(), content + check, row * size)
                if self.read(row) != index:  # frames in another order
                    os.pwrite(self._handle(), bytes(size), row * size)

    def _handle(self) -> int:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        return self._file

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)
