"""What object storage needs, by hand."""

import pytest
import shard_cost
from range_server import serving

from cellsignal.cloud.object_storage import (
    COUNTS,
    S3_CPU_S,
    object_storage_section,
    processes_needed,
    requests_needed,
)
from cellsignal.data.sharding import write_shards


def test_requests_are_rate_times_latency_and_processes_rate_times_cpu():
    assert requests_needed(1000, 0.05) == 50
    assert processes_needed(1000, 0.002) == 2


def test_the_section_has_a_row_for_each_machine():
    text = object_storage_section([("8 x A", "Net", 8, 4000.0)], 100.0, 2_000_000, 4_000, 450e3)
    processes = 4000 * S3_CPU_S
    assert f"| 8 x A | Net | 50 | {processes:.1f} | 8 |" in text
    assert "two of them, and answers after 100 ms, are 20" in text
    assert "2.0 million" in text and "450 kB" in text


def test_uploads_of_shards_are_counted_in_parts():
    """500 sites of 450 kB are 225 MB: 27 parts of 8 MiB and two requests more."""
    text = object_storage_section([], 50.0, 2_000_000, 4_000, 450e3)
    assert "| files | 2.0 million of 450 kB | 4,000 of 225 MB |" in text
    assert "| requests to upload them | 2.0 million | 0.12 million, in parts of 8 MiB |" in text
    assert "| USD to upload | 10 | 0.6 |" in text
    assert "| requests to list them | 2,000 | 4 |" in text


@pytest.mark.slow
def test_the_counts_are_those_of_the_script(tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    shard_cost.make_store(tmp_path)
    write_shards(tmp_path / "x.zarr", tmp_path / "shards.zarr", 8.0)
    cells = []
    with serving(tmp_path) as server:
        for name in ("x.zarr", "shards.zarr"):
            for cache_gib in (0.0, 1.0):
                monkeypatch.setenv("CELLSIGNAL_CACHE", str(tmp_path / f"{name}{cache_gib}"))
                cells.append(shard_cost.requests(server, name, cache_gib))
    written = [
        [f"{number} ({megabytes:.1f} MB)" for number, megabytes in counts]
        for _, _, counts in COUNTS
    ]
    assert cells == written
