"""The page says what the records say."""

import json

import numpy as np
import pytest
from helpers import error_line

from cellsignal.metrics.intervals import mean_interval
from cellsignal.studies.channels.page import CASES, channels_page, measure
from cellsignal.studies.channels.training import METHODS


def record(seed: int, better: str, worse: str) -> dict:
    """Every method names half of 40 images rightly, one of them all, one of them none."""
    half = [1, 0] * 20
    right = {name: dict.fromkeys(CASES, half) for name in METHODS}
    right[better] = dict.fromkeys(CASES, [1] * 40)
    right[worse] = dict.fromkeys(CASES, [0] * 40)
    units = [f"{seed}/u{index // 8}" for index in range(40)]
    return {
        "right": right,
        "units": dict.fromkeys(("rxrx1", "bbbc021"), units),
        "classes": {"rxrx1": 8, "bbbc021": 6},
        "images": {"rxrx1": 224, "bbbc021": 576},
        "seconds": 10.0,
    }


def test_accuracies_intervals_and_what_lost():
    records = [record(seed, "vit_joint", "mean_joint") for seed in range(3)]
    text = channels_page(records, [0, 1, 2], 7)
    assert "--seeds 0 1 2 --epochs 7" in text and "30 s of CPU time" in text
    low, high = mean_interval([1, 0] * 60, [u for r in records for u in r["units"]["rxrx1"]])
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {METHODS['cnn'].title} |")]
    assert row.count(f"0.500 [{low:.2f}, {high:.2f}]") == len(CASES)
    (accuracy, paired) = [
        line for line in text.splitlines() if line.startswith(f"| {METHODS['vit_joint'].title} |")
    ]
    assert accuracy.count("1.000 [") == paired.count("+0.500 [") == len(CASES)
    assert f"best is {METHODS['vit_joint'].title} (1.000; +0.500" in text
    assert "0.125 (rxrx1), 0.167 (bbbc021)" in text and "15 experiments, 15 compounds" in text


def test_a_method_that_always_loses_is_named():
    rng = np.random.default_rng(0)
    records = [record(seed, "vit_joint", "mean_joint") for seed in range(3)]
    for one in records:
        one["right"]["cnn"] = {case: (rng.random(40) < 0.8).astype(int).tolist() for case in CASES}
    text = channels_page(records, [0, 1, 2], 7)
    (line,) = [line for line in text.splitlines() if line.startswith("Rows worse")]
    assert all(f"{METHODS['mean_joint'].title} ({case})" in line for case in CASES)
    assert METHODS["vit_joint"].title + " (RxRx1, all 6)" not in line


def test_what_is_done_is_read_and_nothing_is_trained(tmp_path, monkeypatch):
    done = record(5, "vit_joint", "mean_joint")
    (tmp_path / "epochs7_seed5.json").write_text(json.dumps(done))
    monkeypatch.setattr(
        "cellsignal.studies.channels.training.train_method", lambda *_: pytest.fail("trained")
    )
    assert measure(5, 7, tmp_path) == done


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--epochs", "0"), "--epochs 0: give 1 or more"),
        (("--seeds", "1", "1"), "--seeds 1 1: one is given twice"),
    ],
)
def test_what_cannot_be_run_is_one_line(capsys, tmp_path, words, message):
    assert message in error_line(capsys, "study", "channels", *words, cwd=tmp_path)
