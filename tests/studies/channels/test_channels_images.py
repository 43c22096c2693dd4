"""What trains and what is held out of the two simulated data sets."""

import numpy as np
import pytest
import torch

from cellsignal.studies.channels.images import simulated_sets

TINY = {
    "rxrx1": (
        {"classes": 4, "controls": 1, "size": 24, "train_experiments": 2, "test_experiments": 1},
        "experiment",
        3,
    ),
    "bbbc021": (
        {"compounds_per_class": 2, "test_compounds_per_class": 1, "size": 24, "doses": 1},
        "compound",
        4,
    ),
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return simulated_sets(tmp_path_factory.mktemp("sets"), 1, TINY)


@pytest.mark.parametrize(("name", "classes", "count"), [("rxrx1", 4, 3), ("bbbc021", 6, 4)])
def test_whole_units_are_held_out_and_every_class_trains(sets, name, classes, count):
    images = sets[name]
    held, kept = set(images.unit[images.held_out]), set(images.unit[~images.held_out])
    assert len(held) == count and not held & kept
    assert images.classes == classes
    assert set(images.label[torch.from_numpy(~images.held_out)].tolist()) == set(range(classes))
    assert len(images.pixels) == len(images.label) == len(images.unit)


def test_held_out_units_come_from_all_groups(sets):
    """Experiments of different cell types; compounds of different classes."""
    held = set(sets["rxrx1"].unit[sets["rxrx1"].held_out])
    assert len({unit.split("-")[0] for unit in held}) == 3
    images = sets["bbbc021"]
    assert len(set(images.label[torch.from_numpy(images.held_out)].tolist())) == 4


def test_every_channel_is_standardised_and_named(sets):
    assert sets["bbbc021"].stains == ("actin", "tubulin", "dna")
    assert sets["rxrx1"].stains == ("dna", "er", "actin", "rna", "mito", "golgi")
    for images in sets.values():
        pixels = images.pixels.numpy()
        assert pixels.shape[1] == len(images.stains)
        np.testing.assert_allclose(pixels.mean((2, 3)), 0, atol=1e-3)
        np.testing.assert_allclose(pixels.std((2, 3)), 1, atol=0.02)
