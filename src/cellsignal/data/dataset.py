"""Read, standardise and augment the images of a job, and keep some of them in memory.

Every random draw of a sample comes from (seed, epoch, index), so a batch is the same whatever the
number of workers and wherever a run was resumed.
"""

import functools
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cellsignal.common.errors import InputError
from cellsignal.data.draws import Draws, Recipe
from cellsignal.data.normalization import standardize
from cellsignal.data.store import Store
from cellsignal.data.transforms import Transform

GIB = 2**30
DIED = (
    "loading: a worker process died (out of memory?); use fewer data.workers and run again to go on"
)
Key = int | tuple[int, int]  # an index, or (epoch, index)
_local = threading.local()


def read_rows(
    store: Store, rows: np.ndarray, limit_gib: float, channels: np.ndarray | None = None
) -> np.ndarray | None:
    """Read the images of `rows`, (n, C, H, W) uint8; None if they need over `limit_gib` GiB."""
    depth, *side = store.shape
    shape = (len(rows), depth if channels is None else len(channels), *side)
    if np.prod(shape, dtype=np.int64) > limit_gib * GIB:
        return None
    images = np.empty(shape, np.uint8)

    def fill(position: int) -> None:
        if channels is None:
            store.read(int(rows[position]), out=images[position])
        else:
            images[position] = store.read(int(rows[position]), out=_scratch(store))[channels]

    with ThreadPoolExecutor(store.threads(4)) as pool:
        list(pool.map(fill, range(len(rows))))
    return images


class SiteDataset(Dataset):
    """Items of a job: `rows` of a store with their standardisation and augmentation. `data.feed`
    makes batches of them.

    Args:
        rows: (n,) int, rows of the store.
        shift, scale: (n, C) float32, of the chosen channels; for `normalization.standardize`.
        augmentation: a `Recipe`, drawn for whole batches; or a `Transform`, applied image by image
        in worker processes. seed: root of every random draw. cache_gib: see `read_rows`. channels:
        (C,) indices of the store's channels; None: all. device, device_gib: where all images need
        no more than so many GiB they are put on the device whole (recipes only).

    Attributes:
        kept: (n, C, H, W) uint8 in memory, or None.
        on_device: the same on the device, or None.
    """

    def __init__(
        self,
        store: Store,
        rows: np.ndarray,
        shift: np.ndarray,
        scale: np.ndarray,
        augmentation: Recipe | Transform,
        seed: int = 0,
        *,
        cache_gib: float = 0.0,
        channels: np.ndarray | None = None,
        device: torch.device | None = None,
        device_gib: float = 0.0,
    ):
        assert len(rows) == len(shift) == len(scale)
        self.store, self.rows, self.channels = store, np.asarray(rows), channels
        self.shift, self.scale = (
            np.ascontiguousarray(values, np.float32) for values in (shift, scale)
        )
        self.augmentation, self.seed = augmentation, seed
        wanted = device_gib if isinstance(augmentation, Recipe) else 0.0
        self.kept = read_rows(store, self.rows, max(cache_gib, wanted), channels)
        self.on_device = None
        if self.kept is not None and device is not None and self.kept.nbytes <= wanted * GIB:
            self.on_device = torch.from_numpy(self.kept).to(device)
            self.kept = None if device.type == "cuda" else self.kept

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the stored images' chosen channels."""
        depth, *side = self.store.shape
        return (depth if self.channels is None else len(self.channels), *side)

    @property
    def image_size(self) -> int:
        """Width in pixels of the images that a network reads."""
        return self.output[1]

    @property
    def output(self) -> tuple[int, int]:
        """(h, w) in pixels of the images that a network reads."""
        return self.augmentation.output or tuple(self[(0, 0)]["image"].shape[1:])

    def is_kept_for(self, device: torch.device) -> bool:
        """Return whether a device has the images at hand, so that no thread need read them."""
        return self.kept is not None and device.type == "cpu"

    def read(
        self, index: int, rows: Sequence[int] | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Read the chosen channels of a stored image, (C, H, W) uint8.

        Only the rows in `rows` (top, bottom) are certain to be read.

        Args:
            out: where to put it; without it, and without a cache, the result lies in a scratch
            buffer of the thread.
        """
        if self.kept is not None:
            if out is None:
                return self.kept[index]
            np.copyto(out, self.kept[index])
            return out
        rows = None if rows is None else (int(rows[0]), int(rows[1]))
        if self.channels is None:
            return self.store.read(
                int(self.rows[index]), out=_scratch(self.store) if out is None else out, rows=rows
            )
        image = self.store.read(int(self.rows[index]), out=_scratch(self.store), rows=rows)
        if out is None:
            return image[self.channels]
        np.take(image, self.channels, axis=0, out=out)
        return out

    def draws(self, epoch: int, index: np.ndarray) -> Draws:
        """What a recipe does to some samples in an epoch; row by row a function of (seed, epoch,
        index).
        """
        recipe = self.augmentation
        numbers = (
            np.zeros((len(self), 0))
            if recipe.numbers == 0
            else _numbers(self.seed, epoch, len(self), recipe.numbers)
        )
        return recipe.draw(numbers[index])

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """For a `Transform`: {"image": (C, h, w) float32, "index": int}."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        image, rng = self.read(index), np.random.default_rng([self.seed, epoch, index])
        image = self.augmentation.image(image.transpose(1, 2, 0), rng).transpose(2, 0, 1)
        shift, scale = self.shift[index][:, None, None], self.scale[index][:, None, None]
        x = standardize(image.astype(np.float32), shift, scale)
        x = self.augmentation.signal(x, rng)
        return {"image": torch.from_numpy(np.ascontiguousarray(x)), "index": int(index)}


@functools.lru_cache(maxsize=2)
def _numbers(seed: int, epoch: int, samples: int, numbers: int) -> np.ndarray:
    """Draw an epoch's uniform numbers in [0, 1), (samples, numbers) float64: a row per sample."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).random(
        (samples, numbers)
    )


def _scratch(store: Store) -> np.ndarray:
    """Return this thread's buffer for one stored image.

    It is reused: a new one would cost more than filling it.
    """
    if getattr(_local, "scratch", None) is None or _local.scratch.shape != store.shape:
        _local.scratch = np.empty(store.shape, np.uint8)
    return _local.scratch


def loader(
    dataset: SiteDataset, batches: Sampler | Sequence, workers: int, pin: bool = False
) -> DataLoader:
    """Make worker processes for a `Transform`.

    It has a random generator of its own, so that starting it never changes the trainer's.
    """
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

    # these reach the whole process group and are the trainer's to answer
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def raise_input_error_at_death() -> None:
    """Let torch's signal handler, which notices that a worker process died, raise `InputError`."""
    handler = signal.getsignal(signal.SIGCHLD)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or not callable(handler) or isinstance(handler, _DeathHandler):
        return
    signal.signal(signal.SIGCHLD, _DeathHandler(handler))


@dataclass(frozen=True)
class _DeathHandler:
    torch_handler: Callable[[int, FrameType | None], None]

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.torch_handler(number, frame)
        except RuntimeError:
            raise InputError(DIED) from None
