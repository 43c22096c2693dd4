"""Measure what it costs to read one site: from PNGs, through zarr, and from both kinds of store.

All readers take turns on the same sites in one run, so that the ratios hold on a machine whose
speed varies. Files are in the page cache: what is measured is decoding and copying, not the disk.
"""

import functools
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numcodecs
import numpy as np
import pandas as pd
import zarr
from numcodecs.zstd import compress, decompress
from zarr.codecs import BloscCodec, ZstdCodec

from cellsignal.competitions.samples import check_samples
from cellsignal.data.codec import encode, layout_of
from cellsignal.data.pack import pack
from cellsignal.data.sites import resized
from cellsignal.data.store import Store

SKIMAGE, CV2 = "PNGs, skimage, stacked to float32", "PNGs, cv2.imread"
MILLISECOND = 1e-3

Sites = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Reader:
    """One way to read a site.

    Attributes:
        name: what the table calls it.
        read: reads site number i.
        disk: bytes of all sites; None where only a part of them is read.
        encode: makes the stored bytes of site number i; None where nothing is made.
    """

    name: str
    read: Callable[[int], object]
    disk: int | None = None
    encode: Callable[[int], object] | None = None


def bench_reading(sites: Sites, rounds: int = 10, seed: int = 0) -> pd.DataFrame:
    """Time every reader on the same sites, in turn.

    Args:
        sites: the 8-bit gray PNGs of each site, a file a channel; all of one size, which four
            divides.
        rounds: timed readings of each site by each reader; one more round before is not timed.
        seed: of the positions of the parts that are read.

    Returns:
        A row a reader: reader, ms (median for one site), x_skimage and x_cv2 (how many times as
        fast as those two), disk (of the PNGs' bytes; NaN where only rows of a file listed above are
        read), encode_ms (median for one site). NaN ms: scikit-image is not installed.
    """
    images = [cv2_read(files) for files in sites]
    png = sum(os.path.getsize(file) for files in sites for file in files)
    threads = numcodecs.blosc.set_nthreads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="cellsignal_reading_") as folder:
            readers = list(_readers(sites, images, Path(folder), np.random.default_rng(seed)))
            read = _in_turn([reader.read for reader in readers], len(sites), rounds)
            encoded = _in_turn([reader.encode for reader in readers], len(sites), 2)
    finally:
        numcodecs.blosc.set_nthreads(threads)
    table = pd.DataFrame({"reader": [reader.name for reader in readers], "ms": read})
    for name, baseline in (("x_skimage", SKIMAGE), ("x_cv2", CV2)):
        table[name] = table.ms[table.reader == baseline].iloc[0] / table.ms
    table["disk"] = [np.nan if reader.disk is None else reader.disk / png for reader in readers]
    return table.assign(encode_ms=encoded)


def bench_reading_processes(sites: Sites, reads: int = 200, rounds: int = 5) -> pd.DataFrame:
    """Time reading from the compressed stores with one and two processes, and threads.

    Args:
        reads: sites that each process or thread reads in a round.

    Returns:
        Columns workers ("process" or "thread"), codec, one and two (sites a second, medians over
        the rounds), ratio (median over the rounds of two / one).
    """
    tables = {codec: _rates(sites, codec, reads, rounds) for codec in ("zstd", "lz4")}
    rows = []
    for workers in ("process", "thread"):
        for codec, table in tables.items():
            one, two = table[workers, 1], table[workers, 2]
            row = {"one": one.median(), "two": two.median(), "ratio": (two / one).median()}
            rows.append({"workers": workers, "codec": codec, **row})
    return pd.DataFrame(rows)


