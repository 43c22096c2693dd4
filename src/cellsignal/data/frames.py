"""Read a site's file, or the parts of it that some rows of pixels need (see `codec`).

`read_file` reads a local file. What it is made of serves whoever has the bytes from elsewhere:
`parse_index` tells where the frames are, `frames_of` which of them some bands need, `decode` puts
them into the image.
"""

import os
import struct
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np
from numcodecs import blosc
from zstandard import ZstdDecompressor, ZstdError, frame_content_size

from cellsignal.data.codec import CHECKSUM, Layout, undo_row_delta

TOGETHER = 2**21  # bytes of pixels whose row differences are undone in one go
BLOSC_HEADER = struct.Struct("<4s3I")  # versions and flags, bytes of pixels, of a block, of itself
OTHER_SIZE = "it holds a band of another size"
_local = threading.local()


class Frame(NamedTuple):
    """Where the pixels of one band of one channel are; `offset` and `length` in bytes.

    Of a joined layout `channel` is 0, and the pixels are those of all channels.
    """

    channel: int
    band: int
    offset: int
    length: int


def read_file(
    file: Path | str,
    layout: Layout,
    out: np.ndarray,
    rows: tuple[int, int] | None = None,
    part: tuple[int, int] | None = None,
) -> None:
    """Read an image's file into `out`, C-contiguous uint8 of `layout.shape`.

    With `rows` (top, bottom) at least these rows are read.

    Args:
        part: (offset, length) in bytes of the image's file in a file that holds several; None: it
            is the whole file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged. Raw files have no checksum: of them only the length is known to
        be right.
    """
    with open(file, "rb", buffering=0) as source:
        read = _read_raw if layout.codec == "raw" else _read_framed
        place = part or (0, source.seek(0, os.SEEK_END))
        read(source, *place, layout, out, rows or (0, layout.shape[1]))


def fill_image(data: bytes, layout: Layout, out: np.ndarray) -> None:
    """Fill an image from the bytes of its file, as `read_file`.

    Raises:
        ValueError: they are damaged.
    """
    content = np.frombuffer(data, np.uint8)
    if layout.codec != "raw":
        index = parse_index(content, layout, len(data))
        decode(content, 0, frames_of(index, layout, range(layout.bands)), layout, out)
        return
    if len(data) != out.nbytes:
        raise ValueError(f"{len(data)} bytes, {out.nbytes} expected")
    np.copyto(out.reshape(-1), content)


def raw_parts(
    layout: Layout, out: np.ndarray, rows: tuple[int, int]
) -> list[tuple[int, np.ndarray]]:
    """Return (offset in a raw file, the part of `out` that the bytes there fill) of some rows."""
    channels, height, width = layout.shape
    top, bottom = rows
    if rows == (0, height):
        return [(0, out)]
    return [((c * height + top) * width, out[c, top:bottom]) for c in range(channels)]


