"""Batches on the device: every way gives the same pixels, in order, whatever the threads; errors
come through.
"""

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from arrays import Arrays

from cellsignal.common.errors import InputError
from cellsignal.config.augment import (
    Affine,
    Blur,
    ChannelDropout,
    CoarseDropout,
    GainBias,
    HorizontalFlip,
    RandomCrop,
    Rotate90,
    SquareCropResize,
)
from cellsignal.data.dataset import SiteDataset
from cellsignal.data.draws import Recipe
from cellsignal.data.feed import feed, feed_raw, standardize_batch
from cellsignal.data.slots import SLOTS
from cellsignal.data.transforms import Transform

CPU = torch.device("cpu")
RECIPES = {
    "nothing": (),
    "flips": (
        HorizontalFlip(name="horizontal_flip"),
        Rotate90(name="rotate90"),
        GainBias(name="gain_bias"),
    ),
    "crop": (
        RandomCrop(name="random_crop", size=9),
        Rotate90(name="rotate90"),
        CoarseDropout(name="coarse_dropout", p=1, size=(0.2, 0.5)),
    ),
    "warps": (
        SquareCropResize(name="square_crop_resize"),
        Affine(name="affine", p=0.7),
        ChannelDropout(name="channel_dropout", p=0.5),
    ),
}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)


def make(images, steps, **more):
    n, store = len(images), more.pop("store", None) or Arrays(images)
    rng = np.random.default_rng(1)
    shift, scale = rng.uniform(50, 200, (n, 3)), rng.uniform(10, 60, (n, 3))
    augmentation = (
        Recipe(steps, 3, (16, 16), more.pop("center_crop", None))
        if isinstance(steps, tuple)
        else steps
    )
    return SiteDataset(store, np.arange(n)[::-1].copy(), shift, scale, augmentation, 5, **more)


def keys(epoch, sizes=(7, 3, 8, 1, 5, 7, 7)):
    order = np.random.default_rng(epoch).permutation(40)
    ends = np.cumsum(sizes)
    return [
        [(epoch, int(i)) for i in order[end - size : end]]
        for end, size in zip(ends, sizes, strict=True)
    ]


@pytest.mark.parametrize("recipe", RECIPES)
def test_all_ways_give_the_same_batches(images, recipe):
    """Read in this thread, in three threads, from memory: the same bits. All images on the device,
    warped as a batch: the same but for rounding.
    """
    steps = RECIPES[recipe]
    asked = keys(3)
    expected = [
        (b.images.clone(), b.index.copy()) for b in feed(make(images, steps), asked, 0, CPU)
    ]
    assert [index.tolist() for _, index in expected] == [[i for _, i in batch] for batch in asked]
    for dataset, workers in ((make(images, steps), 3), (make(images, steps, cache_gib=1.0), 2)):
        for (x, index), found in zip(expected, feed(dataset, asked, workers, CPU), strict=True):
            assert torch.equal(found.images, x) and np.array_equal(found.index, index)
            assert (
                found.images.is_contiguous(memory_format=torch.channels_last)
                and found.images.dtype == torch.float32
            )
    device = make(images, steps, device=CPU, device_gib=1.0)
    for (x, index), found in zip(expected, feed(device, asked, 2, CPU), strict=True):
        assert found.images.shape == x.shape
        levels = (found.images - x).abs() * torch.from_numpy(device.scale[index])[:, :, None, None]
        # OpenCV's bilinear weights have 5 bits, and this is white noise
        assert levels.max() < 255 / 32 and levels.mean() < 1
        if recipe != "warps":
            torch.testing.assert_close(found.images, x, atol=1e-4, rtol=1e-4)


def test_an_epoch_differs_from_the_next_and_from_no_other_order(images):
    dataset = make(images, RECIPES["warps"])
    one = {
        i: x.clone()
        for b in feed(dataset, [[(0, i) for i in range(40)]], 0, CPU)
        for i, x in zip(b.index, b.images, strict=True)
    }
    again = {
        i: x.clone()
        for b in feed(dataset, keys(0), 2, CPU)
        for i, x in zip(b.index, b.images, strict=True)
    }
    other = {
        i: x.clone()
        for b in feed(dataset, keys(1), 2, CPU)
        for i, x in zip(b.index, b.images, strict=True)
    }
    assert all(torch.equal(one[i], again[i]) for i in again)
    assert sum(torch.equal(one[i], other[i]) for i in other) < 5


