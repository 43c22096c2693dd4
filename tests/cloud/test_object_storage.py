"""What object storage needs, by hand."""

from cellsignal.cloud.object_storage import (
    S3_CPU_S,
    object_storage_section,
    processes_needed,
    requests_needed,
)


def test_requests_are_rate_times_latency_and_processes_rate_times_cpu():
    assert requests_needed(1000, 0.05) == 50
    assert processes_needed(1000, 0.002) == 2


def test_the_section_has_a_row_for_each_machine():
    text = object_storage_section([("8 x A", "Net", 8, 4000.0)], 100.0, 2_000_000, 450e3)
    processes = 4000 * S3_CPU_S
    assert f"| 8 x A | Net | 50 | {processes:.1f} | 8 |" in text
    assert "two of them, and answers after 100 ms, are 20" in text
    assert "2.0 million" in text and "450 kB" in text
