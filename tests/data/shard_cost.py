"""Count what a store asks for, with a file a site and in shards: files, requests, bytes, CPU.

    PYTHONPATH=src python tests/data/shard_cost.py      # needs the extra `remote`; a minute

24 sites of 479 kB on four plates, read in random order from a web server of this process. Counts
are exact; CPU (of this process, local files in the page cache) is the median of turns.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from range_server import RangeServer, serving
from remote_cost import make_store

from cellsignal.common.places import RemoteFolder
from cellsignal.data.sharding import write_shards
from cellsignal.data.store import Store

CROP = 128  # rows of a crop, of 512
TURNS = 15


def epoch(store: Store, seed: int, crop: bool) -> None:
    """Read every site once, whole or a random crop's rows, in an order of the seed."""
    rng = np.random.default_rng(seed)
    for row in rng.permutation(24).tolist():
        top = int(rng.integers(512 - CROP + 1))
        store.read(row, rows=(top, top + CROP) if crop else None)


def taken(server: RangeServer) -> str:
    """Return requests and MB since the last call, of every file."""
    calls = [size for _, _, size in server.calls]
    server.calls.clear()
    return f"{len(calls)} ({sum(calls) / 1e6:.1f} MB)"


def requests(server: RangeServer, name: str, cache_gib: float) -> list[str]:
    """Return requests of opening, of two epochs of crops, and of one of whole sites."""
    cells = []
    store = Store.open(RemoteFolder(f"{server.url}/{name}", cache_gib))
    cells.append(taken(server))
    for seed in (1, 2):
        epoch(store, seed, crop=True)
        cells.append(taken(server))
    epoch(store, 3, crop=False)
    return [*cells, taken(server)]


def cpu_of_a_site(stores: list[Store], crop: bool) -> list[float]:
    """Return milliseconds of CPU that a site costs in each of some stores, which take turns."""
    turns: list[list[float]] = [[] for _ in stores]
    for turn in range(TURNS + 1):
        for number, store in enumerate(stores):
            start = time.process_time()
            epoch(store, turn, crop)
            turns[number].append(1000 * (time.process_time() - start) / 24)
    return [statistics.median(values[1:]) for values in turns]  # the first is to warm up


def main() -> None:
    names = {"x.zarr": "a file a site", "shards.zarr": "shards"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_store(folder)
        report = write_shards(folder / "x.zarr", folder / "shards.zarr", 8.0)
        print(f"{report.sites} sites, {report.shards} shards, {report.bytes / 1e6:.1f} MB\n")
        print(
            "| store | cache | files | open | 1st epoch, crops | 2nd epoch, crops | whole sites |\n"
            "|---|---|---|---|---|---|---|"
        )
        with serving(folder) as server:
            for store, title in names.items():
                files = sum(path.is_file() for path in (folder / store).rglob("*"))
                for cache_gib in (0.0, 1.0):
                    os.environ["CELLSIGNAL_CACHE"] = f"{folder}/cache-{store}-{cache_gib}"
                    cells = requests(server, store, cache_gib)
                    cache = "off" if not cache_gib else "all fits"
                    print(f"| {title} | {cache} | {files} | {' | '.join(cells)} |", flush=True)
        stores = [Store.open(folder / store) for store in names]
        print("\n| local store | whole site, ms CPU | crop, ms CPU |\n|---|---|---|")
        columns = [cpu_of_a_site(stores, crop) for crop in (False, True)]
        for title, whole, crop in zip(names.values(), *columns, strict=True):
            print(f"| {title} | {whole:.2f} | {crop:.2f} |")


if __name__ == "__main__":
    main()