def test_a_transform_goes_through_processes(images):
    dataset = make(
        images, Transform((Blur(name="blur", p=1.0), HorizontalFlip(name="horizontal_flip")), 3)
    )
    alone = list(feed(dataset, keys(0), 0, CPU))
    for a, b in zip(alone, feed(dataset, keys(0), 2, CPU), strict=True):
        assert torch.equal(a.images, b.images) and np.array_equal(a.index, b.index)
        assert torch.equal(a.images[0], dataset[(0, int(a.index[0]))]["image"])


@pytest.mark.parametrize("center_crop", [None, 10])
@pytest.mark.parametrize("workers", [0, 2])
def test_raw_batches_stay_and_are_standardised_as_stated(images, center_crop, workers):
    dataset = make(images, (), center_crop=center_crop)
    batches = [list(range(0, 15)), list(range(15, 40))]
    held = list(feed_raw(dataset, batches, workers, CPU))
    on_device = list(
        feed_raw(
            make(images, (), center_crop=center_crop, device=CPU, device_gib=1.0), batches, 0, CPU
        )
    )
    part = slice(None) if center_crop is None else slice(3, 13)
    for batch, other, index in zip(held, on_device, batches, strict=True):
        expected = images[::-1][index][:, :, part, part]
        assert (
            batch.images.dtype == torch.uint8
            and np.array_equal(batch.images, expected)
            and torch.equal(batch.images, other.images)
        )
        x = standardize_batch(batch.images, dataset.shift[index], dataset.scale[index])
        wanted = (
            expected - dataset.shift[index][:, :, None, None].astype(np.float64)
        ) / dataset.scale[index][:, :, None, None]
        np.testing.assert_allclose(x, wanted, atol=1e-5, rtol=1e-5)
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_threads_read_and_not_further_ahead_than_there_are_buffers(images):
    store = Arrays(images)
    stream = feed(make(images, (), store=store), [[(0, i)] for i in range(40)], 2, CPU)
    next(stream)
    assert len(store.reads) <= SLOTS and all(name.startswith("reading") for name in store.readers)
    stream.close()
    assert len(store.reads) <= SLOTS + 1
    assert not any(thread.name.startswith("reading") for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_an_error_when_its_batch_is_due(images, workers):
    dataset = make(images, (), store=Arrays(images, broken={39 - 12}))
    stream = feed(
        dataset,
        [[(0, i) for i in range(first, first + 5)] for first in range(0, 40, 5)],
        workers,
        CPU,
    )
    assert [len(next(stream).index) for _ in range(2)] == [5, 5]
    with pytest.raises(InputError, match="row 27 is damaged"):
        next(stream)


def test_no_batches(images):
    assert (
        list(feed(make(images, ()), [], 2, CPU)) == []
        and list(feed_raw(make(images, ()), [], 0, CPU)) == []
    )


class Dies:
    """A store whose reader's process ends without a word, as one that the system kills for want of
    memory.
    """

    def __init__(self, images, row):
        self.images, self.shape, self.row = images, images.shape[1:], row

    def read(self, row, out=None, rows=None):
        if row == self.row:
            os.kill(os.getpid(), signal.SIGKILL)
        out[...] = self.images[row]
        return out


def test_a_killed_worker_is_one_line(images):
    dataset = make(images, Transform((Blur(name="blur"),), 3), store=Dies(images, 39 - 20))
    with pytest.raises(InputError, match=r"a worker process died .*fewer data\.workers"):
        list(
            feed(
                dataset,
                [[(0, i) for i in range(first, first + 5)] for first in range(0, 40, 5)],
                2,
                CPU,
            )
        )


class Fails(Dies):
    """A store whose reader raises a bug's error in its process."""

    def read(self, row, out=None, rows=None):
        raise RuntimeError("a bug")


def test_an_error_in_a_worker_is_not_called_a_death(images):
    dataset = make(images, Transform((Blur(name="blur"),), 3), store=Fails(images, 0))
    with pytest.raises(RuntimeError, match="a bug") as kept:
        list(feed(dataset, [[(0, 1)], [(0, 2)]], 2, CPU))
    # the kept traceback holds the iterator; no process may wait for it, or Python never ends
    assert kept.tb and not multiprocessing.active_children()


def test_a_death_is_an_input_error_wherever_the_program_is(images):
    dataset = make(images, Transform((Blur(name="blur"),), 3))
    batches = feed(dataset, [[(0, i)] for i in range(20)], 2, CPU)
    next(batches)
    with pytest.raises(InputError, match="a worker process died"):
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        time.sleep(10)
