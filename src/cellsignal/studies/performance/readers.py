"""The same images in this project's store and as zarr arrays, read by several libraries.

An array of one codec and layout is written once and read by all libraries, and so are this
project's own stores where a library knows their codecs; every site must come back pixel by pixel
before anything is timed.
"""

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numcodecs
import numpy as np
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from cellsignal.data.store import Store
from cellsignal.studies.performance.reading import cv2_read, packed

WAIT = 60  # seconds, for workers that begin together
BANDS = 4  # chunks of a channel in the sharded arrays
OURS, OURS_NEW = "cellsignal", "cellsignal, a new buffer each"
OWN = "the store of cellsignal"
LIBRARIES = ("zarr-python", "zarr-python, fused", "zarrs", "tensorstore")
CODECS = {
    "zstd 3": ZstdCodec(level=3),
    "bitshuffle + zstd 5": BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"),
    "bitshuffle + lz4": BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
    "lz4hc 9": BloscCodec(cname="lz4hc", clevel=9, shuffle="noshuffle"),
}
STORES = {  # this project's: who can read them
    "zstd": LIBRARIES[:2],  # the filter is this project's, and zarr-python finds it
    "lz4": LIBRARIES,
    "raw": LIBRARIES,
}
LAYOUTS = ("a chunk a site", f"shards of {BANDS} bands")
PIPELINES = {
    "zarr-python": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarr-python, fused": "zarr.core.codec_pipeline.FusedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}
# (top, left, side) of a crop, or None for the whole site
Crop = tuple[int, int, int] | None
Read = Callable[[int, Crop], np.ndarray]


@dataclass(frozen=True)
class Source:
    """One reader of one array: enough to open it in any process.

    Attributes:
        library: `OURS` (into a buffer of the thread), `OURS_NEW` (as the libraries do), "cv2" or
            one of `LIBRARIES`.
        codec, layout: what the array was written with; "" where there is no choice, `OWN` for a
            store of this project.
        path: its folder; of cv2 none.
        disk: bytes of all its sites.
        sites: the PNGs of each site, for cv2 alone.
    """

    library: str
    codec: str
    layout: str
    path: str
    disk: int
    sites: tuple[tuple[str, ...], ...] = ()

    @property
    def name(self) -> str:
        """What the table calls it."""
        return ", ".join(filter(None, (self.library, self.codec, self.layout)))

    def open(self, threads: int = 1) -> Read:
        """Return the function that reads a site or a crop; the library uses `threads` threads."""
        if self.library == "cv2":
            return lambda i, crop: _cut(cv2_read(self.sites[i]), crop)
        if self.library in (OURS, OURS_NEW):
            return _open_store(self.path, self.library == OURS)
        if self.library == "tensorstore":
            return _open_tensorstore(self.path, threads)
        with _pipeline(self.library, threads):
            array = zarr.open_array(self.path, mode="r")
            array[0]  # the pipeline is made at the first read
        return lambda i, crop: array[(i, ..., *_slices(crop))]


def missing(library: str) -> str | None:
    """Return why a library cannot be measured here; None if it can."""
    if library == "zarr-python, fused":
        import zarr.core.codec_pipeline as pipelines

        if not hasattr(pipelines, "FusedCodecPipeline"):
            return f"zarr {zarr.__version__} has no fused pipeline"
    elif library in ("zarrs", "tensorstore") and importlib.util.find_spec(library) is None:
        return f"not installed: pip install {library}"
    return None


