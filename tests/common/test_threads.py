"""Threads share the machine by default; what the environment says already stays."""

import os
import subprocess
import sys

import pytest

from cellsignal.common import threads


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """What is set here is not left to other tests, nor what they set found here."""
    kept = {"PATH": os.environ["PATH"]}
    monkeypatch.setattr(os, "environ", kept)


@pytest.mark.parametrize(
    "files, limit",
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "350000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "what\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({}, None),
    ],
)
def test_the_limit_of_a_container(files, limit, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.processor_limit(tmp_path) == limit


def test_a_container_of_fewer_processors_gets_fewer_threads(monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 64)
    monkeypatch.setattr(threads, "processor_limit", lambda: 4)
    threads.share_processors()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["GOMP_SPINCOUNT"]) == ("4", threads.SPINS)
    monkeypatch.setattr(threads, "processor_limit", lambda: 2)
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    threads.share_processors()
    assert os.environ["OMP_NUM_THREADS"] == "4" and "GOMP_SPINCOUNT" not in os.environ


def test_processes_share_the_cores_or_what_a_container_has_of_them(monkeypatch):
    for name in ("OMP_NUM_THREADS", "CELLSIGNAL_CHOSEN_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 64)
    monkeypatch.setattr(threads, "processor_limit", lambda: None)
    assert [threads.threads_of_each(processes) for processes in (1, 4, 99)] == [64, 16, 1]
    monkeypatch.setattr(threads, "processor_limit", lambda: 8)
    threads.share_processors()
    assert os.environ["OMP_NUM_THREADS"] == "8"  # of one process
    assert [threads.threads_of_each(processes) for processes in (1, 4, 99)] == [8, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # the user's word
    assert threads.threads_of_each(4) == 3


@pytest.mark.parametrize("cores", [1, 2])
def test_without_a_limit_the_number_of_threads_is_left_to_torch(cores, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    monkeypatch.setattr(threads, "processor_limit", lambda: None)
    threads.share_processors()
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_command_sets_it_before_torch_is_loaded():
    program = """
import os, sys
os.environ.pop("OMP_WAIT_POLICY", None)
os.environ.pop("GOMP_SPINCOUNT", None)
from cellsignal.cli import main
main(["competitions"])
print("torch" in sys.modules, os.environ["GOMP_SPINCOUNT"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split()[-2:] == ["False", "1000"], done.stderr
