"""The models of a run that name new images, as jobs on a store of these."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.config import Config
from cellsignal.data.store import Store
from cellsignal.training.job import FULL, Job
from cellsignal.training.plan import jobs_of

OWN = "own"  # the layout of the run's competition


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        images: the folder.
        out: the CSV.
        pattern, layout, channels, controls, cell_type, fold, stage: options; None or empty where
            they are not given.
        by: "well" averages the sites of a well, "site" does not.
    """

    images: Path
    out: Path
    pattern: str | None = None
    layout: str | None = None
    channels: tuple[str, ...] | None = None
    controls: tuple[str, ...] = ()
    cell_type: str | None = None
    fold: str | None = None
    stage: str | None = None
    by: str = "well"


@dataclass(frozen=True)
class NewJob(Job):
    """A job whose store holds new images: channels and cell types are those of the training."""

    trained_on: Job | None = None

    @property
    def channels(self) -> np.ndarray:
        trained = self.trained_on
        names = [trained.store.channels[index] for index in trained.channels]
        return np.array([self.store.channels.index(name) for name in names])

    @property
    def cell_types(self) -> tuple[str, ...]:
        return self.trained_on.cell_types


def new_jobs(config: Config, request: Request) -> list[Job]:
    """Return the jobs of a run that predict: all folds of a stage, one cell type's if it has one.

    Raises:
        InputError: there is no such stage or fold, or the cell type is not told.
    """
    names = [stage.name for stage in config.stages]
    if request.stage is not None and request.stage not in names:
        raise InputError(f"--stage {request.stage}: {config.name} has {', '.join(names)}")
    jobs = [job for job in jobs_of(config) if job.stage.name == (request.stage or names[-1])]
    stage = jobs[0].stage
    if stage.target != "label" or stage.self_supervised is not None:
        raise InputError(f"--stage {stage.name}: predicts no class; name one with labels")
    known = jobs[0].cell_types
    cell_type = request.cell_type
    if cell_type is not None and cell_type not in known:
        raise InputError(f"--cell-type {cell_type}: the run knows {', '.join(known)}")
    if stage.per == "cell_type" or config.model.cell_type_vector:
        if cell_type is None and len(known) > 1:
            raise InputError(
                f"--cell-type: stage {stage.name!r} tells {', '.join(known)} apart; name one"
            )
        jobs = [job for job in jobs if job.key in ("all", cell_type or known[0])]
        if not jobs:
            raise InputError(f"--cell-type {cell_type}: stage {stage.name!r} has no model of it")
    folds = {FULL if job.fold is None else str(job.fold): job for job in jobs}
    if request.fold is None:
        return jobs
    if request.fold not in folds:
        raise InputError(f"--fold {request.fold}: {config.name} has the folds {', '.join(folds)}")
    return [folds[request.fold]]


def with_store(job: Job, store: Store) -> NewJob:
    """Return the job on new images, with all their sites and its own channels."""
    fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(Job)}
    some = tuple(range(1, len(store.channels) + 1))  # `NewJob.channels` says which
    data = job.config.data.model_copy(update={"sites": None, "channels": some})
    fields |= {"store": store, "config": job.config.model_copy(update={"data": data})}
    return NewJob(**fields, trained_on=job)


def training_statistics(
    job: Job, store: Store, state: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the training pixels' mean and SD for the store's channels; (0, 1) of unused ones."""
    names = job.store.channels
    mean, sd = (dict(zip(names, values, strict=True)) for values in state["overall"])
    return (
        np.array([mean.get(name, 0) for name in store.channels], np.float32),
        np.array([sd.get(name, 1) for name in store.channels], np.float32),
    )
