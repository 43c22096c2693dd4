"""Choose the model of a run that is exported, and images of its store to check it with."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cellsignal.common.errors import InputError
from cellsignal.config import Config
from cellsignal.export.graph import ExportedModel, Inputs
from cellsignal.prediction.predict import checkpoint_path, trained_model
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.inference import Pixels, pixel_statistics, plan_reading, predict_with
from cellsignal.training.job import FULL, Job, cell_type_vectors, fold_name, protocol_parts
from cellsignal.training.plan import jobs_of

CHECKED_IMAGES = 8


@dataclass(frozen=True)
class Chosen:
    """A model to be exported.

    Attributes:
        checkpoint: the file that it is read from.
        model: the module, on the CPU.
        classes: name of each output.
        pixels: shift and scale of every sample of the store.
        positions: of the images in the store's samples that the written file is checked with.
        inputs: these images.
        expected: (n, K) logits that the run itself gives for them, one view, in float32.
    """

    job: Job
    checkpoint: Path
    model: ExportedModel
    classes: tuple[str, ...]
    pixels: Pixels
    positions: np.ndarray
    inputs: Inputs
    expected: np.ndarray


def choose_job(config: Config, fold: str | None, stage: str | None, key: str | None) -> Job:
    """Return the job of a run that is exported.

    Args:
        fold: a number, or "full"; None takes the model of all folds if there is one, else the
            first fold's.
        stage: its name; None takes the last one.
        key: the cell type, where the stage has a model for each.

    Raises:
        InputError: there is no such fold, stage or key, or several keys and none is given.
    """
    names = [each.name for each in config.stages]
    if stage is not None and stage not in names:
        raise InputError(f"--stage {stage}: {config.name} has the stages {', '.join(names)}")
    jobs = [job for job in jobs_of(config) if job.stage.name == (stage or names[-1])]
    folds = list(dict.fromkeys(job.fold for job in jobs))
    shown = [FULL if each is None else str(each) for each in folds]
    if fold is not None and fold not in shown:
        raise InputError(f"--fold {fold}: {config.name} has the folds {', '.join(shown)}")
    wanted = shown.index(fold) if fold is not None else shown.index(FULL) if FULL in shown else 0
    jobs = [job for job in jobs if job.fold == folds[wanted]]
    keys = [job.key for job in jobs]
    if key is None and len(keys) == 1:
        key = keys[0]
    if key not in keys:
        stage = f"stage {jobs[0].stage.name!r} has a model for each of {', '.join(keys)}"
        raise InputError(f"--key: {stage}; {'name one' if key is None else f'not of {key!r}'}")
    job = jobs[keys.index(key)]
    if job.stage.self_supervised is not None:
        raise InputError(f"--stage {job.stage.name}: is self-supervised and has no classes")
    return job


def class_names(job: Job) -> tuple[str, ...]:
    """Return the names of a job's outputs that are predicted; those of controls may follow."""
    if job.stage.target == "compound":
        return job.compounds
    if protocol_parts(job.config, job.competition, job.store.samples) is None:
        return job.classes
    controls = (f"control_{label}" for label in range(len(job.classes), job.outputs))
    return (*job.classes, *controls)


def open_chosen(job: Job) -> Chosen:
    """Load a job's model, and predict some images of the store with it.

    Raises:
        InputError: no finished checkpoint, or predictions that depend on other images of a unit.
    """
    adapt = job.config.predict.adapt
    if adapt != "none":
        more = "" if job.config.predict.adapt_wells == "all" else " --set predict.adapt_wells=all"
        raise InputError(
            f"predict.adapt: {adapt} takes BatchNorm statistics of whole {adapt}s, which a model "
            f"of single images cannot; --set predict.adapt=none{more} exports it with those of "
            "training"
        )
    checkpoint = checkpoint_path(job.config, job)
    state = load_checkpoint(checkpoint)
    network = trained_model(job, state).cpu().requires_grad_(False)
    network = network.to(memory_format=torch.contiguous_format)
    overall = tuple(np.asarray(values, np.float32) for values in state["overall"])
    job = _in_float32(job)
    pixels = pixel_statistics(job.config, job.store, overall=overall)
    classes = class_names(job)
    model = ExportedModel(
        network,
        job.config.normalization,
        tuple(values[job.channels] for values in overall),
        len(classes),
        frames=_frames(job),
        center_crop=job.config.predict.center_crop,
        several=job.task.loss_family == "binary_cross_entropy",
    ).eval()
    positions = _positions(job)
    reading = plan_reading(job, pixels, positions)
    expected = predict_with(job, network, reading)["identity"][:, : len(classes)]
    inputs = read_inputs(job, model, pixels, positions)
    return Chosen(job, checkpoint, model, classes, pixels, positions, inputs, expected)


def _in_float32(job: Job) -> Job:
    """Return the job without mixed precision."""
    stages = tuple(stage.model_copy(update={"amp": "off"}) for stage in job.config.stages)
    return dataclasses.replace(job, config=job.config.model_copy(update={"stages": stages}))


def _frames(job: Job) -> int:
    """Return how many planes of a clip share their channel's statistics."""
    frames, channels = job.competition.frames, job.channels
    stains = channels[::frames] // frames
    whole = (stains[:, None] * frames + np.arange(frames)).ravel()
    if job.config.normalization.by == "image" and not np.array_equal(whole, channels):
        raise InputError(
            "data.channels: names some frames of a channel; with normalization.by: image that "
            "cannot be exported"
        )
    return frames


def _positions(job: Job) -> np.ndarray:
    """Return positions of images that the model has not trained on, if there are any."""
    for candidates in (job.valid, job.test, job.train):
        if len(candidates):
            steps = np.linspace(0, len(candidates) - 1, min(CHECKED_IMAGES, len(candidates)))
            return candidates[steps.astype(int)]
    raise InputError(f"{job.config.data.store}: has no image to check an exported model with")


def read_inputs(job: Job, model: ExportedModel, pixels: Pixels, positions: np.ndarray) -> Inputs:
    """Return images of the store with all else that the exported model takes."""
    rows = job.store.samples.row.to_numpy()[positions]
    images = np.stack([job.store.read(int(row))[job.channels] for row in rows])
    statistics = {}
    if model.takes_statistics:
        statistics = {
            "shift": np.ascontiguousarray(pixels.shift[positions][:, job.channels]),
            "scale": np.ascontiguousarray(pixels.scale[positions][:, job.channels]),
        }
    vectors = cell_type_vectors(job)
    cell_type = None if vectors is None else vectors[positions].numpy()
    return Inputs(images, cell_type=cell_type, **statistics)


def model_name(job: Job) -> str:
    """Return such as "tiny/seed0, fold0, stage all, key HUVEC"."""
    name = f"{job.config.name}/seed{job.config.seed}, {fold_name(job.fold)}, stage {job.stage.name}"
    return name if job.key == "all" else f"{name}, {job.key}"
