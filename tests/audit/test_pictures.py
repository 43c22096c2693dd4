"""Near-duplicates: which changes of an image are seen, and that other images are not taken for it."""

import tracemalloc

import cv2
import numpy as np
import pandas as pd
import pytest

from cellsignal.audit.pictures import Pictures, few_planes, near_pairs, read_pictures, turn
from cellsignal.competitions import get_competition


def cells(rng, side=96, planes=3):
    """Textured images, as of fields full of cells."""
    noise = rng.normal(size=(planes, side, side)).astype(np.float32)
    image = sum(
        np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in noise]) * sigma
        for sigma in (1.0, 3.0, 8.0)
    )
    return np.clip(60 + 25 * image, 0, 255).astype(np.uint8)


def jpeg(image):
    return np.stack(
        [
            cv2.imdecode(cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 0)
            for plane in image
        ]
    )


def half_size(image):
    side = image.shape[1]
    return np.stack(
        [cv2.resize(cv2.resize(plane, (side // 2, side // 2)), (side, side)) for plane in image]
    )


CHANGES = {
    "brighter": lambda i: np.clip(i * 1.3 + 10, 0, 255),
    "turned": lambda i: turn(i, 1),
    "flipped and turned": lambda i: turn(i, 6),
    "saved as a poor JPEG": jpeg,
    "half the size and back": half_size,
    "noise": lambda i: i + np.random.default_rng(9).normal(0, 12, i.shape),
    "moved by one pixel": lambda i: np.roll(i, 1, axis=2),
}


def pairs_of(images):
    images = [np.clip(image, 0, 255).astype(np.uint8) for image in images]
    frame = pd.DataFrame({"row": range(len(images))})
    rows = np.arange(len(images))
    pictures = read_pictures(frame, images.__getitem__, rows, rows[:0])
    return near_pairs(pictures, images.__getitem__)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(change):
    rng = np.random.default_rng(0)
    images = [cells(rng) for _ in range(60)]
    images[41] = CHANGES[change](images[7])
    found = pairs_of(images)
    assert found[["first", "second"]].to_numpy().tolist() == [[7, 41]]
    assert found.correlation.iloc[0] > 0.8


@pytest.mark.real_data
@pytest.mark.parametrize("change", CHANGES)
def test_copies_of_real_images(real_data, change):
    root = real_data / "bbbc021" / "subset"
    competition = get_competition("bbbc021")
    files = competition.samples(root).files.iloc[::11]
    images = [competition.read(root, names) for names in files]
    assert len(images) == 60
    images[41] = CHANGES[change](images[7])
    assert pairs_of(images)[["first", "second"]].to_numpy().tolist() == [[7, 41]]


def test_the_same_shading_makes_no_copy():
    """Uneven illumination is in all images alike, and far stronger than the cells."""
    rng, shade = np.random.default_rng(1), np.linspace(0, 150, 96)
    assert pairs_of([cells(rng) * 0.3 + shade for _ in range(60)]).empty


def test_blank_images_are_nobodys_copy():
    rng = np.random.default_rng(2)
    blank = np.full((3, 96, 96), 17, np.uint8)
    assert pairs_of([cells(rng), blank, blank.copy(), cells(rng)]).empty


def test_one_image_alone():
    assert pairs_of([cells(np.random.default_rng(3))]).empty


def test_many_images_are_compared_in_the_memory_of_one_copy(monkeypatch):
    """A third copy at RxRx1's full size would be .3 GB; blocks must not change what is found."""
    rng = np.random.default_rng(4)
    small = rng.normal(size=(700, 6, 16, 16)).astype(np.float32)
    small[500] = turn(small[3], 5)
    none = np.zeros(700, bool)
    pictures = Pictures(np.arange(700), small, none, {})
    tiny = np.zeros((6, 16, 16), np.uint8)  # no finer detail: the small images decide
    found = [near_pairs(pictures, lambda row: tiny)]  # and what is imported is not counted below
    for block in (4096, 128):
        monkeypatch.setattr("cellsignal.audit.pictures._BLOCK", block)
        tracemalloc.start()
        found.append(near_pairs(pictures, lambda row: tiny))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert all(of_block.equals(found[0]) for of_block in found)
    assert found[0][["first", "second"]].to_numpy().tolist() == [[3, 500]]
    assert peak < 2.3 * small.nbytes  # with what 20,000 random pairs take; 4 times before


def test_planes_of_a_clip_are_averaged():
    clip = np.arange(32, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    assert few_planes(clip).shape == (8, 4, 4)
    assert few_planes(clip)[0, 0, 0] == 2 and few_planes(clip[:8]).shape == (8, 4, 4)