def _rates(sites: Sites, codec: str, reads: int, rounds: int) -> pd.DataFrame:
    """Return sites a second, a row a round but the first, a column a (kind of worker, number)."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="cellsignal_reading_") as folder:
        path = str(packed(sites, Path(folder), codec, None).path)
        with (
            spawn.Pool(1, _start, (path, spawn.Barrier(1))) as single,
            spawn.Pool(2, _start, (path, spawn.Barrier(2))) as pair,
        ):
            ways = {
                ("process", 1): lambda: _rate(single.map(_read_many, [reads], 1), reads),
                ("process", 2): lambda: _rate(pair.map(_read_many, [reads] * 2, 1), reads),
                ("thread", 1): lambda: _threads(path, 1, reads),
                ("thread", 2): lambda: _threads(path, 2, reads),
            }
            rates = [{way: measure() for way, measure in ways.items()} for _ in range(rounds + 1)]
    return pd.DataFrame(rates[1:])


def reading_text(table: pd.DataFrame) -> str:
    """Write the table of `bench_reading` in Markdown."""
    lines = ["| reader | ms a site | x skimage | x cv2 | disk / PNG | ms to encode |"]
    lines.append("|---|---|---|---|---|---|")
    formats = {"ms": ".3g", "x_skimage": ".3g", "x_cv2": ".3g", "disk": ".2f", "encode_ms": ".3g"}
    for row in table.to_dict("records"):
        if np.isnan(row["ms"]):
            lines.append(f"| {row['reader']}: not installed | | | | | |")
            continue
        cells = [row["reader"]]
        for name, form in formats.items():
            cells.append("" if np.isnan(row[name]) else format(row[name], form))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# the readers
# --------------------------------------------------------------------------------------------------


def _readers(
    sites: Sites, images: list[np.ndarray], folder: Path, rng: np.random.Generator
) -> Iterator[Reader]:
    png = sum(os.path.getsize(file) for files in sites for file in files)
    yield Reader(SKIMAGE, _skimage(sites), png)
    yield Reader(CV2, lambda i: cv2_read(sites[i]), png)
    codecs = {
        "zstd 3": ZstdCodec(level=3),
        "blosc lz4": BloscCodec(cname="lz4", clevel=5, shuffle="noshuffle"),
        "blosc zstd": BloscCodec(cname="zstd", clevel=3, shuffle="noshuffle"),
    }
    for name, codec in codecs.items():
        yield _through_zarr(f"zarr, {name}", codec, images, folder / name.replace(" ", "_"))
    for level in (1, 3, 9):
        yield _plain_zstd(level, images, folder / f"plain{level}")
    height = images[0].shape[1]
    for size in (None, height // 2):
        for codec in ("zstd", "lz4", "raw"):
            yield from _store(sites, images, folder, codec, size, rng)


def cv2_read(files: Sequence[str], folder: str = "") -> np.ndarray:
    paths = [os.path.join(folder, file) for file in files]
    return np.stack([cv2.imread(path, cv2.IMREAD_UNCHANGED) for path in paths])


def _skimage(sites: Sites) -> Callable[[int], object] | None:
    try:
        from skimage.io import imread
    except ImportError:
        return None
    return lambda i: np.stack([imread(file) for file in sites[i]]).astype(np.float32)


def _through_zarr(name: str, codec, images: list[np.ndarray], path: Path) -> Reader:
    shape = images[0].shape
    layout = {"shape": (len(images), *shape), "chunks": (1, *shape), "dtype": "uint8"}
    array = zarr.create_array(path, **layout, filters=None, compressors=codec)
    for i, image in enumerate(images):
        array[i] = image
    array = zarr.open_array(path, mode="r")
    return Reader(name, lambda i: array[i], _bytes(path))


def _plain_zstd(level: int, images: list[np.ndarray], path: Path) -> Reader:
    path.mkdir()
    for i, image in enumerate(images):
        (path / str(i)).write_bytes(compress(image, level, True))
    out = np.empty_like(images[0])
    read = lambda i: decompress((path / str(i)).read_bytes(), out)  # noqa: E731
    make = lambda i: compress(images[i], level, True)  # noqa: E731
    return Reader(f"a file a site, zstd {level}", read, _bytes(path), make)


def _store(
    sites: Sites,
    images: list[np.ndarray],
    folder: Path,
    codec: str,
    size: int | None,
    rng: np.random.Generator,
) -> Iterator[Reader]:
    store = packed(sites, folder / f"{codec}{size}", codec, size)
    height, out = store.shape[1], np.empty(store.shape, np.uint8)
    small = [resized(image, store.shape[1:]) for image in images]
    name = f"cellsignal store, {codec}, {height} px"
    make = lambda i: encode(small[i], layout_of(codec, store.shape))  # noqa: E731
    yield Reader(name, lambda i: store.read(i, out), _bytes(store.path / "images"), make)
    for part in (height // 2, height // 4):

        def some(i: int, part: int = part) -> np.ndarray:
            top = int(rng.integers(height - part + 1))
            return store.read(i, out, (top, top + part))

        yield Reader(f"{name}: {part} rows of it", some)


def packed(sites: Sites, path: Path, codec: str, size: int | None) -> Store:
    channels = tuple(f"channel {number}" for number in range(1, len(sites[0]) + 1))
    source = {"competition": "reading benchmark", "root": ""}
    folders = {os.path.dirname(os.path.abspath(file)) for files in sites for file in files}
    root = os.path.commonpath(folders)
    read = functools.partial(cv2_read, folder=root)
    options = {"channels": channels, "size": size, "source": source, "codec": codec}
    pack(_samples(sites, root), read, path, **options)
    return Store.open(path)


def _samples(sites: Sites, root: str) -> pd.DataFrame:
    ids = [f"s{number}" for number in range(len(sites))]
    files = [tuple(os.path.relpath(file, root) for file in site) for site in sites]
    same = {"experiment": "e", "plate": "1", "site": 1, "cell_type": "NA", "label": 0}
    same |= {"role": "treatment", "split": "train", "compound": None}
    columns = {"sample_id": ids, "target_id": ids, "well_id": ids, "well": ids, "files": files}
    return check_samples(pd.DataFrame(columns).assign(**same), "the sites to read")


def _bytes(path: Path) -> int:
    """Count the bytes of all files that hold pixels."""
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json"]
    return sum(file.stat().st_size for file in files)


def _in_turn(
    functions: Sequence[Callable[[int], object] | None], sites: int, rounds: int
) -> list[float]:
    """Return the median milliseconds per site; the first round is not counted.

    A function's turn is all sites one after another, as a loader reads.
    """
    times = [[] for _ in functions]
    for number in range(rounds + 1):
        for function, taken in zip(functions, times, strict=True):
            if function is None:
                continue
            for site in range(sites):
                started = time.perf_counter()
                function(site)
                if number:
                    taken.append((time.perf_counter() - started) / MILLISECOND)
    return [float(np.median(taken)) if taken else np.nan for taken in times]


_worker: dict = {}  # of a worker process: its store and where it waits for the others


def _start(path: str, barrier) -> None:
    _worker.update(store=Store.open(path), wait=barrier.wait)


def _read_many(reads: int) -> tuple[float, float]:
    return _timed_reads(_worker["store"], _worker["wait"], reads)


def _timed_reads(store: Store, wait: Callable[[], object], reads: int) -> tuple[float, float]:
    """Read sites when all are ready; (begin, end) by the system's clock."""
    out = np.empty(store.shape, np.uint8)
    rows = store.samples.row.to_numpy()
    wait()
    begin = time.monotonic()
    for number in range(reads):
        store.read(int(rows[number % len(rows)]), out)
    return begin, time.monotonic()


def _threads(path: str, count: int, reads: int) -> float:
    read = functools.partial(_timed_reads, Store.open(path), threading.Barrier(count).wait)
    with ThreadPoolExecutor(count) as pool:
        return _rate(list(pool.map(read, [reads] * count)), reads)


def _rate(spans: list[tuple[float, float]], reads: int) -> float:
    """Return the sites per second of workers that read `reads` sites each."""
    begins, ends = zip(*spans, strict=True)
    return reads * len(spans) / (max(ends) - min(begins))
