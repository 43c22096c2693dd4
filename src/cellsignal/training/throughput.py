"""Record an epoch: its metrics, its speed, and its time waiting for data."""

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

from cellsignal.common.files import write_csv
from cellsignal.common.stopping import duration
from cellsignal.training.job import Job
from cellsignal.training.tracking import Tracking

log = logging.getLogger(__name__)
# a side; products between two events, so that launching the first is not felt
_GPU_SIZE, _GPU_RUN = 8192, 10
_CPU_SIZES = 256, 4096  # smallest and largest side
# of one product, at most, as the size before lets expect, if the next size is to be tried
_CPU_SECONDS = 0.25


@dataclass(frozen=True)
class EpochSpeed:
    """The speed of one epoch of one process.

    Attributes:
        seconds: from its beginning to the end of its last step.
        waited: seconds of these in which the device had nothing to do for want of data.
        flops_per_image: of one training step, by `models.cost`.
        peak: FLOP/s, by `device_peak`.
        memory_gib: most that tensors took on a GPU; on a CPU the most that the process held.
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
        """Share of the matmul peak; None if it or the cost of a step is unknown."""
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
        """Return the speed columns of a row of the log; None if this call trained no image."""
        if not self.images:
            return dict.fromkeys(("images_per_s", "waiting", "of_peak"))
        return {
            "images_per_s": round(self.images_per_s * processes, 1),
            "waiting": round(self.waiting, 4),
            "of_peak": None if self.of_peak is None else round(self.of_peak, 4),
        }


class EpochLog:
    """Writes a job's epochs to the log, `log.csv` and the trackers; use it as a context.

    Args:
        history: the checkpoint's list of rows, shared and not copied.
        writes: whether this process writes files.
    """

    def __init__(self, job: Job, history: list[dict[str, Any]], writes: bool = True):
        self.job, self.history, self.tracking = job, history, None
        if writes:
            config = job.config.model_dump(mode="json")
            places = (job.config.name, *job.folder.parts[-4:])
            self.tracking = Tracking(
                job.config.tracking, job.folder, "/".join(places), config, history
            )

    def __enter__(self) -> "EpochLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.tracking is not None:
            self.tracking.close(finished=kind is None)

    def add(
        self, row: dict[str, Any], speed: EpochSpeed, seconds_left: float, all_left: float = 0.0
    ) -> None:
        """Record the epoch of the history's last row.

        Args:
            seconds_left: of the training; `all_left`: with the trainings to come.
        """
        row = {name: value for name, value in row.items() if value is not None}
        epoch = row.pop("epoch")
        names = [name for name in row if name not in speed.columns(1)]
        figures = " ".join(f"{name} {row[name]:.4g}" for name in names)
        place = f"{self.job.title} epoch {epoch}/{self.job.stage.epochs}"
        left = f" {duration(seconds_left)} left" if seconds_left else ""
        if all_left > seconds_left:
            left += f", {duration(all_left)} of all trainings" if left else ""
            left = left or f" {duration(all_left)} left of all trainings"
        log.info("%s %s (%s)%s", place, figures, speed.line(), left)
        if self.tracking is None:
            return
        # written whole, so that a resumed run has each epoch once
        write_csv(self.job.folder / "log.csv", pd.DataFrame(self.history))
        self.tracking.add({"epoch": epoch, **row})


class Clock:
    """Counts an epoch's images and the time that its device waits for them, from when it is made.

    On a CPU all of `waiting()` counts. On a GPU the host runs ahead, and a late batch does no harm
    while earlier steps keep the GPU busy. So `waiting()` puts one event into the compute stream
    when the batch is asked for and one when it is there; the time between the two, as the GPU
    passes them, is what it waited. Nothing is synchronised. What the iterator makes the compute
    stream do, such as augmentation, counts as waiting; a host too slow to launch the step does not.
    """

    def __init__(self, device: torch.device):
        self._device, self._on_gpu = device, device.type == "cuda"
        self._images, self._waited = 0, 0.0
        # pairs (requested, arrived) that the GPU has not passed yet
        self._waits: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        self._started = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the time in the context, in which the iterator gives the next batch."""
        requested = self._event() if self._on_gpu else time.perf_counter()
        try:
            yield
        finally:
            if self._on_gpu:
                self._waits.append((requested, self._event()))
                self._read_passed()
            else:
                self._waited += time.perf_counter() - requested

    def step_done(self, images: int) -> None:
        """Count the images of a step, or of a part of an accumulated one."""
        self._images += images

    def speed(self, flops_per_image: float | None = None, peak: float | None = None) -> EpochSpeed:
        """Return the speed so far. On a GPU this waits, once, until its steps are done."""
        memory = _resident_peak()
        if self._on_gpu:
            torch.cuda.synchronize(self._device)
            self._read_passed()
            memory = torch.cuda.max_memory_allocated(self._device)
        seconds, gib = time.perf_counter() - self._started, memory / 2**30
        return EpochSpeed(self._images, seconds, self._waited, flops_per_image, peak, gib)

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read_passed(self) -> None:
        while self._waits and self._waits[0][1].query():
            requested, arrived = self._waits.popleft()
            self._waited += requested.elapsed_time(arrived) / 1000


@functools.cache
def device_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of torch's own dense matrix products in this dtype on this machine.

    The best of several square products of random numbers (zeros would draw less power and clock
    higher): 8192 a side on a GPU; on a CPU 256, 512 ... 4096, up to a product of some .2 s. It is
    measured once in a process, in up to 1 s, and does not touch the random state of training.

    It is a yardstick, not a limit: cuDNN's convolutions of float32 use TF32 where torch's matmul by
    default does not, and a CPU without bfloat16 instructions multiplies bfloat16 very slowly.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return 2 * _GPU_SIZE**3 / _gpu_seconds(*_matrices(_GPU_SIZE, device, dtype))
    best, size, seconds = 0.0, _CPU_SIZES[0] // 2, 0.0
    while size < _CPU_SIZES[1] and 8 * seconds < _CPU_SECONDS:
        size *= 2
        seconds = _cpu_seconds(*_matrices(size, device, dtype))
        best = max(best, 2 * size**3 / seconds)
    return best


def _matrices(size: int, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    return a, b, torch.empty_like(a)


def _gpu_seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    """Return the seconds of one product: the best run, of those in .2 s, but three at least."""
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
    """Return the seconds of one product: the best of three after a first one."""
    runs = []
    for _ in range(4):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        runs.append(time.perf_counter() - started)
    return min(runs[1:])


def _resident_peak() -> int:
    """Return the most bytes that the process has held; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
