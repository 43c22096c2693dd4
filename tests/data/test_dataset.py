"""Batches and items: complete, reproducible anywhere, standardised as stated."""

import numpy as np
import pytest
import torch

from cellsignal.config.augment import GainBias, Rotate90
from cellsignal.data.dataset import SiteDataset, loader, read_rows
from cellsignal.data.samplers import in_order
from cellsignal.data.transforms import Transform


class Arrays:
    """What a dataset needs of a store."""

    def __init__(self, images):
        self.images = images

    def read(self, row, out=None):
        if out is None:
            return self.images[row]
        out[...] = self.images[row]
        return out


@pytest.fixture
def store():
    return Arrays(np.random.default_rng(0).integers(0, 256, (10, 3, 8, 8), dtype=np.uint8))


def make(store, **more):
    rows = np.array([7, 2, 5, 9])
    shift, scale = np.full((4, 3), 100.0), np.array([[1, 2, 4]] * 4)
    return SiteDataset(store, rows, np.array([0, 1, 2, -1]), shift, scale, **more)


def test_an_item_is_the_standardised_image(store):
    item = make(store)[2]
    expected = (store.images[5].astype(float) - 100) / np.array([1, 2, 4])[:, None, None]
    assert torch.allclose(item["image"].double(), torch.from_numpy(expected)) and (item["label"], item["index"]) == (2, 2)
    assert item["image"].dtype == torch.float32


def test_center_crop(store):
    item = make(store, center_crop=4)[0]
    assert torch.equal(item["image"], make(store)[0]["image"][:, 2:6, 2:6])


def test_memory_and_store_give_the_same(store):
    cached, direct = make(store, cache_gib=1.0), make(store)
    assert cached.cached is not None and direct.cached is None
    assert all(torch.equal(cached[i]["image"], direct[i]["image"]) for i in range(4))
    assert read_rows(store, np.arange(10), 1e-9) is None


def test_augmentation_depends_on_seed_epoch_and_index_alone(store):
    transform = Transform((Rotate90(name="rotate90"), GainBias(name="gain_bias")), 3)
    a, b = make(store, transform=transform, seed=1), make(store, transform=transform, seed=1)
    b[(0, 3)], b[(5, 1)]
    assert torch.equal(a[(2, 1)]["image"], b[(2, 1)]["image"])
    others = [a[(3, 1)], make(store, transform=transform, seed=2)[(2, 1)]]
    assert not any(torch.equal(a[(2, 1)]["image"], other["image"]) for other in others)


def test_starting_a_loader_leaves_the_trainers_random_numbers_alone(store):
    state = torch.get_rng_state()
    batches = list(loader(make(store), in_order(4, 2), workers=0))
    assert torch.equal(torch.get_rng_state(), state)
    assert batches[0]["image"].shape == (2, 3, 8, 8) and batches[1]["index"].tolist() == [2, 3]
