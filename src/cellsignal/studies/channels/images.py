"""Two simulated data sets of other stains, in memory, and what of them is held out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cellsignal.competitions import get_competition
from cellsignal.models.stains import stains_of

# id -> parameters of its simulator, the samples column of units, units held out
SETS: dict[str, tuple[dict[str, Any], str, int]] = {
    "rxrx1": (
        {"classes": 8, "controls": 1, "size": 40, "train_experiments": 5, "test_experiments": 1},
        "experiment",
        6,
    ),
    "bbbc021": (
        {"compounds_per_class": 8, "test_compounds_per_class": 1, "size": 40},
        "compound",
        12,
    ),
}


@dataclass(frozen=True)
class Images:
    """The labelled images of a data set, each channel standardised by itself.

    Attributes:
        pixels: (N, C, H, W) float32.
        label: (N,) int64.
        unit: (N,) the experiment or compound of each.
        held_out: (N,) bool; no unit is on both sides.
        stains: (C,) of the channels.
        word: what a unit is called.
    """

    pixels: torch.Tensor
    label: torch.Tensor
    unit: np.ndarray
    held_out: np.ndarray
    stains: tuple[str, ...]
    word: str

    @property
    def classes(self) -> int:
        return int(self.label.max()) + 1


def simulated_sets(folder: Path, seed: int, settings: Mapping = SETS) -> dict[str, Images]:
    """Simulate the data sets of a seed under `folder`, unless they are there, and read them.

    Args:
        settings: as `SETS`.
    """
    result = {}
    for name, (options, column, count) in settings.items():
        root = folder / f"{name}_{seed}"
        competition = get_competition(name)
        competition.simulate(root, seed, **options)
        samples = competition.samples(root)
        chosen = (samples.split == "train") & (samples.role == "treatment")
        result[name] = _read(competition, root, samples[chosen], column, count)
    return result


def _read(competition, root: Path, samples: pd.DataFrame, column: str, count: int) -> Images:
    pixels = np.stack([competition.read(root, files) for files in samples.files])
    pixels = torch.from_numpy(pixels.astype(np.float32))
    mean, sd = pixels.mean((2, 3), keepdim=True), pixels.std((2, 3), keepdim=True)
    unit = samples[column].astype(str).to_numpy()
    return Images(
        (pixels - mean) / (sd + 1e-3),
        torch.from_numpy(samples.label.to_numpy(dtype=np.int64)),
        unit,
        np.isin(unit, _held_out(samples.assign(unit=unit), count)),
        stains_of(competition.channels),
        column,
    )


def _held_out(samples: pd.DataFrame, count: int) -> list[str]:
    """Choose units to hold out, in turn from each group that must keep some.

    Groups are the cell types of experiments, and the classes of compounds.
    """
    by = "cell_type" if samples.groupby("unit").label.nunique().max() > 1 else "label"
    groups = [sorted(part.unit.unique(), reverse=True) for _, part in samples.groupby(by)]
    order = [
        units[place]
        for place in range(max(map(len, groups)))
        for units in groups
        if place < len(units) - 1
    ]
    return order[:count]
