"""Whether training waits for its data: batches a second, an epoch from the store against one from
PNGs, and a network fed from the store against the same step on one batch that lies in memory.

Everything compared is measured in one run, turn by turn; figures are medians of the turns.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
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
from cellsignal.studies.augment import RECIPES, plain_steps
from cellsignal.training.ranks import Ranks
from cellsignal.training.stage_loss import StageLoss
from cellsignal.training.step import Stepper
from cellsignal.training.throughput import Clock, EpochSpeed, device_peak

FIRST_PLACE = RECIPES["1st place"]
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

    def dataset(self, augmentations: tuple[augment.Augmentation, ...]) -> SiteDataset:
        shift, scale = self.standardisation()
        recipe = Recipe(augmentations, self.store.shape[0], self.store.shape[1:])
        return SiteDataset(self.store, self.store.samples.row.to_numpy(), shift, scale, recipe)

    def standardisation(self) -> tuple[np.ndarray, np.ndarray]:
        rows = self.store.samples.row.to_numpy()
        return self.store.mean[rows], np.maximum(self.store.sd[rows], SMALLEST_SD)

    def keys(self, epoch: int, batch: int, times: int = 1) -> list[list[tuple[int, int]]]:
        """Batches of all sites, `times` over, in random order."""
        n = len(self.store.samples)
        order = np.concatenate(
            [np.random.default_rng([epoch, k]).permutation(n) for k in range(times)]
        )
        return [[(epoch, int(order[i])) for i in part] for part in in_order(len(order), batch)]


class PngSites(Dataset):
    """Sites as the 1st place read them: six `cv2.imread`, its transforms step by step, float32. For
    comparison only.
    """

    def __init__(self, plates: Plates, augmentations: tuple[augment.Augmentation, ...]):
        self.files = [
            [str(plates.root / name) for name in names] for names in plates.store.samples.files
        ]
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
        return torch.from_numpy(
            np.ascontiguousarray(
                plain_steps(image, self.steps, self.shift[index], self.scale[index], rng)
            )
        )


def bench_batches(
    plates: Plates, workers: int = 2, batch: int = 32, rounds: int = 5
) -> pd.DataFrame:
    """Batches ready for the device: from PNGs by worker processes to float32; from the store by
    threads, as uint8 (what a GPU gets) and as float32 (a CPU).

    Returns:
        way, sites_per_s, ratio (to the first).
    """
    raw, warped, cpu = plates.dataset(()), plates.dataset(FIRST_PLACE), torch.device("cpu")
    times = max(1, -(-4 * batch // len(raw)))
    ways: dict[str, Callable[[list], Iterator]] = {
        "six PNGs by cv2, 1st place's transforms, float32": lambda keys: iter(
            _png_loader(plates, FIRST_PLACE, keys, workers)
        ),
        "store, uint8": lambda keys: feed_raw(
            raw, [[i for _, i in part] for part in keys], workers, cpu
        ),
        "store, 1st place's recipe warped on the CPU, float32": lambda keys: feed(
            warped, keys, workers, cpu
        ),
    }
    seconds = _turns(
        {
            name: lambda epoch, way=way: _used_up(way(plates.keys(epoch, batch, times)))
            for name, way in ways.items()
        },
        rounds,
    )
    return _table(
        {name: times * len(raw) / spent for name, spent in seconds.items()}, "way", "sites_per_s"
    )


def bench_epoch(
    plates: Plates, backbone: str = "resnet10t", workers: int = 2, batch: int = 32, rounds: int = 5
) -> pd.DataFrame:
    """Time a training epoch on random 128 px crops, from PNGs and the store. See `bench_batches`."""
    device, stage = _device(), _stage("auto", batch)
    stepper, _ = _stepper(backbone, plates.store.shape[0], 128, stage, device)
    dataset = plates.dataset(CROPS)
    times = max(1, -(-4 * batch // len(dataset)))

    def from_png(keys: list) -> Iterator[torch.Tensor]:
        for images in _png_loader(plates, CROPS, keys, workers):
            yield images.to(device, memory_format=torch.channels_last)

    ways = {
        "PNGs, CPU transforms": from_png,
        "store": lambda keys: (found.images for found in feed(dataset, keys, workers, device)),
    }
    speeds = {
        name: lambda epoch, way=way: (
            _train(stepper, way(plates.keys(epoch, batch, times)), device).seconds
        )
        for name, way in ways.items()
    }
    seconds = _turns(speeds, rounds)
    return _table(
        {name: times * len(dataset) / spent for name, spent in seconds.items()},
        "way",
        "sites_per_s",
    )


def bench_fed(
    plates: Plates,
    backbones: Sequence[str],
    sizes: Sequence[int],
    batch: int,
    workers: int,
    steps: int = 30,
    rounds: int = 3,
) -> pd.DataFrame:
    """Training steps fed from the store against the same steps on one batch in the device's memory.

    Args:
        sizes: sides in pixels; below the store's they are random crops, else the whole site through
        the 1st place's recipe.

    Returns:
        backbone, size, batch, in_memory and fed (images/s), ratio, waiting (share of the time),
        of_peak (share of the matmul peak), memory_gib.
    """
    device, rows = _device(), []
    for backbone in backbones:
        for size in sizes:
            whole = size >= plates.store.shape[1]
            dataset = plates.dataset(
                FIRST_PLACE
                if whole
                else (augment.RandomCrop(name="random_crop", size=size), *CROPS[1:])
            )
            stepper, flops = _stepper(
                backbone, plates.store.shape[0], dataset.image_size, _stage("auto", batch), device
            )
            keys = plates.keys(0, batch, -(-steps * batch // len(dataset)))[:steps]
            held = next(iter(feed(dataset, keys, workers, device))).images.clone(
                memory_format=torch.channels_last
            )
            peak = device_peak(device, stepper.dtype)
            _train(stepper, (held for _ in range(3)), device)
            found = {"memory": [], "fed": []}
            for _ in range(rounds):
                found["memory"].append(_train(stepper, (held for _ in keys), device, flops, peak))
                found["fed"].append(
                    _train(
                        stepper,
                        (b.images for b in feed(dataset, keys, workers, device)),
                        device,
                        flops,
                        peak,
                    )
                )
            memory, fed = (
                statistics.median(s.images_per_s for s in found[name]) for name in ("memory", "fed")
            )
            middle: EpochSpeed = sorted(found["fed"], key=lambda s: s.images_per_s)[rounds // 2]
            rows.append(
                {
                    "backbone": backbone,
                    "size": dataset.image_size,
                    "batch": batch,
                    "in_memory": memory,
                    "fed": fed,
                    "ratio": fed / memory,
                    "waiting": middle.waiting,
                    "of_peak": middle.of_peak,
                    "memory_gib": middle.memory_gib,
                }
            )
    return pd.DataFrame(rows)


# parts
# --------------------------------------------------------------------------------------------------


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _stage(amp: str, batch: int) -> Stage:
    return Stage(name="bench", epochs=1, batch_size=batch, amp=amp)


def _stepper(
    backbone: str, channels: int, size: int, stage: Stage, device: torch.device, classes: int = 1000
) -> tuple[Stepper, float]:
    """What trains, and the FLOPs of one image's training step."""
    model = build_model(Model(backbone=backbone), channels, classes, size, initial_weights=False)
    model.to(device, memory_format=torch.channels_last)
    flops = training_flops(forward_flops(model, channels, size))
    return Stepper(
        model.train(),
        StageLoss(stage, None, classes, model.width).to(device),
        stage,
        Ranks(0, 1, device),
    ), flops


