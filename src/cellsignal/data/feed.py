"""Make batches on the device from a store, ahead of the computation.

Threads decompress images straight into a batch buffer, which goes to the device as uint8; cropping,
warping and standardising happen there, for the whole batch, on a stream of their own. On a CPU the
reading threads warp each image themselves into a float32 batch. Recipes that need albumentations go
through worker processes instead.
"""

import contextlib
import itertools
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from cellsignal.common.errors import InputError
from cellsignal.data.dataset import DIED, Key, SiteDataset, loader, raise_input_error_at_death
from cellsignal.data.draws import Draws
from cellsignal.data.normalization import standardize
from cellsignal.data.transforms import Transform
from cellsignal.data.warp import warp
from cellsignal.data.warp_torch import warp_batch

SLOTS = 4  # batch buffers: one with the consumer, the others being filled


@dataclass(frozen=True)
class Batch:
    """Images (B, C, h, w) on the device, float32 or uint8, and the (B,) samples' indices."""

    images: torch.Tensor
    index: np.ndarray


def feed(
    dataset: SiteDataset, batches: Sequence[Sequence[Key]], workers: int, device: torch.device
) -> Iterator[Batch]:
    """Make augmented and standardised batches, in the order of `batches` (keys of one epoch each).

    A batch may be used until the next is asked for; on a GPU, for ever.

    Args:
        workers: threads (processes for a `Transform`); 0 reads in this one.

    Raises:
        InputError: a damaged image, or a worker process that died.
    """
    if isinstance(dataset.augmentation, Transform):
        yield from _from_processes(dataset, batches, workers, device)
    elif dataset.on_device is not None:
        yield from _from_the_device(dataset, batches)
    elif device.type == "cuda":
        yield from _to_the_device(dataset, batches, workers, device)
    else:
        yield from _on_the_cpu(dataset, batches, workers)


def feed_raw(
    dataset: SiteDataset, batches: Sequence[Sequence[Key]], workers: int, device: torch.device
) -> Iterator[Batch]:
    """Make batches of stored uint8 pixels, for validation and prediction with several views.

    The recipe must draw nothing.

    They stay valid after the next is asked for. `standardize_batch` makes networks' input of them.
    """
    height, width = dataset.augmentation.input
    if dataset.on_device is not None:
        for index, draws in _drawn(dataset, batches):
            yield Batch(_cut(dataset, index, draws), index)
        return
    slots = _slots(batches, (dataset.shape[0], height, width), torch.uint8, device)
    for slot, index, _ in _filled(dataset, batches, workers, slots, _reading(dataset)):
        images = slot.tensor[: len(index)]
        yield Batch(slot.sent(images, device) if device.type == "cuda" else images.clone(), index)


def standardize_batch(images: torch.Tensor, shift: np.ndarray, scale: np.ndarray) -> torch.Tensor:
    """Standardise (B, C, h, w) uint8 by (B, C) float32 -> float32, channels_last."""
    shift, scale = (_on(values, images.device)[:, :, None, None] for values in (shift, scale))
    grey = images.to(torch.float32, memory_format=torch.channels_last)
    return standardize(grey, shift, scale, out=grey)


# where batches come from
# --------------------------------------------------------------------------------------------------


def _from_processes(dataset, batches, workers: int, device: torch.device) -> Iterator[Batch]:
    others = multiprocessing.active_children()
    batches_ahead = iter(loader(dataset, batches, workers, pin=device.type == "cuda"))
    processes = [p for p in multiprocessing.active_children() if p not in others]
    raise_input_error_at_death()
    try:
        for batch in batches_ahead:
            images = batch["image"].to(device, non_blocking=True, memory_format=torch.channels_last)
            yield Batch(images, batch["index"].numpy())
    except (RuntimeError, ConnectionError, EOFError) as error:  # the last two: while handing over
        has_died = any(process.exitcode not in (None, 0) for process in processes)
        if isinstance(error, RuntimeError) and not has_died:
            raise
        with contextlib.suppress(InputError):
            time.sleep(0.2)  # torch's signal handler tells of the death wherever the program is
        raise InputError(DIED) from None
    finally:
        # The workers ignore SIGTERM. While a traceback kept the iterator alive, they would wait for
        # work for ever and Python for them as it ends.
        if workers:
            batches_ahead._shutdown_workers()


def _from_the_device(dataset: SiteDataset, batches) -> Iterator[Batch]:
    for index, draws in _drawn(dataset, batches):
        yield Batch(_warped(dataset, _cut(dataset, index, draws), index, draws), index)


def _on_the_cpu(dataset: SiteDataset, batches, workers: int) -> Iterator[Batch]:
    height, width = dataset.augmentation.input

    def warp_into(slot: "_Slot", index: np.ndarray, draws: Draws, first: int, last: int) -> None:
        out = slot.array
        for i in range(first, last):
            top, left = draws.origin[i]
            image = dataset.read(int(index[i]), draws.rows[i])[
                :, top : top + height, left : left + width
            ]
            warp(image, draws, i, dataset.shift[index[i]], dataset.scale[index[i]], out[i])

    slots = _slots(
        batches,
        (dataset.shape[0], *dataset.augmentation.output),
        torch.float32,
        torch.device("cpu"),
    )
    for slot, index, _ in _filled(dataset, batches, workers, slots, warp_into):
        yield Batch(slot.tensor[: len(index)].contiguous(memory_format=torch.channels_last), index)


