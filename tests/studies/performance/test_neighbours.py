"""The benchmark of neighbours starts its children with the environment that a row names."""

import numpy as np
import pytest

from cellsignal.studies.performance import neighbours


def test_rows_are_medians_and_ratios_to_the_fastest_alone(monkeypatch):
    asked = []
    figures = {
        ("ACTIVE", 1): 100.0,
        ("ACTIVE", 2): 10.0,
        (None, 1): 80.0,
        (None, 2): 90.0,
    }

    def run(environment, count, seconds):
        asked.append((environment["OMP_NUM_THREADS"], count))
        return figures[environment.get("OMP_WAIT_POLICY"), count]

    monkeypatch.setattr(neighbours, "_run", run)
    monkeypatch.setattr(neighbours, "usable_cores", lambda: 2)
    table = neighbours.bench_neighbours(1, rounds=2).set_index("way")
    assert table.loc[neighbours.SPIN].tolist() == [100, 10, 0.1]
    assert table.loc[neighbours.SLEEP].tolist() == [80, 90, 0.9]
    assert asked.count(("1", 2)) == 2 and asked.count(("2", 1)) == 4


@pytest.mark.slow
def test_children_train(monkeypatch):
    rate = neighbours._run({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}, 2, 0.1)
    assert np.isfinite(rate) and rate > 0
