"""Logits of every site and view: out-of-fold wells by the models that did not train on them, test
wells by all.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.common.files import provenance
from cellsignal.common.stopping import Stop
from cellsignal.config import Config
from cellsignal.config.schema import Model
from cellsignal.data.views import tta_views
from cellsignal.models.backbones import build_model
from cellsignal.prediction.container import (
    load_predictions,
    read_about,
    refuse_non_finite,
    save_predictions,
    write_about,
)
from cellsignal.prediction.freshness import MADE_FROM, is_current, made_from
from cellsignal.prediction.pieces import forget, in_pieces, pieces_of
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.identity import check_belongs, check_config
from cellsignal.training.inference import pixel_statistics, plan_reading, predict_with
from cellsignal.training.job import Job, fold_name, kept_samples, protocol_parts
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import this_process

log = logging.getLogger(__name__)
VERSION = 1  # of what predicts: one more whenever the same inputs give other bytes


def predict(config: Config) -> list[Path]:
    """Predict with every finished stage and fold of a run; one file each, `<run
    folder>/predictions/<fold>_<stage>.npz`.

    A stage with one model for each cell type gives one file too: each sample is predicted by its
    cell type's model. A stage with `target: compound` or `self_supervised` has no classes to
    predict and is left out. A file is left as it is where all that decides its bytes is unchanged
    (`freshness.made_from`: store, checkpoints, settings); the log says what has changed. An
    interrupted one goes on with the plates that are missing.

    Raises:
        InputError: a checkpoint is missing, unfinished, damaged, or of another competition or
        config; no stage has classes. Interrupted: stopped by a signal, or by the time budget
        (`OutOfTime`); finished pieces and files are kept.
    """
    groups: dict[tuple[int | None, int], list[Job]] = {}
    for job in jobs_of(config):
        if job.stage.target == "label" and job.stage.self_supervised is None:
            groups.setdefault((job.fold, job.stage_index), []).append(job)
    if not groups:
        raise InputError(
            "stages: all have target: compound or self_supervised, which predicts no class; add a "
            "stage with labels, or use `cellsignal profiles embed`"
        )
    with Stop() as stop:
        paths = [predict_stage(config, jobs, stop) for jobs in groups.values()]
        stop.finish(config.name)
    return paths


def predictions_path(config: Config, fold: int | None, stage_index: int) -> Path:
    return (
        config.run_folder
        / "predictions"
        / f"{fold_name(fold)}_{config.stages[stage_index].name}.npz"
    )


def predict_stage(config: Config, jobs: list[Job], stop: Stop) -> Path:
    first = jobs[0]
    path = predictions_path(config, first.fold, first.stage_index)
    checkpoints = {job.key: checkpoint_path(config, job) for job in jobs}
    samples = first.store.samples
    chosen, part, classes = _what_to_predict(config, jobs)
    sample_ids = samples.sample_id.to_numpy()[chosen]
    inputs = made_from(
        config, first.stage_index, first.store, checkpoints, sample_ids, part, VERSION
    )
    if is_current(path, load_predictions, inputs):
        _keep_submit_section(path, config)
        log.info("%s: is up to date", path)
        return path
    views, ranks = tta_views(config.predict.tta), this_process()
    keys = model_keys(jobs, samples, chosen)
    orphans = sorted(samples.cell_type.to_numpy()[chosen[keys == ""]].astype(str))
    if orphans:
        raise InputError(
            f"{path}: no model of stage {first.stage.name!r} for cell type {orphans[0]!r}, which "
            "training has not"
        )
    predictor = Predictors(jobs, checkpoints)

    def compute(places: np.ndarray) -> dict[str, np.ndarray]:
        key = keys[places[0]]
        logits = predictor.of(key)(chosen[places], views)
        for view, values in logits.items():
            refuse_non_finite(values, sample_ids[places], f"{checkpoints[key]}: view {view!r}")
        return {view: values[:, : len(classes)] for view, values in logits.items()}

    places = pieces_of(samples, chosen, config.predict.adapt, keys)
    logits = in_pieces(path, inputs, places, compute, ranks, stop)
    about = provenance(
        checkpoints,
        competition=first.competition.id,
        classes=list(classes),
        multilabel=first.competition.multilabel,
        protocol=config.protocol,
        run=f"{config.name}/seed{config.seed}",
        stage=first.stage.name,
        stage_index=first.stage_index,
        fold=first.fold,
        fold_group=first.folds.group,
        seed=config.seed,
        settings=config.predict.model_dump(mode="json"),
        submit=config.submit.model_dump(mode="json"),
        data_root=str(config.data.root),
        **{MADE_FROM: inputs},
    )
    if not ranks.first:
        return path
    save_predictions(path, samples.iloc[chosen], part, logits, about)
    forget(path)
    numbers = [
        f"{number} {name}"
        for name, number in zip(*np.unique(part, return_counts=True), strict=True)
    ]
    log.info("%s: samples %s; %d views", path, ", ".join(numbers), len(views))
    return path


def _what_to_predict(
    config: Config, jobs: list[Job]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Positions in the store's samples, the part each is of, and the classes that are told apart.

    Held-out treatments are "oof", those of the test split "test"; a protocol with parts of its own
    names its own, controls and their classes with them.
    """
    first = jobs[0]
    store, samples = first.store, first.store.samples
    parts = protocol_parts(config, first.competition, samples)
    if parts is not None:
        chosen = np.flatnonzero(~np.isin(parts, ("", "train")))
        controls = (f"control_{label}" for label in range(len(first.classes), first.outputs))
        return chosen, parts[chosen], (*first.classes, *controls)
    kept = kept_samples(config, store) & (samples.role == "treatment").to_numpy()
    held_out = np.concatenate([job.valid for job in jobs])
    test = np.flatnonzero((samples.split == "test").to_numpy() & kept)
    part = np.repeat(["oof", "test"], [len(held_out), len(test)])
    return np.concatenate([held_out, test]), part, first.classes


