"""The record of an epoch: its figures, how fast it went, and what held it up."""

import functools
import logging
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch.utils.tensorboard import SummaryWriter

from cellsignal.common.files import write_csv
from cellsignal.common.stopping import duration
from cellsignal.training.job import Job

log = logging.getLogger(__name__)
# a side; products between two events, so that launching the first is not felt
_GPU_SIZE, _GPU_RUN = 8192, 10
_CPU_SIZES = 256, 4096  # smallest and largest side
# of one product, at most, as the size before lets expect, if the next size is to be tried
_CPU_SECONDS = 0.25


@dataclass(frozen=True)
class EpochSpeed:
    """One epoch of one process.

    Attributes:
        seconds: from its beginning to the end of its last step.
        waited: seconds of these in which the device had nothing to do for want of data.
        flops_per_image: of one training step, by `models.cost`.
        peak: FLOP/s, by `device_peak`.
        memory_gib: most that tensors took on a GPU; on a CPU the most that the process held since
        it started.
    """

    images: int
    seconds: float
    waited: float
    flops_per_image: float | None = None
    peak: float | None = None
    memory_gib: float | None = None

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def waiting(self) -> float:
        """Share of the time."""
        return self.waited / self.seconds if self.seconds else 0.0

    @property
    def of_peak(self) -> float | None:
        """Share of the matmul peak; None where it or the step's cost is not known."""
        if not self.peak or self.flops_per_image is None:
            return None
        return self.images_per_s * self.flops_per_image / self.peak

    def line(self) -> str:
        """Such as "312 images/s, waiting for data 1.2 %, 41 % of the matmul peak, 3.1 GiB"."""
        rate = self.images_per_s
        parts = [
            f"{rate:.{0 if rate >= 100 else 1}f} images/s",
            f"waiting for data {100 * self.waiting:.1f} %",
        ]
        if self.of_peak is not None:
            parts.append(f"{100 * self.of_peak:.0f} % of the matmul peak")
        if self.memory_gib is not None:
            parts.append(f"{self.memory_gib:.1f} GiB")
        return ", ".join(parts)

    def columns(self, processes: int) -> dict[str, Any]:
        """The figures of a row of the log; none for an epoch of which this call trained nothing,
        but went on at its end.
        """
        if not self.images:
            return dict.fromkeys(("images_per_s", "waiting", "of_peak"))
        of_peak = None if self.of_peak is None else round(self.of_peak, 4)
        return {
            "images_per_s": round(self.images_per_s * processes, 1),
            "waiting": round(self.waiting, 4),
            "of_peak": of_peak,
        }


class EpochLog:
    """Writes a job's epochs to the log, to `log.csv` and to TensorBoard; use it as a context.

    `log.csv` is written whole, so that a resumed run has each epoch once.

    Args:
        history: the checkpoint's list of rows, shared and not copied.
        writes: whether this process writes files.
    """

    def __init__(self, job: Job, history: list[dict[str, Any]], writes: bool = True):
        self.job, self.history, self.board = job, history, None
        if writes:
            folder = str(job.folder / "tensorboard")
            self.board = SummaryWriter(folder, purge_step=len(history) + 1)

    def __enter__(self) -> "EpochLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()

    def add(self, row: dict[str, Any], speed: EpochSpeed, seconds_left: float) -> None:
        """Record the epoch of the history's last row."""
        figures = [
            f"{name} {value:.4g}"
            for name, value in row.items()
            if name not in ("epoch", *speed.columns(1)) and value is not None
        ]
        epoch = f"{row['epoch']}/{self.job.stage.epochs}"
        message = "%s epoch %s %s (%s) %s left"
        left = duration(seconds_left)
        log.info(message, self.job.title, epoch, " ".join(figures), speed.line(), left)
        if self.board is None:
            return
        write_csv(self.job.folder / "log.csv", pd.DataFrame(self.history))
        for name, value in row.items():
            if name != "epoch" and value is not None:
                self.board.add_scalar(name, value, row["epoch"])


