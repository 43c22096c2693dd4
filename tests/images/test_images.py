"""Reading one PNG: damage is an error that names the file, whatever the damage."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cellsignal.common.errors import ImageError
from cellsignal.images import PngHeader, check_png, read_png8


@pytest.fixture
def picture(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    return tmp_path / "a.png", image


def test_gray_and_colour_are_what_pillow_reads(tmp_path, picture):
    path, image = picture
    assert np.array_equal(read_png8(path, (20, 30)), image) and np.array_equal(
        np.asarray(Image.open(path)), image
    )
    colour = np.random.default_rng(1).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "c.png")
    assert np.array_equal(read_png8(tmp_path / "c.png", channels=3), colour)
    assert check_png("c", (tmp_path / "c.png").read_bytes()) == PngHeader(9, 8, 8, 3)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("wrong_depth", lambda p: cv2.imwrite(str(p), np.zeros((20, 30), np.uint16))),
        ("wrong_size", lambda p: cv2.imwrite(str(p), np.zeros((30, 20), np.uint8))),
        ("wrong_channels", lambda p: cv2.imwrite(str(p), np.zeros((20, 30, 3), np.uint8))),
        ("wrong_format", lambda p: p.write_bytes(b"GIF89a" + bytes(50))),
        ("truncated", lambda p: p.write_bytes(b"")),
        ("missing", lambda p: p.unlink()),
    ],
)
def test_every_other_image_is_named_and_told_apart(picture, kind, make):
    path, _ = picture
    make(path)
    with pytest.raises(ImageError, match=r"a\.png: ") as error:
        read_png8(path, (20, 30))
    assert error.value.kind == kind


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_cut_and_no_flipped_byte_goes_unnoticed(data):
    image = np.arange(600, dtype=np.uint8).reshape(20, 30)
    good = cv2.imencode(".png", image)[1].tobytes()
    place = data.draw(st.integers(0, len(good) - 1))
    with pytest.raises(ImageError) as cut:
        check_png("x.png", good[:place])
    assert cut.value.kind == "truncated"
    flipped = bytearray(good)
    flipped[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ImageError):
        check_png("x.png", bytes(flipped))


def test_whole_chunks_around_pixels_that_cannot_be_decoded(tmp_path):
    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", 30, 20, 8, 0, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", b"no zlib stream")
        + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match="cannot be decoded") as error:
        read_png8(path)
    assert error.value.kind == "corrupt"
