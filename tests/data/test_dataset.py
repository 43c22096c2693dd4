"""What a job reads: chosen rows and channels, kept in memory or not, and draws that depend on seed,
epoch and index alone.
"""

import numpy as np
import pytest
import torch
from arrays import Arrays

from cellsignal.config.augment import Affine, GainBias, RandomCrop, Rotate90
from cellsignal.data.dataset import SiteDataset, loader, read_rows
from cellsignal.data.draws import Recipe
from cellsignal.data.samplers import in_order
from cellsignal.data.transforms import Transform

STEPS = (Rotate90(name="rotate90"), Affine(name="affine"), GainBias(name="gain_bias"))


@pytest.fixture
def store():
    return Arrays(np.random.default_rng(0).integers(0, 256, (10, 3, 8, 8), dtype=np.uint8))


def make(store, augmentation=None, seed=0, **more):
    rows = np.array([7, 2, 5, 9])
    shift, scale = np.full((4, 3), 100.0), np.array([[1, 2, 4]] * 4)
    channels = more.get("channels")
    if channels is not None:
        shift, scale = shift[:, channels], scale[:, channels]
    return SiteDataset(
        store, rows, shift, scale, augmentation or Recipe((), shift.shape[1], (8, 8)), seed, **more
    )


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_the_chosen_rows_and_channels_are_read(store, cache_gib):
    dataset = make(store, cache_gib=cache_gib)
    assert (
        (dataset.kept is not None) == (cache_gib > 0)
        and dataset.shape == (3, 8, 8)
        and len(dataset) == 4
    )
    assert np.array_equal(dataset.read(2), store.images[5])
    out = np.zeros((3, 8, 8), np.uint8)
    assert dataset.read(1, out=out) is out and np.array_equal(out, store.images[2])
    some = make(store, cache_gib=cache_gib, channels=np.array([2, 0]))
    assert some.shape == (2, 8, 8) and np.array_equal(some.read(3), store.images[9][[2, 0]])
    out = np.zeros((2, 8, 8), np.uint8)
    assert np.array_equal(some.read(0, out=out), store.images[7][[2, 0]]) and np.array_equal(
        out, store.images[7][[2, 0]]
    )


@pytest.mark.parametrize("augmentations", [(), (RandomCrop(name="random_crop", size=6),)])
def test_the_size_of_an_image_is_known_before_it_is_read(store, augmentations):
    side = (6, 6) if augmentations else (8, 5)
    wide = Arrays(store.images[..., : 8 if augmentations else 5])
    shape = wide.images.shape[2:]
    for augmentation in (
        Recipe(augmentations, 3, shape),
        Transform(augmentations, 3),
        Transform(augmentations, 3, shape=shape),
    ):
        dataset = make(wide, augmentation)
        assert (dataset.output, dataset.image_size) == (side, side[1])


def test_only_the_rows_asked_for_need_to_be_right(store):
    assert np.array_equal(make(store).read(2, (3, 6))[:, 3:6], store.images[5][:, 3:6])


def test_what_is_kept_is_read_once_and_no_more_than_allowed(store):
    dataset = make(store, cache_gib=1.0)
    dataset.read(0), dataset.read(0)
    assert sorted(store.reads) == [2, 5, 7, 9]
    assert read_rows(store, np.arange(10), 1e-9) is None
    whole = 10 * 3 * 64 / 2**30
    assert (
        read_rows(store, np.arange(10), whole) is not None
        and read_rows(store, np.arange(10), whole * 0.99) is None
    )
    assert read_rows(store, np.arange(10), whole / 3, np.array([1])).shape == (10, 1, 8, 8)


def test_images_on_the_device(store):
    dataset = make(store, device=torch.device("cpu"), device_gib=1.0)
    assert torch.equal(dataset.on_device, torch.from_numpy(store.images[[7, 2, 5, 9]]))
    assert make(store, device=torch.device("cpu"), device_gib=1e-9).on_device is None


def test_draws_depend_on_seed_epoch_and_index_alone(store):
    def drawn(seed, epoch, index):
        return make(store, Recipe(STEPS, 3, (8, 8)), seed).draws(epoch, np.array(index))

    one, many = drawn(1, 2, [3]), drawn(1, 2, [0, 3, 1])
    for name in ("matrix", "gain", "bias"):
        assert np.array_equal(getattr(one, name)[0], getattr(many, name)[1])
    for other in (drawn(2, 2, [3]), drawn(1, 3, [3]), drawn(1, 2, [1])):
        assert not np.array_equal(one.gain, other.gain) and not np.array_equal(one.bias, other.bias)


def test_a_transform_depends_on_seed_epoch_and_index_alone(store):
    transform = Transform(STEPS, 3)
    a, b = make(store, transform, 1), make(store, transform, 1)
    b[(0, 3)], b[(5, 1)]
    assert torch.equal(a[(2, 1)]["image"], b[(2, 1)]["image"])
    others = [a[(3, 1)], make(store, transform, 2)[(2, 1)]]
    assert not any(torch.equal(a[(2, 1)]["image"], other["image"]) for other in others)
    assert torch.equal(a[1]["image"], a[(0, 1)]["image"])
    plain = make(store, Transform((), 3))[2]
    expected = (store.images[5].astype(float) - 100) / np.array([1, 2, 4])[:, None, None]
    assert (
        torch.allclose(plain["image"].double(), torch.from_numpy(expected)) and plain["index"] == 2
    )


def test_starting_a_loader_leaves_the_trainers_random_numbers_alone(store):
    state = torch.get_rng_state()
    batches = list(loader(make(store, Transform((), 3)), in_order(4, 2), workers=0))
    assert torch.equal(torch.get_rng_state(), state)
    assert batches[0]["image"].shape == (2, 3, 8, 8) and batches[1]["index"].tolist() == [2, 3]
