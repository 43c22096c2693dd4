import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test, t, ttest_1samp

from cellsignal.common.errors import InputError
from cellsignal.metrics.accuracy import wilson_interval
from cellsignal.metrics.intervals import (
    LEAST_UNITS,
    MOST_GROUPS,
    degrees_of_freedom,
    influence_interval,
    interval_words,
    jackknife,
    jackknife_groups,
    jackknife_interval,
    least_p,
    mean_interval,
    plural,
    range_text,
    sign_flip_p,
)


def clusters(seed=0, units=9, most=40):
    """Right predictions of units of many sizes, each with an accuracy of its own."""
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(units), rng.integers(2, most, units))
    return rng.random(len(unit)) < rng.beta(4, 2, units)[unit], unit


def test_equal_symmetric_units_have_students_interval():
    """Without skewness, for differences, it is scipy's t interval of the units' means."""
    means = np.array([-0.03, -0.01, 0.0, 0.01, 0.03]) + 0.02
    values = np.repeat(means, 7) + np.tile([-0.1, 0, 0.1, 0, 0, 0, 0], 5)
    low, high = mean_interval(values, np.repeat(list("abcde"), 7), bounded=False)
    expected = ttest_1samp(means, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_degrees_of_freedom_against_matrices():
    """Satterthwaite's, of the quadratic form of the residuals: tr(B)^2 / tr(B^2)."""
    share = np.array([0.4, 0.3, 0.2, 0.1])
    residuals = np.eye(4) - np.outer(np.ones(4), share)
    form = residuals.T @ np.diag(share**2 / (1 - share)) @ residuals
    root = np.diag(share**-0.5)  # a unit's variance falls with its size
    b = root @ form @ root
    assert np.trace(b) == pytest.approx(1)  # the correction makes the variance unbiased
    assert degrees_of_freedom(share) == pytest.approx(np.trace(b) ** 2 / np.trace(b @ b))
    assert degrees_of_freedom(np.full(7, 1 / 7)) == pytest.approx(6)
    assert degrees_of_freedom(np.array([0.9, 0.05, 0.05])) < 1.5


def test_the_end_beside_the_outlying_unit_is_moved_out():
    """By Johnson's g (1 / 6 + t^2 / 3) standard errors, of g the estimate's skewness."""
    influence, share = np.array([0.02, -0.005, -0.005, -0.004, -0.006]), np.full(5, 0.2)
    low, high = influence_interval(0.1, influence, share, bounded=False)
    error, quantile = math.sqrt((influence**2).sum() / 0.8), t(4).ppf(0.975)
    g = (influence**3).sum() / (influence**2).sum() ** 1.5
    assert (0.1 - low) / error == pytest.approx(quantile)
    assert (high - 0.1) / error == pytest.approx(quantile + g * (1 / 6 + quantile**2 / 3))
    mirrored = influence_interval(-0.1, -influence, share, bounded=False)
    assert mirrored == pytest.approx((-high, -low))


def test_one_bad_unit_of_many_does_not_make_the_interval_absurd():
    low, high = mean_interval(np.r_[np.ones(49), 0.37], np.arange(50))
    assert 0.8 < low < 0.95 and 0.98 < high < 1


@given(st.integers(0, 10_000))
def test_accuracies_stay_within_and_hold_their_value(seed):
    right, unit = clusters(seed, units=4, most=6)
    low, high = mean_interval(right, unit)
    assert 0 <= low <= right.mean() <= high <= 1


def test_the_order_of_rows_and_the_names_of_units_do_not_matter():
    right, unit = clusters()
    order = np.random.default_rng(1).permutation(len(unit))
    names = np.array([f"plate {number}" for number in unit], object)
    assert mean_interval(right[order], names[order]) == pytest.approx(mean_interval(right, unit))


def test_wells_that_are_their_own_units_have_nearly_wilsons_interval():
    right = np.arange(1000) % 4 != 0
    assert mean_interval(right, np.arange(1000)) == pytest.approx(
        wilson_interval(750, 1000), abs=0.002
    )


def test_units_that_are_all_right_count_as_so_many_trials():
    right, unit = np.ones(600), np.repeat(np.arange(6), 100)
    assert mean_interval(right, unit) == wilson_interval(6, 6)
    assert mean_interval(np.tile([1, 0], 300), unit) == pytest.approx(wilson_interval(3, 6))
    assert all(map(math.isnan, mean_interval(right, unit, bounded=False)))


def test_few_units_have_no_interval():
    right, unit = np.arange(40) % 3 == 0, np.arange(40) % LEAST_UNITS
    assert not any(map(math.isnan, mean_interval(right, unit)))
    few = unit % (LEAST_UNITS - 1)
    assert all(map(math.isnan, mean_interval(right, few)))


@pytest.mark.parametrize(
    ("values", "unit", "message"),
    [
        ([1, 1], np.array(["a", None], object), "outcome 1 is missing"),
        ([1, 1], ["a"], "2 outcomes but 1 units"),
        ([1, -1, 0], ["a", "b", "c"], "do not lie in 0 .. 1"),
    ],
)
def test_bad_input(values, unit, message):
    with pytest.raises(InputError, match=message):
        mean_interval(values, unit)


@pytest.mark.parametrize("bounded", [True, False])
def test_the_jackknife_of_a_mean_is_its_interval(bounded):
    right, unit = clusters(3)
    value, without = jackknife(lambda rows: right[rows].mean(), unit, len(right))
    share = np.bincount(unit) / len(unit)
    assert jackknife_interval(value, without, share, bounded=bounded) == pytest.approx(
        mean_interval(right, unit, bounded=bounded)
    )


def test_the_jackknife_leaves_out_what_cannot_be_scored():
    def score(rows):
        if 0 not in rows:
            raise InputError("no score")
        return len(rows) / 10

    value, without = jackknife(score, [0, 1, 1, 2, 2, 2], 6)
    assert value == 0.6 and without[1:].tolist() == [0.4, 0.3] and math.isnan(without[0])
    assert all(map(math.isnan, jackknife_interval(value, without, np.array([1, 2, 3]) / 6)))


def test_many_units_are_dealt_to_groups():
    codes = np.repeat(np.arange(1000), 2)
    groups, count = jackknife_groups(codes, 1000)
    assert count == MOST_GROUPS and set(groups) == set(range(MOST_GROUPS))
    assert (groups[::2] == groups[1::2]).all()  # a unit stays whole
    assert np.ptp(np.bincount(groups[::2])) <= 1
    assert jackknife_groups(codes, 1000)[0].tolist() == groups.tolist()
    assert jackknife_groups(codes[:6], 3) == (pytest.approx(codes[:6]), 3)


def covered(units, mean, icc, seed, runs=400, difference=False):
    """Return in how many of 400 simulations the interval holds the truth."""
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(runs):
        wells = rng.integers(30, 300, units)
        unit = np.repeat(np.arange(units), wells)
        chance = rng.beta(mean * (1 / icc - 1), (1 - mean) * (1 / icc - 1), units)
        values = rng.random(len(unit)) < chance[unit]
        if difference:
            values = values.astype(float) - (rng.random(len(unit)) < chance[unit])
        low, high = mean_interval(values, unit, bounded=not difference)
        hits += low <= (0 if difference else mean) <= high
    return hits


@pytest.mark.parametrize("units", [5, 20])
def test_the_interval_holds_the_truth(units):
    """Of 400, 380 are expected; the standard error is 4.4."""
    assert 362 <= covered(units, 0.8, 0.08, seed=units) <= 396
    assert 362 <= covered(units, 0.8, 0.08, seed=units, difference=True) <= 396


def test_sign_flips_are_scipys():
    parts = np.array([0.3, -0.1, 0.25, 0.4, 0.05, -0.02])
    exact = permutation_test(
        (parts, np.zeros(6)), lambda a, b: (a - b).sum(), permutation_type="samples"
    )
    assert sign_flip_p(parts) == pytest.approx(exact.pvalue)
    signs = itertools.product([1, -1], repeat=6)
    assert sign_flip_p(parts) == np.mean([abs(parts @ s) >= parts.sum() - 1e-9 for s in signs])


def test_drawn_sign_flips_are_near_the_exact_ones():
    parts = np.random.default_rng(4).normal(0.4, 1, 14)
    signs = np.array(list(itertools.product([1, -1], repeat=14)))
    exact = (np.abs(signs @ parts) >= abs(parts.sum()) - 1e-9).mean()
    assert sign_flip_p(parts) == pytest.approx(exact, abs=0.015)
    assert sign_flip_p(parts) == sign_flip_p(-parts) == sign_flip_p(parts)


def test_the_smallest_and_largest_p():
    assert sign_flip_p([1.0, 2, 3, 4, 5]) == least_p(5) == 2 / 32
    assert sign_flip_p(np.ones(40)) == least_p(40) < 1e-4
    assert sign_flip_p([0.0, 0, 0]) == sign_flip_p([1.0, -1]) == 1


def test_p_is_level_where_models_are_equal():
    rng = np.random.default_rng(8)
    values = np.array([sign_flip_p(rng.normal(size=8)) for _ in range(600)])
    assert 0.03 < (values <= 0.05).mean() < 0.08 and 0.44 < (values <= 0.5).mean() < 0.56


def test_words():
    assert interval_words("experiment", 18) == "95 % interval over 18 experiments"
    assert interval_words("plate", 2) == f"no interval: 2 plates, {LEAST_UNITS} are needed"
    assert plural("well_id", 1) == "1 well id" and plural("library", 1200) == "1,200 libraries"
    assert range_text(0.25, 0.5, 2, "+") == "+0.25 .. +0.50" and range_text(math.nan, 1) == ""
