import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import permutation_test
from sklearn.metrics import average_precision_score

from cellsignal.common.errors import InputError
from cellsignal.metrics.intervals import mean_interval
from cellsignal.metrics.paired import compare_macro, compare_means, compare_scores, paired_text


def outcomes(seed=0, units=8, wells=30):
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(units), wells)
    first = rng.random(len(unit)) < 0.8
    second = np.where(rng.random(len(unit)) < 0.8, first, rng.random(len(unit)) < 0.5)
    return first, second, unit


def test_a_difference_of_accuracies():
    first, second, unit = outcomes()
    paired = compare_means(first, second, unit)
    change = first.astype(float) - second
    assert paired.difference == pytest.approx(first.mean() - second.mean())
    assert (paired.low, paired.high) == mean_interval(change, unit, bounded=False)
    sums = np.array([change[unit == number].sum() for number in range(8)])
    exact = permutation_test(
        (sums, np.zeros(8)), lambda a, b: (a - b).sum(), permutation_type="samples"
    )
    assert paired.p == pytest.approx(exact.pvalue)
    turned = compare_means(second, first, unit)
    assert (turned.low, turned.high) == pytest.approx((-paired.high, -paired.low))
    assert turned.p == paired.p and (paired.units, paired.total) == (8, 240)


def labels_and_scores(seed=0, units=10, wells=4, gain=1.5):
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(units), wells)
    truth = (rng.random((units, 3)) < 0.4)[unit]
    noise = rng.normal(size=(2, *truth.shape))
    return truth, gain * truth + noise[0], truth + noise[1], unit


def test_a_difference_of_macro_average_precisions():
    truth, first, second, unit = labels_and_scores()
    paired = compare_macro(truth, first, second, unit)
    macro = [
        np.mean([average_precision_score(truth[:, k], scores[:, k]) for k in range(3)])
        for scores in (first, second)
    ]
    assert (paired.first, paired.second) == pytest.approx(tuple(macro))
    assert paired.low < paired.difference < paired.high and 0 < paired.p <= 1
    better = compare_macro(truth, truth + 0.01 * first, -1.0 * truth, unit)
    assert better.p == 2 / 2**10  # every unit says the same


def test_p_of_macro_average_precision_is_level_without_a_difference():
    """Of 150 tests with models that are equally good, 7.5 are expected at .05."""
    small = sum(
        compare_macro(*labels_and_scores(seed, units=12, gain=1.0)).p <= 0.05 for seed in range(150)
    )
    assert 1 <= small <= 16


def test_equal_models_and_missing_units_say_so():
    first, _, unit = outcomes()
    same = compare_means(first, first, unit)
    assert same.p == 1 and math.isnan(same.low) and same.differing == 0
    text = paired_text(same, ("a.csv", "b.csv"), "accuracy", "experiment")
    assert "+0.0000  (no interval: the same in all 8 experiments)" in text
    assert text.endswith("nothing to test: no unit differs")
    bare = compare_means(first, ~first, None)
    text = paired_text(bare, ("a.csv", "b.csv"), "accuracy", "id")
    assert "the answers name no experiment" in text and "no test without units" in text
    truth, scores, others, unit = labels_and_scores()
    assert math.isnan(compare_macro(truth, scores, others, None).p)
    with pytest.raises(InputError, match="both a positive and a negative"):
        compare_macro(np.zeros_like(truth), scores, others, unit)


def test_the_least_p_is_said_where_it_is_large():
    first, second, unit = outcomes(units=4)
    text = paired_text(compare_means(first, second, unit), ("a", "b"), "accuracy", "plate")
    assert "sign flips of whole plates (all 16 flips counted" in text
    assert "4 plates cannot give less than 0.1250" in text
    first, second, unit = outcomes(units=20)
    text = paired_text(compare_means(first, second, unit), ("a", "b"), "accuracy", "plate")
    assert "95 % interval over 20 plates" in text and "20,000 flips drawn)" in text


def test_any_score_is_compared_as_means_and_macro_precision_are():
    generator = np.random.default_rng(5)
    unit = np.repeat(np.arange(9), generator.integers(5, 30, 9))
    n = len(unit)
    first, second = generator.random(n) < 0.7, generator.random(n) < 0.5
    by_rows = compare_scores(lambda rows: (first[rows].mean(), second[rows].mean()), unit, n)
    expected = compare_means(first, second, unit)
    assert dataclasses.astuple(by_rows) == pytest.approx(dataclasses.astuple(expected))
    # two trainings of each model: the mean of their differences, by unit
    third, fourth = generator.random(n) < 0.7, generator.random(n) < 0.5

    def score(rows):
        better = (first[rows].mean() + third[rows].mean()) / 2
        return better, (second[rows].mean() + fourth[rows].mean()) / 2

    both = compare_scores(score, unit, n)
    stacked = compare_means(
        np.concatenate([first, third]), np.concatenate([second, fourth]), np.tile(unit, 2)
    )
    assert (both.difference, both.low, both.high, both.p) == pytest.approx(
        (stacked.difference, stacked.low, stacked.high, stacked.p)
    )


def test_a_score_without_units_enough_has_no_interval():
    right = np.array([1.0, 0, 1, 1])
    paired = compare_scores(lambda rows: (right[rows].mean(), 0.0), np.array(list("aaaa")), 4)
    assert paired.difference == 0.75 and np.isnan(paired.low) and paired.units == 1
