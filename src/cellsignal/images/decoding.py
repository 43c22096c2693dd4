"""Decode PNGs, JPEGs and, by `tiff`, TIFFs: from the bytes of an image to its pixels.

A file's statements (header, chunks, tags) are checked before it is decoded, and the decoded array
is held to what was expected after it: the type, the number of axes, the size and the number of
channels. A palette whose used entries are grays is read as gray. Whatever else a decoder does or
raises is an `ImageError`.

PNGs have checksums: no flipped byte goes unnoticed. TIFFs and JPEGs have none: strips that lie
outside the file or do not unpack to their full size are refused, and a JPEG's end marker is looked
for, since decoders fill the rest with gray.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cellsignal.common.errors import ImageError
from cellsignal.images.checks import (
    TIFF_SIGNATURES,
    check_channels,
    check_depth,
    check_size,
    corrupt,
    gray_of,
    listed,
)

PNG, TIFF, JPEG = "PNG", "TIFF", "JPEG"
FORMATS = (PNG, TIFF, JPEG)

_PNG_SIGNATURE, _JPEG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_SIGNATURES = {_PNG_SIGNATURE: PNG, _JPEG_SIGNATURE: JPEG, **dict.fromkeys(TIFF_SIGNATURES, TIFF)}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type -> samples a pixel
_JPEG_END = b"\xff\xd9"
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of the header that has the size


@dataclass(frozen=True)
class PngHeader:
    """Header of a PNG."""

    width: int  # pixels
    height: int
    bits: int  # of a sample
    channels: int  # samples a pixel; 1 where there is a palette
    palette: bool = False  # samples are entries of a palette
    transparent: bool = False  # a colour or a palette's entry is transparent (a tRNS chunk)
    animated: bool = False  # it holds several pictures (an acTL chunk)


def read_png8(
    path: Path | str, shape: tuple[int, int] | None = None, channels: int = 1
) -> np.ndarray:
    """Read an 8-bit PNG: (H, W) uint8 for one channel, (H, W, 3) uint8 in RGB order for three.

    Args:
        shape: (height, width) in pixels that it must have; None takes any.

    Raises:
        ImageError: missing, truncated, corrupt, or of another size, depth or number of channels.
    """
    return decode_image(path, read_bytes(path), channels=(channels,), shape=shape, formats=(PNG,))


def read_gray16(path: Path | str, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Read a 16-bit gray TIFF or PNG, (H, W) uint16.

    Args:
        shape: (height, width) in pixels that it must have; None takes any.

    Raises:
        ImageError: missing, truncated, corrupt, or of another size, depth or number of channels or
        planes.
    """
    return decode_image(path, read_bytes(path), depths=(16,), shape=shape, formats=(TIFF, PNG))


def image_size(path: Path | str) -> tuple[int, int]:
    """Return the (height, width) in pixels of a PNG, gray TIFF or JPEG.

    Raises:
        ImageError: missing, damaged, or of another format.
    """
    data = read_bytes(path)
    if data.startswith(_PNG_SIGNATURE):
        header = check_png(path, data)
        return header.height, header.width
    return decode_image(path, data, depths=(8, 16), channels=(1, 3)).shape[:2]


def decode_image(
    source: Path | str,
    data: bytes,
    *,
    depths: Sequence[int] = (8,),
    channels: Sequence[int] = (1,),
    shape: tuple[int, int] | None = None,
    formats: Sequence[str] = FORMATS,
) -> np.ndarray:
    """Decode one image; raise if it differs from what is expected.

    Args:
        source: the file or address that an error names.
        data: the whole file.
        depths: bits a sample that are taken, of 8 and 16.
        channels: samples a pixel that are taken, of 1 (gray) and 3 (RGB).
        shape: (height, width) in pixels that it must have; None takes any.
        formats: those of `FORMATS` that are taken.

    Returns:
        (H, W) for gray, (H, W, 3) in RGB order for colour; uint8 or uint16.

    Raises:
        ImageError: it is damaged, or anything else than expected; the message says what it is.
    """
    name = _format_of(source, data, formats)
    try:
        if name == PNG:
            image = _decode_png(source, data, depths, channels, shape)
        elif name == TIFF:
            from cellsignal.images.tiff import decode_tiff  # tifffile takes long to import

            image = decode_tiff(source, data, 1, depths, shape)[0]
        else:
            image = _decode_jpeg(source, data, depths, channels, shape)
    except ImageError:
        raise
    except Exception as error:  # from damaged bytes the decoders raise anything
        raise corrupt(source, name, error) from None
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        detail = f"corrupt {name}: decodes to an array of shape {image.shape}"
        raise ImageError(source, "corrupt", detail)
    check_channels(source, 1 if image.ndim == 2 else 3, channels)
    check_depth(source, image.dtype, depths)
    check_size(source, image.shape[:2], shape)
    return image


