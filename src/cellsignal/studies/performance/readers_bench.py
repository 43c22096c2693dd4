"""Time readers of the same images in turn: `cellsignal study readers`.

Whole sites in order, at random and from a cold cache, random crops, threads and processes. All
readers take turns, round by round, so that the ratios hold on a machine whose speed varies.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cellsignal.data.sites import resized
from cellsignal.studies.pages import head_lines, machine, row_text
from cellsignal.studies.performance.readers import (
    LIBRARIES,
    OURS,
    OURS_NEW,
    Source,
    drop_cache,
    missing,
    read_by_threads,
    write_sources,
)
from cellsignal.studies.performance.reading import cv2_read
from cellsignal.studies.performance.speed import SITES, plates

THREADS = (1, 2, 4)
PROCESSES = (1, 2)
HEAD_START = 0.2  # seconds in which all workers get ready


def bench_readers(
    sites: Sequence[tuple[str, ...]],
    size: int | None,
    rounds: int = 10,
    reads: int = 96,
    seed: int = 0,
) -> pd.DataFrame:
    """Time every reader on the same sites.

    Args:
        sites: the 8-bit gray PNGs of each site, a file a channel, all of one size.
        size: side in pixels to which they are resized first; None as they are.
        rounds: timed rounds of all sites; one more before is not timed.
        reads: sites of a round of threads or processes.
        seed: of random orders and crops.

    Returns:
        A row a reader: library, codec, layout, disk (of the bytes of the PNGs of this size), ms of
        a site (ordered, random, half, quarter: crops of that side; cold), and sites/s by threads
        (t1, t2, t4) and processes (p1, p2). Medians over the rounds.
    """
    with tempfile.TemporaryDirectory(prefix="cellsignal_readers_") as folder:
        if size is not None:
            sites = _smaller(sites, size, Path(folder) / "png")
        sources = write_sources(sites, Path(folder))
        height = cv2_read(sites[0]).shape[1]
        rng = np.random.default_rng(seed)
        table = pd.DataFrame(
            {
                "library": [source.library for source in sources],
                "codec": [source.codec for source in sources],
                "layout": [source.layout for source in sources],
                "disk": [source.disk / sources[0].disk for source in sources],
            }
        )
        table = table.join(_one_thread(sources, len(sites), height, rounds, rng))
        order = rng.integers(len(sites), size=reads)
        rates = _by_workers(sources, order, max(2, rounds // 2))
        return table.join(rates)


def _one_thread(
    sources: list[Source], n: int, height: int, rounds: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Return medians of ms a site, with the reads of a round in one order for all readers."""
    reads = [source.open() for source in sources]
    taken: list[dict[str, list[float]]] = [
        {name: [] for name in ("ordered", "random", "half", "quarter", "cold")} for _ in sources
    ]
    for number in range(rounds + 1):
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
            if number <= rounds // 3:  # slow, and the disk decides
                drop_cache(source)
                times["cold"] += [_timed(read, i, None) for i in range(n)]
    return pd.DataFrame([{k: float(np.median(v)) for k, v in times.items()} for times in taken])


def _timed(read: Callable, number: int, crop) -> float:
    started = time.perf_counter()
    read(number, crop)
    return (time.perf_counter() - started) * 1e3


def _by_workers(sources: list[Source], order: np.ndarray, rounds: int) -> pd.DataFrame:
    """Return medians of sites/s with several threads, and with several processes."""
    spawn = multiprocessing.get_context("spawn")
    taken: list[dict[str, list[float]]] = [{} for _ in sources]
    pools = {count: spawn.Pool(count) for count in PROCESSES}
    try:
        for number in range(rounds + 1):
            for source, rates in zip(sources, taken, strict=True):
                for count in THREADS:
                    started = time.perf_counter()
                    read_by_threads(source, count, order)
                    rate = len(order) / (time.perf_counter() - started)
                    rates.setdefault(f"t{count}", []).extend([rate] if number else [])
                for count, pool in pools.items():
                    spans = pool.starmap(_read_part, [(source, order, time.time())] * count, 1)
                    begins, ends = zip(*spans, strict=True)
                    rate = len(order) * count / (max(ends) - min(begins))
                    rates.setdefault(f"p{count}", []).extend([rate] if number else [])
    finally:
        for pool in pools.values():
            pool.terminate()
    return pd.DataFrame([{k: float(np.median(v)) for k, v in rates.items()} for rates in taken])


