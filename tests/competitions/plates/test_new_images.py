"""Channels of new images are matched by name, by order or as given; never by guess."""

import cv2
import numpy as np
import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions.plates.new_images import NewImages, describe_images, match_channels

pytestmark = pytest.mark.slow

RUN = ("DNA", "ER", "Actin")


@pytest.mark.parametrize(
    ("channels", "given", "expected"),
    [
        ({"actin": "c", "dna": "a", "e_r": "b"}, None, ("a", "b", "c")),  # by name
        ({"extra": "x", "Actin": "c", "DNA": "a", "ER": "b"}, None, ("a", "b", "c")),
        ({"ch1": "1", "ch2": "2", "ch3": "3"}, None, ("1", "2", "3")),  # by order
        ({"ch1": "1", "ch2": "2", "ch3": "3", "ch4": "4"}, ("4", "1", "2"), ("4", "1", "2")),
    ],
)
def test_channels_are_matched(tmp_path, channels, given, expected):
    matched, _ = match_channels(tmp_path, channels, RUN, given)
    assert tuple(matched) == RUN and tuple(matched.values()) == expected


@pytest.mark.parametrize(
    ("channels", "given", "message"),
    [
        ({"ch1": "1", "ch2": "2"}, None, r"has 2 channels \(ch1, ch2\), the run sees 3 \(DNA, ER"),
        ({"Actin": "1", "ch2": "2", "ch3": "3"}, None, "only some are called the same"),
        ({"ch1": "1", "ch2": "2", "ch3": "3"}, ("1", "1", "2"), "names 3 channels; the run sees 3"),
        ({"ch1": "1", "ch2": "2", "ch3": "3"}, ("1", "2", "5"), "has no channel '5'; it has 1, 2"),
    ],
)
def test_channels_that_may_be_wrong_are_refused(tmp_path, channels, given, message):
    with pytest.raises(InputError, match=message):
        match_channels(tmp_path, channels, RUN, given)


def test_images_of_one_file_each_are_read_by_pattern(tmp_path):
    for name, level in (("a", 10), ("b", 200)):
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[..., 2] = level  # red, as OpenCV writes it
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    images, _ = describe_images(tmp_path, "{image}.png", None)
    assert images.bits == 8 and list(images.channels) == ["red", "green", "blue"]
    new = NewImages(images, controls=("b",))
    samples = new.samples(tmp_path)
    assert list(samples.well) == ["a", "b"]
    assert list(samples.role) == ["treatment", "negative_control"]
    assert set(samples.split) == {"test"} and samples.label.isna().all()
    pixels = new.read(tmp_path, samples.files[0])
    assert pixels.shape == (3, 8, 8) and pixels[0].max() == 10 and pixels[1:].max() == 0
