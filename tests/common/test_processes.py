"""Worker processes end with their parent, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from cellsignal.common.processes import {initializer}

def work(path):
    with open(path, "w") as file:
        file.write(f"{{os.getpid()}}\\n")
    time.sleep(600)

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, {initializer}) as pool:
        pool.submit(work, sys.argv[1]).result()
"""


def _wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen in a minute"
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("initializer", ["start_worker", "end_with_parent"])
def test_a_worker_ends_with_a_killed_parent(initializer, tmp_path):
    program, noted = tmp_path / "parent.py", tmp_path / "pid"
    program.write_text(PARENT.format(initializer=initializer))
    parent = subprocess.Popen([sys.executable, program, noted])
    try:
        _wait_until(lambda: noted.is_file() and noted.read_text().endswith("\n"))
        worker = int(noted.read_text())
        assert _is_alive(worker)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    try:
        _wait_until(lambda: not _is_alive(worker))
    finally:
        if _is_alive(worker):
            os.kill(worker, signal.SIGKILL)
