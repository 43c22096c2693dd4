"""The page says what the records say."""

import json

import numpy as np
import pytest
from helpers import error_line

from cellsignal.metrics.intervals import mean_interval
from cellsignal.metrics.paired import compare_means
from cellsignal.studies.soups.bench import PLATES, measure
from cellsignal.studies.soups.page import Figures, says, soups_page
from cellsignal.studies.soups.rows import ROWS

BETTER, WORSE = "tuned_uniform", "apart_uniform"


def record(seed: int) -> dict:
    """Every row names half of 40 wells rightly, one row more of them, one hardly any."""
    rng = np.random.default_rng(seed)
    half = np.tile([1.0, 0.0], 20)
    more = np.maximum(half, rng.random(40) < 0.6)
    less = half * (rng.random(40) < 0.1)
    rows = dict.fromkeys(ROWS, half) | {BETTER: more, WORSE: less}
    return {
        "rows": {
            name: {"plain": value.tolist(), "assigned": np.ones(40).tolist()}
            for name, value in rows.items()
        },
        "units": [f"{seed}/u{index // 8}" for index in range(40)],
        "classes": 48,
        "images": {"train": 384 + seed, "valid": 192},
        "refused": "b: began with other weights than a",
        "settings": PLATES,
        "seconds": 10.0,
    }


def lines_of(text: str, name: str) -> list[list[str]]:
    cells = [line.split(" | ") for line in text.splitlines()]
    return [line for line in cells if line[0] == f"| {ROWS[name].title}"]


def test_accuracies_differences_and_costs_are_those_of_the_records():
    records = [record(seed) for seed in range(3)]
    text = soups_page(records, [0, 1, 2], 30)
    assert "--seeds 0 1 2 --epochs 30" in text and "30 s of CPU time" in text
    assert "384 to 386 images train" in text and "15 test experiments" in text
    assert "Chance is 0.021" in text and "are known, 0.083" in text
    units = np.concatenate([one["units"] for one in records])
    plain = {name: np.concatenate([one["rows"][name]["plain"] for one in records]) for name in ROWS}
    low, high = mean_interval(plain[BETTER], units)
    table, own = lines_of(text, BETTER)
    assert table[1:4] == ["60", "a first half, 3 second halves", "1"]
    assert table[4] == f"{plain[BETTER].mean():.3f} [{low:.2f}, {high:.2f}]"
    wanted = compare_means(plain[BETTER], plain["one"], units)
    difference = f"{wanted.difference:+.3f} [{wanted.low:+.3f}, {wanted.high:+.3f}]"
    assert table[5] == own[2] == difference and own[3] == f"{difference} |"
    (reference,) = lines_of(text, "one")
    assert reference[5] == "" and reference[1:4] == ["30", "1", "1"]
    assert "    b: began with other weights than a" in text


def test_what_is_said_follows_the_intervals():
    text = says(Figures.of([record(0), record(1)]))
    (better,) = [x for x in text.splitlines() if x.startswith(f"- {ROWS[BETTER].title}: ")]
    (worse,) = [x for x in text.splitlines() if x.startswith(f"- {ROWS[WORSE].title}: ")]
    assert "better than one run" in better and "better than its members alone" in better
    assert "worse than one run" in worse and "worse than the mean of predictions" in worse
    assert f"Highest of all: {ROWS[BETTER].title}" in text


def test_what_is_done_is_read_and_nothing_is_trained(tmp_path, monkeypatch):
    folder = tmp_path / "epochs30_seed5"
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps(record(5)))
    monkeypatch.setattr("cellsignal.studies.soups.bench.train", lambda *_: pytest.fail("trained"))
    assert measure(5, 30, tmp_path) == record(5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--epochs", "0"), "--epochs 0: give 1 or more"),
        (("--epochs", "10"), "--epochs 10: give a multiple of 6"),
        (("--seeds", "1", "1"), "--seeds 1 1: one is given twice"),
    ],
)
def test_what_cannot_be_run_is_one_line(capsys, tmp_path, words, message):
    assert message in error_line(capsys, "study", "soups", *words, cwd=tmp_path)
