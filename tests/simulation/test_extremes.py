"""No look that a class, a batch and a well can add up to may break the drawing."""

import numpy as np
import pytest

from cellsignal.simulation.cells import CELL_TYPES, draw_field
from cellsignal.simulation.phenotypes import LIMIT, N_EFFECTS, look_of


@pytest.mark.parametrize("cell_type", CELL_TYPES)
def test_the_most_extreme_looks_are_drawn(cell_type):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        field = draw_field(look_of(cell_type, rng.choice([-1, 1], N_EFFECTS) * 2 * LIMIT), 32, rng)
        assert field.shape == (32, 32, 6) and np.isfinite(field).all() and (field >= 0).all()
