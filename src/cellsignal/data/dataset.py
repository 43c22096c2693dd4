"""From store rows to float tensors: read, augment, standardise.

Every random draw of a sample comes from (seed, epoch, index), so a batch is the same whatever the number of workers and wherever a run was resumed.
"""

import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cellsignal.data.store import Store
from cellsignal.data.transforms import Transform

GIB = 2**30


def read_rows(store: Store, rows: np.ndarray, limit_gib: float) -> np.ndarray | None:
    """The images of `rows` as one (n, C, H, W) uint8 array, or None where they need more than `limit_gib` GiB."""
    shape = (len(rows), *store.images.shape[1:])
    if np.prod(shape, dtype=np.int64) > limit_gib * GIB:
        return None
    images = np.empty(shape, np.uint8)

    def fill(position: int) -> None:
        store.read(int(rows[position]), out=images[position])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(len(rows))))
    return images


class SiteDataset(Dataset):
    """Items of a job: `rows` of a store with their labels and standardisation.

    Args:
        rows: (n,) int, rows of the store.
        labels: (n,) int; -1 where unknown.
        shift, scale: (n, C) float32, of the chosen channels; the image becomes (x - shift) / scale.
        transform: augmentation; None for none.
        seed: root of every random draw.
        center_crop: side in pixels of a central square; None keeps the image.
        cache_gib: see `read_rows`.
        channels: (C,) indices of the store's channels; None: all.

    An item is `{"image": (C, h, w) float32, "label": int, "index": int}`; its key is an index, or (epoch, index) when augmenting.
    """

    def __init__(
        self,
        store: Store,
        rows: np.ndarray,
        labels: np.ndarray,
        shift: np.ndarray,
        scale: np.ndarray,
        transform: Transform | None = None,
        seed: int = 0,
        center_crop: int | None = None,
        cache_gib: float = 0.0,
        channels: np.ndarray | None = None,
    ):
        assert len(rows) == len(labels) == len(shift) == len(scale)
        self.channels = channels
        self.store, self.rows, self.labels = store, np.asarray(rows), np.asarray(labels)
        self.shift, self.scale = (np.asarray(a, np.float32)[:, :, None, None] for a in (shift, scale))
        self.transform, self.seed, self.center_crop = transform, seed, center_crop
        self.cached = read_rows(store, self.rows, cache_gib)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        image = self.store.read(int(self.rows[index])) if self.cached is None else self.cached[index]
        if self.channels is not None:
            image = image[self.channels]
        rng = np.random.default_rng([self.seed, epoch, index])
        if self.transform is not None:
            image = self.transform.image(image.transpose(1, 2, 0), rng).transpose(2, 0, 1)
        if self.center_crop is not None:
            top, left = ((side - self.center_crop) // 2 for side in image.shape[1:])
            image = image[:, top : top + self.center_crop, left : left + self.center_crop]
        x = (image.astype(np.float32) - self.shift[index]) / self.scale[index]
        if self.transform is not None:
            x = self.transform.signal(x, rng)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(x)),
            "label": int(self.labels[index]),
            "index": int(index),
        }


def loader(dataset: SiteDataset, batches: Sampler | Sequence, workers: int, pin: bool = False) -> DataLoader:
    """A DataLoader over ready-made batches of keys. It has a random generator of its own, so that starting it never moves the trainer's."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        generator=torch.Generator().manual_seed(0),
        pin_memory=pin,
        worker_init_fn=_start_worker if workers else None,
    )


def _start_worker(worker: int) -> None:
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; it is the trainer's to answer
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