def bands_of(layout: Layout, rows: tuple[int, int]) -> range:
    """Return the bands that some rows (top, bottom) lie in."""
    return range(rows[0] // layout.band, -(-rows[1] // layout.band))


def index_length(layout: Layout) -> int:
    """Return the bytes of the index at the end of a site's file, its checksum included."""
    return 16 * layout.frames * layout.bands + CHECKSUM


def parse_index(data: np.ndarray, layout: Layout, size: int | None = None) -> list[tuple[int, int]]:
    """Return (offset, length) of each frame in bytes, channel after channel.

    Args:
        data: (n,) uint8, the end of the file, or all of it.
        size: bytes of the file; None: not known, taken from the index.

    Raises:
        ValueError: they do not fill the file, or the index is damaged.
    """
    frames, length = layout.frames * layout.bands, index_length(layout)
    if len(data) < length:
        raise ValueError(f"{len(data)} bytes are too few")
    try:
        numbers = struct.unpack(f"<{2 * frames}Q", checked(data[len(data) - length :]))
    except ValueError:
        raise ValueError("truncated, or its index is damaged") from None
    index = list(zip(numbers[::2], numbers[1::2], strict=True))
    start = sum(numbers[1::2]) if size is None else size - length
    if sum(numbers[1::2]) != start or any(offset + length > start for offset, length in index):
        raise ValueError("its index does not fit its length")
    return index


def frames_of(index: list[tuple[int, int]], layout: Layout, bands: Iterable[int]) -> list[Frame]:
    """Return the frames of some bands, all channels of a band together."""
    return [
        Frame(channel, band, *index[channel * layout.bands + band])
        for band in bands
        for channel in range(layout.frames)
    ]


def span(frames: list[Frame]) -> tuple[int, int]:
    """Return (start, end) of the bytes in which some frames lie."""
    return min(frame.offset for frame in frames), max(
        frame.offset + frame.length for frame in frames
    )


def decode(
    data: np.ndarray, start: int, frames: list[Frame], layout: Layout, out: np.ndarray
) -> None:
    """Check and decompress frames into their places in `out`, (C, H, W) uint8.

    Args:
        data: (n,) uint8, bytes of the file from `start` on.
        frames: of `frames_of`: whole bands.

    Raises:
        ValueError: a frame is damaged; `out` is then left half filled.
    """
    height = layout.band
    for group in _together(frames, max(1, TOGETHER // (height * out[:, 0].size))):
        rows = out[:, group[0].band * height : (group[-1].band + 1) * height]
        _decode_bands(data, start, group, layout, rows)


def _together(frames: list[Frame], most: int) -> list[list[Frame]]:
    """Split frames into those of consecutive bands, `most` bands or fewer."""
    groups = []
    for frame in frames:
        follows = groups and frame.band - groups[-1][-1].band <= 1
        if follows and frame.band - groups[-1][0].band < most:
            groups[-1].append(frame)
        else:
            groups.append([frame])
    return groups


def _decode_bands(
    data: np.ndarray, start: int, frames: list[Frame], layout: Layout, out: np.ndarray
) -> None:
    """Decode the frames of consecutive bands into their rows, (C, n x band, W)."""
    decompress = _decompress_zstd if layout.codec == "zstd" else _decompress_lz4
    # (bands, C, rows, W)
    image = out.reshape(len(out), -1, layout.band, out.shape[-1]).swapaxes(0, 1)
    delta = image
    if layout.joined and not image[0].flags.c_contiguous:
        delta = _buffer("delta", image.size).reshape(image.shape)
    for channel, band, offset, length in frames:
        part = delta[band - frames[0].band]
        try:
            frame = checked(data[offset - start : offset - start + length])
            decompress(frame, part if layout.joined else part[channel])
        except (ValueError, RuntimeError, ZstdError) as error:
            where = "" if layout.joined else f" of channel {channel + 1}"
            raise ValueError(
                f"rows {band * layout.band} to {(band + 1) * layout.band}{where}: {error}"
            ) from None
    undo_row_delta(delta, layout.period, None if delta is image else image)


def _decompress_zstd(frame: np.ndarray, part: np.ndarray) -> None:
    # to make one takes a fifth of the time that decompressing a frame does
    if not hasattr(_local, "decompressor"):
        _local.decompressor = ZstdDecompressor()
    if (
        frame_content_size(frame) != part.nbytes
        or _local.decompressor.stream_reader(frame).readinto(part) != part.nbytes
    ):
        raise ValueError(OTHER_SIZE)


def _decompress_lz4(frame: np.ndarray, part: np.ndarray) -> None:
    # blosc itself trusts the lengths in its header
    if len(frame) < BLOSC_HEADER.size:
        raise ValueError(OTHER_SIZE)
    _, pixels, _, length = BLOSC_HEADER.unpack_from(frame)
    if (pixels, length) != (part.nbytes, len(frame)):
        raise ValueError(OTHER_SIZE)
    blosc.decompress(frame, part)


def scratch(size: int) -> np.ndarray:
    """Return a (size,) uint8 buffer of this thread, reused from call to call."""
    return _buffer("file", size)


def _buffer(name: str, size: int) -> np.ndarray:
    buffer = getattr(_local, name, None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size + size // 4, np.uint8)
        setattr(_local, name, buffer)
    return buffer[:size]


def checked(data: np.ndarray) -> np.ndarray:
    """Check the crc32c at the end of some bytes; return what is before it, without a copy.

    Raises:
        ValueError: it does not match.
    """
    content, checksum = data[:-CHECKSUM], data[-CHECKSUM:]
    if google_crc32c.value(content) != int.from_bytes(checksum.tobytes(), "little"):
        raise ValueError("its checksum does not match")
    return content


# local files
# --------------------------------------------------------------------------------------------------


def _read_raw(
    file: BinaryIO,
    base: int,
    size: int,
    layout: Layout,
    out: np.ndarray,
    rows: tuple[int, int],
) -> None:
    if size != out.nbytes:
        raise ValueError(f"{size} bytes, {out.nbytes} expected")
    for offset, part in raw_parts(layout, out, rows):
        _read_at(file, base + offset, part)


def _read_framed(
    file: BinaryIO,
    base: int,
    size: int,
    layout: Layout,
    out: np.ndarray,
    rows: tuple[int, int],
) -> None:
    """Read with few calls that release the interpreter's lock: those limit threads."""
    bands = bands_of(layout, rows)
    if whole := len(bands) == layout.bands:  # then all in one call
        data, start = scratch(size), 0
        _read_at(file, base, data)
    index = parse_index(data if whole else _read_end(file, layout, base, size), layout, size)
    frames = frames_of(index, layout, bands)
    if not whole:
        start, end = span(frames)
        data = scratch(end - start)
        _read_at(file, base + start, data)
    decode(data, start, frames, layout, out)


def _read_at(file: BinaryIO, offset: int, into: np.ndarray) -> None:
    view = memoryview(into.reshape(-1))
    file.seek(offset)
    while len(view):
        count = file.readinto(view)
        if not count:
            raise ValueError("it ends early")
        view = view[count:]


def _read_end(file: BinaryIO, layout: Layout, base: int, size: int) -> np.ndarray:
    length = index_length(layout)
    if size < length:
        raise ValueError(f"{size} bytes are too few")
    return np.frombuffer(os.pread(file.fileno(), length, base + size - length), np.uint8)