def check_png(path: Path | str, data: bytes) -> PngHeader:
    """Walk the chunks of a PNG in memory and verify every checksum.

    Raises:
        ImageError: "wrong_format" (not a PNG), "truncated" (ends before its end marker), "corrupt"
        (a checksum does not match).
    """
    _format_of(path, data, (PNG,))
    header, kinds, start = None, set(), 8
    while b"IEND" not in kinds:
        if start + 12 > len(data):
            detail = f"truncated PNG: ends at byte {len(data)} without an end marker"
            raise ImageError(path, "truncated", detail)
        length, name = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            detail = f"truncated PNG: ends at byte {len(data)} inside a {name!r} chunk"
            raise ImageError(path, "truncated", detail)
        checksum = zlib.crc32(memoryview(data)[start + 4 : end - 4])
        if checksum != struct.unpack_from(">I", data, end - 4)[0]:
            detail = f"corrupt PNG: checksum of the chunk at byte {start} does not match"
            raise ImageError(path, "corrupt", detail)
        if (name == b"IHDR") != (start == 8) or (name == b"IHDR" and length != 13):
            raise ImageError(path, "corrupt", "corrupt PNG: does not start with one header chunk")
        if name == b"IHDR":
            header = struct.unpack_from(">IIBB", data, start + 8)
        kinds.add(name)
        start = end
    width, height, bits, colour = header
    channels = _PNG_CHANNELS.get(colour, 0)
    flags = (colour == 3, b"tRNS" in kinds, b"acTL" in kinds)
    return PngHeader(width, height, bits, channels, *flags)


def read_bytes(path: Path | str) -> bytes:
    """Return a file's bytes.

    Raises:
        ImageError: "missing": there is none, or it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(path, "missing", "no such image file") from None
    except OSError as error:
        raise ImageError(path, "missing", f"cannot be read ({error.strerror})") from None


def _format_of(source: Path | str, data: bytes, formats: Sequence[str]) -> str:
    names = [name for signature, name in _SIGNATURES.items() if data.startswith(signature)]
    if names and names[0] in formats:
        return names[0]
    expected = [signature for signature, name in _SIGNATURES.items() if name in formats]
    if any(signature.startswith(data[:8]) for signature in expected):
        raise ImageError(source, "truncated", "is empty or truncated")
    detail = f"is not a {listed(formats)}"
    if names:
        detail += f" but a {names[0]}"
    raise ImageError(source, "wrong_format", detail)


def _decode_png(
    source: Path | str,
    data: bytes,
    depths: Sequence[int],
    channels: Sequence[int],
    shape: tuple[int, int] | None,
) -> np.ndarray:
    # raises on every fault of the pixels; older versions of OpenCV return a part
    import imagecodecs

    header = check_png(source, data)
    bits = 8 if header.palette else header.bits
    if bits not in depths:
        kind = f"{header.bits}-bit image" + (" with a palette" if header.palette else "")
        raise ImageError(source, "wrong_depth", f"{kind}, {_listed_bits(depths)} expected")
    if header.animated:
        raise ImageError(source, "wrong_channels", "an animated PNG, one picture expected")
    if header.transparent:
        raise ImageError(source, "wrong_channels", "has transparent pixels (tRNS), save it without")
    if header.palette and 1 not in channels:
        raise ImageError(source, "wrong_channels", "has a palette, RGB expected")
    check_channels(source, header.channels, channels)
    check_size(source, (header.height, header.width), shape)
    filled = _fill_palette(data) if header.palette else data
    image = imagecodecs.png_decode(filled)
    if header.palette:
        beyond = ", or pixels beyond its last entry" if len(filled) > len(data) else ""
        image = gray_of(source, image, f"has a palette of colours{beyond}")
    if image.shape[:2] != (header.height, header.width):
        detail = f"corrupt PNG: decodes to an array of shape {image.shape}"
        raise ImageError(source, "corrupt", detail)
    return image


def _listed_bits(depths: Sequence[int]) -> str:
    return listed(f"{bits}-bit" for bits in depths)


def _fill_palette(data: bytes) -> bytes:
    """Extend a PNG's palette so that every pixel value has an entry.

    New entries are red, so that a pixel that uses one is not gray.
    """
    start = 8
    while (name := data[start + 4 : start + 8]) != b"PLTE":
        if name == b"IEND":
            return data
        start += 12 + struct.unpack_from(">I", data, start)[0]
    end = start + 8 + struct.unpack_from(">I", data, start)[0]
    entries = 1 << min(8, data[24])  # bits a pixel, of the header chunk
    chunk = b"PLTE" + data[start + 8 : end] + b"\xff\0\0" * (entries - (end - start - 8) // 3)
    filled = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:start] + filled + data[end + 4 :]


def _decode_jpeg(
    source: Path | str,
    data: bytes,
    depths: Sequence[int],
    channels: Sequence[int],
    shape: tuple[int, int] | None,
) -> np.ndarray:
    if not data.rstrip(b"\0").endswith(_JPEG_END):
        detail = f"truncated JPEG: ends at byte {len(data)} without an end marker"
        raise ImageError(source, "truncated", detail)
    bits, height, width, count = _jpeg_header(data)
    if bits not in depths:
        detail = f"{bits}-bit image, {_listed_bits(depths)} expected"
        raise ImageError(source, "wrong_depth", detail)
    check_channels(source, count, channels)
    check_size(source, (height, width), shape)
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    expected = (height, width) if count == 1 else (height, width, count)
    if image is None or image.shape != expected:
        raise ImageError(source, "corrupt", "corrupt JPEG: cannot be decoded")
    return image if count == 1 else np.ascontiguousarray(image[:, :, ::-1])


def _jpeg_header(data: bytes) -> tuple[int, int, int, int]:
    """Return bits a sample, height, width and samples a pixel.

    Raises:
        IndexError, struct.error: there is no header.
    """
    start = 2
    while True:
        while data[start] == 0xFF:
            start += 1
        marker, start = data[start], start + 1
        if marker in _JPEG_FRAMES:
            return struct.unpack_from(">BHHB", data, start + 2)
        start += struct.unpack_from(">H", data, start)[0]
