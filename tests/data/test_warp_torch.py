"""A batch on a device gives what one image after the other gives on the CPU, and neither looks
outside the rows that the draws name.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellsignal.common.errors import InputError
from cellsignal.config import augment as a
from cellsignal.data import warp_torch
from cellsignal.data.draws import Draws, Recipe, needs_albumentations
from cellsignal.data.warp import warp
from cellsignal.data.warp_torch import warp_batch

OPS = (
    a.HorizontalFlip(name="horizontal_flip"),
    a.VerticalFlip(name="vertical_flip"),
    a.Transpose(name="transpose"),
    a.Rotate90(name="rotate90"),
    a.Affine(name="affine", p=0.5, translate=0.3, rotate=90, scale=(0.6, 2.0)),
    a.RandomCrop(name="random_crop", size=13),
    a.RandomResizedCrop(name="random_resized_crop", p=0.5),
    a.RandomResizedCrop(name="random_resized_crop", size=11, scale=(0.1, 1.0), ratio=(0.5, 2.0)),
    a.SquareCropResize(name="square_crop_resize", min_fraction=0.2),
    a.Perspective(name="perspective", p=0.5, scale=(0.1, 0.2)),
    a.GainBias(name="gain_bias", p=0.5),
    a.CoarseDropout(name="coarse_dropout", p=0.5),
    a.ChannelDropout(name="channel_dropout", p=0.5),
)
WARP = OPS[4]


def smooth(n: int, channels: int, height: int, width: int) -> np.ndarray:
    field = ndimage.gaussian_filter(
        np.random.default_rng(1).normal(size=(n, channels, height, width)),
        (0, 0, 3, 3),
        mode="mirror",
    )
    return (20 + 215 * (field - field.min()) / np.ptp(field)).astype(np.uint8)


def cut(stored: np.ndarray, draws: Draws) -> np.ndarray:
    (h, w), corners = draws.input, draws.origin
    return np.stack(
        [
            image[:, top : top + h, left : left + w]
            for image, (top, left) in zip(stored, corners, strict=True)
        ]
    )


def both(
    images: np.ndarray, draws: Draws, shift: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    single = np.empty((*images.shape[:2], *draws.output), np.float32)
    for i, image in enumerate(images):
        warp(image, draws, i, shift[i], scale[i], single[i])
    batch = warp_batch(
        torch.from_numpy(images), draws, torch.from_numpy(shift), torch.from_numpy(scale)
    )
    assert batch.is_contiguous(memory_format=torch.channels_last) and batch.dtype == torch.float32
    return single, batch.numpy()


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from(OPS), max_size=5),
    st.sampled_from([(32, 32), (40, 33), (13, 64)]),
    st.sampled_from([None, None, 10]),
    st.integers(0, 2**32),
)
def test_both_agree_and_rows_are_enough(ops, shape, center_crop, seed):
    if needs_albumentations(tuple(ops)) is not None:
        return
    try:
        recipe = Recipe(tuple(ops), 4, shape, center_crop)
    except InputError:
        return
    rng = np.random.default_rng(seed)
    draws = recipe.draw(rng.random((6, recipe.numbers)))
    stored, shift, scale = smooth(6, 4, *shape), *rng.uniform(1, 9, (2, 6, 4)).astype(np.float32)
    single, batch = both(cut(stored, draws), draws, shift, scale)
    # grey levels
    apart = np.abs(single - batch) * (scale / np.abs(draws.gain).clip(1e-3))[:, :, None, None]
    assert (
        apart[~draws.bilinear].max(initial=0) < 1e-3 and apart[draws.bilinear].max(initial=0) < 2.5
    )

    garbage = 255 - stored
    assert ((draws.rows >= 0) & (draws.rows <= shape[0])).all()
    for i, (top, bottom) in enumerate(draws.rows):
        garbage[i, :, top:bottom] = stored[i, :, top:bottom]
    assert all(
        np.array_equal(x, y)
        for x, y in zip(
            both(cut(garbage, draws), draws, shift, scale), (single, batch), strict=True
        )
    )


@pytest.mark.parametrize("op", [OPS[4], OPS[6], OPS[7], OPS[9]])
def test_bilinear_agrees_to_a_grey_level_and_a_half(op):
    images = ndimage.gaussian_filter(smooth(12, 3, 64, 64), (0, 0, 1, 1), mode="mirror")
    recipe = Recipe((op.model_copy(update={"p": 1}),), 3, (64, 64))
    draws = recipe.draw(np.random.default_rng(0).random((12, recipe.numbers)))
    single, batch = both(images, draws, np.zeros((12, 3), np.float32), np.ones((12, 3), np.float32))
    assert np.abs(single - batch).max() < 1.5


def test_nearest_is_the_same_number():
    recipe = Recipe((*OPS[:4], OPS[8]), 3, (48, 48))
    draws = recipe.draw(np.random.default_rng(0).random((40, recipe.numbers)))
    images = np.random.default_rng(1).integers(0, 256, (40, 3, 48, 48), dtype=np.uint8)
    single, batch = both(
        images, draws, np.full((40, 3), 3, np.float32), np.full((40, 3), 7, np.float32)
    )
    assert np.array_equal(single, batch)


@pytest.mark.parametrize("shape", [(1, 1), (1, 24), (24, 1), (2, 2)])
@pytest.mark.parametrize("op", [OPS[0], WARP, OPS[6], OPS[8]])
def test_sides_of_one_pixel(shape, op):
    recipe = Recipe((op,), 2, shape)
    draws = recipe.draw(np.random.default_rng(0).random((8, recipe.numbers)))
    single, batch = both(
        smooth(8, 2, *shape), draws, np.zeros((8, 2), np.float32), np.ones((8, 2), np.float32)
    )
    assert np.isfinite(batch).all() and np.abs(single - batch).max() < 20


@pytest.mark.parametrize("chunk", [1, 3 * 32 * 32 * 3])
def test_chunks_change_nothing(monkeypatch, chunk):
    recipe = Recipe((OPS[0], WARP, OPS[10], OPS[11]), 3, (32, 32))
    draws = recipe.draw(np.random.default_rng(0).random((10, recipe.numbers)))
    images = torch.from_numpy(smooth(10, 3, 32, 32))
    arguments = images, draws, torch.full((10, 3), 30.0), torch.full((10, 3), 20.0)
    whole = warp_batch(*arguments)
    assert draws.bilinear.any() and not draws.bilinear.all()
    monkeypatch.setattr(warp_torch, "CHUNK", chunk)
    assert torch.equal(warp_batch(*arguments), whole)


def test_an_empty_batch():
    recipe = Recipe((OPS[0], WARP), 3, (32, 24))
    draws = recipe.draw(np.empty((0, recipe.numbers)))
    empty = torch.empty(0, 3)
    assert warp_batch(torch.empty(0, 3, 32, 24, dtype=torch.uint8), draws, empty, empty).shape == (
        0,
        3,
        32,
        24,
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_on_the_cpu_without_waiting():
    recipe = Recipe((OPS[0], OPS[2], WARP, OPS[10], OPS[11], OPS[12]), 3, (64, 64))
    draws = recipe.draw(np.random.default_rng(0).random((16, recipe.numbers)))
    arguments = (
        torch.from_numpy(smooth(16, 3, 64, 64)),
        torch.full((16, 3), 30.0),
        torch.full((16, 3), 20.0),
    )
    there = [x.cuda() for x in arguments]
    warp_batch(there[0], draws, *there[1:])  # memory is taken once
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = warp_batch(there[0], draws, *there[1:])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(
        got.cpu(), warp_batch(arguments[0], draws, *arguments[1:]), atol=0.02, rtol=0
    )
