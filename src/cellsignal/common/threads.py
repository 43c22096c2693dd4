"""Let the threads of several processes share a machine: `share_processors`, before torch is loaded.

OpenMP's threads spin while they wait for each other at the end of every operation. Where two
processes have as many threads as there are cores, each spins away the other's time: together they
are many times as slow as one. Threads that soon fall asleep while they wait do not
(`cellsignal study neighbours`).
"""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
_CHOSEN = "CELLSIGNAL_CHOSEN_THREADS"  # what `share_processors` set, of this process or a parent
SPINS = "1000"  # rounds of waiting before a thread sleeps: a process alone loses hardly any speed


def share_processors() -> None:
    """Let waiting threads soon sleep, and make no more of them than this process has processors.

    Sets GOMP_SPINCOUNT, and OMP_NUM_THREADS where a container may use a part of the cores alone;
    what the environment says already stays. OpenMP reads both once, when torch is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    limit = processor_limit()
    if limit is not None and limit < usable_cores() and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = os.environ[_CHOSEN] = str(limit)


def threads_of_each(processes: int) -> int:
    """Return how many threads each of some processes should have: what the user set, else a share.

    A share is of the cores, or of the container's processors; at least 1.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and os.environ.get(_CHOSEN) != threads:
        return int(threads)
    return max(1, min(usable_cores(), processor_limit() or usable_cores()) // processes)


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_limit(folder: Path = CGROUP) -> int | None:
    """Return how many processors' time the container may use, rounded down; None: no limit.

    Reads `cpu.max` (cgroup v2), or the quota and period of `cpu` (v1).
    """
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu" / "cpu.cfs_period_us").read_text().strip()
        if quota in ("max", "-1"):
            return None
        return max(1, math.floor(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return None