def _train(
    stepper: Stepper,
    batches: Iterator[torch.Tensor],
    device: torch.device,
    flops: float | None = None,
    peak: float | None = None,
) -> EpochSpeed:
    classes = 1000
    clock = Clock(device)
    while True:
        with clock.waiting():
            images = next(batches, None)
        if images is None:
            break
        labels = torch.arange(len(images), device=device) % classes
        with stepper.autocast():
            loss, _ = stepper.forward(
                images, torch.nn.functional.one_hot(labels, classes).float(), labels
            )
        stepper.backward(loss)
        stepper.update()
        clock.step_done(len(images))
    return clock.speed(flops, peak)


def _png_loader(plates: Plates, augmentations: tuple, keys: list, workers: int) -> DataLoader:
    return DataLoader(
        PngSites(plates, augmentations),
        batch_sampler=keys,
        num_workers=workers,
        worker_init_fn=lambda _: cv2.setNumThreads(0),
    )


def _used_up(batches: Iterator) -> float:
    started = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - started


def _turns(ways: dict[str, Callable[[int], float]], rounds: int) -> dict[str, float]:
    """Median seconds of each way; one turn before the first is not counted."""
    seconds = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            spent = way(turn)
            if turn:
                seconds[name].append(spent)
    return {name: statistics.median(spent) for name, spent in seconds.items()}


def _table(rates: dict[str, float], name: str, column: str) -> pd.DataFrame:
    first = next(iter(rates.values()))
    return pd.DataFrame(
        [(way, rate, rate / first) for way, rate in rates.items()], columns=[name, column, "ratio"]
    )
