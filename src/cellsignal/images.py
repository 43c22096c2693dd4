"""Reading one image file so that damage is an error that names the file, never a black picture.

OpenCV decodes fast but is lenient: a truncated PNG comes back partly black, a 16-bit one is silently cut to 8 bits. So the PNG's own
structure (signature, chunk checksums, header, end marker) is checked first; that costs a small part of the decoding. TIFFs have no
checksums; tifffile decodes them, which refuses strips that lie outside the file or do not unpack to their full size.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cellsignal.errors import ImageError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type -> samples a pixel


@dataclass(frozen=True)
class PngHeader:
    """What a PNG says of itself: size in pixels, bits a sample, samples a pixel."""

    width: int
    height: int
    bits: int
    channels: int


def check_png(path: Path | str, data: bytes) -> PngHeader:
    """Walk the chunks of a PNG in memory and verify every checksum.

    Raises:
        ImageError: "wrong_format" (not a PNG), "truncated" (ends before its end marker), "corrupt" (a checksum does not match).
    """
    if data[:8] != _SIGNATURE:
        kind = "truncated" if _SIGNATURE.startswith(data[:8]) else "wrong_format"
        raise ImageError(path, kind, "is empty or truncated" if kind == "truncated" else "is not a PNG")
    header, at = None, 8
    while True:
        if at + 12 > len(data):
            raise ImageError(path, "truncated", f"truncated PNG: ends at byte {len(data)} without an end marker")
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise ImageError(path, "truncated", f"truncated PNG: ends at byte {len(data)} inside a {name!r} chunk")
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ImageError(path, "corrupt", f"corrupt PNG: checksum of the chunk at byte {at} does not match")
        if name == b"IHDR":
            width, height, bits, colour = struct.unpack_from(">IIBB", data, at + 8)
            header = PngHeader(width, height, bits, _CHANNELS.get(colour, 0))
        if name == b"IEND":
            break
        at = end
    if header is None:
        raise ImageError(path, "corrupt", "corrupt PNG: no header chunk")
    return header


def read_png8(path: Path | str, shape: tuple[int, int] | None = None, channels: int = 1) -> np.ndarray:
    """Read an 8-bit PNG.

    Args:
        path: the file.
        shape: (height, width) in pixels that it must have; None takes any.
        channels: 1 for gray, 3 for colour.

    Returns:
        (H, W) uint8 for gray, (H, W, 3) uint8 in RGB order for colour.

    Raises:
        ImageError: missing, truncated, corrupt, or of another size, depth or number of channels.
    """
    data = _bytes_of(path)
    header = check_png(path, data)
    if header.bits != 8:
        raise ImageError(path, "wrong_depth", f"{header.bits}-bit image, 8-bit expected")
    if header.channels != channels:
        raise ImageError(path, "wrong_channels", f"{header.channels} channels a pixel, {channels} expected")
    if shape is not None and (header.height, header.width) != tuple(shape):
        raise ImageError(path, "wrong_size", f"{header.width}x{header.height} pixels, {shape[1]}x{shape[0]} expected")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ImageError(path, "corrupt", "corrupt PNG: cannot be decoded")
    return image if channels == 1 else np.ascontiguousarray(image[:, :, ::-1])


def read_gray16(path: Path | str, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Read a 16-bit gray TIFF (plain, LZW or zlib) or PNG.

    Args:
        shape: (height, width) in pixels that it must have; None takes any.

    Returns:
        (H, W) uint16.

    Raises:
        ImageError: missing, truncated, corrupt, or of another size, depth or number of channels or pages.
    """
    data = _bytes_of(path)
    if data[:8] == _SIGNATURE:
        header = check_png(path, data)
        if header.bits != 16:
            raise ImageError(path, "wrong_depth", f"{header.bits}-bit image, 16-bit expected")
        if header.channels != 1:
            raise ImageError(path, "wrong_channels", f"{header.channels} channels a pixel, 1 expected")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    else:
        image = _read_tiff(path, data)
    if image is None:
        raise ImageError(path, "corrupt", "corrupt image: cannot be decoded")
    if shape is not None and image.shape != tuple(shape):
        raise ImageError(path, "wrong_size", f"{image.shape[1]}x{image.shape[0]} pixels, {shape[1]}x{shape[0]} expected")
    return image


def _read_tiff(path: Path | str, data: bytes) -> np.ndarray:
    import tifffile

    if data[:4] not in _TIFF:
        kind = "truncated" if len(data) < 8 else "wrong_format"
        raise ImageError(path, kind, "is empty or truncated" if kind == "truncated" else "is neither a TIFF nor a PNG")
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            if len(file.pages) != 1 or page.samplesperpixel != 1 or page.ndim != 2:
                raise ImageError(path, "wrong_channels", f"{len(file.pages)} pages of shape {page.shape}, one gray plane expected")
            if page.dtype != np.uint16:
                raise ImageError(path, "wrong_depth", f"pixels of type {page.dtype}, 16-bit expected")
            ends = [at + size for at, size in zip(page.dataoffsets, page.databytecounts, strict=True)]
            if not ends or max(ends) > len(data) or 0 in page.dataoffsets:
                raise ImageError(path, "truncated", f"truncated TIFF: ends at byte {len(data)}, its pixels at {max(ends, default=0)}")
            return np.ascontiguousarray(page.asarray())
    except ImageError:
        raise
    except Exception as error:  # from damaged bytes tifffile and its decoders raise anything
        raise ImageError(path, "corrupt", f"corrupt TIFF: {' '.join(str(error).split())[:100]}") from None


def image_size(path: Path | str) -> tuple[int, int]:
    """(height, width) in pixels of a PNG (its header), 16-bit gray TIFF or JPEG (decoded whole: they have no checksums).

    Raises:
        ImageError: missing, damaged, or of another format.
    """
    data = _bytes_of(path)
    if data[:8] == _SIGNATURE:
        header = check_png(path, data)
        return header.height, header.width
    if data[:4] in _TIFF:
        return _read_tiff(path, data).shape
    if data[:2] == b"\xff\xd8":
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is not None:
            return image.shape[:2]
    raise ImageError(path, "wrong_format", "is no PNG, TIFF or JPEG, or a damaged one")


def _bytes_of(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(path, "missing", "no such image file") from None
    except OSError as error:
        raise ImageError(path, "missing", f"cannot be read ({error.strerror})") from None
