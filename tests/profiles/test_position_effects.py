"""Row and column effects, against planted ones."""

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.profiles.position_effects import median_polish, subtract_position


def plate(rows=8, columns=12) -> pd.DataFrame:
    wells = [(r, c) for r in range(rows) for c in range(columns)]
    frame = pd.DataFrame(wells, columns=["row", "column"])
    names = [f"{'ABCDEFGH'[r]}{c + 1:02d}" for r, c in wells]
    return frame.assign(experiment="e", plate="p", well=names, role="treatment")


def planted(wells, features=3, seed=0):
    rng = np.random.default_rng(seed)
    by_row, by_column = rng.normal(size=(8, features)), rng.normal(size=(12, features))
    return by_row[wells.row] + by_column[wells.column] + 5


def test_planted_effects_go_and_the_level_and_single_wells_stay():
    wells = plate()
    x = planted(wells)
    x[17] += 9  # one strong well moves no median of a row of twelve or a column of eight
    level = subtract_position(x, wells)
    assert np.ptp(np.delete(level, 17, axis=0), axis=0).max() < 1e-3
    np.testing.assert_allclose(level[17] - level[0], 9, atol=1e-3)


def test_effects_are_estimated_from_the_controls_alone():
    wells = plate()
    control = np.random.default_rng(2).random(len(wells)) < 0.7
    wells["role"] = np.where(control, "negative_control", "treatment")
    x = planted(wells)
    x[~control] += np.random.default_rng(1).normal(3, 1, (int((~control).sum()), 3))
    signal = x - planted(wells)
    found = subtract_position(x, wells, "negative_controls")
    assert np.ptp(found - signal, axis=0).max() < 0.05
    spread = np.ptp(subtract_position(x, wells) - signal, axis=0)
    assert spread.min() > 0.1, "estimated from all wells, the treatments' noise enters"


def test_a_plate_of_its_own_and_medians_of_zero():
    two = pd.concat([plate(), plate().assign(plate="q")], ignore_index=True)
    x = np.vstack([planted(plate(), seed=0), planted(plate(), seed=1) + 40])
    found = subtract_position(x, two)
    assert np.ptp(found[:96], axis=0).max() < 1e-3 and np.ptp(found[96:], axis=0).max() < 1e-3
    for effects in median_polish(x[:96], plate().row.to_numpy(), plate().column.to_numpy()):
        np.testing.assert_allclose(np.median(list(effects.values()), axis=0), 0, atol=1e-9)


def test_what_is_no_address_or_has_no_control_is_refused():
    wells = plate()
    with pytest.raises(InputError, match="'x' is not an address"):
        subtract_position(np.zeros((96, 1)), wells.assign(well="x"))
    with pytest.raises(InputError, match="plate p: 0 wells of the reference 'negative_controls'"):
        subtract_position(np.zeros((96, 1)), wells, "negative_controls")
