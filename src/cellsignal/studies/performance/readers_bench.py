"""Time readers of the same images in turn, for `cellsignal study readers`.

Whole sites in order, at random and from a cold cache, random crops, threads and processes. All
readers take turns, round by round, so that the ratios hold on a machine whose speed varies.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cellsignal.data.sites import resized
from cellsignal.studies.performance.readers import (
    CODECS,
    LIBRARIES,
    WAIT,
    Source,
    drop_cache,
    read_by_threads,
    write_sources,
)
from cellsignal.studies.performance.reading import cv2_read

WORKERS = (1, 2, 4)  # threads, and processes
SINGLE = ("ordered", "random", "half", "quarter", "cold")
WAYS = ("single", "threads", "processes")
LEAST_ROUNDS = 2


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long.

    Attributes:
        libraries, codecs: as in `readers`.
        ways: some of `WAYS`: one thread by itself, several threads, processes.
        rounds: timed rounds of all readers, if there is time for them.
        minutes: for a size; when they are over no new round begins, but after `LEAST_ROUNDS`.
        reads: sites of a round of threads, or of each process.
        seed: of random orders and crops.
    """

    libraries: tuple[str, ...] = LIBRARIES
    codecs: tuple[str, ...] = tuple(CODECS)
    ways: tuple[str, ...] = WAYS
    rounds: int = 10
    minutes: float = 4
    reads: int = 96
    seed: int = 0


def bench_readers(
    sites: Sequence[tuple[str, ...]], size: int | None, plan: Plan | None = None
) -> pd.DataFrame:
    """Time every reader on the same sites.

    Args:
        sites: the 8-bit gray PNGs of each site, a file a channel, all of one size.
        size: side in pixels to which they are resized first; None as they are.

    Returns:
        A row a reader: library, codec, layout, disk (of the bytes of the PNGs of this size), ms of
        a site (ordered, random, half, quarter: crops of that side; cold; least: of those in order),
        and sites/s by threads (t1, t2, t4) and processes (p1, p2, p4). Medians over the rounds.
        Columns of ways that are not in the plan are absent.
    """
    plan = plan or Plan()
    with tempfile.TemporaryDirectory(prefix="cellsignal_readers_") as folder:
        if size is not None:
            sites = _smaller(sites, size, Path(folder) / "png")
        sources = write_sources(sites, Path(folder), plan.libraries, plan.codecs)
        height = cv2_read(sites[0]).shape[1]
        rng = np.random.default_rng(plan.seed)
        table = pd.DataFrame(
            {
                "library": [source.library for source in sources],
                "codec": [source.codec for source in sources],
                "layout": [source.layout for source in sources],
                "disk": [source.disk / sources[0].disk for source in sources],
            }
        )
        seconds = 60 * plan.minutes / len(plan.ways)
        if "single" in plan.ways:
            rounds = _rounds(plan.rounds + 1, seconds)
            table = table.join(_one_thread(sources, len(sites), height, rounds, rng))
        order = rng.integers(len(sites), size=plan.reads)
        if "threads" in plan.ways:
            table = table.join(_by_threads(sources, order, _rounds(plan.rounds, seconds)))
        if "processes" in plan.ways:
            table = table.join(_by_processes(sources, order, _rounds(plan.rounds, seconds)))
        return table


def _rounds(most: int, seconds: float) -> Iterator[int]:
    """Count rounds, until the time is over or there are enough."""
    started = time.monotonic()
    for number in range(most):
        if number >= LEAST_ROUNDS and time.monotonic() - started > seconds:
            return
        yield number


