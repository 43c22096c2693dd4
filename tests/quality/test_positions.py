import numpy as np
import pandas as pd
import pytest

from cellsignal.quality.positions import effect_sizes, position_effects

WELLS = pd.Series([f"{row}{column:02d}" for row in "ABCDEFGH" for column in range(1, 13)])
ROW, COLUMN = np.divmod(np.arange(96), 12)


def noise(features, seed=0):
    return np.random.default_rng(seed).normal(size=(96, features))


def test_a_planted_row_effect_is_found_and_its_size_measured():
    values = noise(3)
    values[ROW == 3, 1] += 5
    effects = position_effects(values, WELLS)
    row, row_p, _, column_p = effects[1]
    assert row == pytest.approx(5.5, abs=1.2)  # the effect, and the range of noise
    assert row_p == pytest.approx(0.01)
    assert column_p > 0.05 and effects[0, 1] > 0.05


def test_a_gradient_over_columns_is_found():
    values = noise(1) + 0.5 * COLUMN[:, None]
    _, row_p, column, column_p = position_effects(values, WELLS)[0]
    assert column > 4 and column_p == pytest.approx(0.01) and row_p > 0.05


def test_sizes_are_in_sds_of_the_noise():
    """Of normal noise without an effect the mean range of the row medians is known: see the page."""
    rest = effect_sizes(noise(300), ROW, COLUMN)
    assert rest[0].mean() == pytest.approx(0.94, abs=0.1)
    assert effect_sizes(7 * noise(300), ROW, COLUMN) == pytest.approx(rest)


def test_p_values_of_noise_are_even():
    p = position_effects(noise(200, seed=1), WELLS)[:, 1]
    assert 0.02 <= (p <= 0.1).mean() <= 0.19  # 20 of 200 expected
    assert 0.4 <= p.mean() <= 0.6


def test_additive_effects_leave_nothing():
    values = (ROW * 1.0 + 10 * COLUMN)[:, None]
    assert np.isnan(effect_sizes(values, ROW, COLUMN)).all()


def test_few_wells_in_many_lines_have_no_effects():
    """The polish would explain all that there is."""
    some = np.random.default_rng(0).permutation(96)[:20]
    assert np.isnan(position_effects(noise(2)[some], WELLS.iloc[some])).all()


def test_a_readout_that_is_missing_takes_no_other_with_it():
    values = noise(2)
    values[:, 1] = np.nan
    values[ROW == 0, 0] += 4
    effects = position_effects(values, WELLS)
    assert np.isnan(effects[1]).all() and effects[0, 1] == pytest.approx(0.01)
