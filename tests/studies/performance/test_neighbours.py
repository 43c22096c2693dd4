"""The benchmark of neighbours starts its children with the environment that a row names."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cellsignal.common.errors import InputError
from cellsignal.studies.performance import neighbours


def test_rows_are_medians_and_ratios_to_the_fastest_alone(monkeypatch):
    calls = []
    figures = {
        ("ACTIVE", 1): 100.0,
        ("ACTIVE", 2): 10.0,
        (None, 1): 80.0,
        (None, 2): 90.0,
    }

    def run(environment, count, seconds):
        calls.append((environment["OMP_NUM_THREADS"], count))
        return figures[environment.get("OMP_WAIT_POLICY"), count]

    monkeypatch.setattr(neighbours, "_run", run)
    monkeypatch.setattr(neighbours, "usable_cores", lambda: 2)
    table = neighbours.bench_neighbours(1, rounds=2).set_index("way")
    assert table.loc[neighbours.SPIN].tolist() == [100, 10, 0.1]
    assert table.loc[neighbours.SLEEP].tolist() == [80, 90, 0.9]
    assert calls.count(("1", 2)) == 2 and calls.count(("2", 1)) == 4


def _child(folder, text):
    """A program that takes the place of Python, so that children run `text`."""
    path = folder / "child"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_child_that_fails_ends_its_neighbour_in_one_line(tmp_path, monkeypatch):
    first = f"if mkdir {tmp_path}/first 2>/dev/null; then echo $$ > {tmp_path}/pid; exec sleep 60; "
    program = _child(tmp_path, f"{first} fi; echo ImportError: no torch >&2; exit 3")
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(InputError, match=r"^neighbours: .* status 3: ImportError: no torch$"):
        neighbours._run({}, 2, 1)
    pid = (tmp_path / "pid").read_text().strip()
    assert not (Path("/proc") / pid).exists(), "the other child still runs"


def test_a_child_that_dies_without_a_word_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", _child(tmp_path, "kill -9 $$"))
    with pytest.raises(InputError, match=r"status -9: it printed nothing$"):
        neighbours._run({}, 1, 1)


@pytest.mark.slow
def test_children_train():
    rate = neighbours._run({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}, 2, 0.1)
    assert np.isfinite(rate) and rate > 0
