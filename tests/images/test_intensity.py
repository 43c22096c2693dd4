"""16-bit planes: reading them, and what they become."""

import re

import cv2
import numpy as np
import pytest
import tifffile

from cellsignal.common.errors import ImageError
from cellsignal.images import image_size, read_gray16
from cellsignal.images.intensity import anscombe, illumination, to_uint8


@pytest.fixture
def plane():
    return np.random.default_rng(0).integers(0, 65536, (40, 56), dtype=np.uint16)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_tiff_is_read_as_it_was_written(tmp_path, plane, compression, byteorder):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, plane, compression=compression, byteorder=byteorder, rowsperstrip=16)
    assert np.array_equal(read_gray16(path, (40, 56)), plane) and image_size(path) == (40, 56)
    with pytest.raises(ImageError, match="56x40 pixels, 40x56 expected") as caught:
        read_gray16(path, (56, 40))
    assert caught.value.kind == "wrong_size"


def test_a_16_bit_png_too(tmp_path, plane):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), plane)
    assert np.array_equal(read_gray16(path), plane)


def test_real_tiff(real_data):
    path = next((real_data / "bbbc022").glob("*.tif"))
    image = read_gray16(path)
    assert (
        image.shape == (520, 696)
        and np.array_equal(image, tifffile.imread(path))
        and image.max() > 255
    )


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_a_truncated_tiff_is_never_a_picture(tmp_path, plane, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, plane, compression=compression)
    data = path.read_bytes()
    for length in (0, 3, 7, 20, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError, match=re.escape(str(path))) as caught:
            read_gray16(path)
        assert caught.value.kind in ("truncated", "corrupt", "wrong_format")


def test_a_damaged_zlib_strip_is_no_picture(tmp_path, plane):
    """Plain and LZW strips have no checksum: a flipped bit in them cannot be told."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, plane, compression="zlib")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(ImageError, match="corrupt"):
        read_gray16(path)


@pytest.mark.parametrize(
    "image, kind",
    [
        (np.zeros((9, 9), np.uint8), "wrong_depth"),
        (np.zeros((9, 9), np.float32), "wrong_depth"),
        (np.zeros((2, 9, 9), np.uint16), "wrong_channels"),
        (np.zeros((9, 9, 3), np.uint16), "wrong_channels"),
    ],
)
def test_other_tiffs_are_refused(tmp_path, image, kind):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb" if image.shape[-1] == 3 else "minisblack")
    with pytest.raises(ImageError) as caught:
        read_gray16(path)
    assert caught.value.kind == kind


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_sizes_of_every_format(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.zeros((20, 30), np.uint16 if suffix == ".tif" else np.uint8))
    assert image_size(path) == (20, 30)
    path.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=re.escape(str(path))):
        image_size(path)
    with pytest.raises(ImageError, match="no such"):
        image_size(tmp_path / "none")


@pytest.mark.parametrize("mean", [10, 100, 2000])
def test_anscombe_makes_shot_noise_even(mean):
    counts = np.random.default_rng(0).poisson(mean, 200_000)
    assert anscombe(counts).std() == pytest.approx(1, abs=0.02) and anscombe(0) == pytest.approx(
        1.5**0.5
    )


def test_to_uint8_by_hand():
    assert to_uint8(np.array([-1, 0, 0.49 / 255 * 4, 2, 4, 9]), 0, 4).tolist() == [
        0,
        0,
        0,
        128,
        255,
        255,
    ]


def test_illumination_finds_the_lamp():
    rows, columns = np.mgrid[-1:1:120j, -1:1:150j]
    lamp = 1 - 0.4 * (rows**2 + columns**2) / 2
    fields = np.random.default_rng(0).poisson(500 * lamp, (60, 120, 150)).mean(0)
    found = illumination(fields, 10)
    assert found.shape == lamp.shape and found.dtype == np.float32 and found.min() == 1
    even = (fields / found)[8:-8, 8:-8]
    assert even.std() / even.mean() < 0.02 < 0.05 < fields.std() / fields.mean()
    assert (illumination(np.zeros((30, 30)), 3) == 1).all()
