"""The clock against hand-computed cases, and on a make-believe GPU that keeps its own queue."""

import logging
import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsignal.training import throughput
from cellsignal.training.throughput import Clock, EpochSpeed, device_peak

CPU = torch.device("cpu")


class Gpu:
    """A host with a clock and a device that works off what it is given, in order. Stands in for
    torch.cuda.
    """

    def __init__(self):
        self.now, self.free_at, self.synchronised, self.resets = 100.0, 0.0, 0, 0

    def launch(self, seconds: float) -> None:
        self.free_at = max(self.now, self.free_at) + seconds

    def synchronize(self, device) -> None:
        self.synchronised += 1
        self.now = max(self.now, self.free_at)

    def reset_peak_memory_stats(self, device) -> None:
        self.resets += 1

    def max_memory_allocated(self, device) -> int:
        return 3 * 2**30

    def current_stream(self, device):
        return self

    def Event(self, enable_timing: bool):
        return Event(self)


class Event:
    def __init__(self, gpu: Gpu):
        self.gpu = gpu

    def record(self, stream: Gpu) -> None:
        self.at = max(stream.now, stream.free_at)

    def query(self) -> bool:
        return self.at <= self.gpu.now

    def elapsed_time(self, later: "Event") -> float:
        assert self.query() and later.query()  # else torch raises
        return 1000 * (later.at - self.at)


class OnOneStream(Event):
    def record(self) -> None:
        super().record(self.gpu)

    def synchronize(self) -> None:
        self.gpu.synchronize(None)


@pytest.fixture
def gpu(monkeypatch):
    return install(monkeypatch)


def install(monkeypatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(throughput.torch, "cuda", gpu)
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: gpu.now))
    return gpu


def clock_of(gpu: Gpu) -> Clock:
    clock = Clock(torch.device("cuda"))
    assert gpu.resets == 1
    return clock


def test_on_a_cpu_all_waiting_counts(monkeypatch):
    at = iter([10.0, 11.0, 11.5, 14.0, 16.0, 20.0])  # made, asked, there, asked, there, end
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: next(at)))
    clock = Clock(CPU)
    for images in (8, 5):
        with clock.waiting():
            pass
        clock.step_done(images)
    speed = clock.speed(2e9, 13e9)
    assert (speed.images, speed.seconds, speed.waited) == (13, 10.0, 2.5)
    assert (speed.images_per_s, speed.waiting) == (1.3, 0.25)
    assert speed.of_peak == pytest.approx(0.2)


def test_the_end_of_the_data_passes_through(monkeypatch, gpu):
    for device in (CPU, torch.device("cuda")):
        clock, stream = Clock(device), iter([1])
        with clock.waiting():
            assert next(stream) == 1
        with pytest.raises(StopIteration), clock.waiting():
            gpu.now += 2
            next(stream)
        assert clock.speed().waited == 2


def test_a_busy_gpu_does_not_wait(gpu):
    clock = clock_of(gpu)
    gpu.launch(10)
    with clock.waiting():
        gpu.now += 4
    gpu.launch(1)
    clock.step_done(2)
    assert gpu.synchronised == 0
    speed = clock.speed()
    assert (speed.waited, speed.seconds, speed.images, speed.memory_gib) == (
        0.0,
        11.0,
        2,
        3.0,
    ) and gpu.synchronised == 1


def test_a_gpu_that_ran_dry_waits_from_then_on(gpu):
    clock = clock_of(gpu)
    gpu.launch(3)
    with clock.waiting():
        gpu.now += 5  # the GPU is idle after 3
    gpu.launch(1)
    gpu.now += 7  # the host is busy with something else, which is not the data's fault
    with clock.waiting():
        gpu.now += 0.5
    assert clock.speed().waited == 2.5


def test_a_copy_on_another_stream_that_comes_late_counts(gpu):
    clock = clock_of(gpu)
    with clock.waiting():
        gpu.free_at = gpu.now + 2  # the compute stream is told to wait for it
    gpu.launch(5)
    speed = clock.speed()
    assert (speed.waited, speed.seconds) == (2.0, 7.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 9)] * 3), max_size=12))
def test_waiting_is_what_the_gpu_idles_while_the_host_waits(steps):
    """Counted second by second: idle, and the host is in `waiting`."""
    with pytest.MonkeyPatch.context() as patch:
        gpu = install(patch)
        clock, idle_and_waiting = clock_of(gpu), 0
        for wait, other, work in steps:
            idle_and_waiting += sum(gpu.now + second >= gpu.free_at for second in range(wait))
            with clock.waiting():
                gpu.now += wait
            # or they would pile up in a long epoch
            assert all(there.at > gpu.now for _, there in clock._waits)
            gpu.now += other
            gpu.launch(work)
            clock.step_done(1)
        speed = clock.speed()
    assert speed.waited == pytest.approx(idle_and_waiting)
    assert speed.images == len(steps) and speed.seconds == max(gpu.now, gpu.free_at) - 100


def test_the_line():
    speed = EpochSpeed(
        images=624, seconds=2.0, waited=0.024, flops_per_image=1e9, peak=7.6e11, memory_gib=3.14
    )
    assert speed.line() == "312 images/s, waiting for data 1.2 %, 41 % of the matmul peak, 3.1 GiB"
    assert EpochSpeed(7, 2.0, 0.0).line() == "3.5 images/s, waiting for data 0.0 %"
    assert (
        EpochSpeed(7, 2.0, 0.0, flops_per_image=1e9).of_peak is None
        and EpochSpeed(7, 2.0, 0.0, peak=1e9).of_peak is None
    )


