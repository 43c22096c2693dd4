"""Freed memory stays with a process that asks for it: in processes of their own, by page faults."""

import subprocess
import sys

import pytest

from cellsignal.common.memory import CHOSEN_BY_THE_USER

# takes and frees 64 MiB twenty times; prints whether the library can, and the pages it was given
PROGRAM = """
import resource, sys
import numpy as np
from cellsignal.common.memory import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**23)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str, monkeypatch, **environment: str) -> tuple[str, int]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept, count = done.stdout.split()
    return kept, int(count)


def test_a_process_that_keeps_memory_is_given_no_pages_again(monkeypatch):
    for name in CHOSEN_BY_THE_USER:
        monkeypatch.delenv(name, raising=False)
    kept, few = faults("keep", monkeypatch)
    if kept != "True":
        pytest.skip("not glibc")
    _, many = faults("as it is", monkeypatch)
    assert few < many / 10


def test_what_the_environment_says_stays(monkeypatch):
    kept, _ = faults("keep", monkeypatch, MALLOC_TRIM_THRESHOLD_="1000000")
    assert kept == "False"
