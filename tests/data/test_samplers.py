"""Batches: complete, of one unit, even, without a label twice, and the same wherever training goes
on.
"""

import logging
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cellsignal.common.errors import InputError
from cellsignal.data.samplers import AGAIN, EpochBatches, balanced_batches, in_order


def indices(batches) -> list[list[int]]:
    return [[index for _, index in keys] for keys in batches]


@st.composite
def stages(draw):
    """Units, labels, batch size and uniqueness of a small stage of which at least one batch can be
    made.
    """
    n = draw(st.integers(2, 60))
    labels = np.array(draw(st.lists(st.integers(-1, 7), min_size=n, max_size=n)))
    unit = (
        np.array(draw(st.lists(st.integers(-2, 3), min_size=n, max_size=n)))
        if draw(st.booleans())
        else None
    )
    batch_size, unique = draw(st.integers(1, 12)), draw(st.booleans())
    return unit, labels, batch_size, unique


def fewest(labels: list[int], batch_size: int, unique: bool) -> int:
    """Batches that a unit needs: slow and plain."""
    number = 1
    while number * batch_size < len(labels) or (
        unique and any(labels.count(x) > number for x in labels if x != -1)
    ):
        number += 1
    return number


@settings(deadline=None, max_examples=200)
@given(stage=stages(), seed=st.integers(0, 3), epoch=st.integers(0, 3))
@example(stage=(None, np.arange(33), 32, False), seed=0, epoch=0)
@example(stage=(np.zeros(7, int), np.array([0, 0, 0, 0, 0, 1, -1]), 4, True), seed=0, epoch=0)
def test_the_batches_of_an_epoch(stage, seed, epoch):
    unit, labels, batch_size, unique = stage
    units = np.zeros(len(labels), int) if unit is None else unit
    expected = []  # sizes by unit, before those of one are left out
    for code in np.unique(units):
        mine = labels[units == code].tolist()
        number = fewest(mine, batch_size, unique)
        expected += [(code, len(mine[first::number])) for first in range(number)]
    kept = [(code, size) for code, size in expected if size > 1 or batch_size == 1]
    if not kept:
        with pytest.raises(
            InputError, match=f"{len(labels)} samples in {len(set(units))} units make no batch"
        ):
            EpochBatches(unit, labels, batch_size, seed, epoch, unique_labels=unique)
        return
    sampler = EpochBatches(unit, labels, batch_size, seed, epoch, unique_labels=unique)
    keys = list(sampler)
    assert {e for batch in keys for e, _ in batch} == {epoch}
    batches = indices(keys)
    assert (
        len(batches)
        == len(sampler)
        == EpochBatches.count(unit, labels, batch_size, unique)
        == len(kept)
    )
    assert Counter((units[batch[0]], len(batch)) for batch in batches) == Counter(kept)
    seen = Counter(index for batch in batches for index in batch)
    assert max(seen.values()) == 1 and len(seen) == len(labels) - (len(expected) - len(kept))
    for batch in batches:
        assert len(set(units[batch])) == 1 and len(batch) <= batch_size
        known = [label for label in labels[batch] if label != -1]
        assert not unique or len(set(known)) == len(known)
    for code in np.unique(units) if unique and batch_size > 1 else []:
        unlabelled = [
            int((labels[batch] == -1).sum()) for batch in batches if units[batch[0]] == code
        ]
        assert not unlabelled or max(unlabelled) - min(unlabelled) <= 1
    assert list(EpochBatches(unit, labels, batch_size, seed, epoch, unique_labels=unique)) == keys


