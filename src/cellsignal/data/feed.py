"""Make batches on the device from a store, ahead of the computation.

Threads decompress images straight into a batch buffer, which goes to the device as uint8; cropping,
warping and standardising happen there, for the whole batch, on a stream of their own. On a CPU the
reading threads warp each image themselves into a float32 batch. Recipes that need albumentations go
through worker processes instead.
"""

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from cellsignal.common.errors import InputError
from cellsignal.data.dataset import DIED, Key, SiteDataset, loader, raise_input_error_at_death
from cellsignal.data.draws import Draws
from cellsignal.data.normalization import standardize
from cellsignal.data.slots import Slot, draw_batches, filled_slots, make_slots
from cellsignal.data.transforms import Transform
from cellsignal.data.warp import warp
from cellsignal.data.warp_torch import warp_batch


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

    Batches stay valid after the next is asked for. The recipe must draw nothing.
    `standardize_batch` makes the network's input of a batch.
    """
    height, width = dataset.augmentation.input
    if dataset.on_device is not None:
        for index, draws in draw_batches(dataset, batches):
            yield Batch(_cut(dataset, index, draws), index)
        return
    slots = make_slots(batches, (dataset.shape[0], height, width), torch.uint8, device)
    for slot, index, _ in filled_slots(dataset, batches, workers, slots, _reading(dataset)):
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
    for index, draws in draw_batches(dataset, batches):
        yield Batch(_warped(dataset, _cut(dataset, index, draws), index, draws), index)


def _on_the_cpu(dataset: SiteDataset, batches, workers: int) -> Iterator[Batch]:
    height, width = dataset.augmentation.input
    shape, local = (dataset.shape[0], *dataset.augmentation.output), threading.local()

    def warp_into(slot: Slot, index: np.ndarray, draws: Draws, first: int, last: int) -> None:
        if not hasattr(local, "planes"):
            local.planes = np.empty(shape, np.float32)
        for i in range(first, last):
            top, left = draws.origin[i]
            image = dataset.read(int(index[i]), draws.rows[i])[
                :, top : top + height, left : left + width
            ]
            scale = dataset.scale[index[i]]
            warp(image, draws, i, dataset.shift[index[i]], scale, local.planes)
            if len(image) == 1:
                slot.array[i] = local.planes
            else:  # cv2 does by vector instructions what a strided copy does pixel by pixel
                merged = cv2.merge(list(local.planes), dst=slot.array[i].transpose(1, 2, 0))
                assert np.may_share_memory(merged, slot.array)

    # the memory of a slot is used again: to take new pages for a batch costs more than filling it
    slots = make_slots(batches, shape, torch.float32, torch.device("cpu"), torch.channels_last)
    for slot, index, _ in filled_slots(dataset, batches, workers, slots, warp_into):
        yield Batch(slot.tensor[: len(index)], index)


def _to_the_device(
    dataset: SiteDataset, batches, workers: int, device: torch.device
) -> Iterator[Batch]:
    """Copy and warp the next batch on a second stream while the current one trains."""
    side, ahead = torch.cuda.Stream(device), None
    slots = make_slots(
        batches, (dataset.shape[0], *dataset.augmentation.input), torch.uint8, device
    )
    for slot, index, draws in filled_slots(dataset, batches, workers, slots, _reading(dataset)):
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


def _reading(dataset: SiteDataset) -> Callable[..., None]:
    """Read stored images into a buffer, after the recipe's leading crop."""
    height, width = dataset.augmentation.input
    whole = (height, width) == dataset.shape[1:]

    def fill(slot: Slot, index: np.ndarray, draws: Draws, first: int, last: int) -> None:
        for i in range(first, last):
            if whole:
                dataset.read(int(index[i]), draws.rows[i], out=slot.array[i])
            else:
                top, left = draws.origin[i]
                slot.array[i] = dataset.read(int(index[i]), draws.rows[i])[
                    :, top : top + height, left : left + width
                ]

    return fill
