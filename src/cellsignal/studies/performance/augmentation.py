"""Measure what augmenting one site costs on one thread, by each way of doing it.

The ways are plain numpy steps, albumentations, and the draws applied by `data.warp` and
`data.warp_torch`. All are measured in one run, turn by turn; figures are medians of the turns.
"""

import time
from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
import torch

from cellsignal.config import augment
from cellsignal.data.draws import Recipe
from cellsignal.data.transforms import Transform
from cellsignal.data.warp import warp
from cellsignal.data.warp_torch import warp_batch

CHANNELS = 6
_H = augment.HorizontalFlip(name="horizontal_flip")
_V = augment.VerticalFlip(name="vertical_flip")
_T = augment.Transpose(name="transpose")
_CROP = augment.SquareCropResize(name="square_crop_resize", min_fraction=0.5)
_LIGHT = augment.GainBias(name="gain_bias", gain=0.1, bias=0.1)
RECIPES: dict[str, tuple[augment.Augmentation, ...]] = {
    "1st place": (_H, _V, _T, _CROP, _LIGHT),
    "one hour": (
        _H,
        _T,
        augment.Rotate90(name="rotate90"),
        _CROP.model_copy(update={"p": 0.8}),
        _LIGHT,
    ),
    "D4": (_H, _V, _T),
    "affine": (augment.Affine(name="affine", p=1),),
}
FIRST_PLACE = RECIPES["1st place"]
Augmenter = Callable[[np.ndarray, int], None]  # (images (n, C, H, W) uint8, seed)


def bench_augment(size: int = 512, sites: int = 8, rounds: int = 9) -> pd.DataFrame:
    """Time every way of augmenting random images by every recipe of `RECIPES`.

    All ways begin with stored uint8 images in memory, draw their own random numbers, and end with
    standardised float32 images.

    Args:
        size: side in pixels; "one hour" is timed at half of it, as it trains.
        sites: images a round.

    Returns:
        Columns recipe, size, path, ms (a site), times_numpy and times_albumentations (how many
        times faster than those; medians of the rounds' ratios; NaN where there is no such path).
    """
    rng = np.random.default_rng(0)
    rows = []
    threads = (cv2.getNumThreads(), torch.get_num_threads())
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        for name, augmentations in RECIPES.items():
            side = size // 2 if name == "one hour" else size
            images = rng.integers(0, 256, (sites, CHANNELS, side, side), dtype=np.uint8)
            seconds = _time_in_turn(_augmenters(augmentations, images), images, rounds)
            for path, spent in seconds.items():
                ms = np.median(spent) / sites * 1e3
                row = {"recipe": name, "size": side, "path": path, "ms": ms}
                for base in ("numpy", "albumentations"):
                    ratio = np.median(seconds[base] / spent) if base in seconds else np.nan
                    row[f"times_{base}"] = ratio
                rows.append(row)
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])
    return pd.DataFrame(rows)


def augment_text(table: pd.DataFrame) -> str:
    """Format the table of `bench_augment` for a terminal."""
    shown = table.assign(ms=table.ms.map("{:.2f}".format))
    for column in ("times_numpy", "times_albumentations"):
        shown[column] = table[column].map(lambda x: "" if np.isnan(x) else f"{x:.1f}")
    return shown.to_string(index=False)


def _time_in_turn(
    augmenters: dict[str, Augmenter], images: np.ndarray, rounds: int
) -> dict[str, np.ndarray]:
    """Return the seconds of each round; a warm-up round is not counted."""
    seconds = {name: np.empty(rounds) for name in augmenters}
    for number in range(-1, rounds):
        for name, augmenter in augmenters.items():
            started = time.perf_counter()
            augmenter(images, number + 1)
            if number >= 0:
                seconds[name][number] = time.perf_counter() - started
    return seconds