def _keep_submit_section(path: Path, config: Config) -> None:
    """Note the config's `submit` section, which decides no byte of the predictions, in a file that
    is up to date.
    """
    about, section = read_about(path), config.submit.model_dump(mode="json")
    if about.get("submit") != section and this_process().first:
        write_about(path, about | {"submit": section})
        log.info("%s: notes the config's submit section anew", path)


def checkpoint_path(config: Config, job: Job) -> Path:
    name = config.predict.checkpoint if len(job.scored) else "last"
    path = job.folder / f"{name}.pt"
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train first")
    return path


def model_keys(jobs: list[Job], samples: pd.DataFrame, chosen: np.ndarray) -> np.ndarray:
    """(n,) text: the job that predicts each of the `chosen` positions, "all" or a cell type's; ""
    where there is none.
    """
    cell_types = samples.cell_type.to_numpy()[chosen].astype(str)
    keys = np.full(len(chosen), "", object)
    for job in jobs:
        keys[(cell_types == job.key) | (job.key == "all")] = job.key
    return keys


Predictor = Callable[..., dict[str, np.ndarray]]


def predictor_of(job: Job, state: dict[str, Any]) -> Predictor:
    """What predicts with one checkpoint: (chosen, views, embeddings=False) -> view -> (n, K)
    float32 logits, K = job.outputs, or (n, D).

    Args:
        state: a loaded checkpoint; its own model config, image size and overall pixel statistics
        are used.
    """
    model = trained_model(job, state)
    overall = tuple(np.asarray(values, np.float32) for values in state["overall"])
    pixels = pixel_statistics(job.config, job.store, overall=overall)

    def predict_samples(
        chosen: np.ndarray, views: Sequence[str], embeddings: bool = False
    ) -> dict[str, np.ndarray]:
        return predict_with(
            job, model, plan_reading(job, pixels, chosen), views, embeddings=embeddings
        )

    return predict_samples


class Predictors:
    """The predictors of a stage's models, each loaded when it is first asked for; one is kept at a
    time.
    """

    def __init__(self, jobs: list[Job], checkpoints: dict[str, Path]):
        self.jobs, self.checkpoints = {job.key: job for job in jobs}, checkpoints
        self.key: str | None = None
        self.predictor: Predictor | None = None

    def of(self, key: str) -> Predictor:
        if key != self.key:
            self.predictor = None  # its memory first
            self.key, self.predictor = (
                key,
                predictor_of(self.jobs[key], load_checkpoint(self.checkpoints[key])),
            )
        return self.predictor


def trained_model(job: Job, state: dict[str, Any]) -> nn.Module:
    """The model of a loaded checkpoint (the averaged one where there is one), on the device that is
    there.

    Raises:
        InputError: of another competition, config, stage or fold, or training is not finished.
    """
    check_config(state, job.config, job.folder)
    check_belongs(job, state, checkpoint_path(job.config, job), same_samples=False)
    if not state["progress"]["finished"] and job.config.predict.checkpoint == "last":
        raise InputError(
            f"{job.folder}/last.pt: training is not finished; run the training command again"
        )
    recipe = Model(**state["config"]["model"])
    model = build_model(
        recipe,
        len(job.channels),
        job.outputs,
        state["image_size"],
        len(job.cell_types),
        initial_weights=False,
    )
    model.load_state_dict(state["averaged"] or state["model"])
    return model.eval().to(this_process().device, memory_format=torch.channels_last)
