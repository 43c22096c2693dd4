"""Define a job: one model to train, of one stage and fold, with its weights and folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest
from cellsignal.competitions.base import Competition
from cellsignal.competitions.task import Task
from cellsignal.config import Config
from cellsignal.config.stage import Stage
from cellsignal.data.exclusions import read_exclusions
from cellsignal.data.folds import FoldTable
from cellsignal.data.store import Store

FULL = "full"  # the "fold" that trains on every labelled treatment


def fold_name(fold: int | None) -> str:
    """Return the folder name of a fold: fold0, fold1, ... or full."""
    return FULL if fold is None else f"fold{fold}"


def job_folder(config: Config, stage_index: int, key: str, fold: int | None) -> Path:
    """Return runs/<name>/seed<s>/fold<k>/<stage>/<key>."""
    return config.run_folder / fold_name(fold) / config.stages[stage_index].name / key


@dataclass(frozen=True)
class Job:
    """One model to train.

    Attributes:
        key: the cell type that it is for, or "all".
        fold: None trains on every labelled treatment.
        train: positions in `store.samples` of what trains, control wells too where configured.
        valid, test: positions of what validates, and of the treatments of the test split.
        outputs: the number of classes that the model tells apart: the treatments' `classes`, then
            the controls'; or the training samples' `compounds`, where that is the stage's target.
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
    test: np.ndarray
    outputs: int

    @property
    def stage(self) -> Stage:
        return self.config.stages[self.stage_index]

    @property
    def title(self) -> str:
        """Such as "seed 0 fold 1 stage cell_type HUVEC"."""
        fold = FULL if self.fold is None else self.fold
        title = f"seed {self.config.seed} fold {fold} stage {self.stage.name}"
        return title if self.key == "all" else f"{title} {self.key}"

    @property
    def folder(self) -> Path:
        return job_folder(self.config, self.stage_index, self.key, self.fold)

    @property
    def init(self) -> Path | None:
        """The checkpoint of the stage before, of the same fold, that the job starts from.

        It is of the same cell type if that stage has one for each.
        """
        if self.stage.init == "scratch":
            return None
        before = self.stage_index - 1
        key = self.key if self.config.stages[before].per == "cell_type" else "all"
        return job_folder(self.config, before, key, self.fold) / "last.pt"

    def snapshot(self, epoch: int) -> Path:
        """Return the checkpoint that `snapshots` keeps after an epoch, counted from 1."""
        return self.folder / f"snapshot_{epoch:04d}.pt"

    @property
    def task(self) -> Task:
        """What the stage solves: the competition's task, or the telling of compounds."""
        return self.competition.task.of_stage(self.stage)

    def encode_targets(self, positions: np.ndarray) -> np.ndarray:
        """Return the training targets of samples: (n,) int64 outputs, or (n, K) labels.

        By label or by compound, as the stage's target is; -1 or NaN where it is not known.
        """
        samples = self.store.samples.iloc[positions]
        if self.stage.target != "label":
            return pd.Index(self.compounds).get_indexer(samples.compound).astype(np.int64)
        return self.task.encode_targets(samples, self.outputs)

    @property
    def compounds(self) -> tuple[str, ...]:
        """The compounds of the training samples, sorted: the classes with `target: compound`."""
        return tuple(sorted(self.store.samples.compound.iloc[self.train].unique()))

    @property
    def class_space(self) -> str:
        """The classes of the outputs.

        A stage starts from the previous stage's head if they are the same.
        """
        return "label" if self.stage.target == "label" else f"compound {digest(self.compounds)}"

    @property
    def scored(self) -> np.ndarray:
        """Positions of the samples that validate the stage.

        Empty if the stage has no labels to predict.
        """
        has_labels = self.stage.target == "label" and self.stage.self_supervised is None
        return self.valid if has_labels else self.valid[:0]

    @property
    def channels(self) -> np.ndarray:
        """Indices of the store's channels that the model sees."""
        chosen = self.config.data.channels
        return np.arange(len(self.store.channels)) if chosen is None else np.array(chosen) - 1

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels that the model sees."""
        return tuple(self.store.channels[index] for index in self.channels)

    @property
    def cell_types(self) -> tuple[str, ...]:
        """The cell types of the whole store, in the order of the cell-type vector."""
        return tuple(sorted(self.store.samples.cell_type.unique()))

    @property
    def seed(self) -> int:
        """A seed for every job, from the config's."""
        fold = 10_000 if self.fold is None else self.fold
        words = [self.config.seed, self.stage_index, fold, *self.key.encode()]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    @property
    def held_out(self) -> list[str]:
        """Names of the fold groups that no stage of this fold may train on: validation and test."""
        samples, names = self.store.samples, set(self.folds.test)
        if self.fold is not None:
            validation = self.folds.validation(samples, self.fold)
            names |= set(samples.loc[validation, self.folds.group].astype(str))
        return sorted(names)

    def validates_after(self, epoch: int) -> bool:
        """Return whether the stage validates after an epoch (0-based)."""
        return (epoch + 1) % self.stage.validate_every == 0 or epoch + 1 == self.stage.epochs


