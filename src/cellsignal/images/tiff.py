"""Decode the gray planes of a TIFF in memory.

A TIFF may hold more than its one directory entry shows: ImageJ writes the planes of a stack behind
each other under a single entry. So what the description says of further planes counts, not the
number of entries alone.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from cellsignal.common.errors import ImageError
from cellsignal.images.checks import (
    TIFF_SIGNATURES,
    check_channels,
    check_depth,
    check_size,
    corrupt,
    gray_of,
)

_PHOTOMETRIC, _COLOR_MAP = 262, 320  # tags


def decode_tiff(
    source: Path | str,
    data: bytes,
    planes: int,
    depths: Sequence[int] = (16,),
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decode a TIFF that must hold a given number of gray planes of one size.

    Args:
        source: the file or address that an error names.
        data: the whole file.
        planes: P; more than one are those of one series, in its order.
        depths: bits a sample that are taken, of 8 and 16.
        shape: (height, width) in pixels that they must have; None takes any.

    Returns:
        (P, H, W) uint8 or uint16.

    Raises:
        ImageError: it is damaged, or anything else than expected.
    """
    if not data.startswith(TIFF_SIGNATURES):
        start = f"{len(data)} bytes that start {data[:12]!r}"
        raise ImageError(source, "wrong_format", f"is not a TIFF ({start})")
    try:
        stack = _decode_planes(source, data, planes, depths, shape)
    except ImageError:
        raise
    except Exception as error:  # from damaged bytes tifffile and its decoders raise anything
        raise corrupt(source, "TIFF", error) from None
    if stack.ndim != 3 or len(stack) != planes:
        raise ImageError(
            source, "corrupt", f"corrupt TIFF: decodes to an array of shape {stack.shape}"
        )
    check_depth(source, stack.dtype, depths)
    check_size(source, stack.shape[1:], shape)
    return stack


def _decode_planes(
    source: Path | str,
    data: bytes,
    planes: int,
    depths: Sequence[int],
    shape: tuple[int, int] | None,
) -> np.ndarray:
    """Decode like `decode_tiff`, but raise any error for damaged bytes."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages = [file.pages[number] for number in range(len(file.pages))]
        count = _count_planes(file)
        if count != planes or len(pages) != planes:
            expected = "one gray plane" if planes == 1 else f"{planes} gray planes"
            kind = " (an ImageJ stack)" if file.is_imagej else ""
            detail = f"{count} planes in one file{kind}, {expected} expected"
            raise ImageError(source, "wrong_channels", detail)
        for page in pages:
            _check_page(source, page, depths, shape, len(data))
        if planes == 1:
            return _gray(source, pages[0], pages[0].asarray())[None]
        stack = file.series[0].asarray()  # an OME-TIFF says which page is which channel
        stack = stack.reshape(-1, *stack.shape[-2:])
        return np.stack(
            [_gray(source, page, plane) for page, plane in zip(pages, stack, strict=True)]
        )


def _count_planes(file: tifffile.TiffFile) -> int:
    """Return how many planes the file says it holds, one directory entry or many."""
    pages, first = len(file.pages), file.pages[0]
    if pages > 1 or file.is_ome:  # an OME-TIFF's description names planes of other files too
        return pages
    stated = int((file.imagej_metadata or {}).get("images", 1))
    return max(stated, sum(math.prod(series.shape) for series in file.series) // first.size)


def _check_page(
    source: Path | str,
    page: tifffile.TiffPage,
    depths: Sequence[int],
    shape: tuple[int, int] | None,
    length: int,
) -> None:
    """Raise if a page's tags differ from what is expected; `length` is the file's in bytes."""
    check_channels(source, page.samplesperpixel, (1,))
    if page.ndim != 2:
        raise ImageError(
            source, "wrong_channels", f"a plane of shape {page.shape}, (height, width) expected"
        )
    check_depth(source, page.dtype, depths)
    bits = page.bitspersample
    if page.dtype == np.uint8 and bits != 8 and page.photometric != tifffile.PHOTOMETRIC.PALETTE:
        raise ImageError(source, "wrong_depth", f"{bits}-bit image, 8-bit expected")
    usual = tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.PALETTE
    if _PHOTOMETRIC in page.tags and page.photometric not in usual:
        name = getattr(page.photometric, "name", page.photometric)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            name = "WhiteIsZero, dark pixels have high values"
        detail = f"TIFF of another photometric interpretation ({name}), BlackIsZero expected"
        raise ImageError(source, "wrong_format", detail)
    check_size(source, page.shape, shape)
    offsets, counts = page.dataoffsets, page.databytecounts
    ends = [offset + count for offset, count in zip(offsets, counts, strict=True)]
    if not ends or max(ends) > length or 0 in offsets or 0 in counts:
        detail = f"ends at byte {length}, its pixels at {max(ends, default=0)}"
        raise ImageError(source, "truncated", f"truncated TIFF: {detail}")
    chunks = math.prod(page.chunked)
    if len(ends) < chunks:
        detail = f"truncated TIFF: {len(ends)} of {chunks} strips or tiles"
        raise ImageError(source, "truncated", detail)
    needed = page.imagelength * math.ceil(page.imagewidth * bits / 8)
    if page.compression == tifffile.COMPRESSION.NONE and sum(counts) < needed:
        detail = f"truncated TIFF: {sum(counts)} bytes of pixels, {page.nbytes} expected"
        raise ImageError(source, "truncated", detail)


def _gray(source: Path | str, page: tifffile.TiffPage, plane: np.ndarray) -> np.ndarray:
    """Return a page's values, through its palette if it has one."""
    if plane.shape != page.shape:
        raise ImageError(
            source, "corrupt", f"corrupt TIFF: decodes to an array of shape {plane.shape}"
        )
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and _PHOTOMETRIC in page.tags:
        table = np.asarray(page.tags[_COLOR_MAP].value, np.uint16).reshape(3, -1)
        gray = gray_of(source, table[:, plane].transpose(1, 2, 0), "has a palette of colours")
        if plane.dtype != np.uint8:
            plane = gray
        else:  # entries reach 65535; some programs write them up to 255
            plane = (gray if table.max() < 256 else gray >> 8).astype(np.uint8)
    return np.ascontiguousarray(plane, plane.dtype.newbyteorder("="))
