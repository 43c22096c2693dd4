"""Work out what training from object storage needs: requests side by side, processes, money."""

from collections.abc import Sequence

# `python tests/data/remote_cost.py`, AMD EPYC with other work on it: CPU that a site of 479 kB costs
# beside reading it from a local store: 2.5 to 3.8 ms, 0.4 to 0.7 ms, under 0.1 ms in two runs. Most
# of it is Python, which a process does on one core
S3_CPU_S, WEB_CPU_S = 3e-3, 0.6e-3
USD_A_MILLION_GETS, USD_A_MILLION_PUTS = 0.40, 5.0


def requests_needed(rate: float, answer_s: float) -> float:
    """Return how many requests must wait side by side for `rate` sites/s."""
    return rate * answer_s


def processes_needed(rate: float, cpu_s: float) -> float:
    """Return how many processes ask for `rate` sites/s, at `cpu_s` of Python for each."""
    return rate * cpu_s


def object_storage_section(
    rates: Sequence[tuple[str, str, int, float]], answer_ms: float, sites: int, site_bytes: float
) -> str:
    """Return the page's section.

    Args:
        rates: (machine, network, GPUs, images/s).
        answer_ms: until all bytes of a site are there.
        sites: of the large data set; site_bytes: of one in the store.
    """
    table = "\n".join(_rows(rates, answer_ms / 1000))
    return f"""## From object storage

`data.store: s3://...` reads a site by one request: for the whole of it, or for the bands that a
crop needs; where the site's index was not met before, one more. `data.workers` threads would wait
for most of their time: two of them, and answers after {answer_ms:g} ms, are {2000 / answer_ms:.0f}
sites/s. So each process reads with `data.requests` threads (32). The rule:

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

{_shards(sites / 1e6, site_bytes)}"""


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


def _shards(files: float, site_bytes: float) -> str:
    """Judge files of several sites; `files`: sites of the large data set, in millions."""
    return f"""### Several sites in a file?

Now a site is a file: {files:.1f} million for the large data set, {files * USD_A_MILLION_PUTS:.0f} USD
to upload and {files * USD_A_MILLION_GETS:.0f} USD an epoch to read (at {USD_A_MILLION_PUTS:g} and
{USD_A_MILLION_GETS:g} USD a million requests, as remembered). Larger files would not change the
reading: sites are read in random order, and a request of {site_bytes / 1000:.0f} kB is long enough.
They would change uploading, listing and inodes. A design, **not built**:

- after packing, one more command writes a file a plate (some 600 sites, 280 MB): the sites' files as they are, one after another, and in the arrays `shard`, `offset`, `length` by row;
- the reader adds `offset` to each range; it then knows where an index is without asking for the end
  of the file, and all else (frames, checksums, cache) stays;
- packing and renewal stay on files of one site: a shard is written when its plate is complete;
- zarr's own shards need all sites of a shard at once and an index of their own; other zarr readers
  would read ours by a virtual (kerchunk) reference file."""
