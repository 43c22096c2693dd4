"""What one training is: which samples, which stage, which fold, from which weights, into which
folder.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest
from cellsignal.competitions.base import Competition
from cellsignal.config import Config
from cellsignal.config.stage import Stage
from cellsignal.data.folds import FoldTable
from cellsignal.data.store import Store
from cellsignal.training.task import check_stages, score_name

log = logging.getLogger(__name__)
FULL = "full"  # the "fold" that trains on every labelled treatment


def fold_name(fold: int | None) -> str:
    """Folder name of a fold: fold0, fold1, ... or full."""
    return FULL if fold is None else f"fold{fold}"


@dataclass(frozen=True)
class Job:
    """One model to train: stage `stage` of `config` for cell types `key` ("all" or one) on fold
    `fold` (None: full).

    `train`, `valid` and `test` are positions in `store.samples`: what trains (with `data.controls`,
    control wells too), what validates, and the treatments of the test split, whose labels are not
    known. `outputs` is the number of classes that the model tells apart: the treatments' `classes`,
    then the controls'; or the training samples' `compounds`, where that is the stage's target.
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
        return f"{fold_name(self.fold)} {self.stage.name}" + (
            "" if self.key == "all" else f" {self.key}"
        )

    @property
    def folder(self) -> Path:
        return job_folder(self.config, self.stage_index, self.key, self.fold)

    @property
    def init(self) -> Path | None:
        """The checkpoint this job starts from: the stage before, same fold; of the same cell type
        if that stage has one for each.
        """
        if self.stage.init == "scratch":
            return None
        before = self.stage_index - 1
        key = self.key if self.config.stages[before].per == "cell_type" else "all"
        return job_folder(self.config, before, key, self.fold) / "last.pt"

    @property
    def multilabel(self) -> bool:
        """Whether several of the outputs, or none, may be true of a sample."""
        return self.competition.multilabel and self.stage.target == "label"

    @property
    def compounds(self) -> tuple[str, ...]:
        """The compounds of the training samples, sorted: what a stage with `target: compound` tells
        apart.
        """
        return tuple(sorted(self.store.samples.compound.iloc[self.train].unique()))

    @property
    def told_apart(self) -> str:
        """What the outputs stand for, in short: stages may hand each other their heads where it is
        the same.
        """
        return "label" if self.stage.target == "label" else f"compound {digest(self.compounds)}"

    @property
    def scored(self) -> np.ndarray:
        """Positions of the samples that validate the stage: none without labels, and where the
        outputs are compounds, of which the held-out ones are none.
        """
        with_labels = self.stage.target == "label" and self.stage.self_supervised is None
        return self.valid if with_labels else self.valid[:0]

    @property
    def channels(self) -> np.ndarray:
        """Indices of the store's channels that the model sees."""
        chosen = self.config.data.channels
        return np.arange(len(self.store.channels)) if chosen is None else np.array(chosen) - 1

    @property
    def cell_types(self) -> tuple[str, ...]:
        """The cell types of the whole store, in the order of the cell-type vector."""
        return tuple(sorted(self.store.samples.cell_type.unique()))

    @property
    def score_name(self) -> str:
        """What validation scores: accuracy or average_precision."""
        return score_name(self.competition)

    @property
    def seed(self) -> int:
        """A seed of its own for every job, from the config's."""
        words = [
            self.config.seed,
            self.stage_index,
            10_000 if self.fold is None else self.fold,
            *self.key.encode(),
        ]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    @property
    def held_out(self) -> list[str]:
        """Names of the fold groups that no stage of this fold may train on: those it validates
        with, and those kept for the test.
        """
        samples = self.store.samples
        mask = (
            self.folds.validation(samples, self.fold)
            if self.fold is not None
            else np.zeros(len(samples), bool)
        )
        return sorted({*samples.loc[mask, self.folds.group].astype(str), *self.folds.test})


def job_folder(config: Config, stage_index: int, key: str, fold: int | None) -> Path:
    """runs/<name>/seed<s>/fold<k>/<stage>/<key>"""
    return config.run_folder / fold_name(fold) / config.stages[stage_index].name / key


