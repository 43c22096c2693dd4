"""Check trainings and predictions of whole tiny runs: averages, AdaBN, pseudo-labels, export."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from cellsignal.common.tables import read_table
from cellsignal.config.schema import Config
from cellsignal.export.chosen import choose_job, open_chosen
from cellsignal.export.write import TOLERANCE, export_model
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.predict import checkpoint_path, predict, trained_model
from cellsignal.studies.gpu_check.room import Figures, Room, require
from cellsignal.studies.gpu_check.steps import exact_float32
from cellsignal.studies.gpu_check.tiny import tiny_config, tiny_stage
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.inference import pixel_statistics, plan_reading, predict_with
from cellsignal.training.job import Job
from cellsignal.training.pseudo_labels import csv_path
from cellsignal.training.run import train

# of logits, in units of the largest: one precision, other kernels
_OTHER_DEVICE = 1e-3


def averages(room: Room) -> Figures:
    """Train a stage with EMA and one with SWA, both with recomputed BatchNorm; predict."""
    config = _averaged(room)
    jobs, figures = train(config), {}
    for job in jobs:
        state = load_checkpoint(job.folder / "last.pt")
        require(state["averaged"] is not None, f"stage {job.stage.name}: no averaged model")
        require(_finite(state["averaged"]), f"stage {job.stage.name}: averaged weights")
        moved = sum(
            float((value - state["model"][name]).abs().sum())
            for name, value in state["averaged"].items()
            if value.is_floating_point()
        )
        require(moved > 0, f"stage {job.stage.name}: the average is the last model")
        figures[job.stage.name] = _last_row(job)
    for path in predict(config):
        predictions = load_predictions(path)
        for view in predictions.views:
            is_finite = bool(np.isfinite(predictions.logits(view)).all())
            require(is_finite, f"{path.name}: {view} is not finite")
    off = max(_cpu_and_device_apart(room, job) for job in jobs)
    require(off < _OTHER_DEVICE, f"logits on the CPU differ by {off:.2g} of the largest")
    return figures | {"cpu_off": off}


def adabn(room: Room) -> Figures:
    """Predict with each plate's own statistics, on the device and on the CPU."""
    job = train(_averaged(room))[-1]
    plain = _logits(job, trained_on(job, room.device))
    adapted = _with_predict(job, adapt="plate")
    off = _cpu_and_device_apart(room, adapted)
    require(off < _OTHER_DEVICE, f"logits on the CPU differ by {off:.2g} of the largest")
    moved = float(np.abs(_logits(adapted, trained_on(job, room.device)) - plain).max())
    require(moved > 1e-3, "plate statistics changed nothing")
    return {"cpu_off": off, "moved": moved}


def pseudo_labels(room: Room) -> Figures:
    """Train with pseudo-labels of test wells; each epoch's file is there and is not empty."""
    stage = tiny_stage(epochs=3, pseudo_labels={"start": 1, "first": 0.5, "least_confidence": 0})
    job = train(tiny_config(room, "pseudo_labels", [stage]))[0]
    counts = []
    for epoch in (1, 2):
        path = csv_path(job.folder, epoch)
        require(path.is_file(), f"{path.name}: was not written")
        counts.append(len(read_table(path)))
    require(min(counts) > 0, f"pseudo-labels of the epochs: {counts}")
    return {"wells": counts} | _last_row(job)


def export(room: Room) -> Figures:
    """Write the trained model by torch.export; its file gives the run's logits."""
    return _export(room, "torch_export")


def export_onnx(room: Room) -> Figures:
    """Write the trained model as ONNX; its file gives the run's logits."""
    return _export(room, "onnx")


def _export(room: Room, name: str) -> Figures:
    config = _averaged(room)
    train(config)
    out = room.own("export") / name
    shutil.rmtree(out, ignore_errors=True)
    path = export_model(config, out, name)  # compares the file with the run on the CPU
    checked = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))["checked"]
    job = choose_job(config, None, None, None)
    chosen = open_chosen(job)
    with exact_float32():
        logits = _logits(job, trained_on(job, room.device), chosen.positions)
    logits = logits[:, : len(chosen.classes)]
    unit = max(1.0, float(np.abs(chosen.expected).max()))
    off = float(np.abs(logits - chosen.expected).max()) / unit
    figures = {"file_off": max(checked["largest_difference"].values()), "device_off": off}
    require(off < TOLERANCE, f"the device's logits are {off:.2g} from those of the file")
    return figures


# a run, and its predictions on either device
# --------------------------------------------------------------------------------------------------


def _averaged(room: Room) -> Config:
    """Return the config of the run with averaged models, which several checks share."""
    stages = [
        tiny_stage("ema", ema=0.8, bn_recompute=True),
        tiny_stage("swa", init="previous", epochs=3, swa=0.3),
    ]
    return tiny_config(room, "averages", stages)


def trained_on(job: Job, device: torch.device) -> torch.nn.Module:
    """Return a job's trained model on a device."""
    model = trained_model(job, load_checkpoint(checkpoint_path(job.config, job)))
    return model.to(device, memory_format=torch.channels_last)


def _cpu_and_device_apart(room: Room, job: Job) -> float:
    """Return how far float32 logits of both devices are apart, in units of the largest."""
    with exact_float32():
        there, here = (
            _logits(job, trained_on(job, device)) for device in (room.device, torch.device("cpu"))
        )
    return float(np.abs(there - here).max() / max(1.0, np.abs(here).max()))


def _logits(job: Job, model: torch.nn.Module, positions: np.ndarray | None = None) -> np.ndarray:
    """Return (n, K) logits in float32 of some samples, or of those that validate."""
    stages = tuple(stage.model_copy(update={"amp": "off"}) for stage in job.config.stages)
    config = job.config.model_copy(update={"stages": stages})
    job = dataclasses.replace(job, config=config)
    state = load_checkpoint(checkpoint_path(job.config, job))
    overall = tuple(np.asarray(values, np.float32) for values in state["overall"])
    pixels = pixel_statistics(job.config, job.store, overall=overall)
    reading = plan_reading(job, pixels, job.valid if positions is None else positions)
    return predict_with(job, model, reading)["identity"]


def _with_predict(job: Job, **changes: str) -> Job:
    predict = job.config.predict.model_copy(update=changes)
    return dataclasses.replace(job, config=job.config.model_copy(update={"predict": predict}))


def _last_row(job: Job) -> Figures:
    """Return the loss and the validation accuracy of the last epoch; both must be finite."""
    row = read_table(job.folder / "log.csv").iloc[-1]
    figures = {
        name: round(float(row[name]), 4)
        for name in row.index
        if name.endswith(("loss", "accuracy")) and str(row[name])
    }
    bad = [name for name, value in figures.items() if not np.isfinite(value)]
    require(not bad, f"{job.title}: {bad} of the last epoch is not finite")
    return figures


def _finite(state: dict[str, torch.Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in state.values())
