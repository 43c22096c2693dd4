"""Predict logits of every site and view.

Out-of-fold wells are predicted by the models that did not train on them, test wells by all.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.common.files import provenance
from cellsignal.common.progress import SHORT
from cellsignal.common.stopping import Stop, duration
from cellsignal.config import Config
from cellsignal.config.schema import Model
from cellsignal.data.views import tta_views
from cellsignal.models.backbones import build_model, see_channels
from cellsignal.prediction.container import (
    load_predictions,
    read_about,
    refuse_non_finite,
    save_predictions,
    write_about,
)
from cellsignal.prediction.freshness import MADE_FROM, is_current, made_from
from cellsignal.prediction.pieces import in_pieces, pieces_of, remove_pieces
from cellsignal.training.adaptation import warn_of_units
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.control_offsets import plan_offsets, unit_offsets
from cellsignal.training.identity import check_belongs, check_config
from cellsignal.training.inference import Pixels, pixel_statistics, plan_reading, predict_with
from cellsignal.training.job import Job, fold_name, predictable_samples, protocol_parts
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import this_process

log = logging.getLogger(__name__)
VERSION = 1  # of what predicts: one more whenever the same inputs give other bytes

# (chosen, views, embeddings=False) -> view -> (n, K) float32 logits, K = job.outputs, or (n, D)
Predictor = Callable[..., dict[str, np.ndarray]]


def predict(config: Config) -> list[Path]:
    """Predict with every finished stage and fold of a run, one file each.

    Writes `<run folder>/predictions/<fold>_<stage>.npz`. A stage with one model for each cell type
    gives one file too: each sample is predicted by its cell type's model. A stage with `target:
    compound` or `self_supervised` has no classes to predict and is left out. A file is left as it
    is where all that decides its bytes is unchanged (`freshness.made_from`: store, checkpoints,
    settings); the log says what has changed. An interrupted one resumes with the missing plates.

    Raises:
        InputError: a checkpoint is missing, unfinished, damaged, or of another competition or
            config; no stage has classes.
        Interrupted: stopped by a signal, or by the time budget (`OutOfTime`); finished pieces and
            files are kept.
    """
    groups: dict[tuple[int | None, int], list[Job]] = {}
    for job in jobs_of(config):
        if job.stage.target == "label" and job.stage.self_supervised is None:
            groups.setdefault((job.fold, job.stage_index), []).append(job)
    if not groups:
        raise InputError(
            "stages: all have target: compound or self_supervised, which predicts no class; add a "
            "stage with labels, or use `cellsignal embed`"
        )
    paths, started = [], time.monotonic()
    with Stop() as stop:
        for jobs in groups.values():
            if len(paths):
                left = (time.monotonic() - started) / len(paths) * (len(groups) - len(paths))
                _log_time_left(len(paths), len(groups), left)
            paths.append(predict_stage(config, jobs, stop))
        stop.raise_if_signalled(config.name)
    return paths


def _log_time_left(done: int, files: int, seconds: float) -> None:
    if seconds >= SHORT:
        log.info("predicted %d of %d files, %s left", done, files, duration(seconds))


def predictions_path(config: Config, fold: int | None, stage_index: int) -> Path:
    """Return the predictions file of a fold and stage."""
    name = f"{fold_name(fold)}_{config.stages[stage_index].name}.npz"
    return config.run_folder / "predictions" / name


def predict_stage(config: Config, jobs: list[Job], stop: Stop) -> Path:
    """Predict with the models of one fold and stage; return the file."""
    first = jobs[0]
    path = predictions_path(config, first.fold, first.stage_index)
    checkpoints = {job.key: checkpoint_path(config, job) for job in jobs}
    samples = first.store.samples
    chosen, part, classes = _choose_samples(config, jobs)
    sample_ids = samples.sample_id.to_numpy()[chosen]
    stage = (config, first.stage_index, first.store)
    inputs = made_from(*stage, checkpoints, sample_ids, part, VERSION)
    if is_current(path, load_predictions, inputs):
        _keep_submit_section(path, config)
        log.info("%s: is up to date", path)
        return path
    views, ranks = tta_views(config.predict.tta), this_process()
    keys = model_keys(jobs, samples, chosen, str(path))
    predictors = Predictors(jobs, checkpoints)

    def compute(places: np.ndarray) -> dict[str, np.ndarray]:
        key = keys[places[0]]
        logits = predictors.of(key)(chosen[places], views)
        for view, values in logits.items():
            refuse_non_finite(values, sample_ids[places], f"{checkpoints[key]}: view {view!r}")
        return {view: values[:, : len(classes)] for view, values in logits.items()}

    if ranks.first:
        warn_of_units(first, chosen)
    places = pieces_of(samples, chosen, config.predict.adapt, keys)
    logits = in_pieces(path, inputs, places, compute, ranks, stop)
    if not ranks.first:
        return path
    about = provenance(
        checkpoints,
        classes=list(classes),
        protocol=config.protocol,
        submit=config.submit.model_dump(mode="json"),
        **stage_facts(config, first, inputs),
    )
    labels = first.competition.task.known_labels(samples.iloc[chosen], len(classes))
    save_predictions(path, samples.iloc[chosen], part, logits, about, labels)
    remove_pieces(path)
    counts = zip(*np.unique(part, return_counts=True), strict=True)
    text = ", ".join(f"{count} {name}" for name, count in counts)
    log.info("%s: samples %s; %d views", path, text, len(views))
    return path


def stage_facts(config: Config, job: Job, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the facts that a predictions or embeddings file stores: stage, fold, settings."""
    return {
        "competition": job.competition.id,
        "run": f"{config.name}/seed{config.seed}",
        "stage": job.stage.name,
        "stage_index": job.stage_index,
        "fold": job.fold,
        "fold_group": job.folds.group,
        "seed": config.seed,
        "settings": config.predict.model_dump(mode="json"),
        "data_root": str(config.data.root),
        MADE_FROM: inputs,
    }


def _choose_samples(
    config: Config, jobs: list[Job]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Positions in the store's samples, the part each is of, and the classes that are predicted.

    Held-out treatments are "oof", those of the test split "test"; a protocol with parts of its own
    names its own, controls and their classes with them.
    """
    first = jobs[0]
    samples = first.store.samples
    parts = protocol_parts(config, first.competition, samples)
    if parts is not None:
        chosen = np.flatnonzero(~np.isin(parts, ("", "train")))
        controls = (f"control_{label}" for label in range(len(first.classes), first.outputs))
        return chosen, parts[chosen], (*first.classes, *controls)
    kept = predictable_samples(config, first.store) & (samples.role == "treatment").to_numpy()
    held_out = np.concatenate([job.valid for job in jobs])
    test = np.flatnonzero((samples.split == "test").to_numpy() & kept)
    part = np.repeat(["oof", "test"], [len(held_out), len(test)])
    return np.concatenate([held_out, test]), part, first.classes


def _keep_submit_section(path: Path, config: Config) -> None:
    """Write the config's `submit` section, which decides no byte of the predictions, into them."""
    about, section = read_about(path), config.submit.model_dump(mode="json")
    if about.get("submit") != section and this_process().first:
        write_about(path, about | {"submit": section})
        log.info("%s: notes the config's submit section anew", path)


def checkpoint_path(config: Config, job: Job) -> Path:
    """Return the checkpoint that a job is predicted with.

    Raises:
        InputError: it does not exist.
    """
    name = config.predict.checkpoint if len(job.scored) else "last"
    path = job.folder / f"{name}.pt"
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train first")
    return path


def model_keys(jobs: list[Job], samples: pd.DataFrame, chosen: np.ndarray, what: str) -> np.ndarray:
    """Return the key of the job that predicts each chosen position: "all" or a cell type's.

    Args:
        what: is predicted, for the error.

    Raises:
        InputError: a cell type has no model.
    """
    cell_types = samples.cell_type.to_numpy()[chosen].astype(str)
    keys = np.full(len(chosen), "", object)
    for job in jobs:
        keys[(cell_types == job.key) | (job.key == "all")] = job.key
    without = sorted(cell_types[keys == ""])
    if without:
        raise InputError(
            f"{what}: no model of stage {jobs[0].stage.name!r} for cell type {without[0]!r}, which "
            "training does not have"
        )
    return keys


def checkpoint_pixels(job: Job, state: dict[str, Any]) -> Pixels:
    """Return how a checkpoint's network standardises the samples of a job's store."""
    overall = tuple(np.asarray(values, np.float32) for values in state["overall"])
    return pixel_statistics(job.config, job.store, overall=overall)


def predictor_of(job: Job, state: dict[str, Any]) -> Predictor:
    """Make the function that predicts with one checkpoint.

    Args:
        state: a loaded checkpoint; its own model config, image size and overall pixel statistics
            are used.
    """
    model = trained_model(job, state)
    pixels = checkpoint_pixels(job, state)
    offsets = unit_offsets(job, model, plan_offsets(job, pixels))

    def predict_samples(
        chosen: np.ndarray, views: Sequence[str], embeddings: bool = False
    ) -> dict[str, np.ndarray]:
        reading = plan_reading(job, pixels, chosen)
        return predict_with(job, model, reading, views, embeddings=embeddings, offsets=offsets)

    return predict_samples


class Predictors:
    """The predictors of a stage's models, each loaded when needed; one is kept at a time."""

    def __init__(self, jobs: list[Job], checkpoints: dict[str, Path]):
        self.jobs, self.checkpoints = {job.key: job for job in jobs}, checkpoints
        self.key: str | None = None
        self.predictor: Predictor | None = None

    def of(self, key: str) -> Predictor:
        """Return the predictor of the model with this key."""
        if key != self.key:
            self.predictor = None  # frees its memory before the next is loaded
            self.predictor = predictor_of(self.jobs[key], load_checkpoint(self.checkpoints[key]))
            self.key = key
        return self.predictor


def trained_model(job: Job, state: dict[str, Any]) -> nn.Module:
    """Return the model of a loaded checkpoint, the averaged one if any, on this process's device.

    Raises:
        InputError: of another competition, config, stage or fold, or training is not finished.
    """
    check_config(state, job.config, job.folder)
    check_belongs(job, state, checkpoint_path(job.config, job), same_samples=False)
    if not state["progress"]["finished"] and job.config.predict.checkpoint == "last":
        raise InputError(
            f"{job.folder}/last.pt: training is not finished; run the training command again"
        )
    model = network_of(job, state)
    see_channels(model, job.config.predict.channels)
    return model


def network_of(job: Job, state: dict[str, Any]) -> nn.Module:
    """Return the network of a checkpoint that is known to be the job's; it sees all channels."""
    recipe = Model(**state["config"]["model"])
    shape = (len(job.channels), job.outputs, state["image_size"], len(job.cell_types))
    model = build_model(recipe, *shape, initial_weights=False, names=job.channel_names)
    model.load_state_dict(state["averaged"] or state["model"])
    return model.eval().to(this_process().device, memory_format=torch.channels_last)
