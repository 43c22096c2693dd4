"""Simulated plates differ as real ones do: the constants are the fit, draws follow them, pictures
reach the draws.
"""

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.simulation.calibration import (
    CELL_TYPE_NAMES,
    PLATE_MODEL,
    PlateModel,
    draw_experiment,
    fit_plate_effects,
)
from cellsignal.simulation.cells import CELL_TYPES
from cellsignal.simulation.plates import (
    Plate,
    Site,
    draw_optics,
    draw_plate,
    edge_effect,
    fit_response,
)


def _table(drawn: dict[str, np.ndarray]) -> pd.DataFrame:
    rows = [
        (experiment, plate + 1, channel + 1, value[plate, 0, channel], value[plate, 1, channel])
        for experiment, value in drawn.items()
        for plate in range(4)
        for channel in range(6)
    ]
    return pd.DataFrame(rows, columns=["experiment", "plate", "channel", "mean", "std"])


def _assert_close(found: PlateModel, expected: PlateModel, tolerance: float) -> None:
    for name in ("centre", "experiment_sd", "plate_sd"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=tolerance)
    for name in ("experiment_correlation", "plate_correlation"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), atol=max(tolerance, 0.0051)
        )


@pytest.mark.real_data
def test_constants_are_the_fit_of_the_real_plates(real_data):
    _assert_close(
        fit_plate_effects(real_data / "rxrx1" / "plate_pixel_stats.csv"), PLATE_MODEL, 0.00051
    )


@pytest.mark.real_data
def test_drawn_plates_spread_as_the_measured_ones(real_data):
    """Pooled over the channels, the spread of drawn plates agrees with the table itself, not only
    with the fit.
    """

    def spread(table):
        logs = np.log(
            table.pivot(index=["experiment", "plate"], columns="channel", values=["mean", "std"])
        )
        means = logs.groupby("experiment").mean()
        cell_type = means.index.str.split("-").str[0]
        within = (logs - logs.groupby("experiment").transform("mean")).pow(2).mean(axis=None)
        return means.groupby(cell_type).std().mean(axis=1), within**0.5

    measured, measured_within = spread(pd.read_csv(real_data / "rxrx1" / "plate_pixel_stats.csv"))
    rng = np.random.default_rng(0)
    drawn, drawn_within = spread(
        _table(
            {
                f"{name}-{i}": draw_experiment(name, 4, rng)
                for name in CELL_TYPE_NAMES
                for i in range(150)
            }
        )
    )
    np.testing.assert_allclose(drawn[measured.index], measured, rtol=0.15)
    assert drawn_within == pytest.approx(measured_within, rel=0.15)


def test_fit_recovers_a_known_model(tmp_path):
    truth = PlateModel(
        np.tile([2.5] * 6 + [-0.3] * 6, (4, 1)),
        np.full((4, 12), 0.2),
        np.full((4, 12), 0.06),
        PLATE_MODEL.experiment_correlation,
        PLATE_MODEL.plate_correlation,
    )
    rng = np.random.default_rng(1)
    table = _table(
        {
            f"{name}-{i}": draw_experiment(name, 4, rng, truth)
            for name in CELL_TYPE_NAMES
            for i in range(600)
        }
    )
    table.to_csv(tmp_path / "stats.csv")
    found = fit_plate_effects(tmp_path / "stats.csv")
    _assert_close(found, truth, 0.06)
    np.testing.assert_allclose(found.plate_sd, truth.plate_sd, rtol=0.08)


def test_fit_refuses_a_table_without_a_column_or_a_channel(tmp_path):
    table = _table({"RPE-01": draw_experiment("RPE", 4, np.random.default_rng(0))})
    table.drop(columns="std").to_csv(tmp_path / "a.csv")
    with pytest.raises(InputError, match="'std'"):
        fit_plate_effects(tmp_path / "a.csv")
    table.iloc[1:].to_csv(tmp_path / "b.csv")
    with pytest.raises(InputError, match="lacks"):
        fit_plate_effects(tmp_path / "b.csv")


def test_response_reaches_mean_and_sd_of_a_skewed_sample():
    rng = np.random.default_rng(0)
    sample = rng.lognormal(0, [[0.4], [0.8], [1.0]], (3, 20000)).astype(np.float32)
    mean, sd = np.array([30.0, 10.0, 4.0]), np.array([12.0, 9.0, 5.0])
    power, gain, offset = fit_response(sample, mean, sd)
    gray = np.clip(sample ** power[:, None] * gain[:, None] + offset[:, None], 0, 255)
    np.testing.assert_allclose(gray.mean(axis=1), mean, rtol=0.03)
    np.testing.assert_allclose(gray.std(axis=1), sd, rtol=0.12)


@pytest.mark.parametrize("cell_type", CELL_TYPE_NAMES)
def test_rendered_plates_land_near_the_drawn_statistics(cell_type):
    mean, sd = draw_experiment(cell_type, 1, np.random.default_rng(2))[0]
    sites = tuple(
        Site(f"E_1_{well}_s1", well, CELL_TYPES[cell_type])
        for well in ("B02", "C09", "H12", "J05", "M20", "O23", "F06", "G11")
    )
    images = np.stack(
        [
            image
            for _, image in draw_plate(
                Plate("E_1", draw_optics(mean, sd, 0, "E", "1"), sites), 64, 0
            )
        ]
    )
    assert images.dtype == np.uint8 and images.shape == (8, 6, 64, 64)
    np.testing.assert_allclose(images.mean(axis=(0, 2, 3)), mean, rtol=0.12, atol=0.15)
    np.testing.assert_allclose(images.std(axis=(0, 2, 3)), sd, rtol=0.2)
    assert images.mean(axis=(2, 3)).std(axis=0).min() > 0, "a picture is never normalised by itself"


def test_edge_effect_counts_from_the_edge_of_the_384_well_plate():
    assert edge_effect("B02") == edge_effect("O23") == edge_effect("B12") == 1.0
    assert edge_effect("C03") > edge_effect("D04") > edge_effect("H12") < 0.02
