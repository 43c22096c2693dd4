"""Logits of every site and view: out-of-fold wells by the models that did not train on them, test wells by all."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cellsignal.config import Config
from cellsignal.config.schema import Model
from cellsignal.data.dataset import SiteDataset, in_order, loader
from cellsignal.errors import InputError
from cellsignal.files import provenance, sha256
from cellsignal.models.backbones import build_model
from cellsignal.prediction.container import load_predictions, save_predictions
from cellsignal.prediction.views import apply_view, tta_views
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.job import Job, fold_name, kept_samples, pixel_statistics
from cellsignal.training.run import jobs_of, pick_device

log = logging.getLogger(__name__)


def predict(config: Config) -> list[Path]:
    """Predict with every finished stage and fold of a run; one file each, `<run folder>/predictions/<fold>_<stage>.npz`.

    A stage with one model for each cell type gives one file too: each sample is predicted by its cell type's model. A file that was made from the
    same checkpoints with the same settings is left as it is.

    Raises:
        InputError: a checkpoint is missing, unfinished, damaged, or of another competition.
    """
    groups: dict[tuple[int | None, int], list[Job]] = {}
    for job in jobs_of(config):
        groups.setdefault((job.fold, job.stage_index), []).append(job)
    return [_predict_stage(config, jobs) for jobs in groups.values()]


def predictions_path(config: Config, fold: int | None, stage_index: int) -> Path:
    return config.run_folder / "predictions" / f"{fold_name(fold)}_{config.stages[stage_index].name}.npz"


def _predict_stage(config: Config, jobs: list[Job]) -> Path:
    first = jobs[0]
    path = predictions_path(config, first.fold, first.stage_index)
    checkpoints = {job.key: _checkpoint_path(config, job) for job in jobs}
    made_from = {key: sha256(file) for key, file in checkpoints.items()}
    settings = config.predict.model_dump(mode="json")
    if path.exists() and _is_current(path, made_from, settings):
        log.info("%s: is up to date", path)
        return path
    store, samples = first.store, first.store.samples
    kept = kept_samples(config, store) & (samples.role == "treatment").to_numpy()
    held_out = np.concatenate([job.valid for job in jobs])
    test = np.flatnonzero((samples.split == "test").to_numpy() & kept)
    chosen = np.concatenate([held_out, test])
    part = np.repeat(["oof", "test"], [len(held_out), len(test)])
    views = tta_views(config.predict.tta)
    logits = {view: np.full((len(chosen), len(first.classes)), np.nan, np.float32) for view in views}
    for job in jobs:
        state = load_checkpoint(checkpoints[job.key])
        mine = np.flatnonzero((samples.cell_type.to_numpy()[chosen] == job.key) | (job.key == "all"))
        for view, values in predict_samples(job, state, chosen[mine], views).items():
            logits[view][mine] = values
    predicted = ~np.isnan(logits[views[0]][:, 0])
    if not predicted.all():
        orphans = sorted(samples.cell_type.to_numpy()[chosen[~predicted]].astype(str))
        raise InputError(
            f"{path}: no model of stage {first.stage.name!r} for cell type {orphans[0]!r}, which training has not"
        )
    about = provenance(
        checkpoints,
        competition=first.competition.id,
        classes=list(first.classes),
        run=f"{config.name}/seed{config.seed}",
        stage=first.stage.name,
        stage_index=first.stage_index,
        fold=first.fold,
        fold_group=first.folds.group,
        seed=config.seed,
        settings=settings,
        made_from=made_from,
        data_root=str(config.data.root),
    )
    save_predictions(path, samples.iloc[chosen], part, logits, about)
    log.info("%s: %d out-of-fold and %d test samples, %d views", path, len(held_out), len(test), len(views))
    return path


def _is_current(path: Path, made_from: dict[str, str], settings: dict[str, Any]) -> bool:
    try:
        about = load_predictions(path).about
    except InputError as error:
        log.warning("%s; predicting anew", error)
        return False
    return about.get("made_from") == made_from and about.get("settings") == settings


def _checkpoint_path(config: Config, job: Job) -> Path:
    name = config.predict.checkpoint if len(job.valid) else "last"
    path = job.folder / f"{name}.pt"
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train first")
    return path


@torch.inference_mode()
def predict_samples(job: Job, state: dict[str, Any], chosen: np.ndarray, views: Iterable[str]) -> dict[str, np.ndarray]:
    """Logits of some samples by one checkpoint.

    Args:
        state: a loaded checkpoint; its own model config, image size and overall pixel statistics are used.
        chosen: (n,) positions in `job.store.samples`.

    Returns:
        view -> (n, K) float32.
    """
    config, store, device = job.config, job.store, pick_device()
    if state["competition"] != job.competition.id or tuple(state["classes"]) != job.classes:
        raise InputError(f"{job.folder}: checkpoint is of competition {state['competition']!r} with {len(state['classes'])} classes, "
                         f"the store has {job.competition.id!r} with {len(job.classes)}")  # fmt: skip
    if not state["progress"]["finished"] and config.predict.checkpoint == "last":
        raise InputError(f"{job.folder}/last.pt: training is not finished; run the training command again")
    recipe = Model(**state["config"]["model"])
    model = build_model(recipe, len(store.channels), len(job.classes), state["image_size"], initial_weights=False)
    model.load_state_dict(state["ema"] or state["model"])
    model.eval().to(device, memory_format=torch.channels_last)
    pixels = pixel_statistics(
        config, store, overall=tuple(np.asarray(values, np.float32) for values in state["overall"])
    )
    samples = store.samples.iloc[chosen]
    dataset = SiteDataset(store, samples.row.to_numpy(), samples.label.fillna(-1).to_numpy(dtype=np.int64), pixels.shift[chosen], pixels.scale[chosen],
                          center_crop=config.predict.center_crop, cache_gib=config.data.cache_gib)  # fmt: skip
    found: dict[str, list[np.ndarray]] = {view: [] for view in views}
    workers = 0 if dataset.cached is not None else config.data.workers
    amp = job.stage.amp
    for batch in tqdm(
        loader(dataset, in_order(len(dataset), config.predict.batch_size), workers),
        desc=f"{job.title} predict",
        disable=None,
        leave=False,
    ):
        images = batch["image"].to(device)
        for view in found:
            turned = apply_view(images, view).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.float16 if amp == "fp16" else torch.bfloat16, enabled=amp != "off"):
                found[view].append(model(turned).float().cpu().numpy())
    return {
        view: np.concatenate(parts) if parts else np.zeros((0, len(job.classes)), np.float32)
        for view, parts in found.items()
    }
