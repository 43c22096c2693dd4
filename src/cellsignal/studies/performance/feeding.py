"""Measure batches and epochs a second from PNG files and from the store, and the wait for data.

Everything compared is measured in one run, turn by turn; figures are medians of the turns.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from cellsignal.config import augment
from cellsignal.config.schema import Model
from cellsignal.config.stage import Stage
from cellsignal.data.dataset import SiteDataset
from cellsignal.data.draws import Recipe
from cellsignal.data.feed import feed, feed_raw
from cellsignal.data.normalization import SMALLEST_SD
from cellsignal.data.samplers import in_order
from cellsignal.data.store import Store
from cellsignal.models.backbones import build_model
from cellsignal.models.cost import forward_flops, training_flops
from cellsignal.studies.performance.augmentation import FIRST_PLACE, plain_steps
from cellsignal.training.optim import Stepper
from cellsignal.training.ranks import Ranks, this_process
from cellsignal.training.stage_loss import StageLoss
from cellsignal.training.throughput import Clock, EpochSpeed

CLASSES = 1000  # of the networks that are timed
CROPS = (
    augment.RandomCrop(name="random_crop", size=128),
    augment.HorizontalFlip(name="horizontal_flip"),
    augment.Transpose(name="transpose"),
    augment.GainBias(name="gain_bias"),
)


@dataclass(frozen=True)
class Plates:
    """A packed store and the PNG files that it was made of."""

    store: Store
    root: Path

    def dataset(
        self, augmentations: tuple[augment.Augmentation, ...], cache_gib: float = 0.0
    ) -> SiteDataset:
        """Return the store's sites, standardised and augmented."""
        recipe = Recipe(augmentations, self.store.shape[0], self.store.shape[1:])
        rows = self.store.samples.row.to_numpy()
        return SiteDataset(self.store, rows, *self.standardisation(), recipe, cache_gib=cache_gib)

    def standardisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and SD of each site and channel."""
        rows = self.store.samples.row.to_numpy()
        return self.store.mean[rows], np.maximum(self.store.sd[rows], SMALLEST_SD)

    def keys(self, epoch: int, batch: int, times: int = 1) -> list[list[tuple[int, int]]]:
        """Return batches of all sites, `times` over, in random order."""
        n = len(self.store.samples)
        orders = [np.random.default_rng([epoch, k]).permutation(n) for k in range(times)]
        order = np.concatenate(orders)
        return [[(epoch, int(order[i])) for i in part] for part in in_order(len(order), batch)]


class PngSites(Dataset):
    """Sites as the 1st place read them: six `cv2.imread`, its transforms one by one, float32."""

    def __init__(self, plates: Plates, augmentations: tuple[augment.Augmentation, ...]):
        samples = plates.store.samples
        self.files = [[str(plates.root / name) for name in names] for names in samples.files]
        self.shift, self.scale = plates.standardisation()
        self.crop = next((a.size for a in augmentations if isinstance(a, augment.RandomCrop)), None)
        self.steps = tuple(a for a in augmentations if not isinstance(a, augment.RandomCrop))

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        epoch, index = key
        rng = np.random.default_rng([epoch, index])
        image = np.stack([cv2.imread(name, cv2.IMREAD_UNCHANGED) for name in self.files[index]])
        if self.crop is not None:
            top, left = (rng.integers(side - self.crop + 1) for side in image.shape[1:])
            image = image[:, top : top + self.crop, left : left + self.crop]
        image = plain_steps(image, self.steps, self.shift[index], self.scale[index], rng)
        return torch.from_numpy(np.ascontiguousarray(image))


def bench_batches(
    plates: Plates, workers: int = 2, batch: int = 32, rounds: int = 5
) -> pd.DataFrame:
    """Time batches ready for the device, from PNGs and from the store.

    From PNGs by worker processes to float32; from the store by threads, as uint8 (what a GPU gets)
    and as float32 (a CPU).

    Returns:
        Columns way, sites_per_s, ratio (to the first).
    """
    raw, warped, cpu = plates.dataset(()), plates.dataset(FIRST_PLACE), torch.device("cpu")
    times = max(1, -(-4 * batch // len(raw)))

    def read_uint8(keys: list) -> Iterator:
        return feed_raw(raw, [[site for _, site in part] for part in keys], workers, cpu)

    ways = {
        "six PNGs by cv2, 1st place's transforms, float32": lambda keys: iter(
            _png_loader(plates, FIRST_PLACE, keys, workers)
        ),
        "store, uint8": read_uint8,
        "store, 1st place's recipe warped on the CPU, float32": lambda keys: feed(
            warped, keys, workers, cpu
        ),
    }

    def time_way(way: Callable[[list], Iterator], epoch: int) -> float:
        return _time_all(way(plates.keys(epoch, batch, times)))

    return _rates(ways, time_way, times * len(raw), rounds)


def bench_epoch(
    plates: Plates, backbone: str = "resnet10t", workers: int = 2, batch: int = 32, rounds: int = 5
) -> pd.DataFrame:
    """Time a training epoch on random 128 px crops, from PNGs and from the store.

    Returns:
        As `bench_batches`.
    """
    device = pick_device()
    stepper, _ = build_stepper(backbone, plates.store.shape[0], 128, batch, device)
    dataset = plates.dataset(CROPS)
    times = max(1, -(-4 * batch // len(dataset)))

    def from_png(keys: list) -> Iterator[torch.Tensor]:
        for images in _png_loader(plates, CROPS, keys, workers):
            yield images.to(device, memory_format=torch.channels_last)

    def from_store(keys: list) -> Iterator[torch.Tensor]:
        return (read.images for read in feed(dataset, keys, workers, device))

    def time_way(way: Callable[[list], Iterator], epoch: int) -> float:
        return train_steps(stepper, way(plates.keys(epoch, batch, times)), device).seconds

    ways = {"PNGs, CPU transforms": from_png, "store": from_store}
    return _rates(ways, time_way, times * len(dataset), rounds)


def recipe_of(size: int, stored: int) -> tuple[augment.Augmentation, ...]:
    """Return random crops of `size` pixels; of the whole stored size the 1st place's recipe."""
    if size < stored:
        return (augment.RandomCrop(name="random_crop", size=size), *CROPS[1:])
    return FIRST_PLACE