def _one_thread(
    sources: list[Source], n: int, height: int, rounds: Iterator[int], rng: np.random.Generator
) -> pd.DataFrame:
    """Return medians of ms a site, with the reads of a round in one order for all readers.

    The first round is timed from a cold cache alone.
    """
    reads = [source.open() for source in sources]
    taken: list[dict[str, list[float]]] = [{name: [] for name in SINGLE} for _ in sources]
    for number in rounds:
        order = rng.integers(n, size=n)
        crops = {
            name: [(*rng.integers(height - side + 1, size=2).tolist(), side) for _ in range(n)]
            for name, side in (("half", height // 2), ("quarter", height // 4))
        }
        for source, read, times in zip(sources, reads, taken, strict=True):
            plan = {"ordered": [(i, None) for i in range(n)], "random": [(i, None) for i in order]}
            plan |= {name: list(zip(order, places, strict=True)) for name, places in crops.items()}
            for name, places in plan.items():
                milliseconds = [_timed(read, int(i), crop) for i, crop in places]
                times[name] += milliseconds if number else []
            if number < 3:  # slow, and the disk decides
                drop_cache(source)
                times["cold"] += [_timed(read, i, None) for i in range(n)]
    rows = [{k: float(np.median(v)) for k, v in times.items()} for times in taken]
    return pd.DataFrame(rows).assign(least=[min(times["ordered"]) for times in taken])


def _timed(read: Callable, number: int, crop) -> float:
    started = time.perf_counter()
    read(number, crop)
    return (time.perf_counter() - started) * 1e3


def _by_threads(sources: list[Source], order: np.ndarray, rounds: Iterator[int]) -> pd.DataFrame:
    """Return medians of sites/s with several threads."""
    taken: list[dict[str, list[float]]] = [{f"t{n}": [] for n in WORKERS} for _ in sources]
    for _ in rounds:
        for source, rates in zip(sources, taken, strict=True):
            for count in WORKERS:
                rates[f"t{count}"].append(read_by_threads(source, count, order))
    return pd.DataFrame([{k: float(np.median(v)) for k, v in rates.items()} for rates in taken])


def _by_processes(sources: list[Source], order: np.ndarray, rounds: Iterator[int]) -> pd.DataFrame:
    """Return medians of sites/s with several processes, each of which reads all of `order`."""
    spawn = multiprocessing.get_context("spawn")
    taken: list[dict[str, list[float]]] = [{f"p{n}": [] for n in WORKERS} for _ in sources]
    pools = {count: spawn.Pool(count, _start, (spawn.Barrier(count),)) for count in WORKERS}
    try:
        for _ in rounds:
            for source, rates in zip(sources, taken, strict=True):
                for count, pool in pools.items():
                    spans = pool.starmap(_read_part, [(source, order)] * count, 1)
                    begins, ends = zip(*spans, strict=True)
                    rates[f"p{count}"].append(len(order) * count / (max(ends) - min(begins)))
        for pool in pools.values():
            pool.close()
            pool.join()
    finally:
        for pool in pools.values():
            pool.terminate()
    return pd.DataFrame([{k: float(np.median(v)) for k, v in rates.items()} for rates in taken])


_worker: dict = {}  # of a worker process: where it waits for the others


def _start(barrier) -> None:
    cv2.setNumThreads(1)
    _worker.update(wait=barrier.wait)


def _read_part(source: Source, order: np.ndarray) -> tuple[float, float]:
    """Read sites in a worker when all are ready; begin and end by the system's clock."""
    read = source.open()
    read(int(order[0]), None)
    _worker["wait"](WAIT)
    begin = time.monotonic()
    for number in order:
        read(int(number), None)
    return begin, time.monotonic()


def _smaller(sites: Sequence[tuple[str, ...]], size: int, folder: Path) -> list[tuple[str, ...]]:
    folder.mkdir()
    smaller = []
    for number, files in enumerate(sites):
        image = resized(cv2_read(files), (size, size))
        names = [str(folder / f"s{number}_w{c}.png") for c in range(1, len(image) + 1)]
        for name, plane in zip(names, image, strict=True):
            cv2.imwrite(name, plane)
        smaller.append(tuple(names))
    return smaller
