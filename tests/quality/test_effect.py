"""Scores with and without some targets, against arithmetic."""

import math

import numpy as np
import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.targets import Targets, subset
from cellsignal.metrics.average_precision import macro_average_precision
from cellsignal.quality.effect import effect_text, exclusion_effect


def targets_of(label, predicted, classes=2, labels=None):
    names = np.array([f"t{number}" for number in range(len(label))])
    scores = np.log(np.where(np.arange(classes) == np.asarray(predicted)[:, None], 0.9, 0.1))
    return Targets(*[names] * 5, np.asarray(label), scores.astype(np.float32), labels)


TASK = get_competition("rxrx1").task


def test_accuracies_and_the_paired_difference():
    label = np.zeros(40, int)
    predicted = np.where(np.arange(40) % 4 == 0, 1, 0)  # every fourth is wrong: .75
    left_out = np.zeros(40, bool)
    left_out[[0, 4, 8, 1]] = True  # three wrong ones and a right one
    cluster = np.arange(40) // 4
    effect = exclusion_effect(TASK, targets_of(label, predicted), left_out, cluster)
    assert effect.every[0] == 0.75
    assert effect.kept[0] == pytest.approx(29 / 36)
    assert effect.difference[0] == pytest.approx(29 / 36 - 0.75)
    assert effect.left_out == 0.25 and effect.counts == (40, 36, 10)
    for value, low, high in effect[:3]:
        assert low < value < high
    assert effect.every == pytest.approx(
        TASK.clustered_score(targets_of(label, predicted), cluster)
    )
    text = effect_text(effect, "experiment")
    assert "trained WITH the listed wells" in text and "+0.0556" in text


def test_several_labels():
    rng = np.random.default_rng(0)
    labels = (rng.random((30, 3)) < 0.4).astype(np.float32)
    task = get_competition("idr0088_moa").task
    targets = targets_of(np.full(30, -1), rng.integers(0, 3, 30), 3, labels)
    left_out = np.arange(30) < 6
    effect = exclusion_effect(task, targets, left_out, np.arange(30) // 3)
    kept = subset(targets, np.flatnonzero(~left_out))
    assert effect.kept[0] == pytest.approx(macro_average_precision(labels[6:], kept.scores))
    assert effect.kept[0] == task.point_score(kept)


def test_one_cluster_says_nothing_about_others():
    effect = exclusion_effect(
        TASK, targets_of([0, 0], [0, 1]), np.array([True, False]), np.zeros(2)
    )
    assert math.isnan(effect.difference[1]) and effect.difference[0] == -0.5


@pytest.mark.parametrize(("left_out", "word"), [([False] * 2, "none"), ([True] * 2, "all")])
def test_nothing_to_compare(left_out, word):
    with pytest.raises(InputError, match=f"{word} of the 2 out-of-fold targets are listed"):
        exclusion_effect(TASK, targets_of([0, 0], [0, 1]), np.array(left_out), np.arange(2))
