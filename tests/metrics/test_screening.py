"""Robust z, Z'-factor and SSMD against figures worked out by hand and by scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from cellsignal.metrics.screening import robust_z, ssmd, z_prime


def test_robust_z_by_hand():
    # median 3, distances 2 1 0 1 7: MAD 1
    z, reason = robust_z([1, 2, 3, 4, 10])
    assert reason == ""
    assert z == pytest.approx(np.array([-2, -1, 0, 1, 7]) / 1.482602218505602)


def test_robust_z_is_that_of_scipy():
    x = np.random.default_rng(0).normal(5, 2, 101)
    expected = (x - np.median(x)) / stats.median_abs_deviation(x, scale="normal")
    assert robust_z(x)[0] == pytest.approx(expected)


def test_where_the_mad_is_0_the_mean_deviation_takes_its_place():
    # median 0, MAD 0, mean |x| = 10 / 5 = 2
    z, reason = robust_z([0, 0, 0, 0, 10])
    assert reason == "MAD is 0: mean deviation"
    assert z == pytest.approx([0, 0, 0, 0, 10 / (2 * math.sqrt(math.pi / 2))])


def test_equal_values_do_not_stand_out():
    z, reason = robust_z([7.0] * 5)
    assert reason == "all values are equal" and (z == 0).all()


def test_what_is_not_finite_has_no_z_and_changes_no_other():
    x = [1, 2, np.nan, 3, 4, 10]
    z, _ = robust_z(x)
    assert np.isnan(z[2])
    assert np.delete(z, 2) == pytest.approx(robust_z([1, 2, 3, 4, 10])[0])


def test_how_often_few_normal_values_reach_6():
    """As docs/quality.md says: the reason why of few wells none stands out."""
    rng = np.random.default_rng(0)
    share = np.mean([np.abs(robust_z(rng.normal(size=8))[0]) >= 6 for _ in range(5000)])
    assert 0.0025 <= share <= 0.0055


def test_too_few_values():
    z, reason = robust_z([1, np.nan, 2], fewest=3)
    assert np.isnan(z).all() and reason == "2 values, at least 3 needed"


def test_z_prime_and_ssmd_by_hand():
    # means 10 and 2, sample SDs 1 and 2: 1 - 3 * 3 / 8, 8 / sqrt(5)
    positive, negative = [9, 10, 11], [0, 2, 4]
    assert z_prime(positive, negative).value == pytest.approx(-0.125)
    assert ssmd(positive, negative).value == pytest.approx(8 / math.sqrt(5))
    assert ssmd(negative, positive).value == pytest.approx(-8 / math.sqrt(5))


def test_z_prime_does_not_ask_which_control_is_higher():
    a, b = np.random.default_rng(1).normal(0, 1, (2, 9))
    assert z_prime(a, b + 5).value == pytest.approx(z_prime(b + 5, a).value)


@pytest.mark.parametrize(
    ("positive", "negative", "z_reason", "ssmd_reason"),
    [
        ([1], [2, 3], "1 positive controls, at least 2 needed", "1 positive controls"),
        ([], [2], "0 positive controls, at least 2 needed; 1 negative", "0 positive"),
        ([1, np.nan], [2, 3], "1 positive controls", "1 positive controls"),
        ([1, 3], [0, 4], "the means of the controls are equal", ""),
        ([0.1] * 3, [0.1] * 3, "the means of the controls are equal", "the controls do not vary"),
    ],
)
def test_what_has_no_figure_says_why(positive, negative, z_reason, ssmd_reason):
    for figure, reason in (
        (z_prime(positive, negative), z_reason),
        (ssmd(positive, negative), ssmd_reason),
    ):
        if reason:
            assert math.isnan(figure.value) and figure.reason.startswith(reason)
        else:
            assert math.isfinite(figure.value) and figure.reason == ""


def test_controls_that_do_not_vary():
    """Z' is 1, the best; SSMD would be infinite. 0.1 three times has no exact mean."""
    assert z_prime([0.1] * 3, [0.3] * 3).value == 1
    figure = ssmd([0.1] * 3, [0.3] * 3)
    assert math.isnan(figure.value) and figure.reason == "the controls do not vary"
