"""Store the pixels of one site in a file: small, and readable in parts.

Any zarr v3 reader can read raw and lz4 files, and zstd files where cellsignal is installed
(`RowDelta`); `frames` is our own reader.

- `raw`: the (C, H, W) bytes as they are: one uncompressed chunk. For small images, where reading is
  all and disk is cheap.
- `zstd`: a zarr shard (`sharding_indexed`): bands of rows of all channels, each a zstd frame and
  its crc32c, one after another; then the index, (offset, bytes) uint64 little-endian of each, and
  the crc32c of the index. A read of some rows reads and decompresses no more bands than it must.
  Older stores have a frame for each band of each channel, and so in the index, channel after
  channel.
- `lz4`: the same, but compressed by lz4 in blosc's container (one block, nothing shuffled), without
  row differences. It takes a third more disk than zstd and
  less than half its time, and every zarr v3 reader knows all of it.

Before zstd, rows become their differences from the row above, but for every 16th, which stays; 15
wide additions for all channels and bands at once undo that. zstd is told to look for hardly any
repetitions: in the noise of a camera they are short, cost time in reading, and save nothing.

Measured on 12 sites of RxRx1 (6 x 512 x 512, 72 PNGs): `cellsignal.studies.performance.reading`
and variants of it. How often a row is whole, with a frame a band of each channel, medians of 180
readings in turn on one core (six `cv2.imread` took 18.3 ms; disk is relative to the PNGs):

    whole row every  band rows  disk   512 rows  256 rows  128 rows
    1                128        1.62   2.9 ms    2.1       1.5
    8                128        1.30   3.3       2.5       1.6
    16               128        1.22   3.2       2.3       1.6        <- 16 is chosen
    16               256        1.22   2.8       2.9       1.8
    32               128        1.17   3.1       2.3       1.7

More additions mean more waiting for the interpreter's lock where threads read side by side: hence
16, not 32. With a frame a band of all channels, the least CPU time of 8 rounds of 48 readings on a
newer processor:

    codec  band rows  disk   512 rows  256 rows  128 rows  64 rows
    zstd   256        1.22   1.33 ms   1.31      .94       .80
    zstd   128        1.23   1.37      1.01      .69       .50
    zstd   64         1.24   1.36      .88       .55       .38        <- chosen
    zstd   32         1.24   1.34      .79       .45       .29
    lz4    256        1.60   .53       .53       .37       .31
    lz4    64         1.64   .57       .36       .23       .15        <- chosen
    lz4    32         1.68   .60       .34       .20       .13

What threads and processes gain is in docs/results/readers.md. To release the interpreter's lock for
the checksums too made it slower.

lz4 looks long for repetitions (lz4hc): the more it finds, the less there is to read, so that what
costs time once, in packing, saves disk and time for ever. The same sites on a newer processor (zstd
there: 1.22 ms by `read_file`), the least CPU time of 5 to 15 rounds:

    differences of rows   compressor               disk  decompress  read_file  compress
    none                  bitshuffle + lz4 5       1.81  .73 ms                 1.1 ms
    none                  lz4 5                    2.16  .43                    1.8
    none                  lz4hc 5                  1.64              .57 ms     31
    none                  lz4hc 7                  1.60  .41         .51        51   <- chosen
    none                  lz4hc 9                  1.59              .51        111
    all but every 16th    bitshuffle + lz4 5       1.67  .66                    .8
    all but every 16th    lz4 5                    1.98  .50                    2
    all but every 16th    lz4hc 5                  1.50  .43         .64        34
    all but every 16th    lz4hc 7                  1.43  .41         .66        69
    all but every 16th    lz4hc 9                  1.40  .40         .60        180
    the same, zigzag      bitshuffle + lz4 5       1.35  .77                    1.1
    the same, by nibbles  lz4 5                    1.52  .39 + .26 for nibbles
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import google_crc32c
import numpy as np
from numcodecs import blosc
from zarr.abc.codec import ArrayArrayCodec
from zarr.registry import register_codec
from zstandard import ZstdCompressionParameters, ZstdCompressor

BLOCK = 2**17  # bytes of the pixels of a frame of one channel, at most
JOINED_BLOCK = 3 * 2**16  # of a frame of all channels: 64 rows of 6 x 512 pixels
PERIOD = 16  # rows, at most
RAW_UP_TO = 256 * 256  # pixels of a channel
CHECKSUM = 4  # bytes
FEW_MATCHES = {"strategy": 1, "min_match": 7, "search_log": 1, "target_length": 0}
FEW_MATCHES |= {"hash_log": 6, "window_log": 17, "chain_log": 6}
LZ4 = {"cname": "lz4hc", "clevel": 7}

Codec = Literal["zstd", "lz4", "raw"]


@dataclass(frozen=True)
class Layout:
    """Describe how an image's pixels are cut into frames of its file.

    Attributes:
        codec: "zstd", "lz4" or "raw".
        shape: (C, H, W).
        band: rows of a frame; it divides H.
        period: every so many rows one is whole, the others are differences; it divides `band`. 1:
            there are no differences.
        joined: a frame holds a band of all channels, not of one.
    """

    codec: Codec
    shape: tuple[int, int, int]
    band: int
    period: int
    joined: bool = False

    @property
    def bands(self) -> int:
        """Number of bands of an image."""
        return self.shape[1] // self.band

    @property
    def frames(self) -> int:
        """Number of frames of a band."""
        return 1 if self.joined else self.shape[0]


def layout_of(codec: str, shape: tuple[int, int, int], joined: bool = True) -> Layout:
    """Return the layout of (C, H, W) images.

    `codec` is zstd, lz4, raw, or auto: raw up to 256 x 256 pixels, zstd above. `joined`: see
    `Layout`; False is the zstd layout of stores that say nothing about it.
    """
    channels, height, width = shape
    if codec == "auto":
        codec = "raw" if height * width <= RAW_UP_TO else "zstd"
    most = max(1, JOINED_BLOCK // (channels * width) if joined else BLOCK // width)
    band = height
    # a frame holds the whole height where nothing near `most` divides it
    if codec != "raw" and height > most:
        band = next((rows for rows in range(most, most // 4, -1) if height % rows == 0), height)
    period = next(rows for rows in range(PERIOD, 0, -1) if band % rows == 0)
    period = 1 if codec == "lz4" else period
    return Layout(codec, tuple(shape), band, period, joined and codec != "raw")


def row_delta(image: np.ndarray, period: int) -> np.ndarray:
    """Subtract from each row the row above, modulo 256; (..., H, W) uint8, same shape.

    Rows 0, period, 2 period ... are kept.
    """
    rows = image.reshape(-1, period, image.shape[-1])
    delta = rows.copy()
    delta[:, 1:] -= rows[:, :-1]
    return delta.reshape(image.shape)


def undo_row_delta(delta: np.ndarray, period: int, out: np.ndarray | None = None) -> None:
    """Undo `row_delta` in place, or into `out`, for (..., H, W) uint8 with contiguous rows."""
    rows = _by_period(delta, period)
    into = rows if out is None else _by_period(out, period)
    if out is not None:
        np.copyto(into[..., 0, :], rows[..., 0, :])
    for row in range(1, period):
        np.add(rows[..., row, :], into[..., row - 1, :], out=into[..., row, :])


def _by_period(image: np.ndarray, period: int) -> np.ndarray:
    *before, height, width = image.shape
    rows = image.reshape(*before, height // period, period, width)
    assert np.may_share_memory(rows, image), "reshape has copied"
    return rows


def encode(image: np.ndarray, layout: Layout) -> bytes:
    """Return the bytes of an image's file."""
    assert image.shape == layout.shape and image.dtype == np.uint8
    if layout.codec == "raw":
        return image.tobytes()
    channels, _, width = layout.shape
    bands = row_delta(np.ascontiguousarray(image), layout.period).reshape(
        channels, layout.bands, layout.band, width
    )
    compress = _compressor(layout)
    index, frames, offset = np.empty((layout.frames, layout.bands, 2), "<u8"), [], 0
    for band, frame in np.ndindex(layout.bands, layout.frames):  # what is read together lies so
        pixels = bands[:, band] if layout.joined else bands[frame, band]
        frames.append(_with_checksum(compress(np.ascontiguousarray(pixels))))
        index[frame, band] = offset, len(frames[-1])
        offset += len(frames[-1])
    return b"".join([*frames, _with_checksum(index.tobytes())])


