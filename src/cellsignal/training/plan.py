"""Which jobs a config has: every fold, every stage, every cell type."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition
from cellsignal.config import Config
from cellsignal.data.folds import FoldTable, read_folds
from cellsignal.data.store import Store
from cellsignal.training.identity import refuse_other_run
from cellsignal.training.job import (
    Job,
    kept_samples,
    left_out_samples,
    protocol_parts,
    without_labels,
)

log = logging.getLogger(__name__)


def jobs_of(config: Config) -> list[Job]:
    """Return the jobs of a config, in the order they must run.

    Training and prediction both begin here, so neither goes on with what was trained under another
    config.

    Raises:
        InputError: run folder, store, folds and competition do not belong together.
    """
    competition = get_competition(config.competition)
    refuse_other_run(config.run_folder, config)
    store, folds = open_store_and_folds(config, competition)
    _report_left_out(config, store)
    return plan_jobs(config, competition, store, tuple(store.source["classes"]), folds)


def open_store_and_folds(config: Config, competition: Competition) -> tuple[Store, FoldTable]:
    """Open what a config trains on.

    Raises:
        InputError: store, folds and competition do not belong together, or are not there; names the
            command that makes them.
    """
    if isinstance(config.data.store, Path) and not config.data.store.exists():
        raise InputError(
            f"{config.data.store}: there is no store; run `cellsignal prepare CONFIG` with this "
            "config first"
        )
    store = Store.open(config.data.store)
    if store.source.get("competition") != competition.id:
        raise InputError(
            f"{config.data.store}: is a store of {store.source.get('competition')!r}, the config "
            f"is for {competition.id!r}"
        )
    crop, (height, width) = config.predict.center_crop, store.shape[1:]
    if crop is not None and crop > min(height, width):
        raise InputError(
            f"predict.center_crop: {crop} is more than the {width}x{height} pixels of "
            f"{config.data.store}"
        )
    if not config.folds.file.exists():
        raise InputError(
            f"{config.folds.file}: there is no fold table; make it with "
            f"`cellsignal folds {competition.id} --root {config.data.root} --out "
            f"{config.folds.file}`"
        )
    return store, read_folds(config.folds.file, store.samples)


def plan_jobs(
    config: Config,
    competition: Competition,
    store: Store,
    classes: tuple[str, ...],
    folds: FoldTable,
) -> list[Job]:
    """Plan all jobs of a config in the order they must run: by fold, stage and cell type.

    With a protocol that says which samples train (`Competition.protocol_parts`) no others do.

    Raises:
        InputError: a fold that the table does not have, a channel that the store does not have, an
            unknown protocol or one whose classes the config does not train, or a job without a
            training sample.
    """
    _check_folds_and_channels(config, store, folds)
    competition.task.check_config(config)
    samples, kept = store.samples, kept_samples(config, store)
    test = kept & ((samples.role == "treatment") & (samples.split == "test")).to_numpy()
    outputs = len(classes)
    if config.data.controls != "ignore":
        outputs = max(outputs, int(samples.label.max()) + 1)
    jobs = []
    for fold, train, valid, keys in _split(config, competition, store, folds):
        assert not (train & (valid | test)).any(), "a sample is in training and validation or test"
        for index, stage in enumerate(config.stages):
            for key in ["all"] if stage.per == "all" else keys:
                of_key = np.ones_like(train)
                if key != "all":
                    of_key = (samples.cell_type == key).to_numpy()
                positions = [np.flatnonzero(mask & of_key) for mask in (train, valid, test)]
                fixed = (config, competition, store, classes, folds)
                job = Job(*fixed, index, key, fold, *positions, outputs)
                if not len(job.train):
                    raise InputError(
                        f"{config.folds.file}: {job.title} has no training sample in "
                        f"{config.data.store}"
                    )
                jobs.append(job if stage.target == "label" else _of_compounds(job, kept & of_key))
    return jobs


def _report_left_out(config: Config, store: Store) -> None:
    """Log how many samples `data.exclude` leaves out, and of what."""
    if config.data.exclude is None:
        return
    samples = store.samples[left_out_samples(config, store)]
    is_test = (samples.split == "test") & (samples.role == "treatment")
    log.info(
        "%s: %d samples of %d wells neither train nor validate; %d of them are of the test set and "
        "are predicted all the same",
        config.data.exclude,
        len(samples),
        samples.well_id.nunique(),
        int(is_test.sum()),
    )


def _check_folds_and_channels(config: Config, store: Store, folds: FoldTable) -> None:
    unknown = [fold for fold in config.folds.use or () if fold not in folds.folds]
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


def _split(
    config: Config, competition: Competition, store: Store, folds: FoldTable
) -> Iterator[tuple[int | None, np.ndarray, np.ndarray, list[str]]]:
    """Yield each fold with its masks of training and validation, and its training cell types."""
    samples, kept = store.samples, kept_samples(config, store)
    parts = protocol_parts(config, competition, samples)
    wanted = folds.folds if config.folds.use is None else config.folds.use
    for fold in [*wanted, *([None] if config.folds.full else [])]:
        train = folds.training(samples, fold) & kept
        valid = np.zeros_like(train)
        if fold is not None:
            valid = folds.validation(samples, fold) & kept
        keys = sorted(samples.cell_type[train].unique())
        train |= _controls(config, samples, kept, train)
        if parts is not None:
            train &= parts == "train"
            valid &= parts == "train"
        yield fold, train, valid, keys


def _controls(
    config: Config, samples: pd.DataFrame, kept: np.ndarray, train: np.ndarray
) -> np.ndarray:
    """Return the mask of the control wells that train beside `train`, by `data.controls`.

    None, those of the experiments of `train`, or those of all: their labels are part of every
    plate's design, of a new experiment's as well; treatments' are not.

    Raises:
        InputError: the config wants some, and there are none.
    """
    if config.data.controls == "ignore":
        return np.zeros(len(samples), bool)
    experiments = samples.experiment[train].unique()
    controls = kept & ((samples.role != "treatment") & samples.label.notna()).to_numpy()
    if config.data.controls == "train":
        controls &= samples.experiment.isin(experiments).to_numpy()
    if not controls.any():
        raise InputError(
            f"data.controls: {config.data.controls}: {config.data.store} has no labelled control "
            "well to train on; write ignore"
        )
    without = sorted(set(experiments) - set(samples.experiment[controls]))
    if without:
        log.warning(
            "data.controls: %d of %d training experiments have none, first %s",
            len(without),
            len(experiments),
            without[0],
        )
    return controls


def _of_compounds(job: Job, kept: np.ndarray) -> Job:
    """Give the job one output per training compound, unlabelled ones too if configured.

    Args:
        kept: (N,) bool, the samples that the config uses, of the job's cell type.

    Raises:
        InputError: a training sample without a compound, or all of one.
    """
    samples, stage, store = job.store.samples, job.stage, job.config.data.store
    if stage.target == "any_compound":
        more = samples.label.isna() & samples["compound"].notna() & (samples.role == "reference")
        more = kept & without_labels(job) & more.to_numpy()
        if job.key == "all" and not more.any():
            raise InputError(
                f"stages.{stage.name}.target: any_compound: {store} has no image with a compound "
                "and without a label; write compound"
            )
        job = replace(job, train=np.union1d(job.train, np.flatnonzero(more)))
    train = samples.iloc[job.train]
    without = train.sample_id[train.compound.isna()]
    if len(without):
        raise InputError(
            f"stages.{stage.name}.target: {len(without)} training samples of {store} have no "
            f"compound, first {without.iloc[0]!r}"
        )
    if len(job.compounds) < 2:
        raise InputError(
            f"stages.{stage.name}.target: all training samples of {job.title} have the one "
            f"compound {job.compounds[0]!r}"
        )
    return replace(job, outputs=len(job.compounds))
