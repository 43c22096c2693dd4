"""A training epoch fed from a store, beside the same steps on one batch kept in memory."""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch

from cellsignal.data.dataset import SiteDataset
from cellsignal.data.feed import feed
from cellsignal.studies.pages import machine, table
from cellsignal.studies.performance.feeding import (
    Plates,
    build_stepper,
    pick_device,
    recipe_of,
    train_steps,
)
from cellsignal.studies.performance.packed import packed_plates
from cellsignal.training.throughput import EpochSpeed, device_peak

SIZES = (64, 128, 256)  # sides of the crops, pixels
CODECS = ("zstd", "lz4", "raw")
CACHE = "zstd, kept in memory by `cache_gib`"
BATCH = 32
FEWEST = 8  # steps of an epoch, at least


def bench_fed(
    plates: Plates,
    backbones: Sequence[str],
    sizes: Sequence[int],
    batch: int,
    workers: int,
    steps: int | None = 30,
    rounds: int = 3,
    seconds: float = 0.0,
    cache_gib: float = 0.0,
) -> pd.DataFrame:
    """Time training steps fed from the store and the same steps on one batch in memory.

    Args:
        sizes: sides in pixels; below the store's they are random crops, else the whole site through
            the 1st place's recipe.
        steps: of an epoch. None: as many as take `seconds` from memory, `FEWEST` at least.
        rounds: epochs of each, in turn.
        cache_gib: the sites are read once and kept in memory if they need no more.

    Returns:
        Columns backbone, size, batch, in_memory and fed (images/s, medians), ratio, waiting (share
        of the time), of_peak (share of the matmul peak), memory_gib.
    """
    rows = []
    for backbone in backbones:
        for size in sizes:
            recipe = recipe_of(size, plates.store.shape[1])
            pair = _Pair(plates, plates.dataset(recipe, cache_gib), backbone, workers, batch)
            row = {"backbone": backbone, "size": pair.dataset.image_size, "batch": batch}
            count = pair.count_steps(seconds) if steps is None else steps
            rows.append(row | pair.time(count, rounds))
    return pd.DataFrame(rows)


class _Pair:
    """One network's steps on batches of a dataset, and on the first of them held in memory."""

    def __init__(
        self, plates: Plates, dataset: SiteDataset, backbone: str, workers: int, batch: int
    ):
        self.plates, self.dataset = plates, dataset
        self.device, self.batch = pick_device(), batch
        # as a training does
        self.workers = 0 if dataset.is_kept_for(self.device) else workers
        channels, size = dataset.shape[0], dataset.image_size
        self.stepper, self.flops = build_stepper(backbone, channels, size, batch, self.device)
        self.peak = device_peak(self.device, self.stepper.dtype)
        first = next(self._read(self._keys(1)))
        self.held = first.clone(memory_format=torch.channels_last)
        self._from_memory(3)

    def count_steps(self, seconds: float) -> int:
        """Return how many steps from memory take so many seconds, `FEWEST` at least."""
        return max(FEWEST, round(seconds * self._from_memory(3).images_per_s / self.batch))

    def time(self, steps: int, rounds: int) -> dict[str, float]:
        """Time epochs of so many steps in turn."""
        keys, in_memory, fed = self._keys(steps), [], []
        for _ in range(rounds):
            in_memory.append(self._from_memory(steps))
            fed.append(self._train(self._read(keys)))
        memory_rate, fed_rate = (
            statistics.median(speed.images_per_s for speed in speeds) for speeds in (in_memory, fed)
        )
        middle = sorted(fed, key=lambda speed: speed.images_per_s)[rounds // 2]
        return {
            "in_memory": memory_rate,
            "fed": fed_rate,
            "ratio": fed_rate / memory_rate,
            "waiting": middle.waiting,
            "of_peak": middle.of_peak,
            "memory_gib": middle.memory_gib,
        }

    def _keys(self, steps: int) -> list[list[tuple[int, int]]]:
        """Return the keys of so many batches, all of one size: smaller ones are slower."""
        times = -(-steps * self.batch // len(self.dataset))
        order = list(itertools.chain(*self.plates.keys(0, self.batch, times)))
        return [order[i * self.batch : (i + 1) * self.batch] for i in range(steps)]

    def _read(self, keys: list) -> Iterator[torch.Tensor]:
        return (batch.images for batch in feed(self.dataset, keys, self.workers, self.device))

    def _from_memory(self, steps: int) -> EpochSpeed:
        return self._train(self.held for _ in range(steps))

    def _train(self, batches: Iterator[torch.Tensor]) -> EpochSpeed:
        return train_steps(self.stepper, batches, self.device, self.flops, self.peak)


def epoch_text(
    root: Path | None,
    backbone: str,
    sizes: Sequence[int] = SIZES,
    workers: int = 2,
    seconds: float = 5.0,
    rounds: int = 5,
) -> str:
    """Measure epochs fed from each kind of store; return the machine and the table in Markdown.

    Args:
        root: RxRx1's folder; None simulates sites.
    """
    parts = []
    for codec in CODECS:
        with packed_plates(root, codec=codec) as sample:
            caches = {codec: 0.0} | ({CACHE: 1.0} if codec == CODECS[0] else {})
            for name, gib in caches.items():
                part = bench_fed(
                    sample, (backbone,), sizes, BATCH, workers, None, rounds, seconds, gib
                )
                part.insert(0, "store", name)
                parts.append(part)
            sites, stored = len(sample.store.samples), sample.store.shape[1]
    source = "simulated sites" if root is None else "real sites"
    head = f"{machine()}. {sites} {source} of {stored} px, {workers} threads that read."
    return f"{head}\n\n{table(pd.concat(parts))}\n"
