"""Predict a config's out-of-fold samples by methods that know no phenotype, or hardly any."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.baselines import cell_profiler, networks
from cellsignal.baselines.classifiers import (
    linear_classifier_scores,
    majority_scores,
    naive_bayes_scores,
)
from cellsignal.baselines.features import (
    cached,
    intensity_features,
    read_image_features,
    with_plate_differences,
)
from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, sha256
from cellsignal.competitions.base import Competition
from cellsignal.config import Config
from cellsignal.data.folds import FoldTable
from cellsignal.data.store import Store
from cellsignal.evaluation.matching import average
from cellsignal.quality.measuring import channel_planes, nuclear_channel

log = logging.getLogger(__name__)
VERSION = 2  # one more whenever the same inputs give other scores
CHANCE, CELL_PROFILER = "chance", "cp_measure"
# name -> what it knows
TITLES = {
    CHANCE: "guessing among the classes",
    "majority": "how often each class trains",
    "position": "row, column, well and plate, no image",
    "cells": "the number of cells (an estimate), no other pixel",
    "intensity": "mean and SD of each channel",
    "classical": "texture, granularity, intensity, objects of the whole image",
    CELL_PROFILER: "CellProfiler's measures of the nuclei, by cp_measure",
    "imagenet": f"{networks.BACKBONE}, frozen, ImageNet weights",
    "untrained": f"{networks.BACKBONE}, frozen, weights as initialised",
}
LIGHT = (CHANCE, "majority", "position", "intensity")  # read no pixel
_WELL = r"^([A-Z]{1,2})(\d{1,2})$"


@dataclass(frozen=True)
class Split:
    """One fold: positions in the store's samples that train and that are predicted."""

    train: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class Units:
    """Features of units, and a row of the samples table of each."""

    x: np.ndarray
    samples: pd.DataFrame


@dataclass(frozen=True)
class Problem:
    """What every baseline of a config works on.

    Attributes:
        used: (n,) positions in the store's samples of all that trains or is predicted.
        splits: of the config's folds; positions are in `used`.
        unit: the column whose samples share one prediction: target_id, or well_id where the config
            pools by well.
        planes: channel's name -> plane of a stored image.
    """

    config: Config
    competition: Competition
    store: Store
    folds: FoldTable
    used: np.ndarray
    splits: tuple[Split, ...]
    unit: str
    planes: dict[str, int]
    nuclei: str | None

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The rows of the samples table that are used."""
        return self.store.samples.iloc[self.used].reset_index(drop=True)

    @property
    def classes(self) -> int:
        return len(self.store.source["classes"])

    @cached_property
    def state(self) -> str:
        """The hash of store, folds, samples and channels: all that every baseline depends on."""
        config = self.config
        known = [VERSION, self.store.content_hash, self.store.info["samples_sha256"]]
        known += [sha256(config.folds.file), config.folds.use, self.unit, list(self.planes.items())]
        return digest([*known, self.samples.sample_id.tolist()])

    def key(self, name: str, weights: Path | None = None) -> str:
        """Return the hash of all that decides a baseline's scores."""
        file = sha256(weights) if weights is not None and weights.is_file() else None
        return digest([self.state, name, self.nuclei, file])


def open_problem(config: Config, competition: Competition, nuclei: str | None) -> Problem:
    """Open a config's store and folds.

    Raises:
        InputError: no store or folds, of another competition, or no fold has both training and
            validation samples.
    """
    from cellsignal.training.job import kept_samples, protocol_parts
    from cellsignal.training.plan import jobs_of

    job = jobs_of(config)[0]  # checks that store, folds, run and config belong together
    store, folds = job.store, job.folds
    samples, kept = store.samples, kept_samples(config, store)
    parts = protocol_parts(config, competition, samples)
    if parts is not None:
        kept &= parts == "train"
    masks = []
    for fold in folds.folds if config.folds.use is None else config.folds.use:
        masks.append((folds.training(samples, fold) & kept, folds.validation(samples, fold) & kept))
    masks = [(train, valid) for train, valid in masks if train.any() and valid.any()]
    if not masks:
        raise InputError(f"{config.folds.file}: no fold of the config has samples to validate on")
    used = np.flatnonzero(np.any([train | valid for train, valid in masks], axis=0))
    place = np.full(len(samples), -1)
    place[used] = np.arange(len(used))
    splits = tuple(Split(*(place[np.flatnonzero(mask)] for mask in pair)) for pair in masks)
    chosen = job.channels
    names = [store.channels[number] for number in chosen]
    planes = channel_planes(names, competition.frames)
    planes = {name: int(chosen[number]) for name, number in planes.items()}
    unit = "well_id" if config.submit.pool == "well" else "target_id"
    facts = (config, competition, store, folds, used, splits, unit, planes)
    return Problem(*facts, nuclear_channel(planes, nuclei))