def _compressor(layout: Layout) -> Callable[[np.ndarray], bytes]:
    if layout.codec == "zstd":
        parameters = ZstdCompressionParameters(**FEW_MATCHES)
        return ZstdCompressor(compression_params=parameters).compress
    # one block, which blosc reads without threads of its own
    name, level = LZ4["cname"].encode(), LZ4["clevel"]
    return lambda pixels: blosc.compress(pixels.reshape(-1), name, level, 0, pixels.nbytes)


def _with_checksum(data: bytes) -> bytes:
    return b"".join([data, google_crc32c.value(data).to_bytes(CHECKSUM, "little")])


@dataclass(frozen=True)
class RowDelta(ArrayArrayCodec):
    """`row_delta` as a filter of zarr, for chunks (..., h, W) uint8; `period` divides h."""

    period: int
    is_fixed_size = True
    name = "cellsignal.row_delta"

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "RowDelta":
        """Make the codec from the array's metadata."""
        return cls(int(data["configuration"]["period"]))

    def to_dict(self) -> dict[str, Any]:
        """Return the codec's entry in the array's metadata."""
        return {"name": self.name, "configuration": {"period": self.period}}

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: Any) -> int:
        """Return the encoded size: the same number of bytes."""
        return input_byte_length

    async def _encode_single(self, chunk: Any, spec: Any) -> Any:
        return spec.prototype.nd_buffer.from_numpy_array(
            row_delta(chunk.as_numpy_array(), self.period)
        )

    async def _decode_single(self, chunk: Any, spec: Any) -> Any:
        image = np.array(chunk.as_numpy_array(), order="C")
        undo_row_delta(image.reshape(-1, *image.shape[-2:]), self.period)
        return spec.prototype.nd_buffer.from_numpy_array(image)


register_codec(RowDelta.name, RowDelta)
