"""Batches of P classes x K images: complete, even, augmented anew where an image comes again, and
shared among processes.
"""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsignal.common.errors import InputError
from cellsignal.data.samplers import AGAIN, identity_batches


@st.composite
def stages(draw):
    """Labels with at least P classes (some rare, some without a label), P, K."""
    identities, images = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 9), min_size=identities, max_size=9))
    labels = np.concatenate(
        [np.repeat(np.arange(len(sizes)) * 3, sizes), np.full(draw(st.integers(0, 4)), -1)]
    )
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(labels), identities, images


@settings(deadline=None, max_examples=80)
@given(stage=stages(), seed=st.integers(0, 3), epoch=st.integers(0, 3))
def test_the_batches_of_an_epoch(stage, seed, epoch):
    labels, identities, images = stage
    batches = identity_batches(labels, identities, images, seed, epoch)
    labelled = int((labels >= 0).sum())
    assert len(batches) == -(-labelled // (identities * images))
    for batch in batches:
        of = labels[[index for _, index in batch]]
        assert Counter(Counter(of.tolist()).values()) == {images: identities} and (of >= 0).all()
        assert (of.reshape(identities, images) == of[::images, None]).all(), (
            "a class's images are side by side"
        )
        assert len(set(batch)) == len(batch), "no image twice with the same augmentation"
        for label in set(of):  # as different as the class allows
            mine = [index for _, index in batch if labels[index] == label]
            assert max(Counter(mine).values()) <= -(-images // int((labels == label).sum())) + 1
    drawn = Counter(int(labels[index]) for batch in batches for _, index in batch)
    counts = [drawn[label] for label in set(labels[labels >= 0].tolist())]
    assert max(counts) - min(counts) <= images, "every class equally often"
    times = Counter(index for batch in batches for _, index in batch)
    for label in set(labels[labels >= 0].tolist()):
        mine = [times[int(index)] for index in np.flatnonzero(labels == label)]
        assert max(mine) - min(mine) <= 1, "all of a class before one comes again"
    keys = sorted(key for batch in batches for key in batch)
    assert keys == sorted(
        (epoch + AGAIN * again, index) for index, n in times.items() for again in range(n)
    )
    assert batches == identity_batches(labels, identities, images, seed, epoch)


@settings(deadline=None, max_examples=40)
@given(stage=stages(), world=st.integers(1, 4))
def test_ranks_share_the_batches_of_one_process(stage, world):
    labels, identities, images = stage
    alone = identity_batches(labels, identities, images, 5, 2)
    if len(alone) < world:
        with pytest.raises(
            InputError, match=f"no batch of {identities} x {images} for each of {world} processes"
        ):
            identity_batches(labels, identities, images, 5, 2, 0, world)
        return
    ranks = [
        identity_batches(labels, identities, images, 5, 2, rank, world) for rank in range(world)
    ]
    assert {len(batches) for batches in ranks} == {len(alone) // world}
    assert [batch for together in zip(*ranks, strict=True) for batch in together] == alone[
        : len(alone) // world * world
    ]


def test_other_epochs_and_seeds_make_other_batches():
    labels = np.repeat(np.arange(10), 6)
    indices = [
        [[i for _, i in b] for b in identity_batches(labels, 3, 4, seed, epoch)]
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({str(batches) for batches in indices}) == 4


def test_any_two_classes_meet():
    """Over epochs every pair of six classes shares one of the two batches of three about equally
    often.
    """
    met = Counter()
    for epoch in range(300):
        for batch in identity_batches(np.arange(6), 3, 1, 0, epoch):
            met.update((a, b) for _, a in batch for _, b in batch if a < b)
    assert len(met) == 15 and sum(met.values()) == 1800
    assert all(abs(count - 120) < 45 for count in met.values())  # 5 SD


def test_too_few_classes_are_named():
    with pytest.raises(
        InputError, match=r"batches\.images: 4 classes a batch, the training samples have 3"
    ):
        identity_batches(np.array([0, 1, 1, 2, -1]), 4, 2, 0, 0)
