"""Which column intervals are over."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cellsignal.competitions.units import OverUnits

ALL = {"compound": ["x", "y"], "experiment": ["e", "f"], "plate": ["1", "1"], "id": ["a", "b"]}


@pytest.mark.parametrize(
    ("change", "unit"),
    [
        ({}, "compound"),
        ({"compound": ["x", None]}, "experiment"),  # a missing value names no unit
        ({"compound": [np.nan] * 2, "experiment": None}, "plate"),
        ({"compound": None, "experiment": None, "plate": None}, "id"),
    ],
)
def test_the_unit_is_the_first_column_that_is_known_of_all_rows(change, unit):
    task = OverUnits()
    task.competition = SimpleNamespace(fold_groups=("compound", "well_id"), id_column="id")
    answers = pd.DataFrame({k: v for k, v in (ALL | change).items() if v is not None})
    assert task.resampled_column(answers.assign(well_id=["w", "v"])) == unit
