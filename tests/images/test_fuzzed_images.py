"""Damaged bytes give a picture of the right shape or an ImageError: never another exception, never
another shape.
"""

import io

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cellsignal.common.errors import ImageError
from cellsignal.images import JPEG, PNG, TIFF, decode_image

SHAPE = (20, 30)
PLANE = np.random.default_rng(0).integers(0, 65536, SHAPE, dtype=np.uint16)
GRAY = (PLANE >> 8).astype(np.uint8)


def tiff(**options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, PLANE, photometric="minisblack", **options)
    return file.getvalue()


FILES = {
    "png": (cv2.imencode(".png", GRAY)[1].tobytes(), PNG, GRAY),
    "png16": (cv2.imencode(".png", PLANE)[1].tobytes(), PNG, PLANE),
    "jpeg": (cv2.imencode(".jpg", GRAY)[1].tobytes(), JPEG, None),
    "plain": (tiff(metadata=None), TIFF, PLANE),
    "strips": (tiff(rowsperstrip=7, byteorder=">"), TIFF, PLANE),
    "tiles": (tiff(tile=(16, 16), compression="zlib", predictor=True), TIFF, PLANE),
    "lzw": (tiff(compression="lzw", predictor=True, rowsperstrip=7), TIFF, PLANE),
    "zstd": (tiff(compression="zstd"), TIFF, PLANE),
    "imagej": (tiff(imagej=True), TIFF, PLANE),
    "ome": (tiff(ome=True), TIFF, PLANE),
}


def damaged(data: bytes, edits: list[tuple[int, int]], length: int) -> bytes:
    """`data` with each (place, change) xored, cut to `length`; places count from the end where the
    file is shorter.
    """
    changed = bytearray(data)
    for place, change in edits:
        changed[place % len(changed)] ^= change
    return bytes(changed[:length])


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    edits=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), min_size=0, max_size=4),
    kept=st.integers(0, 1000),
    whole=st.booleans(),
)
@example(edits=[], kept=0, whole=True)
def test_damage_is_an_error_or_a_picture_of_the_right_shape(name, edits, kept, whole):
    data, _, plane = FILES[name]
    changed = damaged(data, edits, len(data) if whole else len(data) * kept // 1000)
    try:
        image = decode_image("a.img", changed, depths=(8, 16), shape=SHAPE)
    except ImageError as error:
        assert str(error).startswith("a.img: ") and "\n" not in str(error)
        assert error.kind in (
            "truncated",
            "corrupt",
            "wrong_size",
            "wrong_depth",
            "wrong_channels",
            "wrong_format",
        )
        assert changed != data
    else:
        assert image.shape == SHAPE and image.dtype in (np.uint8, np.uint16)
        assert plane is None or changed != data or np.array_equal(image, plane)


@pytest.mark.parametrize("name", [name for name, (_, kind, _) in FILES.items() if kind == TIFF])
def test_no_single_byte_of_a_tiffs_entry_makes_anything_else(name):
    """Every byte that is not a pixel, at several values: the tags, their counts and their offsets."""
    data, _, plane = FILES[name]
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        pixels = [
            range(at, at + size)
            for at, size in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
    for place in (place for place in range(len(data)) if not any(place in part for part in pixels)):
        for change in (1, 2, 0x80, 0xFF):
            try:
                image = decode_image(
                    "a.tif", damaged(data, [(place, change)], len(data)), depths=(16,), shape=SHAPE
                )
            except ImageError:
                continue
            assert image.shape == plane.shape and image.dtype == plane.dtype