def write_sources(
    sites: Sequence[tuple[str, ...]],
    folder: Path,
    libraries: Sequence[str] = LIBRARIES,
    codecs: Sequence[str] = tuple(CODECS),
) -> list[Source]:
    """Write the images of PNG sites in every way; return who can read them.

    Args:
        libraries: some of `LIBRARIES`; those that are not installed are left out.
        codecs: some of `CODECS`, of the arrays that are not this project's.

    Raises:
        AssertionError: a reader returns other pixels.
    """
    images = [cv2_read(files) for files in sites]
    png = sum(os.path.getsize(file) for files in sites for file in files)
    sources = [Source("cv2", "PNG", "", "", png, tuple(map(tuple, sites)))]
    libraries = [library for library in libraries if missing(library) is None]
    for codec, readable in STORES.items():
        store = packed(sites, folder / f"store_{codec}", codec, None)
        size = _bytes(store.path / "images")
        for name in (OURS, OURS_NEW):
            sources.append(Source(name, codec, "", str(store.path), size))
        path = str(store.path / "images")
        others = [library for library in libraries if library in readable]
        sources += [Source(library, codec, OWN, path, size) for library in others]
    for codec in codecs:
        for layout in LAYOUTS:
            path = folder / f"{codec} {layout}".replace(" ", "_")
            _write(images, path, CODECS[codec], layout == LAYOUTS[1])
            size = _bytes(path)
            sources += [Source(library, codec, layout, str(path), size) for library in libraries]
    _check(sources, images)
    return sources


def _check(sources: list[Source], images: list[np.ndarray]) -> None:
    for source in sources:
        read = source.open()
        for number, image in enumerate(images):
            assert np.array_equal(read(number, None), image), f"{source.name}: other pixels"
        side = images[0].shape[1] // 2
        crop = (side // 3, side // 5, side)
        assert np.array_equal(read(0, crop), _cut(images[0], crop)), f"{source.name}: other pixels"


def drop_cache(source: Source) -> None:
    """Ask the system to forget the pages of a source's files."""
    files = [Path(file) for site in source.sites for file in site]
    files += [file for file in Path(source.path).rglob("*") if source.path and file.is_file()]
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read_by_threads(source: Source, threads: int, order: np.ndarray) -> float:
    """Return the sites a second of threads of this process that share whole sites among them."""
    read, ready = source.open(threads), threading.Barrier(threads)

    def run(part: np.ndarray) -> tuple[float, float]:
        read(int(part[0]), None)
        ready.wait(WAIT)
        begin = time.perf_counter()
        for number in part:
            read(int(number), None)
        return begin, time.perf_counter()

    with ThreadPoolExecutor(threads) as pool:
        begins, ends = zip(*pool.map(run, np.array_split(order, threads)), strict=True)
    return len(order) / (max(ends) - min(begins))


def _write(images: list[np.ndarray], path: Path, codec, sharded: bool) -> None:
    site = (1, *images[0].shape)
    chunks = (1, 1, site[2] // BANDS, site[3]) if sharded else site
    array = zarr.create_array(
        path,
        shape=(len(images), *site[1:]),
        chunks=chunks,
        shards=site if sharded else None,
        dtype="uint8",
        filters=None,
        compressors=codec,
    )
    for number, image in enumerate(images):
        array[number] = image


@contextmanager
def _pipeline(library: str, threads: int):
    options = {"codec_pipeline.path": PIPELINES[library], "threading.max_workers": threads}
    blosc = numcodecs.blosc.set_nthreads(1)
    try:
        with zarr.config.set(options):
            yield
    finally:
        numcodecs.blosc.set_nthreads(blosc)


def _open_store(path: str, reuse: bool) -> Read:
    store, local = Store.open(path), threading.local()

    def read(number: int, crop: Crop) -> np.ndarray:
        if reuse and not hasattr(local, "out"):
            local.out = np.empty(store.shape, np.uint8)
        out = local.out if reuse else None
        if crop is None:
            return store.read(number, out)
        return _cut(store.read(number, out, (crop[0], crop[0] + crop[2])), crop)

    return read


def _open_tensorstore(path: str, threads: int) -> Read:
    import tensorstore

    limits = {"data_copy_concurrency": {"limit": threads}}
    limits |= {"file_io_concurrency": {"limit": threads}, "cache_pool": {"total_bytes_limit": 0}}
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
    array = tensorstore.open(spec, context=tensorstore.Context(limits), read=True).result()
    return lambda i, crop: array[(i, ..., *_slices(crop))].read().result()


def _slices(crop: Crop) -> tuple[slice, slice]:
    if crop is None:
        return slice(None), slice(None)
    top, left, side = crop
    return slice(top, top + side), slice(left, left + side)


def _cut(image: np.ndarray, crop: Crop) -> np.ndarray:
    return image[(..., *_slices(crop))]


def _bytes(path: Path) -> int:
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json"]
    return sum(file.stat().st_size for file in files)
