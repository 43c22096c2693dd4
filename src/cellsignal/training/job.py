"""What one training is: which samples, which stage, which fold, from which weights, into which folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.competitions.base import Competition
from cellsignal.config import Config
from cellsignal.config.stage import Stage
from cellsignal.data.normalization import global_statistics, standardisation
from cellsignal.data.store import Store
from cellsignal.errors import InputError
from cellsignal.files import digest
from cellsignal.folds import FoldTable

FULL = "full"  # the "fold" that trains on every labelled treatment


def fold_name(fold: int | None) -> str:
    """Folder name of a fold: fold0, fold1, ... or full."""
    return FULL if fold is None else f"fold{fold}"


@dataclass(frozen=True)
class Job:
    """One model to train: stage `stage` of `config` for cell types `key` ("all" or one) on fold `fold` (None: full).

    `train` and `valid` are positions in `store.samples`.
    """

    config: Config
    competition: Competition
    store: Store
    classes: tuple[str, ...]
    folds: FoldTable
    stage_index: int
    key: str
    fold: int | None
    train: np.ndarray
    valid: np.ndarray

    @property
    def stage(self) -> Stage:
        return self.config.stages[self.stage_index]

    @property
    def title(self) -> str:
        return f"{fold_name(self.fold)} {self.stage.name}" + ("" if self.key == "all" else f" {self.key}")

    @property
    def folder(self) -> Path:
        return job_folder(self.config, self.stage_index, self.key, self.fold)

    @property
    def init(self) -> Path | None:
        """The checkpoint this job starts from: the stage before, same fold; of the same cell type if that stage has one for each."""
        if self.stage.init == "scratch":
            return None
        before = self.stage_index - 1
        key = self.key if self.config.stages[before].per == "cell_type" else "all"
        return job_folder(self.config, before, key, self.fold) / "last.pt"

    @property
    def seed(self) -> int:
        """A seed of its own for every job, from the config's."""
        words = [self.config.seed, self.stage_index, 10_000 if self.fold is None else self.fold, *self.key.encode()]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    @property
    def held_out(self) -> list[str]:
        """Names of the fold groups that no stage of this fold may train on."""
        samples = self.store.samples
        mask = self.folds.validation(samples, self.fold) if self.fold is not None else np.zeros(len(samples), bool)
        return sorted(samples.loc[mask, self.folds.group].astype(str).unique())


def job_folder(config: Config, stage_index: int, key: str, fold: int | None) -> Path:
    """runs/<name>/seed<s>/fold<k>/<stage>/<key>"""
    return config.run_folder / fold_name(fold) / config.stages[stage_index].name / key


def plan_jobs(
    config: Config, competition: Competition, store: Store, classes: tuple[str, ...], folds: FoldTable
) -> list[Job]:
    """All jobs of a config in the order they must run: fold by fold, stage by stage, cell type by cell type.

    Raises:
        InputError: a fold that the table does not have, or a job without a training sample.
    """
    wanted = folds.folds if config.folds.use is None else config.folds.use
    unknown = [fold for fold in wanted if fold not in folds.folds]
    if unknown:
        raise InputError(f"folds.use: {config.folds.file} has the folds {list(folds.folds)}, not {unknown[0]}")
    samples = kept_samples(config, store)
    jobs = []
    for fold in [*wanted, *([None] if config.folds.full else [])]:
        train = folds.training(store.samples, fold) & samples
        valid = folds.validation(store.samples, fold) & samples if fold is not None else np.zeros_like(train)
        assert not (train & valid).any(), "a sample is in training and in validation"
        for index, stage in enumerate(config.stages):
            cell_types = store.samples.cell_type
            keys = ["all"] if stage.per == "all" else sorted(cell_types[train].unique())
            for key in keys:
                mine = np.ones_like(train) if key == "all" else (cell_types == key).to_numpy()
                job = Job(config, competition, store, classes, folds, index, key, fold,
                          np.flatnonzero(train & mine), np.flatnonzero(valid & mine))  # fmt: skip
                if not len(job.train):
                    raise InputError(f"{config.folds.file}: {job.title} has no training sample in {config.data.store}")
                jobs.append(job)
    return jobs


def identity(job: Job) -> dict[str, Any]:
    """What a checkpoint must agree in with the job that goes on from it."""
    trained_on = sorted(job.store.samples.sample_id.iloc[job.train])
    return {"competition": job.competition.id, "classes": list(job.classes), "stage": job.stage.name, "key": job.key, "fold": job.fold,
            "held_out": job.held_out, "training_samples": digest(trained_on)}  # fmt: skip


def check_belongs(job: Job, state: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another training.

    Raises:
        InputError: it differs in competition, classes, stage, cell type, fold or training samples.
    """
    for name, value in identity(job).items():
        if state.get(name) != value:
            raise InputError(f"{path}: belongs to another training ({name} differs); move it away to start anew")


def kept_samples(config: Config, store: Store) -> np.ndarray:
    """Mask of the store's samples that the config uses (`data.sites`)."""
    samples = store.samples
    return np.ones(len(samples), bool) if config.data.sites is None else samples.site.isin(config.data.sites).to_numpy()


@dataclass(frozen=True)
class Pixels:
    """Standardisation of every sample of a store, and the training pixels' overall mean and SD that `by: global` needs again at prediction."""

    shift: np.ndarray  # (n, C)
    scale: np.ndarray  # (n, C)
    overall: tuple[np.ndarray, np.ndarray]


def pixel_statistics(
    config: Config, store: Store, train: np.ndarray | None = None, overall: tuple | None = None
) -> Pixels:
    """Shift and scale of every sample in `store.samples`; overall statistics from the training samples unless they are given."""
    samples: pd.DataFrame = store.samples
    rows = samples.row.to_numpy()
    mean, sd = store.mean[rows], store.sd[rows]
    if overall is None:
        overall = global_statistics(mean[train], sd[train])
    shift, scale = standardisation(samples, mean, sd, config.normalization, overall)
    return Pixels(shift, scale, overall)