def test_columns_are_rounded_and_of_all_processes():
    speed = EpochSpeed(10, 3.0, 1.0, flops_per_image=1e9, peak=9e9)
    assert speed.columns(2) == {"images_per_s": 6.7, "waiting": 0.3333, "of_peak": 0.3704}
    assert EpochSpeed(10, 3.0, 1.0).columns(1)["of_peak"] is None
    assert set(EpochSpeed(0, 3.0, 1.0).columns(2).values()) == {None}
    assert EpochSpeed(200, 2.0, 0.0).line().startswith("100 images/s, ")
    assert EpochSpeed(199, 2.0, 0.0).line().startswith("99.5 images/s, ")


def test_an_epoch_is_logged_with_its_figures(tmp_path, caplog):
    config = SimpleNamespace(name="run", tracking=(), model_dump=lambda mode: {})
    stage = SimpleNamespace(epochs=4)
    job = SimpleNamespace(title="job", folder=tmp_path, stage=stage, config=config)
    row = {"epoch": 2, "train_loss": 0.512345, "valid_loss": None, "images_per_s": 3.0}
    with caplog.at_level(logging.INFO), throughput.EpochLog(job, [row]) as log:
        log.add(row, EpochSpeed(6, 2.0, 0.0), 30.0)
        log.add(row, EpochSpeed(6, 2.0, 0.0), 0.0)
        log.add(row, EpochSpeed(6, 2.0, 0.0), 30.0, 60.0)
        log.add(row, EpochSpeed(6, 2.0, 0.0), 0.0, 60.0)
    words = "job epoch 2/4 train_loss 0.5123 (3.0 images/s, waiting for data 0.0 %)"
    assert [record.message.removeprefix(words) for record in caplog.records] == [
        " 30 s left",
        "",
        " 30 s left, 60 s of all trainings",
        " 60 s left of all trainings",
    ]
    assert pd.read_csv(tmp_path / "log.csv").train_loss.tolist() == [0.512345]
    before = (tmp_path / "log.csv").stat().st_mtime_ns
    with throughput.EpochLog(job, [row], writes=False) as log:
        log.add(row, EpochSpeed(6, 2.0, 0.0), 0.0)
    assert log.tracking is None and (tmp_path / "log.csv").stat().st_mtime_ns == before


@pytest.mark.parametrize(("system", "held"), [("darwin", 5000), ("linux", 5000 * 1024)])
def test_the_most_memory_held_is_in_the_units_of_the_system(monkeypatch, system, held):
    usage = SimpleNamespace(
        RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=5000 + who)
    )
    monkeypatch.setattr(throughput, "resource", usage)
    monkeypatch.setattr(throughput, "sys", SimpleNamespace(platform=system))
    assert throughput._resident_peak() == held


def test_a_product_on_a_cpu_takes_the_best_of_three_after_the_first(monkeypatch):
    clock = iter([0, 1, 10, 18, 20, 26, 30, 37])  # 1 s, then 8, 6 and 7
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    a, b, out = throughput._matrices(8, CPU, torch.float32)
    assert throughput._cpu_seconds(a, b, out) == 6 and next(clock, None) is None
    torch.testing.assert_close(out, a @ b)
    assert a.shape == b.shape == (8, 8) and not torch.equal(a, b)


def test_an_epoch_without_steps():
    speed = EpochSpeed(0, 0.0, 0.0, 1e9, 1e9)
    assert (speed.images_per_s, speed.waiting, speed.of_peak) == (0.0, 0.0, 0.0)


def test_memory_of_a_cpu_is_the_processs():
    held = bytearray(64 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    assert 64 / 1024 < Clock(CPU).speed().memory_gib < 64


@pytest.mark.parametrize(("rate", "size"), [(1e9, 256), (1e11, 2048), (1e15, 4096)])
def test_the_peak_of_a_cpu_is_taken_at_a_size_that_it_does_in_time(monkeypatch, rate, size):
    sizes = []

    def seconds(a, b, out):
        assert a.shape == b.shape == out.shape and a.dtype == b.dtype == out.dtype == torch.bfloat16
        sizes.append(len(a))
        return 2 * len(a) ** 3 / rate

    monkeypatch.setattr(throughput, "_cpu_seconds", seconds)
    monkeypatch.setattr(
        throughput,
        "_matrices",
        lambda size, device, dtype: [torch.empty(size, size, dtype=dtype)] * 3,
    )
    assert device_peak.__wrapped__(CPU, torch.bfloat16) == pytest.approx(rate)
    assert sizes[-1] == size and sizes == sorted(set(sizes))


def test_the_peak_is_measured_once_and_draws_nothing_of_the_trainings():
    device_peak.cache_clear()
    random = torch.get_rng_state()
    peak = device_peak(CPU, torch.float32)
    assert math.isfinite(peak) and peak > 1e8
    assert device_peak(CPU, torch.float32) == peak and device_peak.cache_info().misses == 1
    assert torch.equal(torch.get_rng_state(), random)


def test_the_peak_of_a_gpu_is_that_of_its_best_run(monkeypatch, gpu):
    """Ten products of 8192 a run, timed by the GPU; the first product, which is slow, is not among
    them.
    """
    took = iter([5.0, *[0.010] * 10, *[0.006] * 10, *[0.008] * 10])
    monkeypatch.setattr(throughput.torch, "mm", lambda a, b, out: gpu.launch(next(took)))
    monkeypatch.setattr(
        throughput.torch.cuda, "Event", lambda enable_timing: OnOneStream(gpu), raising=False
    )
    assert 2 * 8192**3 / throughput._gpu_seconds(None, None, None) == pytest.approx(
        2 * 8192**3 / 0.006
    )
    assert next(took, None) is None