@settings(deadline=None, max_examples=100)
@given(stage=stages(), world=st.integers(1, 4), epoch=st.integers(0, 2), data=st.data())
def test_ranks_share_the_batches_of_one_process(stage, world, epoch, data):
    unit, labels, batch_size, unique = stage

    def make(**more) -> EpochBatches:
        return EpochBatches(unit, labels, batch_size, 5, epoch, unique_labels=unique, **more)

    try:
        alone = list(make())
    except InputError:
        alone = []
    if len(alone) < world:
        with pytest.raises(InputError, match=f"for each of {world} processes"):
            make(world=world)
        return
    ranks = [list(make(rank=rank, world=world)) for rank in range(world)]
    number = EpochBatches.count(unit, labels, batch_size, unique, world)
    assert {len(batches) for batches in ranks} == {number} == {len(alone) // world}
    assert [batch for together in zip(*ranks, strict=True) for batch in together] == alone[
        : number * world
    ]
    start = data.draw(st.integers(0, number + 1))
    for rank, batches in enumerate(ranks):
        rest = make(rank=rank, world=world, start=start)
        assert list(rest) == batches[start:] and len(rest) == len(batches[start:])


def test_other_epochs_and_seeds_make_other_batches():
    unit, labels = np.repeat([0, 1, 2], 20), np.tile(np.arange(10), 6)
    epochs = [
        indices(EpochBatches(unit, labels, 5, seed, epoch, unique_labels=True))
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({str(batches) for batches in epochs}) == 4
    assert len({str(sorted(sorted(batch) for batch in batches)) for batches in epochs}) == 4


def test_units_alternate_at_random():
    unit = np.repeat([0, 1], 1000)
    order = unit[[batch[0] for batch in indices(EpochBatches(unit, np.zeros(2000, int), 10, 0, 0))]]
    changes = int((np.diff(order) != 0).sum())  # 100 expected of 199 neighbours, SD 7
    assert 70 < changes < 130


@pytest.mark.parametrize(
    ("labels", "unique"),
    [([0, 0, 1, 1, 2, 2], False), ([0, 0, 1, 1, 2, 2], True), ([0, 1, 2, 3, 4, 5], True)],
)
def test_any_two_samples_of_other_labels_may_meet(labels, unique):
    """Over epochs every pair that may shares one of the two batches of three about as often."""
    met = Counter()
    for epoch in range(300):
        for batch in indices(
            EpochBatches(None, np.array(labels), 3, 0, epoch, unique_labels=unique)
        ):
            met.update((a, b) for a in batch for b in batch if a < b)
    pairs = [
        met[a, b] for a in range(6) for b in range(a + 1, 6) if not unique or labels[a] != labels[b]
    ]
    assert sum(pairs) == 6 * 300 == sum(met.values())
    assert all(abs(count - 1800 / len(pairs)) < 45 for count in pairs)  # 5 SD


def test_a_sample_alone_is_left_out_and_told_of_once(caplog):
    unit, labels = np.array([0, 0, 0, 7]), np.array([0, 1, 2, 3])
    with caplog.at_level(logging.WARNING):
        batches = list(EpochBatches(unit, labels, 4, 0, 0))
        assert [record.getMessage() for record in caplog.records] == [
            "1 of 4 samples are left out of each epoch: alone in a batch"
        ]
        EpochBatches(unit, labels, 4, 0, 1)
        EpochBatches.count(unit, labels, 4)
        EpochBatches(np.zeros(4), labels, 4, 0, 0)
        assert len(caplog.records) == 1
    assert [sorted(batch) for batch in indices(batches)] == [[0, 1, 2]]
    assert len(list(EpochBatches(unit, labels, 1, 0, 0))) == 4  # asked for


def test_whose_turn_it_is_to_be_left_out_changes():
    """Five samples in batches of two: one is over, another in each epoch."""
    met = Counter(
        index
        for epoch in range(100)
        for batch in indices(EpochBatches(None, np.full(5, -1), 2, 3, epoch))
        for index in batch
    )
    assert sum(met.values()) == 400 and all(count < 100 for count in met.values())


def test_no_samples_make_no_batch():
    with pytest.raises(InputError, match="0 samples"):
        EpochBatches(None, np.zeros(0, int), 4, 0, 0)


@pytest.mark.parametrize(
    ("size", "batch", "expected"),
    [
        (7, 3, [[0, 1, 2], [3, 4], [5, 6]]),
        (65, 64, [list(range(33)), list(range(33, 65))]),
        (4, 2, [[0, 1], [2, 3]]),
        (2, 5, [[0, 1]]),
        (0, 5, []),
    ],
)
def test_in_order_is_complete_and_even(size, batch, expected):
    assert in_order(size, batch) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 6), st.integers(1, 9))