def plan_jobs(
    config: Config,
    competition: Competition,
    store: Store,
    classes: tuple[str, ...],
    folds: FoldTable,
) -> list[Job]:
    """All jobs of a config in the order they must run: fold by fold, stage by stage, cell type by
    cell type.

    With a protocol that says which samples train (`Competition.protocol_parts`) no others do.

    Raises:
        InputError: a fold that the table does not have, a channel that the store does not have, an
        unknown protocol or one whose
            classes the config does not train, or a job without a training sample.
    """
    wanted = folds.folds if config.folds.use is None else config.folds.use
    unknown = [fold for fold in wanted if fold not in folds.folds]
    if unknown:
        raise InputError(
            f"folds.use: {config.folds.file} has the folds {list(folds.folds)}, not {unknown[0]}"
        )
    beyond = [number for number in config.data.channels or () if number > len(store.channels)]
    if beyond:
        raise InputError(
            f"data.channels: {config.data.store} has {len(store.channels)} channels, no number "
            f"{beyond[0]}"
        )
    check_stages(config, competition)
    samples, kept = store.samples, kept_samples(config, store)
    treatment = (samples.role == "treatment").to_numpy()
    test = kept & treatment & (samples.split == "test").to_numpy()
    parts = protocol_parts(config, competition, samples)
    outputs = (
        len(classes)
        if config.data.controls == "ignore"
        else max(len(classes), int(samples.label.max()) + 1)
    )
    jobs = []
    for fold in [*wanted, *([None] if config.folds.full else [])]:
        train = folds.training(samples, fold) & kept
        valid = folds.validation(samples, fold) & kept if fold is not None else np.zeros_like(train)
        keys_of = sorted(samples.cell_type[train].unique())
        train |= _checked_controls(
            config, samples, kept & control_samples(config, samples, train), train
        )
        if parts is not None:
            train &= parts == "train"
            valid &= parts == "train"
        assert not (train & (valid | test)).any(), (
            "a sample is in training and in validation or test"
        )
        for index, stage in enumerate(config.stages):
            for key in ["all"] if stage.per == "all" else keys_of:
                mine = (
                    np.ones_like(train) if key == "all" else (samples.cell_type == key).to_numpy()
                )
                job = Job(
                    config,
                    competition,
                    store,
                    classes,
                    folds,
                    index,
                    key,
                    fold,
                    *(np.flatnonzero(mask & mine) for mask in (train, valid, test)),
                    outputs,
                )
                if not len(job.train):
                    raise InputError(
                        f"{config.folds.file}: {job.title} has no training sample in "
                        f"{config.data.store}"
                    )
                jobs.append(job if stage.target == "label" else _of_compounds(job, kept & mine))
    return jobs


def without_labels(job: Job) -> np.ndarray:
    """(N,) bool: the samples of the store that a stage without labels may take: nothing of the
    groups that the job's fold holds out, whatever its role.
    """
    samples = job.store.samples
    inside = (
        job.competition.pretraining(samples)
        & ~samples[job.folds.group].astype(str).isin(job.held_out).to_numpy()
    )
    parts = protocol_parts(job.config, job.competition, samples)
    return inside if parts is None else inside & (parts == "train")


def _of_compounds(job: Job, kept: np.ndarray) -> Job:
    """The job with an output for each training compound, those without a label among them where the
    stage asks for them.

    Args:
        kept: (N,) bool, the samples that the config uses, of the job's cell type.

    Raises:
        InputError: a training sample without a compound, or all of one.
    """
    if job.stage.unlabelled:
        samples = job.store.samples
        more = (
            kept
            & without_labels(job)
            & (samples.label.isna() & samples["compound"].notna()).to_numpy()
            & (samples.role == "reference").to_numpy()
        )
        if job.key == "all" and not more.any():
            raise InputError(
                f"stages.{job.stage.name}.unlabelled: {job.config.data.store} has no image with a "
                "compound and without a label; leave it out"
            )
        job = replace(job, train=np.union1d(job.train, np.flatnonzero(more)))
    samples, key = job.store.samples.iloc[job.train], f"stages.{job.stage.name}.target"
    without = samples.sample_id[samples.compound.isna()]
    if len(without):
        raise InputError(
            f"{key}: {len(without)} training samples of {job.config.data.store} have no compound, "
            f"first {without.iloc[0]!r}"
        )
    if len(job.compounds) < 2:
        raise InputError(
            f"{key}: all training samples of {job.title} have the one compound {job.compounds[0]!r}"
        )
    return replace(job, outputs=len(job.compounds))


def identity(job: Job) -> dict[str, Any]:
    """What a checkpoint must agree in with the job that goes on from it."""
    samples = job.store.samples.iloc[job.train]
    trained_on = sorted(samples.sample_id)
    known = [
        name
        for name in ("label", "labels", "compound")
        if name in samples.columns and not job.stage.self_supervised
    ]
    labels = sorted(samples[["sample_id", *known]].astype(str).itertuples(index=False, name=None))
    return {
        "competition": job.competition.id,
        "classes": list(job.classes),
        "outputs": job.outputs,
        "told_apart": job.told_apart,
        "stage": job.stage.name,
        "key": job.key,
        "fold": job.fold,
        "held_out": job.held_out,
        "training_samples": digest(trained_on),
        "training_labels": digest(labels),
    }


def told_apart(state: dict[str, Any]) -> str:
    """What the outputs of a checkpoint stand for (`Job.told_apart`); earlier ones do not say it,
    and were all of labels.
    """
    return state.get("told_apart", "label")