class Clock:
    """Counts an epoch's images and the time that its device waits for them. Starts when it is made.

    On a CPU all of `waiting()` counts. On a GPU the host runs ahead, and a late batch does no harm
    while earlier steps keep the GPU busy. So `waiting()` puts one event into the compute stream
    when the batch is asked for and one when it is there: the GPU comes past the first when it has
    done all steps before (or at once, if it had), past the second when it may go on. The time
    between them, as the GPU measures it, is what it waited; in a full queue it passes both
    together. Nothing is synchronised: events are read when the GPU has passed them.

    Its errors: two events cost some microseconds a step, counted as waiting (below .1 % of a step
    of 10 ms). What the iterator itself makes the compute stream do or wait for (a batch's copy on
    another stream; augmentation in the compute stream) counts as waiting, and is meant to. Idle
    time after the batch is there, when the host is too slow to launch the step, is not waiting for
    data and does not count.
    """

    def __init__(self, device: torch.device):
        self._device, self._on_gpu = device, device.type == "cuda"
        self._images, self._waited = 0, 0.0
        # asked, there; not yet passed by the GPU
        self._waits: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        self._started = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around asking the iterator for the next batch, and nothing else."""
        if self._on_gpu:
            asked = self._event()
            try:
                yield
            finally:
                self._waits.append((asked, self._event()))
                self._read_passed()
            return
        asked_at = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - asked_at

    def step_done(self, images: int) -> None:
        """After each step, or each part of an accumulated one: how many images it took."""
        self._images += images

    def speed(self, flops_per_image: float | None = None, peak: float | None = None) -> EpochSpeed:
        """The epoch so far. On a GPU this waits, once, until its steps are done.

        Args:
            peak: have it measured before the clock is made: measuring takes time and memory of its
            own.
        """
        if self._on_gpu:
            torch.cuda.synchronize(self._device)
            self._read_passed()
        seconds = time.perf_counter() - self._started
        memory = torch.cuda.max_memory_allocated(self._device) if self._on_gpu else _resident_peak()
        return EpochSpeed(
            self._images, seconds, self._waited, flops_per_image, peak, memory / 2**30
        )

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read_passed(self) -> None:
        while self._waits and self._waits[0][1].query():
            asked, there = self._waits.popleft()
            self._waited += asked.elapsed_time(there) / 1000


@functools.cache
def device_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of dense matrix products in this dtype: the rate measured on this machine by torch's
    own matmul, not the vendor's figure.

    The best of several square products of random numbers (zeros would draw less power and clock
    higher): 8192 a side on a GPU (three matrices, up to .8 GB); on a CPU 256, 512 ... 4096, up to a
    product of some .2 s (the threads of a small one wait for each other where the machine is busy).
    Measured once in a process for each device and dtype, with the threads and the TF32 setting of
    that moment: up to 1 s. The random state of training is not touched.

    It is a yardstick, not a limit: cuDNN's convolutions of float32 use TF32 where torch's matmul by
    default does not, and a CPU without bfloat16 instructions multiplies matrices of bfloat16 so
    slowly that a training may be faster.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            a, b, out = _matrices(_GPU_SIZE, device, dtype)
            return 2 * _GPU_SIZE**3 / _gpu_seconds(a, b, out)
    best, size, seconds = 0.0, _CPU_SIZES[0] // 2, 0.0
    while size < _CPU_SIZES[1] and 8 * seconds < _CPU_SECONDS:
        size *= 2
        seconds = _cpu_seconds(*_matrices(size, device, dtype))
        best = max(best, 2 * size**3 / seconds)
    return best


def _matrices(
    size: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    return a, b, torch.empty_like(a)


def _gpu_seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    """Of one product: the best run, of as many as fit into .2 s, but three at least."""
    torch.mm(a, b, out=out)  # the first one chooses and loads a kernel
    runs: list[float] = []
    while len(runs) < 3 or sum(runs) * _GPU_RUN < 0.2:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(_GPU_RUN):
            torch.mm(a, b, out=out)
        end.record()
        end.synchronize()
        runs.append(start.elapsed_time(end) / 1000 / _GPU_RUN)
    return min(runs)


def _cpu_seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    """Of one product: the best of three after a first one, which sets the library up."""
    runs = []
    for _ in range(4):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        runs.append(time.perf_counter() - started)
    return min(runs[1:])


def _resident_peak() -> int:
    """The most memory that the process has held since it started, bytes. Linux counts it in KiB,
    macOS in bytes.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
