import numpy as np
import pandas as pd
import pytest

from cellsignal.report.quality_plots import (
    plate_heat_maps,
    plate_positions,
    plate_shape,
    plates_overview,
)


def test_addresses_and_the_plate_they_are_on():
    place = plate_positions(pd.Series(["A01", "H12", "x"]))
    assert place.tolist() == [[0, 0], [7, 11], [-1, -1]]
    assert plate_shape(place) == (8, 12)
    assert plate_shape(plate_positions(pd.Series(["I01"]))) == (16, 24)
    assert plate_positions(pd.Series(["AF48"])).tolist() == [[31, 47]]
    assert plate_shape(plate_positions(pd.Series(["AF48"]))) == (32, 48)


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_heat_maps_of_equal_and_of_unknown_values(tmp_path, value):
    wells = pd.DataFrame({"well": ["B02", "B03"], "stands_out": ["", "z 9"]})
    wells["dna mean"], wells["cells"] = value, [3.0, 4.0]
    columns = [("dna", "mean"), ("cells", "cells")]
    plate_heat_maps(tmp_path / "plate.png", wells, columns, "a plate")
    assert (tmp_path / "plate.png").read_bytes()[:4] == b"\x89PNG"


def test_an_overview_without_any_z(tmp_path):
    plates = pd.DataFrame(
        {"experiment": "e", "plate": ["1", "2"], "channel": "dna", "measure": "mean", "z": np.nan}
    )
    plates_overview(tmp_path / "plates.png", plates)
    assert (tmp_path / "plates.png").is_file()
