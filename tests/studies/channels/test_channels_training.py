"""Networks of one and of two data sets, on images whose class one channel shows."""

import itertools

import numpy as np
import pytest
import torch

from cellsignal.studies.channels.images import Images
from cellsignal.studies.channels.training import (
    CNN,
    VIT,
    Method,
    _take_turns,
    _view,
    train_method,
)


def planted(stains, shown: str, classes: int, seed: int, count: int = 160) -> Images:
    """Noise; where a class is, the channel `shown` has stripes of its own width."""
    torch.manual_seed(seed)
    label = torch.arange(count) % classes
    pixels = torch.randn(count, len(stains), 16, 16) * 0.5
    place = torch.arange(16)
    for index in range(count):
        stripes = ((place // (1 + 2 * int(label[index]))) % 2).float() * 4 - 2
        pixels[index, stains.index(shown)] += stripes[:, None]
    unit = np.array([f"u{index // 20}" for index in range(count)])
    return Images(pixels, label, unit, np.isin(unit, ["u0", "u1"]), tuple(stains), "experiment")


SETS = {
    "first": planted(["dna", "er", "actin"], "dna", 3, 0),
    "second": planted(["tubulin", "dna"], "dna", 2, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("sets", ["joint", "first", "alone"])
def test_networks_of_stains_learn_what_one_stain_shows_and_need_no_other(sets):
    method = Method("", {**VIT, "channel_dropout": 0.5}, sets, lr=2e-3)
    trained = train_method(method, SETS, 0, 12)
    assert (trained.networks["first"] is trained.networks["second"]) == (sets == "joint")
    for name, images in SETS.items():
        assert trained.right(name, images, None).float().mean() > 0.9
        dna = [images.stains.index("dna")]
        assert trained.right(name, images, dna).float().mean() > 0.9
        other = [index for index in range(len(images.stains)) if index not in dna]
        assert trained.right(name, images, other).float().mean() < 0.75


@pytest.mark.slow
def test_a_network_of_all_channels_gets_zeros_for_those_that_are_not_seen():
    trained = train_method(Method("", CNN, zeroed=0.5), SETS, 0, 8)
    images = SETS["first"]
    assert trained.right("first", images, None).float().mean() > 0.9
    zeros = images.pixels.clone()
    zeros[:, [0, 2]] = 0
    with torch.inference_mode():
        network = trained.networks["first"].eval()
        torch.testing.assert_close(network(zeros, "first"), network(images.pixels, "first", [1]))


def test_the_same_seed_gives_the_same_network():
    method = Method("", {**VIT, "channel_dropout": 0.5}, "joint")
    few = {
        "first": planted(["dna", "er"], "dna", 3, 0, 60),
        "second": planted(["dna"], "dna", 2, 1, 60),
    }
    first, second = (train_method(method, few, 3, 1).networks["first"] for _ in range(2))
    other = train_method(method, few, 4, 1).networks["first"]
    weights = [
        network.state_dict()["trunk.blocks.0.attn.qkv.weight"] for network in (first, second, other)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_batches_of_both_sets_are_spread_evenly():
    order = _take_turns({"a": 6, "b": 3})
    assert sorted(order) == ["a"] * 6 + ["b"] * 3
    assert all(order[start : start + 3].count("b") == 1 for start in range(0, 9, 3))


def test_the_eight_views_are_all_different_and_keep_every_pixel():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    views = [_view(image, view) for view in range(8)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(views, 2))
    assert all(torch.equal(view.flatten().sort().values, image.flatten()) for view in views)