def pick_device() -> torch.device:
    """Return the GPU, or the CPU where there is none, as a training does."""
    return this_process().device


def build_stepper(
    backbone: str, channels: int, size: int, batch: int, device: torch.device
) -> tuple[Stepper, float]:
    """Build the stepper, and count the FLOPs of one image's training step."""
    stage = Stage(name="bench", epochs=1, batch_size=batch, amp="auto")
    model = build_model(Model(backbone=backbone), channels, CLASSES, size, initial_weights=False)
    model.to(device, memory_format=torch.channels_last)
    flops = training_flops(forward_flops(model, channels, size))
    loss = StageLoss(stage, None, CLASSES, model.width).to(device)
    return Stepper(model.train(), loss, stage, Ranks(0, 1, device)), flops


def train_steps(
    stepper: Stepper,
    batches: Iterator[torch.Tensor],
    device: torch.device,
    flops: float | None = None,
    peak: float | None = None,
) -> EpochSpeed:
    """Train on batches of images whose labels are made up; return the speed."""
    clock = Clock(device)
    while True:
        with clock.waiting():
            images = next(batches, None)
        if images is None:
            return clock.speed(flops, peak)
        labels = torch.arange(len(images), device=device) % CLASSES
        targets = torch.nn.functional.one_hot(labels, CLASSES).float()
        with stepper.autocast():
            loss, _ = stepper.forward(images, targets, labels)
        stepper.backward(loss)
        stepper.update()
        clock.step_done(len(images))


def _png_loader(plates: Plates, augmentations: tuple, keys: list, workers: int) -> DataLoader:
    return DataLoader(
        PngSites(plates, augmentations),
        batch_sampler=keys,
        num_workers=workers,
        worker_init_fn=lambda _: cv2.setNumThreads(0),
    )


def _time_all(batches: Iterator) -> float:
    started = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - started


def _rates(
    ways: dict[str, Callable], time_way: Callable[..., float], sites: int, rounds: int
) -> pd.DataFrame:
    """Return the sites per second of each method and the ratio to the first, as medians.

    One round before the first is not counted.
    """
    seconds = {name: [] for name in ways}
    for epoch in range(rounds + 1):
        for name, way in ways.items():
            spent = time_way(way, epoch)
            if epoch:
                seconds[name].append(spent)
    rates = {name: sites / statistics.median(spent) for name, spent in seconds.items()}
    table = pd.DataFrame({"way": list(rates), "sites_per_s": list(rates.values())})
    return table.assign(ratio=table.sites_per_s / table.sites_per_s[0])