def _to_the_device(
    dataset: SiteDataset, batches, workers: int, device: torch.device
) -> Iterator[Batch]:
    """Copy and warp the next batch on a second stream while the current one trains."""
    side, ahead = torch.cuda.Stream(device), None
    slots = _slots(batches, (dataset.shape[0], *dataset.augmentation.input), torch.uint8, device)
    for slot, index, draws in _filled(dataset, batches, workers, slots, _reading(dataset)):
        with torch.cuda.stream(side):
            images = _warped(dataset, slot.sent(slot.tensor[: len(index)], device), index, draws)
            ready = side.record_event()
        if ahead is not None:
            yield _handed_over(*ahead)
        ahead = images, index, ready
    if ahead is not None:
        yield _handed_over(*ahead)


def _handed_over(images: torch.Tensor, index: np.ndarray, ready: torch.cuda.Event) -> Batch:
    stream = torch.cuda.current_stream(images.device)
    stream.wait_event(ready)
    # else the allocator could give its memory away while the other stream still reads it
    images.record_stream(stream)
    return Batch(images, index)


def _warped(
    dataset: SiteDataset, images: torch.Tensor, index: np.ndarray, draws: Draws
) -> torch.Tensor:
    shift, scale = (_on(values[index], images.device) for values in (dataset.shift, dataset.scale))
    return warp_batch(images, draws, shift, scale)


def _cut(dataset: SiteDataset, index: np.ndarray, draws: Draws) -> torch.Tensor:
    """Apply the recipe's leading crop to images on the device: (B, C, h0, w0) uint8."""
    images = dataset.on_device
    chosen = _on(index, images.device)
    if dataset.augmentation.input == tuple(images.shape[2:]):
        return images[chosen]
    height, width = dataset.augmentation.input
    origin = _on(draws.origin, images.device)
    rows = origin[:, :1] + torch.arange(height, device=images.device)
    columns = origin[:, 1:] + torch.arange(width, device=images.device)
    channels = torch.arange(images.shape[1], device=images.device)
    return images[
        chosen[:, None, None, None],
        channels[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def _on(values: np.ndarray, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


# buffers and threads
# --------------------------------------------------------------------------------------------------


class _Slot:
    """Buffer of a batch, in pinned memory if it is copied to a GPU."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, pin: bool):
        self.tensor = torch.empty(shape, dtype=dtype, pin_memory=pin)
        self.array = self.tensor.numpy()
        self.copied: torch.cuda.Event | None = None

    def sent(self, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        """The images on the GPU; the buffer is filled again only when this copy has been made."""
        images = images.to(device, non_blocking=True)
        self.copied = torch.cuda.current_stream(device).record_event()
        return images

    def wait(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()


def _slots(
    batches, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> list[_Slot]:
    largest, pin = max(map(len, batches), default=0), device.type == "cuda"
    return [_Slot((largest, *shape), dtype, pin) for _ in range(min(SLOTS, len(batches)))]


def _drawn(dataset: SiteDataset, batches) -> Iterator[tuple[np.ndarray, Draws]]:
    for keys in batches:
        epoch, index = (
            (0, keys) if isinstance(keys[0], int) else (keys[0][0], [number for _, number in keys])
        )
        index = np.asarray(index)
        yield index, dataset.draws(epoch, index)


def _reading(dataset: SiteDataset) -> Callable[..., None]:
    """Read stored images into a buffer, after the recipe's leading crop."""
    height, width = dataset.augmentation.input
    whole = (height, width) == dataset.shape[1:]

    def fill(slot: _Slot, index: np.ndarray, draws: Draws, first: int, last: int) -> None:
        for i in range(first, last):
            if whole:
                dataset.read(int(index[i]), draws.rows[i], out=slot.array[i])
            else:
                top, left = draws.origin[i]
                slot.array[i] = dataset.read(int(index[i]), draws.rows[i])[
                    :, top : top + height, left : left + width
                ]

    return fill


def _filled(
    dataset: SiteDataset, batches, workers: int, slots: list[_Slot], fill: Callable[..., None]
) -> Iterator[tuple[_Slot, np.ndarray, Draws]]:
    """Yield each batch in its buffer, in order. The consumer is done with a buffer when it asks for
    the next.
    """
    drawn = _drawn(dataset, batches)
    if not workers:
        for (index, draws), slot in zip(drawn, itertools.cycle(slots)):
            slot.wait()
            fill(slot, index, draws, 0, len(index))
            yield slot, index, draws
        return
    free, started = deque(slots), deque()
    workers = dataset.store.threads(workers)
    pool = ThreadPoolExecutor(workers, "reading")

    def start() -> None:
        while free and (batch := next(drawn, None)) is not None:
            index, draws = batch
            slot = free.popleft()
            slot.wait()
            # short pieces end together
            bounds = np.linspace(0, len(index), min(2 * workers, len(index)) + 1).astype(int)
            parts = [
                pool.submit(fill, slot, index, draws, first, last)
                for first, last in itertools.pairwise(bounds)
            ]
            started.append((slot, index, draws, parts))

    try:
        start()
        while started:
            slot, index, draws, parts = started.popleft()
            for part in parts:
                part.result()
            yield slot, index, draws
            free.append(slot)
            start()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
