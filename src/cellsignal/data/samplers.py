"""Which samples share a batch. BatchNorm sees its batch alone, so a batch of one plate is
standardised by that plate (RxRx1, 2nd place).

Every batch is a function of (seed, epoch) and of the samples' units and labels, so training goes on
anywhere and on any number of workers.
"""

import logging
import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from cellsignal.common.errors import InputError

log = logging.getLogger(__name__)
# more epochs than any stage has: what lies between the epoch numbers of a balanced epoch's batches
AGAIN = 1_000_003


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """One epoch's batches of (epoch, index) keys, drawn from (seed, epoch).

    Each index comes once. A batch is of one unit; a unit's batches differ in size by at most one
    and none exceeds `batch_size`. With `unique_labels` no label comes twice in a batch, for which a
    unit may need more and smaller batches, and unlabelled samples are dealt evenly. All batches
    come in random order.

    A batch of one sample has no statistics for BatchNorm: unless `batch_size` is 1 it is left out
    of the epoch. It arises in a unit of a single sample, where one label fills most of a unit
    (`unique_labels`), and where `batch_size` is 2. How many samples these are is logged once, in
    epoch 0.

    Rank r of `world` processes takes the batches r, r + world, ... of the same order. All ranks
    have equally many, so that gradients meet: the last up to world - 1 batches are left out, others
    in each epoch.

    Args:
        unit: (n,) int, the unit of each sample; None where batches are mixed.
        labels: (n,) int; -1 where unknown, which may come often in a batch.
        start: number of the rank's batches that are done.

    Raises:
        InputError: not one batch for each rank.
    """

    def __init__(
        self,
        unit: np.ndarray | None,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        unique_labels: bool = False,
        rank: int = 0,
        world: int = 1,
    ):
        assert 0 <= rank < world and start >= 0
        self.labels = np.asarray(labels)
        self.batch_size = batch_size
        self.unique_labels = unique_labels
        self.seed, self.epoch, self.start, self.rank, self.world = seed, epoch, start, rank, world
        self.units = _members(unit, self.labels)
        self.batches = [
            _batches(self.labels[members], batch_size, unique_labels) for members in self.units
        ]
        sizes = [
            size
            for u, n in zip(self.units, self.batches, strict=True)
            for size in map(len, np.array_split(u, n))
        ]
        alone = sum(not self._usable(size) for size in sizes)
        self.total = (len(sizes) - alone) // world
        if self.total == 0:
            raise InputError(
                f"batches: {len(self.labels)} samples in {len(self.units)} units make no batch of "
                "two or more "
                f"for each of {world} processes"
            )
        if alone and epoch == 0 and rank == 0:
            log.warning(
                "%d of %d samples are left out of each epoch: alone in a batch",
                alone,
                len(self.labels),
            )

    @staticmethod
    def count(
        unit: np.ndarray | None,
        labels: np.ndarray,
        batch_size: int,
        unique_labels: bool = False,
        world: int = 1,
    ) -> int:
        """Batches of each rank in one epoch, the same in every epoch."""
        return EpochBatches(unit, labels, batch_size, 0, 1, 0, unique_labels, 0, world).total

    def __len__(self) -> int:
        return max(0, self.total - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        batches = []
        for members, number in zip(self.units, self.batches, strict=True):
            order = rng.permutation(len(members))
            if self.unique_labels:
                order = order[
                    np.argsort(_shuffled(self.labels[members], rng)[order], kind="stable")
                ]
            batches += [members[order[first::number]] for first in range(number)]
        batches = [batch for batch in batches if self._usable(len(batch))]
        turn = rng.permutation(len(batches))[self.rank :: self.world][: self.total]
        for number in turn[self.start :]:
            yield [(self.epoch, int(index)) for index in batches[number]]

    def _usable(self, size: int) -> bool:
        return size > 1 or self.batch_size == 1


def balanced_batches(
    member: np.ndarray, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> list[list[tuple[int, int]]]:
    """Make an epoch's batches in which every group is drawn equally often.

    There are as many draws as samples; the groups take turns.

    A group's samples come in random order, and all of them once before any of them comes again. A
    batch's keys have an epoch of their own, so that an image that comes again is augmented anew.

    Args:
        member: (n, G) bool, the groups (classes) each sample belongs to; groups without samples are
        left out.

    Returns:
        Batches of (epoch number, index) keys: rank's of `world`; equally many for each.

    Raises:
        InputError: no sample of any group, or not one batch for each rank.
    """
    rng = np.random.default_rng([seed, epoch])
    groups = [np.flatnonzero(column) for column in np.asarray(member, bool).T if column.any()]
    n = len(member)
    if not groups:
        raise InputError(f"batches: none of {n} samples is of a group that could be balanced")
    turns = np.concatenate([rng.permutation(len(groups)) for _ in range(-(-n // len(groups)))])[:n]
    order = np.empty(n, np.int64)
    for number, group in enumerate(groups):
        places = np.flatnonzero(turns == number)
        cycles = [rng.permutation(group) for _ in range(-(-len(places) // len(group)))]
        order[places] = np.concatenate([*cycles, group[:0]])[: len(places)]
    batches = [order[start : start + batch_size] for start in range(0, n, batch_size)]
    batches = [batch for batch in batches if len(batch) > 1 or batch_size == 1]
    if len(batches) < world:
        raise InputError(
            f"batches: {n} samples make no batch of two or more for each of {world} processes"
        )
    kept = len(batches) // world * world
    return [
        [(epoch + AGAIN * (number + 1), int(index)) for index in batches[number]]
        for number in range(rank, kept, world)
    ]


def identity_batches(
    labels: np.ndarray,
    identities: int,
    images: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
) -> list[list[tuple[int, int]]]:
    """Draw an epoch's batches of `identities` classes with `images` images each (P x K).

    At least as many images as samples. Every class is drawn equally often, at most once a batch,
    all its images before one comes again, which has an epoch number of its own, so that it is
    augmented anew. Source: arXiv:1703.07737.

    Args:
        labels: (n,) int; samples of -1 are left out.

    Returns:
        Batches of (epoch number, index), a class's images side by side; as many for every rank.

    Raises:
        InputError: fewer classes than `identities`, or not one batch for each rank.
    """
    labels = np.asarray(labels)
    members = {label: np.flatnonzero(labels == label) for label in np.unique(labels[labels >= 0])}
    if len(members) < identities:
        known = f"the training samples have {len(members)}"
        raise InputError(f"batches.images: {identities} classes a batch, {known}")
    number = math.ceil(sum(map(len, members.values())) / (identities * images))
    if number < world:
        raise InputError(
            f"batches: {len(labels)} samples make no batch of {identities} x {images} for each of "
            f"{world} processes"
        )
    rng = np.random.default_rng([seed, epoch])
    drawn = dict.fromkeys(members, 0)
    orders = {label: rng.permutation(mine) for label, mine in members.items()}
    batches = []
    for together in _distinct_turns(np.array(list(members)), identities, number, rng):
        keys = []
        for label in together:
            for _ in range(images):
                times, place = divmod(drawn[label], len(members[label]))
                if place == 0 and times:
                    orders[label] = rng.permutation(members[label])
                keys.append((epoch + AGAIN * times, int(orders[label][place])))
                drawn[label] += 1
        batches.append(keys)
    return batches[rank : number // world * world : world]


def _distinct_turns(
    names: np.ndarray, size: int, number: int, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Draw `size` different names `number` times, each name in turn.

    Any two names are drawn equally often, up to one draw.
    """
    waiting: list[int] = []
    for _ in range(number):
        chosen, waiting = waiting[:size], waiting[size:]
        if len(chosen) < size:
            round_ = rng.permutation(names).tolist()
            fresh = [name for name in round_ if name not in chosen]
            missing = size - len(chosen)
            waiting = [name for name in round_ if name not in fresh[:missing]]
            chosen += fresh[:missing]
        yield chosen


def in_order(size: int, batch_size: int) -> list[list[int]]:
    """Make batches of indices 0..size-1 in order, for validation and prediction.

    Their sizes differ by at most one.
    """
    number = -(-size // batch_size)
    return [part.tolist() for part in np.array_split(np.arange(size), number)] if size else []


def _members(unit: np.ndarray | None, labels: np.ndarray) -> list[np.ndarray]:
    """Return the indices of each unit's samples, ascending."""
    if not len(labels):
        return []
    if unit is None:
        return [np.arange(len(labels))]
    unit = np.asarray(unit)
    assert unit.shape == labels.shape
    order = np.argsort(unit, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(unit[order])) + 1)


def _batches(labels: np.ndarray, batch_size: int, unique_labels: bool) -> int:
    """Number of one unit's batches: as few as `batch_size`, and its most frequent label once in
    each, allow.
    """
    number = -(-len(labels) // batch_size)
    known = labels[labels >= 0]
    if unique_labels and len(known):
        number = max(number, int(np.unique(known, return_counts=True)[1].max()))
    return number


def _shuffled(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Map each label to one random number, (n,) int, also the label -1.

    Samples sorted by it and dealt to k batches in turn put a label of at most k samples nowhere
    twice, and unlabelled ones evenly.
    """
    names, inverse = np.unique(labels, return_inverse=True)
    return rng.permutation(len(names))[inverse]
