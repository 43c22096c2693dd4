"""Means over seeds and intervals over units, by hand and against scipy's t interval."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from cellsignal.studies.seeds import OverSeeds, mean_gain

UNIT = np.repeat(np.arange(8), 5)


@dataclass(frozen=True)
class Row(OverSeeds):
    right: np.ndarray
    unit: np.ndarray


def hits(*counts: int) -> np.ndarray:
    """A seed that is right at so many of the five wells of each unit."""
    return np.concatenate([np.arange(5) < count for count in counts])


def t_interval(values: np.ndarray) -> tuple[float, float]:
    """Of units of one size: of their means."""
    return tuple(stats.ttest_1samp(values.reshape(8, 5).mean(1), 0).confidence_interval())


def test_accuracy_and_spread_by_hand():
    row = Row(np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool), np.arange(4))
    assert row.accuracy == 5 / 8
    assert row.seeds_sd == pytest.approx(np.std([3 / 4, 2 / 4], ddof=1))
    assert np.isnan(Row(row.right[:1], row.unit).seeds_sd)


# units that lie symmetrically: the t interval needs no correction
SEEDS = np.array([hits(1, 2, 3, 4, 4, 3, 2, 1), hits(2, 1, 4, 3, 3, 4, 1, 2)])


def test_intervals_are_of_the_means_over_seeds_by_unit():
    low, high = t_interval(SEEDS.mean(0))
    found = Row(SEEDS, UNIT).interval()
    # a share's interval keeps within 0 and 1, so its ends are moved a little
    assert found == pytest.approx((low, high), abs=0.01) and high - low > 0.2


def test_a_gain_is_paired_well_by_well_whatever_the_numbers_of_seeds():
    other = hits(0, 1, 2, 3, 3, 2, 1, 0)[None]
    gain, *interval = mean_gain(SEEDS, other, UNIT)
    difference = SEEDS.mean(0) - other[0]
    assert gain == pytest.approx(difference.mean()) and gain > 0
    means = difference.reshape(8, 5).mean(1) - gain
    assert abs((means**3).sum()) < 1e-9
    assert interval == pytest.approx(t_interval(difference))
