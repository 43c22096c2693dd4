"""How a site is resized: by area to shrink, bilinear as soon as one side grows."""

import cv2
import numpy as np
import pytest

from cellsignal.data.sites import channel_statistics, resized

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
