"""Buffers of batches, filled by threads ahead of whoever takes the batches.

Threads decompress and warp with the interpreter's lock released. A buffer is filled again once its
batch is done with: new memory for each batch would cost more than filling it.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from cellsignal.data.dataset import SiteDataset
from cellsignal.data.draws import Draws

SLOTS = 4  # batch buffers: one with the consumer, the others being filled


class Slot:
    """Buffer of a batch, in pinned memory if it is copied to a GPU.

    Attributes:
        tensor: (largest batch, *shape), in the memory order that was asked for.
        array: the same memory as a numpy array.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, pin: bool, order: torch.memory_format
    ):
        self.tensor = torch.empty(shape, dtype=dtype, pin_memory=pin, memory_format=order)
        self.array = self.tensor.numpy()
        self.copied: torch.cuda.Event | None = None

    def sent(self, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        """The images on the GPU; the buffer is filled again only when this copy has been made."""
        images = images.to(device, non_blocking=True)
        self.copied = torch.cuda.current_stream(device).record_event()
        return images

    def wait(self) -> None:
        """Wait for the copy that is under way, if any."""
        if self.copied is not None:
            self.copied.synchronize()


def make_slots(
    batches,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    order: torch.memory_format = torch.contiguous_format,
) -> list[Slot]:
    """Return the buffers for batches of images of one shape, (C, h, w), that go to a device."""
    largest, pin = max(map(len, batches), default=0), device.type == "cuda"
    return [Slot((largest, *shape), dtype, pin, order) for _ in range(min(SLOTS, len(batches)))]


def draw_batches(dataset: SiteDataset, batches) -> Iterator[tuple[np.ndarray, Draws]]:
    """Yield each batch's (B,) indices of samples and what its recipe draws for them."""
    for keys in batches:
        epoch, index = (
            (0, keys) if isinstance(keys[0], int) else (keys[0][0], [number for _, number in keys])
        )
        index = np.asarray(index)
        yield index, dataset.draws(epoch, index)


def filled_slots(
    dataset: SiteDataset, batches, workers: int, slots: list[Slot], fill: Callable[..., None]
) -> Iterator[tuple[Slot, np.ndarray, Draws]]:
    """Yield each batch in its buffer, with its samples' indices and draws, in order.

    The consumer is done with a buffer when it asks for the next.

    Args:
        workers: threads that fill; 0: this one does.
        fill: called as fill(slot, index, draws, first, last) fills those places of a buffer.
    """
    drawn = draw_batches(dataset, batches)
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
