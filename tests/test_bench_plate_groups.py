"""The benchmark of plate groups counts what it says, on a small simulated copy."""

import pytest
from helpers import cellsignal

from cellsignal.bench import plate_groups

pytestmark = pytest.mark.slow


def test_no_signal_is_refused_and_a_strong_one_is_not(simulated, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(plate_groups, "SIGNALS", (0.0, 50.0))
    monkeypatch.setattr(plate_groups, "BIASES", (0.0,))
    monkeypatch.setattr(plate_groups, "SURENESS", (1.0,))
    thresholds, conditions = plate_groups.bench_plate_groups(simulated("rxrx1"), seeds=4)
    assert thresholds.threshold.tolist() == list(plate_groups.THRESHOLDS) and (thresholds.n == 4 * 4 * 2).all()
    assert thresholds.false.is_monotonic_decreasing and thresholds.refused.is_monotonic_increasing
    assert thresholds.false[0] == thresholds.wrong[0] == round(32 * (1 - thresholds.inferred_right[0]))
    none, strong = conditions.itertuples()
    assert (none.signal, none.refused, none.false) == (0.0, 1.0, 0) and none.after == none.plain
    assert (strong.signal, strong.refused, strong.inferred_right, strong.plain, strong.after) == (50.0, 0.0, 1.0, 1.0, 1.0)
    assert strong.threshold == min(t.threshold for t in thresholds.itertuples() if t.false_of_kept <= plate_groups.MOST_FALSE)
    assert cellsignal("bench", "plate-groups", "--root", simulated("rxrx1"), "--seeds", 1, cwd=tmp_path) == 0
    assert "the other half at" in capsys.readouterr().out


def test_shares_and_accuracies_by_hand():
    import pandas as pd

    outcomes = pd.DataFrame({
        "plain": [0.1, 0.2, 0.3, 0.4], "within": [0.5, 0.6, 0.0, 0.8], "right": [True, True, False, True], "confidence": [0.3, 0.1, 0.2, 0.0],
    })  # fmt: skip
    found = plate_groups._at(outcomes, 0.1)
    assert (found["wrong"], found["false"], found["refused"]) == (1, 1, 0.25)
    assert found["false_of_kept"] == pytest.approx(1 / 3) and found["lost"] == pytest.approx(1 / 3)
    assert found["after"] == pytest.approx((0.5 + 0.6 + 0.0 + 0.4) / 4) and found["plain"] == pytest.approx(0.25)