def baseline_scores(
    problem: Problem, name: str, *, workers: int, weights: Path | None
) -> np.ndarray:
    """Return the out-of-fold scores of the samples in `problem.used`, (n, K); NaN if in no fold.

    Raises:
        InputError: the baseline cannot be measured here; the message says why.
    """
    if name == "majority":
        return out_of_fold_scores(problem, None, _majority_scores)
    if name == "position":
        return out_of_fold_scores(problem, None, _position_scores)
    x = _features(problem, name, workers, weights)
    return out_of_fold_scores(problem, with_plate_differences(x, problem.samples), _image_scores)


def _features(problem: Problem, name: str, workers: int, weights: Path | None) -> np.ndarray:
    """Return the (n, D) features of a baseline; those that take long are kept in the run folder."""
    store, rows = problem.store, problem.store.samples.row.to_numpy()[problem.used]
    planes, frames = list(problem.planes.values()), problem.competition.frames
    folder = problem.config.run_folder / "baselines"
    if name == "intensity":
        features = intensity_features(store, rows)
        names = store.channels
        used = [n for n, plane in enumerate(names) if frames > 1 or n in planes]
        return features[:, [*used, *(len(names) + number for number in used)]]
    if name in ("imagenet", "untrained"):
        pretrained = name == "imagenet"
        reason = networks.missing_weights(weights) if pretrained else ""
        if reason:
            raise InputError(reason)

        def embed() -> dict[str, np.ndarray]:
            options = {"pretrained": pretrained, "weights": weights}
            return {"x": networks.network_features(store, rows, planes, **options)}

        key = problem.key(name, weights if pretrained else None)
        return cached(folder / f"features_{name}.npz", key, embed)["x"]
    if name == "cells" and problem.nuclei is None:
        raise InputError("no channel is named like one of nuclei; --nuclei names it")
    if name == CELL_PROFILER:
        return _cell_profiler_features(problem, rows, workers)
    plane = None if problem.nuclei is None else problem.planes[problem.nuclei]

    def measure() -> dict[str, np.ndarray]:
        options = {"frames": frames, "nuclei": plane, "workers": workers}
        counts, x = read_image_features(store, rows, **options)
        return {"cells": np.log1p(counts)[:, None], "classical": x}

    return cached(folder / "features_image.npz", problem.key("image"), measure)[name]


def _cell_profiler_features(problem: Problem, rows: np.ndarray, workers: int) -> np.ndarray:
    reason = cell_profiler.missing_package()
    if not reason and problem.nuclei is None:
        reason = "no channel is named like one of nuclei; --nuclei names it"
    if reason:
        raise InputError(reason)
    planes = list(problem.planes.values())
    nuclei = list(problem.planes).index(problem.nuclei)

    def measure() -> dict[str, np.ndarray]:
        return {"x": cell_profiler.read_features(problem.store, rows, planes, nuclei, workers)}

    file = problem.config.run_folder / "baselines" / f"features_{CELL_PROFILER}.npz"
    return cached(file, problem.key(CELL_PROFILER), measure)["x"]


def out_of_fold_scores(problem: Problem, x: np.ndarray | None, predict: Callable) -> np.ndarray:
    """Fit on each fold's training units and score its validation samples, (n, K).

    NaN where no fold holds a sample out.

    Args:
        x: (n, D) features, averaged over the samples of a unit; None where none are needed.
        predict: training `Units`, encoded targets, queried `Units`, classes -> (Q, K) scores.
    """
    samples, k = problem.samples, problem.classes
    x = np.zeros((len(samples), 1)) if x is None else x
    total, times = np.zeros((len(samples), k)), np.zeros(len(samples))
    for split in problem.splits:
        train_x, train = average(x[split.train], samples.iloc[split.train], [problem.unit])
        query_x, query = average(x[split.valid], samples.iloc[split.valid], [problem.unit])
        encoded = problem.competition.task.encode_targets(train, k)
        scores = predict(Units(train_x, train), encoded, Units(query_x, query), k)
        place = pd.Index(query[problem.unit]).get_indexer(samples[problem.unit].iloc[split.valid])
        total[split.valid] += scores[place]
        times[split.valid] += 1
    with np.errstate(invalid="ignore"):
        return total / np.where(times > 0, times, np.nan)[:, None]


def _majority_scores(train: Units, encoded: np.ndarray, query: Units, classes: int) -> np.ndarray:
    return majority_scores(encoded, len(query.samples), classes)


def _image_scores(train: Units, encoded: np.ndarray, query: Units, classes: int) -> np.ndarray:
    return linear_classifier_scores(train.x, encoded, query.x, classes)


def _position_scores(train: Units, encoded: np.ndarray, query: Units, classes: int) -> np.ndarray:
    """Score by row, column, well, plate, and well of the plate (of plates that occur again)."""
    columns = [position_columns(units.samples) for units in (train, query)]
    return naive_bayes_scores(columns[0], encoded, columns[1], classes)


def position_columns(samples: pd.DataFrame) -> list[np.ndarray]:
    """Return the categories of where a sample lies: row, column, well, plate, well of the plate.

    An address that is no plate position has neither row nor column.
    """
    parts = samples.well.astype(str).str.extract(_WELL).fillna("")
    well, plate = samples.well.astype(str), samples.plate.astype(str)
    columns = (parts[0], parts[1], well, plate, plate + " " + well)
    return [column.to_numpy(object).astype(str) for column in columns]
