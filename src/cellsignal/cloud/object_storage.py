"""Work out what training from object storage needs: requests side by side, processes, money."""

import math
from collections.abc import Sequence

# `python tests/data/remote_cost.py`, AMD EPYC with other work on it: CPU that a site of 479 kB costs
# beside reading it from a local store: 2.5 to 3.8 ms, 0.4 to 0.7 ms, under 0.1 ms in two runs. Most
# of it is Python, which a process does on one core
S3_CPU_S, WEB_CPU_S = 3e-3, 0.6e-3
USD_A_MILLION_GETS, USD_A_MILLION_PUTS = 0.40, 5.0
PART_BYTES = 8 * 2**20  # that tools upload at a time; a file of parts costs two requests more
# `python tests/data/shard_cost.py`: (store, cache, (requests, MB) of opening it, of two epochs of
# crops and one of whole sites)
COUNTS = (
    ("a file a site", "off", ((15, 0.0), (48, 5.7), (24, 5.6), (24, 11.5))),
    ("a file a site", "all fits", ((15, 0.0), (48, 5.7), (18, 3.0), (17, 3.0))),
    ("shards", "off", ((21, 0.0), (24, 11.5), (24, 5.6), (24, 11.5))),
    ("shards", "all fits", ((21, 0.0), (24, 11.5), (0, 0.0), (0, 0.0))),
)
# the same script: ms of CPU of a whole site, file and shard, and of a crop
LOCAL_MS = (0.42, 0.42, 0.23, 0.23)


def requests_needed(rate: float, answer_s: float) -> float:
    """Return how many requests must wait side by side for `rate` sites/s."""
    return rate * answer_s


def processes_needed(rate: float, cpu_s: float) -> float:
    """Return how many processes ask for `rate` sites/s, at `cpu_s` of Python for each."""
    return rate * cpu_s


def object_storage_section(
    rates: Sequence[tuple[str, str, int, float]],
    answer_ms: float,
    sites: int,
    plates: int,
    site_bytes: float,
) -> str:
    """Return the page's section.

    Args:
        rates: (machine, network, GPUs, images/s).
        answer_ms: until all bytes of a site are there.
        sites, plates: of the large data set.
        site_bytes: of a site in the store.
    """
    table = "\n".join(_rows(rates, answer_ms / 1000))
    return f"""## From object storage

`data.store: s3://...` reads a site by one request: for the whole of it, or for the bands that a
crop needs; where the site's index was not met before, one more, but not in
[shards](#several-sites-in-a-file). `data.workers` threads would wait for most of their time:
two of them, and answers after {answer_ms:g} ms, are {2000 / answer_ms:.0f} sites/s. So each process reads with `data.requests` threads (32). The rule:

    data.requests >= images/s of a process x seconds until a site is there

{table}

**The other limit is Python.** Beside decompressing, a site costs about {1000 * S3_CPU_S:g} ms of CPU
through s3fs, {1000 * WEB_CPU_S:g} ms over plain HTTP, and under 0.1 ms from the local cache
(`python tests/data/remote_cost.py`, servers on the same machine); a process does that on one core.
So a process gets some {1 / S3_CPU_S:.0f} sites/s from S3 and {1 / WEB_CPU_S:,.0f} over HTTP, whatever
`data.requests` says. Training has a process a GPU: where the table asks for more, it waits for
images until the cache (`data.cache_disk_gib`) serves them. **A store that fits on the machine's disk
is better copied there first** (`aws s3 sync`).

A cache for half of the sites serves .43 of the reads (`tests/data/test_disk_cache.py`): once full it
lets in one new site in ten. If it let in all, it would serve .15, as every epoch has another order.

{_shards(sites / 1e6, plates, site_bytes)}"""


def _rows(rates: Sequence[tuple[str, str, int, float]], answer_s: float) -> list[str]:
    lines = [
        "| machine | network | requests side by side, each process | processes that s3fs keeps busy "
        "| processes there |",
        "|---" * 5 + "|",
    ]
    for machine, network, gpus, rate in rates:
        waiting = requests_needed(rate / gpus, answer_s)
        lines.append(
            f"| {machine} | {network} | {waiting:.0f} | {processes_needed(rate, S3_CPU_S):.1f} "
            f"| {gpus} |"
        )
    return lines


def _shards(sites: float, plates: int, site_bytes: float) -> str:
    """Compare a file a site with shards; `sites`: of the large data set, in millions."""
    shard_bytes = 1e6 * sites / plates * site_bytes
    parts = math.ceil(shard_bytes / PART_BYTES) + 2
    puts = plates * parts / 1e6
    counts = "\n".join(
        f"| {name} | {cache} | {' | '.join(f'{number} ({megabytes:.1f} MB)' for number, megabytes in cells)} |"
        for name, cache, cells in COUNTS
    )
    return f"""### Several sites in a file

    cellsignal prepare CONFIG --shards stores/rxrx1_shards.zarr      # a copy with a file a plate; then `aws s3 sync` it

Such a store has the same pixels, checksums and content hash, and trains the same weights. How it is
made, renewed and mended: [cloud.md](cloud.md#a-file-a-plate). The large data set:

| | a file a site | a file a plate |
|---|---|---|
| files | {sites:.1f} million of {site_bytes / 1000:.0f} kB | {plates:,} of {shard_bytes / 1e6:.0f} MB |
| requests to upload them | {sites:.1f} million | {puts:.2f} million, in parts of 8 MiB |
| USD to upload | {sites * USD_A_MILLION_PUTS:.0f} | {puts * USD_A_MILLION_PUTS:.1f} |
| requests to list them | {1e3 * sites:,.0f} | {math.ceil(plates / 1000)} |
| USD of an epoch | {sites * USD_A_MILLION_GETS:.0f} | {sites * USD_A_MILLION_GETS:.0f} |

At {USD_A_MILLION_PUTS:g} and {USD_A_MILLION_GETS:g} USD a million requests, as remembered.

Reading stays a request a site: sites are read in random order, and {site_bytes / 1000:.0f} kB are long
enough.
What changes is the first crop of a site. Of a file whose length is not known the index is asked for
at its end, then the bands. In a shard offset and length are known, so up to 1 MiB comes along in one
request instead: the time until an answer begins costs more than these bytes, and the next crops find
the index noted and, where the cache has room, the bands on the disk. Larger sites are asked for their
index first, as ever.

Measured: `python tests/data/shard_cost.py`, 24 sites of 479 kB, crops of 128 of 512 rows, the
requests and bytes of an epoch, all sites in random order, from a web server:

| store | cache | opening it | 1st epoch, crops | 2nd epoch, crops | whole sites |
|---|---|---|---|---|---|
{counts}

Without a cache a first epoch of crops is fewer requests and more bytes ({COUNTS[2][2][1][1]:g} MB in
place of {COUNTS[0][2][1][1]:g}). On a disk a site costs the same CPU in both layouts: {LOCAL_MS[0]:.2f}
and {LOCAL_MS[1]:.2f} ms whole, {LOCAL_MS[2]:.2f} and {LOCAL_MS[3]:.2f} ms for such a crop (the same
script, AMD EPYC with other work on it)."""
