"""How bright real plates are and how far they differ: a hierarchical log-normal model.

The source is a table of the pixel mean and SD of each of 51 experiments x 4 plates x 6 channels of
RxRx1. Of it only the fit below is kept. To refit: `python -m cellsignal.simulation.calibration
plate_pixel_stats.csv` prints the block of constants; a test holds them to the fit.

The twelve values of a plate are log(mean) of the six channels, then log(SD / mean), their contrast:
mean and SD move together so closely that the spread of the contrast must be fitted itself. For a
plate: centre of its cell type + experiment effect + plate effect, both normal with the SDs of the
cell type and one correlation matrix for all types.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.tables import parse_integers, parse_numbers, read_table

CELL_TYPE_NAMES = ("HEPG2", "HUVEC", "RPE", "U2OS")


@dataclass(frozen=True)
class PlateModel:
    """The fit. C cell types, 12 values: log(mean) of six channels, then log(SD / mean)."""

    centre: np.ndarray  # (C, 12)
    experiment_sd: np.ndarray  # (C, 12) between experiments
    plate_sd: np.ndarray  # (C, 12) between plates of an experiment
    experiment_correlation: np.ndarray  # (12, 12)
    plate_correlation: np.ndarray  # (12, 12)


def fit_plate_effects(path: Path | str) -> PlateModel:
    """Fit the model by moments (one-way analysis of variance within each cell type).

    Args:
        path: CSV with the columns experiment ("HUVEC-01"), plate, channel (1..6), mean, std; four
        plates an experiment.

    Raises:
        InputError: a column is missing, or a plate lacks a channel.
    """
    table = read_table(path, ("experiment", "plate", "channel", "mean", "std"))
    table["channel"] = parse_integers(path, table, "channel", low=1)
    table["mean"], table["std"] = (
        parse_numbers(path, table, column, low=0) for column in ("mean", "std")
    )
    logs = table.assign(mean=np.log(table["mean"]), std=np.log(table["std"] / table["mean"]))
    plates = logs.pivot(index=["experiment", "plate"], columns="channel", values=["mean", "std"])
    if plates.isna().any(axis=None) or plates.shape[1] != 12:
        raise InputError(f"{path}: some plate lacks one of the six channels")
    experiments = plates.groupby("experiment").mean()
    cell_type = experiments.index.str.split("-").str[0].to_numpy()
    residual = (plates - plates.groupby("experiment").transform("mean")).to_numpy()
    residual = residual.reshape(len(experiments), -1, 12)
    n_plates = residual.shape[1]
    centre, experiment_sd, plate_sd, away = [], [], [], []
    for name in CELL_TYPE_NAMES:
        chosen = cell_type == name
        values = experiments[chosen].to_numpy()
        within = (residual[chosen] ** 2).sum((0, 1)) / (chosen.sum() * (n_plates - 1))
        between = values.var(0, ddof=1) - within / n_plates
        centre.append(values.mean(0))
        plate_sd.append(np.sqrt(within))
        experiment_sd.append(np.sqrt(np.maximum(between, 0.01 * within)))
        away.append((values - values.mean(0)) / values.std(0, ddof=1))
    row = [CELL_TYPE_NAMES.index(name) for name in cell_type]
    scaled = residual / np.array(plate_sd)[row, None]
    return PlateModel(
        np.array(centre),
        np.array(experiment_sd),
        np.array(plate_sd),
        np.corrcoef(np.concatenate(away).T),
        np.corrcoef(scaled.reshape(-1, 12).T),
    )


def _rows(text: str) -> np.ndarray:
    return np.loadtxt(text.splitlines(), ndmin=2)


def _correlation(text: str) -> np.ndarray:
    """Return a correlation matrix from the entries below its diagonal, in hundredths."""
    matrix = np.zeros((12, 12))
    matrix[np.tril_indices(12, -1)] = [int(value) / 100 for value in text.split()]
    return matrix + matrix.T + np.eye(12)


# Columns: log mean of w1..w6, log contrast of w1..w6. Rows: HEPG2, HUVEC, RPE, U2OS. Correlations:
# below the diagonal, in hundredths.
_CENTRE = """
1.959 2.688 2.362 2.404 1.966 2.235 0.274 -0.226 -0.497 -0.286 -0.213 -0.495
1.426 2.725 1.945 2.098 0.986 1.813 0.189 -0.178 -0.659 -0.196 0.061 -0.678
0.972 2.519 2.514 1.950 1.406 2.154 0.269 -0.076 -0.475 -0.163 -0.004 -0.582
2.103 2.751 2.479 2.349 1.624 2.629 0.235 -0.343 -0.764 -0.425 -0.025 -0.650
"""
_EXPERIMENT_SD = """
0.900 0.383 0.600 0.780 0.943 0.678 0.201 0.213 0.125 0.203 0.201 0.139
0.265 0.272 0.187 0.250 0.323 0.357 0.353 0.079 0.075 0.060 0.079 0.104
0.166 0.200 0.167 0.104 0.421 0.270 0.071 0.066 0.084 0.080 0.080 0.086
0.364 0.715 0.376 0.601 0.976 0.502 0.156 0.162 0.191 0.173 0.343 0.141
"""
_PLATE_SD = """
0.121 0.089 0.079 0.055 0.065 0.058 0.024 0.024 0.024 0.024 0.029 0.024
0.116 0.100 0.107 0.044 0.086 0.070 0.033 0.030 0.057 0.029 0.073 0.049
0.128 0.105 0.101 0.049 0.068 0.058 0.023 0.023 0.029 0.024 0.028 0.029
0.076 0.052 0.044 0.047 0.058 0.049 0.019 0.016 0.017 0.014 0.027 0.016
"""
_EXPERIMENT_CORRELATION = """
19
34 24
30 82 48
45 24 8 -9
31 9 91 35 1
-75 -26 -13 -17 -66 -8
-55 -64 -34 -71 -24 -18 57
-55 -27 -35 -19 -53 -31 53 46
-71 -50 -36 -52 -46 -24 74 92 65
-30 -9 -46 -14 -30 -45 24 31 77 42
-49 -35 -24 -23 -55 -5 54 58 84 69 63
"""
_PLATE_CORRELATION = """
56
70 38
49 59 32
13 44 11 29
69 62 87 55 27
9 12 -8 -11 2 -12
15 -7 0 -23 -11 -14 58
7 6 -13 -23 -9 -21 47 68
14 -4 -4 -20 -9 -14 59 97 71
5 -6 -14 -7 -12 -22 37 47 70 49
9 3 -7 -16 -8 -16 48 71 88 74 78
"""
PLATE_MODEL = PlateModel(
    _rows(_CENTRE),
    _rows(_EXPERIMENT_SD),
    _rows(_PLATE_SD),
    _correlation(_EXPERIMENT_CORRELATION),
    _correlation(_PLATE_CORRELATION),
)


def draw_experiment(
    cell_type: str, plates: int, rng: np.random.Generator, model: PlateModel = PLATE_MODEL
) -> np.ndarray:
    """Draw the pixel mean and SD of an experiment's plates.

    Returns:
        (plates, 2, 6) float: [:, 0] the means, [:, 1] the SDs, in gray levels, held to 1..80 and
        .7..60.
    """
    row = CELL_TYPE_NAMES.index(cell_type)
    experiment = _normal(model.experiment_correlation, rng, 1) * model.experiment_sd[row]
    plate = _normal(model.plate_correlation, rng, plates) * model.plate_sd[row]
    values = np.exp(model.centre[row] + experiment + plate).reshape(plates, 2, 6)
    mean, contrast = values.swapaxes(0, 1)
    return np.stack([np.clip(mean, 1.0, 80.0), np.clip(mean * contrast, 0.7, 60.0)], axis=1)


def _normal(correlation: np.ndarray, rng: np.random.Generator, n: int) -> np.ndarray:
    values, vectors = np.linalg.eigh(correlation)
    return rng.normal(size=(n, len(values))) * np.sqrt(np.maximum(values, 0)) @ vectors.T


def constants(model: PlateModel) -> str:
    """Return the fit as the text of the constants in this module."""
    blocks = []
    for name in ("centre", "experiment_sd", "plate_sd"):
        rows = [" ".join(f"{value:.3f}" for value in row) for row in getattr(model, name)]
        blocks.append((name, rows))
    for name in ("experiment_correlation", "plate_correlation"):
        hundredths = np.rint(100 * getattr(model, name)).astype(int)
        rows = [" ".join(map(str, hundredths[i, :i])) for i in range(1, 12)]
        blocks.append((name, rows))
    return "\n".join("\n".join([f'_{name.upper()} = """', *rows, '"""']) for name, rows in blocks)


if __name__ == "__main__":
    print(constants(fit_plate_effects(sys.argv[1])))
