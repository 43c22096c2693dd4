"""How a site is resized: by area to shrink, bilinear as soon as one side grows."""

import cv2
import numpy as np
import pytest

from cellsignal.common.errors import ImageError, InputError
from cellsignal.data.sites import channel_statistics, read_site, resized

IMAGE = np.random.default_rng(0).integers(0, 256, (2, 16, 20), dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "how"),
    [
        ((4, 5), cv2.INTER_AREA),
        ((16, 5), cv2.INTER_AREA),  # one side stays
        ((4, 20), cv2.INTER_AREA),
        ((32, 40), cv2.INTER_LINEAR),
        ((17, 5), cv2.INTER_LINEAR),
        ((4, 21), cv2.INTER_LINEAR),
    ],
)
def test_to_shrink_is_by_area_and_to_enlarge_is_bilinear(shape, how):
    wanted = [cv2.resize(channel, shape[::-1], interpolation=how) for channel in IMAGE]
    other = cv2.INTER_LINEAR if how == cv2.INTER_AREA else cv2.INTER_AREA
    assert (cv2.resize(IMAGE[0], shape[::-1], interpolation=other) != wanted[0]).any()
    np.testing.assert_array_equal(resized(IMAGE, shape), wanted)


def test_area_is_the_mean_of_the_pixels_that_are_joined():
    blocks = IMAGE.reshape(2, 4, 4, 5, 4).mean(axis=(2, 4))
    assert np.abs(resized(IMAGE, (4, 5)) - blocks).max() <= 0.5


def test_a_size_that_fits_is_the_same_array():
    assert resized(IMAGE, (16, 20)) is IMAGE


def test_statistics_are_of_each_channel():
    flat = np.stack([np.full((4, 4), 7, np.uint8), np.arange(16, dtype=np.uint8).reshape(4, 4)])
    mean, sd = channel_statistics(flat)
    np.testing.assert_allclose(mean, [7, 7.5])
    np.testing.assert_allclose(sd, [0, np.sqrt((16**2 - 1) / 12)])
    assert sd[0] == 0


def raiser(error: BaseException):
    """A reader that raises."""

    def read(files):
        raise error

    return read


def test_a_site_that_was_read_is_returned_as_it_is():
    assert read_site(lambda files: IMAGE, ("a.png", "b.png")) is IMAGE


@pytest.mark.parametrize("image", [IMAGE[0], IMAGE.astype(np.uint16), IMAGE[0].astype(float)])
def test_an_array_that_is_no_image_is_a_fault_of_the_first_file(image):
    with pytest.raises(ImageError, match=r"^a\.png: cannot be read \(AssertionError") as caught:
        read_site(lambda files: image, ("a.png", "b.png"))
    assert (caught.value.path, caught.value.kind) == ("a.png", "corrupt")


@pytest.mark.parametrize(
    ("error", "path", "detail"),
    [
        (PermissionError(13, "Permission denied", "b.png"), "b.png", "Permission denied"),
        (OSError("no such device"), "a.png", "no such device"),
        (ValueError("two\n lines"), "a.png", "ValueError: two lines"),
        (RuntimeError("x" * 300), "a.png", f"RuntimeError: {'x' * 100}"),
    ],
)
def test_any_fault_of_a_reader_names_a_file_in_one_line(error, path, detail):
    with pytest.raises(ImageError) as caught:
        read_site(raiser(error), ("a.png", "b.png"))
    assert str(caught.value) == f"{path}: cannot be read ({detail})"
    assert caught.value.kind == "corrupt"


@pytest.mark.parametrize(
    "error",
    [InputError("calibration.json: damaged"), MemoryError(), ImageError("c.png", "empty", "dark")],
)
def test_what_is_no_fault_of_the_files_passes(error):
    with pytest.raises(type(error)) as caught:
        read_site(raiser(error), ("a.png",))
    assert caught.value is error