def _read_part(source: Source, order: np.ndarray, asked: float) -> tuple[float, float]:
    """Read sites in a worker; begin and end by the system's clock."""
    cv2.setNumThreads(1)
    read = source.open()
    read(int(order[0]), None)
    time.sleep(max(0.0, asked + HEAD_START - time.time()))  # all workers begin together
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


# the page
# --------------------------------------------------------------------------------------------------


def readers_text(table: pd.DataFrame) -> str:
    """Write a table of `bench_readers` in Markdown, who is not here, and who is not beaten."""
    head = ["library", "codec", "layout", "disk / PNG", "ms a site", "x cv2", "random", "half"]
    head += ["quarter", "cold", *(f"{n} threads" for n in THREADS)]
    head += [*(f"{n} processes" for n in PROCESSES)]
    cv2_ms = table.ordered[table.library == "cv2"].iloc[0]
    lines = head_lines(head)
    for row in table.itertuples():
        times = (row.random, row.half, row.quarter, row.cold)
        rates = (row.t1, row.t2, row.t4, row.p1, row.p2)
        cells = [row.library, row.codec, row.layout, f"{row.disk:.2f}", f"{row.ordered:.3g}"]
        cells += [f"{cv2_ms / row.ordered:.3g}", *(f"{value:.3g}" for value in times)]
        lines.append(row_text([*cells, *(f"{rate:,.0f}" for rate in rates)]))
    absent = [f"- {name}: {missing(name)}." for name in LIBRARIES if missing(name)]
    return "\n".join([*lines, "", *absent, *_verdict(table)])


def _verdict(table: pd.DataFrame) -> list[str]:
    """Say for each library and codec whether some codec of ours is as fast at no more disk."""
    ours = table[table.library == OURS]
    beaten, lines = 0, []
    others = table[~table.library.isin([OURS, OURS_NEW, "cv2"])]
    for row in others.itertuples():
        fitting = ours[ours.disk <= row.disk]
        slower = []
        for way in ("ordered", "random", "half", "quarter"):
            best = fitting[way].min() if len(fitting) else np.inf
            if best > getattr(row, way):
                slower.append(f"{way} {getattr(row, way):.3g} ms, ours {best:.3g}")
        name = ", ".join(filter(None, (row.library, row.codec, row.layout)))
        if slower:
            lines.append(f"- {name} (disk {row.disk:.2f}) is faster: {'; '.join(slower)}.")
        beaten += not slower
    head = f"- For {beaten} of the {len(others)} rows of other libraries one of ours is as fast or "
    return [f"{head}faster at no more disk, in all four ways of reading.", *lines]


def readers_page(root: Path | None, rounds: int) -> str:
    """Measure on a data set's sites, or simulated ones, at their size and at half of it.

    Args:
        root: RxRx1's folder, of which the first sites that are there are used; None simulates some.

    Raises:
        InputError: no site of which all files are there.
    """
    cv2.setNumThreads(1)
    with plates(root, SITES) as sample:
        sites = [
            tuple(str(sample.root / name) for name in names) for names in sample.store.samples.files
        ]
        side = sample.store.shape[1]
        parts = [f"{machine()}. {len(sites)} {'simulated' if root is None else 'real'} sites."]
        for size in (None, side // 2):
            text = readers_text(bench_readers(sites, size, rounds))
            parts.append(f"### {size or side} px\n\n{text}")
    return "\n\n".join(parts) + "\n"