def _augmenters(augmentations: tuple, images: np.ndarray) -> dict[str, Augmenter]:
    """Return name -> function that augments all images with a seed."""
    transform = Transform(augmentations, CHANNELS)
    recipe = Recipe(augmentations, CHANNELS, images.shape[2:])
    shift = images.mean((2, 3), dtype=np.float32)
    scale = images.std((2, 3), dtype=np.float32)
    out = np.empty(images.shape, np.float32)

    def draw(seed: int):
        return recipe.draw(np.random.default_rng(seed).random((len(images), recipe.numbers)))

    def by_numpy(images: np.ndarray, seed: int) -> None:
        rng = np.random.default_rng(seed)
        for image, mean, sd in zip(images, shift, scale, strict=True):
            plain_steps(image, augmentations, mean, sd, rng)

    def by_albumentations(images: np.ndarray, seed: int) -> None:
        for i, image in enumerate(images):
            rng = np.random.default_rng([seed, i])
            turned = transform.image(image.transpose(1, 2, 0), rng).transpose(2, 0, 1)
            x = (turned.astype(np.float32) - shift[i][:, None, None]) / scale[i][:, None, None]
            np.ascontiguousarray(transform.signal(x, rng))

    def by_warp(images: np.ndarray, seed: int) -> None:
        draws = draw(seed)
        for i, image in enumerate(images):
            warp(image, draws, i, shift[i], scale[i], out[i])

    def by_torch(device: str) -> Augmenter:
        mean, sd = (torch.from_numpy(values).to(device) for values in (shift, scale))
        on_device = torch.from_numpy(images).to(device)  # once: only the augmentation is timed

        def warp_on_device(_: np.ndarray, seed: int) -> None:
            warp_batch(on_device, draw(seed), mean, sd)
            if device != "cpu":
                torch.cuda.synchronize()

        return warp_on_device

    augmenters: dict[str, Augmenter] = {}
    if not any(isinstance(a, augment.Affine) for a in augmentations):
        augmenters["numpy"] = by_numpy
    augmenters["albumentations"] = by_albumentations
    augmenters["warp, CPU"] = by_warp
    augmenters["torch, CPU"] = by_torch("cpu")
    if torch.cuda.is_available():
        augmenters["torch, CUDA"] = by_torch("cuda")
    return augmenters


def plain_steps(
    image: np.ndarray,
    augmentations: tuple,
    shift: np.ndarray,
    scale: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Augment naively with numpy: each step makes a new array; gain and bias are always applied.

    (C, S, S) uint8 -> (C, S, S) float32.
    """
    lights = [a for a in augmentations if isinstance(a, augment.GainBias)]
    for a in augmentations:
        if a in lights or rng.random() >= a.p:
            continue
        match a:
            case augment.HorizontalFlip():
                image = np.flip(image, 2).copy()
            case augment.VerticalFlip():
                image = np.flip(image, 1).copy()
            case augment.Transpose():
                image = image.transpose(0, 2, 1).copy()
            case augment.Rotate90():
                image = np.rot90(image, rng.integers(4), (1, 2)).copy()
            case augment.SquareCropResize():
                image = _crop_resize(image, a.min_fraction, rng)
            case _:
                raise AssertionError(f"no numpy step for {a.name}")
    x = (image.astype(np.float32) - shift[:, None, None]) / scale[:, None, None]
    for a in lights:
        x = x * rng.normal(1, a.gain, (len(x), 1, 1)).astype(np.float32)
        x = x + rng.normal(0, a.bias, (len(x), 1, 1)).astype(np.float32)
    return x


def _crop_resize(image: np.ndarray, min_fraction: float, rng: np.random.Generator) -> np.ndarray:
    full = image.shape[1]
    side = int(rng.integers(round(min_fraction * full), full + 1))
    top, left = rng.integers(full - side + 1, size=2)
    nearest = (2 * np.arange(full) + 1) * side // (2 * full)
    return image[:, top + nearest][:, :, left + nearest]  # faster than both at once
