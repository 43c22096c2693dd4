"""Peaks of memory against what a process is known to have taken."""

import os
import subprocess
import sys

import pytest

from cellsignal.common.errors import InputError
from cellsignal.studies.memory.child import read_peak
from cellsignal.studies.memory.measuring import Usage, measure, read_pss, tree_of

MIB = 2**20
TREE = """
import os, sys, time
block = bytearray(os.urandom(1) * (40 << 20))
if not os.fork():
    mine = bytearray(os.urandom(1) * (20 << 20))
print("ready", flush=True)
time.sleep(60)
"""


def test_shared_pages_of_a_tree_count_once():
    alone = subprocess.Popen(
        [sys.executable, "-c", "print('ready', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    parent = subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE)
    try:
        for process, lines in ((alone, 1), (parent, 2)):
            assert [process.stdout.readline() for _ in range(lines)] == [b"ready\n"] * lines
        assert tree_of(alone.pid) == [alone.pid]
        tree = tree_of(parent.pid)
        assert len(tree) == 2 and tree[0] == parent.pid
        total = sum(map(read_pss, tree)) - read_pss(alone.pid)
        assert 55 * MIB < total < 75 * MIB  # 40 shared + 20; counted twice it would be 100
        assert read_peak(alone.pid) >= read_pss(alone.pid) > 0
    finally:
        for number in tree_of(parent.pid)[1:]:
            subprocess.run(["kill", str(number)], check=False)
        for process in (alone, parent):
            process.kill()
            process.communicate()  # closes its pipes, too
    assert read_pss(alone.pid) == 0 and tree_of(alone.pid) == [alone.pid]


@pytest.mark.slow
def test_a_command_is_measured_beside_its_imports(tmp_path):
    usage = measure(("competitions",), tmp_path)
    assert usage.peak > 20 * MIB and usage.processes == 1
    assert usage.beside < 30 * MIB  # it prints a few lines
    assert usage.import_seconds > 0 and usage.seconds > 0
    assert "rxrx1" in (tmp_path / "output.log").read_text()


@pytest.mark.slow
def test_a_command_that_fails_is_named_with_its_last_line(tmp_path):
    with pytest.raises(InputError, match=r"^cellsignal train none\.yaml: exit status 2: .*none"):
        measure(("train", "none.yaml"), tmp_path)


def test_a_command_that_takes_too_long_is_stopped_with_its_figures_so_far(tmp_path):
    usage = measure(("competitions",), tmp_path, seconds=0.0)
    assert usage.stopped and usage.imports == 0 and usage.processes == 1
    assert tree_of(os.getpid()) == [os.getpid()]  # it does not live on
    assert not (tmp_path / "usage.json").exists()


def test_beside_is_never_negative():
    assert Usage(5, 7, 1.0, 1.0, 1).beside == 0 and Usage(7, 5, 1.0, 1.0, 1).beside == 2
