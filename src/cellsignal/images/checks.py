"""Check images before and after they are decoded."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cellsignal.common.errors import ImageError

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two of BigTIFF
MAX_PIXELS = 2**28  # of a plane; a header that states more is damaged
_CHANNEL_NAMES = {1: "gray", 2: "gray with alpha", 3: "RGB", 4: "RGB with alpha, or CMYK"}


def check_size(source: Path | str, size: tuple[int, int], shape: tuple[int, int] | None) -> None:
    """Raise an ImageError if a (height, width) is impossible or not the expected one."""
    if shape is not None and tuple(size) != tuple(shape):
        raise ImageError(
            source, "wrong_size", f"{size[1]}x{size[0]} pixels, {shape[1]}x{shape[0]} expected"
        )
    if not 0 < math.prod(size) <= MAX_PIXELS:
        raise ImageError(source, "corrupt", f"corrupt image: states {size[1]}x{size[0]} pixels")


def check_depth(source: Path | str, dtype: np.dtype | None, depths: Sequence[int]) -> None:
    """Raise an ImageError if pixels are not unsigned integers of the expected bit depth."""
    expected = [f"uint{bits}" for bits in depths]
    if str(dtype) not in expected:
        raise ImageError(
            source, "wrong_depth", f"pixels of type {dtype}, {listed(expected)} expected"
        )


def check_channels(source: Path | str, count: int, channels: Sequence[int]) -> None:
    """Raise an ImageError if the number of channels is not the expected one."""
    if count not in channels:
        what = f" ({_CHANNEL_NAMES[count]})" if count in _CHANNEL_NAMES else ""
        plural = "" if count == 1 else "s"
        raise ImageError(
            source,
            "wrong_channels",
            f"{count} channel{plural} a pixel{what}, {listed(channels)} expected",
        )


def gray_of(source: Path | str, colours: np.ndarray, what: str) -> np.ndarray:
    """Return a picture's grey channel; raise if red, green and blue differ.

    Args:
        source: the file or address that an error names.
        colours: (H, W, 3).
        what: what the picture is, for the error.

    Raises:
        ImageError: they differ.
    """
    gray = np.ascontiguousarray(colours[:, :, 0])
    if not all(np.array_equal(gray, colours[:, :, c]) for c in (1, 2)):
        raise ImageError(source, "wrong_channels", f"{what}, gray expected")
    return gray


def corrupt(source: Path | str, name: str, error: Exception) -> ImageError:
    """Return the error for whatever a decoder raised."""
    reason = " ".join(str(error).split())[:100] or type(error).__name__
    return ImageError(source, "corrupt", f"corrupt {name}: cannot be decoded ({reason})")


def listed(values: Iterable[object]) -> str:
    """Return "a", "a or b"."""
    return " or ".join(map(str, values))
