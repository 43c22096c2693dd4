"""Differences and verdicts against arithmetic."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cellsignal.baselines.comparison import baselines_text, compare
from cellsignal.baselines.results import Baseline
from cellsignal.competitions import get_competition
from cellsignal.competitions.targets import Targets

COMPETITION = get_competition("rxrx1")
N = 60


def targets_of(right):
    """Two classes, all labels 0."""
    names = np.array([f"t{number:02d}" for number in range(N)])
    scores = np.log(np.where(np.asarray(right)[:, None], [0.9, 0.1], [0.1, 0.9])).astype(np.float32)
    return Targets(*[names] * 5, np.zeros(N, int), scores)


def problem_of(groups):
    names = [f"t{number:02d}" for number in range(N)]
    samples = pd.DataFrame({"target_id": names, "experiment": np.arange(N) % groups})
    return SimpleNamespace(
        competition=COMPETITION, samples=samples, folds=SimpleNamespace(group="experiment")
    )


def baseline(name="position", score=0.5, file="baselines/position.npz", reason=""):
    return Baseline(name, "knows nothing", score, 0.4, 0.6, N, reason, file=file)


def verdict(monkeypatch, run, other, groups=12):
    monkeypatch.setattr("cellsignal.baselines.comparison.load_targets", lambda path, task: other)
    (item,) = compare(problem_of(groups), [baseline()], run, Path("run"))
    return item


def test_better_worse_and_not_told_apart(monkeypatch):
    number = np.random.default_rng(0).permutation(N) // 12  # 0 to 4, not alike in all groups
    many, few = targets_of(number < 4), targets_of(number < 2)
    better = verdict(monkeypatch, many, few)
    assert better.difference == pytest.approx(0.4) and better.verdict == "beats it"
    assert better.run_score == 0.8
    ends = COMPETITION.task.compare_targets(many, few, np.arange(N) % 12)
    assert (better.difference_low, better.difference_high) == (ends.low, ends.high)
    assert verdict(monkeypatch, few, many).verdict == "is beaten"
    assert verdict(monkeypatch, many, targets_of(number > 0)).verdict == "not told apart"
    assert verdict(monkeypatch, many, few, groups=1).verdict == "no interval"


def test_chance_is_compared_with_the_interval_of_the_run():
    run = targets_of(np.arange(N) // 12 < 4)
    _, low, high = COMPETITION.task.clustered_score(run, np.arange(N) % 12)
    (item,) = compare(problem_of(12), [baseline("chance", 0.5, "")], run, Path("run"))
    assert item.difference == pytest.approx(0.3) and item.verdict == "beats it"
    assert (item.difference_low, item.difference_high) == pytest.approx((low - 0.5, high - 0.5))


def test_only_targets_that_both_predict_are_compared(monkeypatch):
    run = targets_of(np.arange(N) < 30)
    few = Targets(*[run.target_id[:30]] * 5, np.zeros(30, int), run.scores[:30])
    item = verdict(monkeypatch, run, few)
    assert item.run_score == 1 and item.difference == 0


def test_the_table_says_why_one_was_not_measured():
    items = [baseline(), baseline("imagenet", np.nan, "", "no ImageNet weights")]
    text = baselines_text(items, "experiment")
    assert "not measured: no ImageNet weights" in text and "run - baseline" not in text
    assert "fitted on the training folds alone" in text
