"""The size of most images, by a toy whose files are called as their size."""

import pytest

from cellsignal.common.errors import ImageError, InputError
from cellsignal.competitions.shapes import SHAPE_SAMPLES, most_common_shape


def shape_of(root, files):
    if files[0] == "damaged":
        raise ImageError(files[0], "corrupt", "cannot be decoded")
    height, width = files[0].split("x")
    return int(height), int(width)


def test_most_images_decide_and_damaged_ones_do_not(tmp_path):
    samples = [("damaged",)] * 5 + [("8x9",)] * 3 + [("9x8",)] * 4
    assert most_common_shape(tmp_path, samples, shape_of) == (9, 8)


def test_a_few_samples_are_asked(tmp_path):
    asked = []

    def shape(root, files):
        asked.append(files)
        return shape_of(root, files)

    assert most_common_shape(tmp_path, [("8x9",)] * 99, shape) == (8, 9)
    assert len(asked) == SHAPE_SAMPLES


def test_without_an_image_there_is_no_size(tmp_path):
    with pytest.raises(InputError, match=r"no readable image of the 2 samples .*, first damaged"):
        most_common_shape(tmp_path, [("damaged",)] * 2, shape_of)
    with pytest.raises(InputError, match="names no sample"):
        most_common_shape(tmp_path, [], shape_of)
