"""Name new images with a trained run: no labels, no folds, no submission.

The images are packed into a store of their own beside the CSV, which is removed when that is
written; a stopped packing goes on from there. They are read, standardised, viewed and merged as
the run's own.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import provenance, write_csv, write_json
from cellsignal.config import Config
from cellsignal.data.normalization import CONTROL_ROLES
from cellsignal.data.store import Store
from cellsignal.data.views import tta_views
from cellsignal.prediction.container import refuse_non_finite
from cellsignal.prediction.new_jobs import Request, new_jobs, training_statistics, with_store
from cellsignal.prediction.new_packing import (
    new_samples,
    open_images,
    pack_images,
    packing_name,
    require_controls,
)
from cellsignal.prediction.predict import checkpoint_path, checkpoint_pixels, trained_model
from cellsignal.training.adaptation import warn_of_units
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.control_offsets import plan_offsets, unit_offsets
from cellsignal.training.inference import (
    pixel_statistics,
    plan_reading,
    predict_with,
)
from cellsignal.training.job import Job

log = logging.getLogger(__name__)


def predict_images(configs: Sequence[Config], request: Request) -> Path:
    """Write the predicted class of every well or site of a folder, and how it was made (.json).

    Args:
        configs: the seeds of a run; all their folds are averaged.

    Raises:
        InputError: no such folder, stage, fold or cell type; another number of channels; control
            wells are needed and not named; a model that is not trained.
        Interrupted: stopped by a signal or the time budget; what is packed is kept.
    """
    jobs = [job for config in configs for job in new_jobs(config, request)]
    first = jobs[0]
    first.task.require_one_label("predict --images")
    competition, matched = open_images(first, request)
    samples = new_samples(competition, request)
    require_controls(first, samples)
    folder = request.out.parent / packing_name(first, request, matched)
    try:
        report = pack_images(competition, request, samples, folder, first)
        store = Store.open(folder)
        probabilities, facts = _predict(jobs, store, request)
    except InputError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    table = _table(store.samples, probabilities, first.classes, request.by)
    facts |= {
        "run": [f"{config.name}/seed{config.seed}" for config in configs],
        "images": str(request.images),
        "channels": matched,
        "left_out": [*competition.left_out(request.images), *report.skipped],
        "classes": list(first.classes),
    }
    write_csv(request.out, table)
    checkpoints = {job.title: checkpoint_path(job.config, job) for job in jobs}
    write_json(request.out.with_suffix(".json"), provenance(checkpoints, **facts))
    shutil.rmtree(folder, ignore_errors=True)
    return request.out


def _predict(jobs: list[Job], store: Store, request: Request) -> tuple[np.ndarray, dict[str, Any]]:
    """Return (N, K) mean logits or probabilities by site of the store, NaN for control wells.

    Also the facts of the normalisation.
    """
    samples, first = store.samples, jobs[0]
    chosen = np.flatnonzero((samples.role == "treatment").to_numpy())
    if not len(chosen):
        raise InputError(f"{request.images}: no image to name can be read")
    total = np.zeros((len(chosen), len(first.classes)))
    for job in jobs:
        state = load_checkpoint(checkpoint_path(job.config, job))
        model = trained_model(job, state)
        new = with_store(job, store)
        pixels = pixel_statistics(new.config, store, overall=training_statistics(job, store, state))
        reading = plan_reading(new, pixels, chosen)
        # of the plates that trained
        offsets = unit_offsets(job, model, plan_offsets(job, checkpoint_pixels(job, state)))
        views = tta_views(job.config.predict.tta)
        if job is first:
            warn_of_units(new, chosen)
        logits = predict_with(new, model, reading, views, offsets=offsets)
        for view, values in logits.items():
            names = samples.sample_id.to_numpy()[chosen]
            refuse_non_finite(values, names, f"{job.folder}: view {view!r}")
            values = values[:, : len(job.classes)].astype(np.float64)
            if job.config.submit.merge == "probabilities":
                values = job.task.probabilities(values)
            total += values / (len(logits) * len(jobs))
    scores = np.full((len(samples), len(first.classes)), np.nan)
    scores[chosen] = total
    return _probabilities(first, samples, scores, request.by), {
        "normalization": _units(first.config, samples),
        "models": len(jobs),
    }


def _probabilities(job: Job, samples: pd.DataFrame, scores: np.ndarray, by: str) -> np.ndarray:
    """Average by well, (N, K), and return probabilities; NaN for control wells."""
    if by == "well":
        means = pd.DataFrame(scores).groupby(samples.well_id.to_numpy()).transform("mean")
        scores = means.to_numpy()
    if job.config.submit.merge == "probabilities":
        return scores
    named = np.isfinite(scores).all(1)
    result = np.full_like(scores, np.nan)
    result[named] = job.task.probabilities(scores[named])
    return result


def _units(config: Config, samples: pd.DataFrame) -> dict[str, Any]:
    """Say by which wells the images were standardised, and log it."""
    by, wells = config.normalization.by, config.normalization.wells
    if by not in ("experiment", "plate"):
        return {"by": by}
    used = samples if wells == "all" else samples[samples.role.isin(CONTROL_ROLES[wells])]
    columns = ["experiment", "plate"] if by == "plate" else ["experiment"]
    units = {
        " ".join(map(str, name)): sorted(part.well_id.unique())
        for name, part in used.groupby(columns)
    }
    counts = ", ".join(f"{name}: {len(names)} wells" for name, names in units.items())
    log.info("standardised by %s over %s: %s", by, wells.replace("_", " "), counts)
    return {"by": by, "wells": wells, "units": units}


def _table(
    samples: pd.DataFrame, probabilities: np.ndarray, classes: Sequence[str], by: str
) -> pd.DataFrame:
    """Return the rows of the CSV, one a well or a site; control wells are left out."""
    names = np.asarray(classes, object)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    rows = np.arange(len(samples))
    table = samples[["well_id", "experiment", "plate", "well"]].copy()
    table.insert(0, "id", samples.well_id if by == "well" else samples.sample_id)
    table["images"] = 1
    if by == "well":
        table["images"] = samples.groupby("well_id").sample_id.transform("size")
    else:
        table["site"] = samples.site
    table["file"] = samples.files.map(lambda files: files[0])
    table["predicted"] = names[order[:, 0]]
    table["probability"] = probabilities[rows, order[:, 0]].round(6)
    if len(names) > 1:
        table["runner_up"] = names[order[:, 1]]
        table["runner_up_probability"] = probabilities[rows, order[:, 1]].round(6)
    table = table[(samples.role == "treatment").to_numpy()]
    return table.drop_duplicates("id", ignore_index=True)