def without_labels(job: Job) -> np.ndarray:
    """Return (N,) bool, the samples that a stage without labels may take.

    Nothing of the groups that the job's fold holds out is among them, whatever its role.
    """
    samples = job.store.samples
    held_out = samples[job.folds.group].astype(str).isin(job.held_out).to_numpy()
    allowed = job.competition.pretraining(samples) & ~held_out
    parts = protocol_parts(job.config, job.competition, samples)
    return allowed if parts is None else allowed & (parts == "train")


def protocol_parts(
    config: Config, competition: Competition, samples: pd.DataFrame
) -> np.ndarray | None:
    """Return (n,) text, the part of the config's protocol that each sample belongs to.

    None where folds and the submission measure it.
    """
    protocol = None if config.protocol is None else competition.protocol(config.protocol)
    if protocol is None or not protocol.parts:
        return None
    if protocol.controls_are_classes and config.data.controls == "ignore":
        raise InputError(
            f"data.controls: the protocol {protocol.id!r} scores control wells; write train or all"
        )
    return competition.protocol_parts(protocol.id, samples).to_numpy(object).astype(str)


def kept_samples(config: Config, store: Store) -> np.ndarray:
    """Return the mask of the samples that may train or validate (`data.sites`, `data.exclude`)."""
    return predictable_samples(config, store) & ~left_out_samples(config, store)


def predictable_samples(config: Config, store: Store) -> np.ndarray:
    """Return the mask of the store's samples that the config reads (`data.sites`)."""
    if config.data.sites is None:
        return np.ones(len(store.samples), bool)
    return store.samples.site.isin(config.data.sites).to_numpy()


def left_out_samples(config: Config, store: Store) -> np.ndarray:
    """Return the mask of the samples that `data.exclude` lists."""
    if config.data.exclude is None:
        return np.zeros(len(store.samples), bool)
    return read_exclusions(config.data.exclude, store.samples)


def unit_codes(
    samples: pd.DataFrame, unit: Literal["none", "mixed", "cell_type", "experiment", "plate"]
) -> np.ndarray | None:
    """Return (n,) int code of each sample's cell type, experiment or plate; None without a unit.

    Plates are unique only within their experiment.
    """
    if unit in ("none", "mixed"):
        return None
    columns = ["experiment", "plate"] if unit == "plate" else [unit]
    return samples.groupby(columns, sort=True).ngroup().to_numpy()


def cell_type_vectors(job: Job) -> torch.Tensor | None:
    """Return (N, T) float32 one-hot cell types of all samples of the store.

    None where the model does not take them.
    """
    if not job.config.model.cell_type_vector:
        return None
    codes = pd.Index(job.cell_types).get_indexer(job.store.samples.cell_type)
    return functional.one_hot(torch.tensor(codes, dtype=torch.int64), len(job.cell_types)).float()