def check_belongs(
    job: Job, state: dict[str, Any], path: Path, *, same_samples: bool = True
) -> None:
    """Refuse a checkpoint of another training.

    Args:
        same_samples: It was trained on just the job's samples and their labels. Else it may have
        been on others of the
            same groups (an image that was mended since), which is warned of: what its fold holds
            out is the same.

    Raises:
        InputError: it differs in competition, classes or compounds, stage, cell type, fold or
        training samples.
    """
    wanted = identity(job)
    # earlier versions noted no labels
    state = state | {
        "told_apart": told_apart(state),
        "training_labels": state.get("training_labels", wanted["training_labels"]),
    }
    different = [name for name, value in wanted.items() if state.get(name) != value]
    if not same_samples and not len(job.train) and not len(job.valid):
        # a store of test samples alone, as a kernel packs it: nothing in it can be scored out of
        # fold
        different = [
            name
            for name in different
            if name not in ("held_out", "training_samples", "training_labels")
        ]
    elif not same_samples and {"training_samples", "training_labels"} & set(different):
        log.warning(
            "%s: was trained on other samples or labels than its fold has now; train anew to use "
            "them",
            path,
        )
        different = [
            name for name in different if name not in ("training_samples", "training_labels")
        ]
    for name in different[:1]:
        value = wanted[name]
        why = f"{name} differs"
        if name == "held_out":
            why += f": it held out {_some(state.get(name))}, {fold_name(job.fold)} of {job.config.folds.file} is {_some(value)}"
        raise InputError(f"{path}: belongs to another training ({why}); move it away to start anew")


def _some(names: Any, most: int = 6) -> str:
    """The first of a list of names, for a message."""
    names = list(names or [])
    return (
        ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
        or "nothing"
    )


def protocol_parts(
    config: Config, competition: Competition, samples: pd.DataFrame
) -> np.ndarray | None:
    """(n,) text, the part of the config's protocol that each sample belongs to; None where folds
    and the submission measure it.
    """
    if config.protocol is None:
        return None
    protocol = competition.protocol(config.protocol)
    if not protocol.parts:
        return None
    if protocol.controls_are_classes and config.data.controls == "ignore":
        raise InputError(
            f"data.controls: the protocol {protocol.id!r} scores control wells; write train or all"
        )
    return competition.protocol_parts(protocol.id, samples).to_numpy(dtype=str)


def control_samples(config: Config, samples: pd.DataFrame, train: np.ndarray) -> np.ndarray:
    """Mask of the control wells that train: none, those of the experiments that `train` is of, or
    those of all experiments.

    Their labels are part of every plate's design, of a new experiment's as well; treatments' are
    not.
    """
    if config.data.controls == "ignore":
        return np.zeros(len(samples), bool)
    controls = (samples.role != "treatment") & samples.label.notna()
    if config.data.controls == "train":
        controls &= samples.experiment.isin(set(samples.experiment[train]))
    return controls.to_numpy()


def _checked_controls(
    config: Config, samples: pd.DataFrame, controls: np.ndarray, train: np.ndarray
) -> np.ndarray:
    """The `controls` (N,) bool that train beside `train`.

    Raises:
        InputError: the config wants some, and there are none.
    """
    if config.data.controls == "ignore":
        return controls
    if not controls.any():
        raise InputError(
            f"data.controls: {config.data.controls}: {config.data.store} has no labelled control "
            "well to train on; write ignore"
        )
    experiments = samples.experiment[train].unique()
    without = sorted(set(experiments) - set(samples.experiment[controls]))
    if without:
        log.warning(
            "data.controls: %d of %d training experiments have none, first %s",
            len(without),
            len(experiments),
            without[0],
        )
    return controls


def kept_samples(config: Config, store: Store) -> np.ndarray:
    """Mask of the store's samples that the config uses (`data.sites`)."""
    samples = store.samples
    return (
        np.ones(len(samples), bool)
        if config.data.sites is None
        else samples.site.isin(config.data.sites).to_numpy()
    )


def unit_codes(
    samples: pd.DataFrame, unit: Literal["none", "mixed", "cell_type", "experiment", "plate"]
) -> np.ndarray | None:
    """(n,) int code of the cell type, experiment or plate (unique only within its experiment) of
    each sample; None without a unit.
    """
    if unit in ("none", "mixed"):
        return None
    columns = ["experiment", "plate"] if unit == "plate" else [unit]
    return samples.groupby(columns, sort=True).ngroup().to_numpy()


def cell_type_vectors(job: Job) -> torch.Tensor | None:
    """(N, T) float32 one-hot cell types of all samples of the store, or None where the model does
    not take them.
    """
    if not job.config.model.cell_type_vector:
        return None
    codes = pd.Index(job.cell_types).get_indexer(job.store.samples.cell_type)
    return functional.one_hot(torch.tensor(codes, dtype=torch.int64), len(job.cell_types)).float()