def test_balanced_batches_draw_every_group_equally_often(seed, n, groups, size):
    rng = np.random.default_rng(seed)
    member = np.zeros((n, groups), bool)
    # each sample of one group: draws can be counted
    member[np.arange(n), rng.integers(groups, size=n)] = True
    batches = balanced_batches(member, size, seed, 3)
    drawn = np.array([index for one in batches for _, index in one])
    left_out = n - len(drawn)
    assert left_out == (1 if size > 1 and n % size == 1 else 0) and all(
        len(one) <= size for one in batches
    )
    present = np.flatnonzero(member.any(0))
    counts = member[drawn].sum(0)[present]
    assert counts.max() - counts.min() <= 1 + left_out
    for group in present:
        times = np.bincount(drawn[member[drawn, group]], minlength=n)[member[:, group]]
        assert times.max() - times.min() <= 1 + left_out, (
            "all of a group come before one comes again"
        )
    epochs = [{number for number, _ in one} for one in batches]
    assert all(len(one) == 1 for one in epochs) and len(set.union(*epochs)) == len(batches), (
        "what comes again is augmented anew"
    )
    assert batches == balanced_batches(member, size, seed, 3) and (
        n < 6 or batches != balanced_batches(member, size, seed, 4)
    )


def test_balanced_batches_are_dealt_to_processes():
    member = np.eye(3, dtype=bool)[np.arange(40) % 3]
    whole = balanced_batches(member, 4, 0, 0)
    parts = [balanced_batches(member, 4, 0, 0, rank, 3) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 3, 3] and parts[1] == whole[1:9:3]
    with pytest.raises(InputError, match="for each of 20 processes"):
        balanced_batches(member, 4, 0, 0, 0, 20)


def test_a_balanced_batch_of_one_is_left_out_unless_asked_for():
    """Groups of 4 and 1: the single sample comes as often as all of the other group."""
    member = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]], bool)
    pairs = balanced_batches(member, 2, 0, 7)
    assert [[number for number, _ in batch] for batch in pairs] == [
        [7 + AGAIN, 7 + AGAIN],
        [7 + 2 * AGAIN, 7 + 2 * AGAIN],
    ]
    singles = [index for ((_, index),) in balanced_batches(member, 1, 0, 7)]
    assert len(singles) == 5 and singles.count(4) in (2, 3)
    assert len(set(singles) - {4}) == 5 - singles.count(4)
    assert balanced_batches(member, 2, 1, 7) != pairs
    for none in (member[:0], np.zeros((3, 2), bool)):
        with pytest.raises(InputError, match=f"none of {len(none)} samples is of a group"):
            balanced_batches(none, 4, 0, 0)
    assert len(balanced_batches(member, 2, 0, 7, 1, 2)) == 1


def test_the_largest_and_smallest_batches_that_are_allowed():
    labels = np.array([3, 3, -1, -1])
    assert EpochBatches.count(None, labels, 4) == 1 and EpochBatches.count(None, labels, 3) == 2
    assert EpochBatches.count(None, labels, 4, unique_labels=True) == 2
    # label 0 comes three times: as many batches, and one is of a sample alone
    assert EpochBatches.count(None, np.zeros(3, int), 1, unique_labels=True) == 3
    with pytest.raises(InputError, match="3 samples in 1 units"):
        EpochBatches(None, np.zeros(3, int), 4, 0, 0, unique_labels=True)
    with pytest.raises(AssertionError):
        EpochBatches(None, labels, 2, 0, 0, rank=1, world=1)
    with pytest.raises(AssertionError):
        EpochBatches(None, labels, 2, 0, 0, start=-1)


def test_counting_batches_says_nothing_of_samples_left_out(caplog):
    EpochBatches.count(None, np.zeros(5, int), 2)
    EpochBatches(None, np.zeros(5, int), 2, 0, 0, rank=1, world=2)
    assert not caplog.records
