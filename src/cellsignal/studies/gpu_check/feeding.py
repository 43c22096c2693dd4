"""Check that images reach the network as they are on the CPU: copied, kept, warped."""

import time

import numpy as np
import torch
from scipy import ndimage

from cellsignal.config import augment
from cellsignal.data.dataset import SiteDataset
from cellsignal.data.draws import Draws, Recipe
from cellsignal.data.feed import Batch, feed, feed_raw
from cellsignal.data.normalization import SMALLEST_SD
from cellsignal.data.store import Store
from cellsignal.data.warp import warp
from cellsignal.data.warp_torch import warp_batch
from cellsignal.studies.gpu_check.room import Figures, Room, require
from cellsignal.studies.gpu_check.tiny import SIZE, tiny_plates

# grey levels: what is copied pixel by pixel differs by the rounding of float32; the CPU's warp
# interpolates at 1/32 of a pixel and rounds to whole grey levels, the device's does neither
COPIED, INTERPOLATED = 1e-3, 2.5
_FLIPS = (
    augment.HorizontalFlip(name="horizontal_flip"),
    augment.Transpose(name="transpose"),
    augment.Rotate90(name="rotate90"),
    augment.GainBias(name="gain_bias"),
)
_LIGHT = _FLIPS[3]
RECIPES = {
    "flips and turns": _FLIPS,
    "crops": (augment.RandomCrop(name="random_crop", size=SIZE * 3 // 4), *_FLIPS),
    "affine": (
        augment.Affine(name="affine", p=1, translate=0.2, rotate=90, scale=(0.7, 1.5)),
        _LIGHT,
    ),
    "resized crops": (augment.SquareCropResize(name="square_crop_resize", min_fraction=0.5),),
    "dropped pixels": (
        augment.CoarseDropout(name="coarse_dropout", p=1),
        augment.ChannelDropout(name="channel_dropout", p=0.5),
    ),
}


def fused_warp(room: Room) -> Figures:
    """Warp whole batches on the device, and image by image on the CPU, by the same draws."""
    size, images = (48, 6) if room.dry else (512, 24)
    rng, figures = np.random.default_rng(0), {}
    stored = _smooth(rng, images, 6, size)
    shift, scale = rng.uniform(5, 20, (2, images, 6)).astype(np.float32)
    for name, recipe in RECIPES.items():
        big = [
            a.model_copy(update={"size": size * 3 // 4}) if name == "crops" else a
            for a in recipe[:1]
        ]
        drawn = Recipe((*big, *recipe[1:]), 6, (size, size))
        draws = drawn.draw(rng.random((images, drawn.numbers)))
        wanted, got = _both(room, _cut(stored, draws), draws, shift, scale)
        grey = (scale / np.abs(draws.gain).clip(1e-3))[:, :, None, None]
        apart = np.abs(wanted - got) * grey
        bilinear = draws.bilinear
        copied = float(apart[~bilinear].max(initial=0))
        moved = float(apart[bilinear].max(initial=0))
        require(copied < COPIED, f"{name}: copied pixels are {copied:.2g} grey levels off")
        require(moved < INTERPOLATED, f"{name}: interpolated ones are {moved:.2g} levels off")
        figures[name] = {"copied_off": copied, "interpolated_off": moved}
        figures[name]["mean_off"] = float(apart.mean())
    return figures | {"limit_copied": COPIED, "limit_interpolated": INTERPOLATED}


def _smooth(rng: np.random.Generator, images: int, channels: int, size: int) -> np.ndarray:
    """Return uint8 images without edges, where a small shift changes a pixel little."""
    field = ndimage.gaussian_filter(
        rng.normal(size=(images, channels, size, size)).astype(np.float32), (0, 0, 3, 3)
    )
    return (20 + 215 * (field - field.min()) / np.ptp(field)).astype(np.uint8)


def _cut(stored: np.ndarray, draws: Draws) -> np.ndarray:
    (height, width), corners = draws.input, draws.origin
    pairs = zip(stored, corners, strict=True)
    return np.stack([image[:, y : y + height, x : x + width] for image, (y, x) in pairs])


def _both(
    room: Room, images: np.ndarray, draws: Draws, shift: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    single = np.empty((*images.shape[:2], *draws.output), np.float32)
    for i, image in enumerate(images):
        warp(image, draws, i, shift[i], scale[i], single[i])
    there = [torch.from_numpy(array).to(room.device) for array in (images, shift, scale)]
    batch = warp_batch(there[0], draws, *there[1:])
    layout = batch.is_contiguous(memory_format=torch.channels_last)
    require(layout and batch.dtype == torch.float32, "the batch is not float32 in channels_last")
    return single, batch.cpu().numpy()


# feeding
# --------------------------------------------------------------------------------------------------


def _dataset(room: Room, recipe: tuple[augment.Augmentation, ...], **keep) -> SiteDataset:
    store = Store.open(tiny_plates(room) / "store")
    rows = store.samples.row.to_numpy()
    shift, scale = store.mean[rows], np.maximum(store.sd[rows], SMALLEST_SD)
    drawn = Recipe(recipe, store.shape[0], store.shape[1:])
    return SiteDataset(store, rows, shift, scale, drawn, 1, **keep)


def _keys(dataset: SiteDataset, epoch: int, batch: int) -> list[list[tuple[int, int]]]:
    order = np.random.default_rng(epoch).permutation(len(dataset))
    return [
        [(epoch, int(i)) for i in order[first : first + batch]]
        for first in range(0, len(order), batch)
    ]


def data_feed(room: Room) -> Figures:
    """Compare fed batches with the stored bytes, warped on the CPU by the same code.

    The device is busy meanwhile and all batches are kept to the end, so that one that was
    overwritten by a later one, or read before it was there, differs.
    """
    figures: Figures = {}
    for name in ("flips and turns", "crops", "affine"):
        dataset = _dataset(room, RECIPES[name])
        keys, worst = _keys(dataset, 0, 24), 0.0
        for workers in (0, 3):
            fed = [_work_on(batch) for batch in feed(dataset, keys, workers, room.device)]
            for batch, key in zip(fed, keys, strict=True):
                wanted = _warped_on_the_cpu(dataset, key)
                require(batch.index.tolist() == [i for _, i in key], f"{name}: another order")
                require(batch.images.device.type == room.kind, f"{name}: not on the device")
                scale = torch.from_numpy(dataset.scale[batch.index])[:, :, None, None]
                apart = (batch.images.cpu() - wanted) * scale
                worst = max(worst, float(apart.abs().max()))
        # a CPU is fed by other code, which interpolates at 1/32 of a pixel
        limit = COPIED if name != "affine" else 60.0 if room.dry else 0.1
        require(worst < limit, f"{name}: fed pixels are {worst:.2g} grey levels off")
        figures[name] = worst
    return figures | {"batches": len(keys)} | _raw(room)


def _warped_on_the_cpu(dataset: SiteDataset, key: list[tuple[int, int]]) -> torch.Tensor:
    epoch, index = key[0][0], np.array([i for _, i in key])
    draws = dataset.draws(epoch, index)
    stored = np.stack([dataset.read(int(i)).copy() for i in index])
    shift, scale = (torch.from_numpy(a[index]) for a in (dataset.shift, dataset.scale))
    return warp_batch(torch.from_numpy(_cut(stored, draws)), draws, shift, scale)


def copy_of(batch: Batch) -> Batch:
    """Return a batch that stays valid after the next is asked for."""
    return Batch(batch.images.clone(), batch.index)


def _work_on(batch: Batch) -> Batch:
    """Keep the device busy for some ms, so that copying and warping run ahead of it."""
    if batch.images.is_cuda:
        big = torch.ones(2048, 2048, device=batch.images.device)
        for _ in range(8):
            big = big @ big * 1e-4
        return batch
    return copy_of(batch)


def _grey_levels_apart(dataset: SiteDataset, batch: Batch, right: Batch) -> float:
    grey = torch.from_numpy(dataset.scale[right.index])[:, :, None, None]
    return float(((batch.images.cpu() - right.images) * grey).abs().max())


def _raw(room: Room) -> Figures:
    """Compare raw bytes, as prediction reads them."""
    dataset = _dataset(room, ())
    keys = [[index for _, index in part] for part in _keys(dataset, 1, 40)]
    started = time.perf_counter()
    fed = [_work_on(batch) for batch in feed_raw(dataset, keys, 3, room.device)]
    seconds = time.perf_counter() - started
    for batch in fed:
        stored = np.stack([dataset.read(int(i)).copy() for i in batch.index])
        require(bool((batch.images.cpu().numpy() == stored).all()), "raw bytes differ")
    return {"raw_sites_per_s": round(len(dataset) / seconds, 1)}


def device_gib(room: Room) -> Figures:
    """Feed from images kept on the device and from the store: the same batches, bit for bit."""
    figures: Figures = {}
    for name in ("flips and turns", "crops", "affine"):
        kept = _dataset(room, RECIPES[name], device=room.device, device_gib=1.0)
        require(kept.on_device is not None, "the images are not on the device")
        require(kept.on_device.device.type == room.kind, f"they are on {kept.on_device.device}")
        from_store = _dataset(room, RECIPES[name])
        keys = _keys(kept, 2, 24)
        if room.dry:
            continue  # on a CPU the store is warped by other code, in reading threads
        pairs = zip(
            feed(kept, keys, 0, room.device), feed(from_store, keys, 3, room.device), strict=True
        )
        for batch, right in pairs:
            require(bool(torch.equal(batch.images, right.images)), f"{name}: batches differ")
        figures["mib"] = round(kept.on_device.nbytes / 2**20, 2)
    keys = _keys(kept, 2, 24)
    fed = [copy_of(batch).images for batch in feed(kept, keys, 0, room.device)]
    figures["batches"] = len(fed)
    too_small = _dataset(room, (), device=room.device, device_gib=1e-6)
    require(too_small.on_device is None, "images that do not fit were kept on the device")
    return figures
