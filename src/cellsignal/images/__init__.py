"""Read images; a damaged or unexpected file raises an error that names it."""

from cellsignal.images.checks import gray_of
from cellsignal.images.decoding import (
    JPEG,
    PNG,
    TIFF,
    PngHeader,
    check_png,
    decode_image,
    image_size,
    read_bytes,
    read_gray16,
    read_png8,
)

__all__ = [
    "JPEG",
    "PNG",
    "TIFF",
    "PngHeader",
    "check_png",
    "decode_image",
    "gray_of",
    "image_size",
    "read_bytes",
    "read_gray16",
    "read_png8",
]
