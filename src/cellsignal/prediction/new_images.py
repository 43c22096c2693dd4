"""Name new images with a trained run: no labels, no folds, no submission.

The images are packed into a store of their own beside the CSV, which is removed when that is
written; a stopped packing goes on from there. They are read, standardised, viewed and merged as
the run's own.
"""

import dataclasses
import functools
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, provenance, write_csv, write_json
from cellsignal.competitions.base import Competition
from cellsignal.competitions.plates.new_images import NewImages, describe_images, match_channels
from cellsignal.config import Config
from cellsignal.data.filling import PackReport
from cellsignal.data.normalization import CONTROL_ROLES
from cellsignal.data.pack import pack
from cellsignal.data.renewal import stamp_source
from cellsignal.data.store import Store
from cellsignal.data.store_files import CALIBRATION
from cellsignal.data.views import tta_views
from cellsignal.prediction.container import refuse_non_finite
from cellsignal.prediction.predict import checkpoint_path, trained_model
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.inference import pixel_statistics, plan_reading, predict_with
from cellsignal.training.job import FULL, Job
from cellsignal.training.plan import jobs_of

log = logging.getLogger(__name__)
OWN = "own"  # the layout of the run's competition


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


def predict_images(configs: Sequence[Config], request: Request) -> Path:
    """Write the predicted class of every well or site of a folder, and how it was made (.json).

    Args:
        configs: the seeds of a run; all their folds are averaged.

    Raises:
        InputError: no such folder, stage, fold or cell type; another number of channels; control
            wells are needed and not named; a model that is not trained.
        Interrupted: stopped by a signal or the time budget; what is packed is kept.
    """
    jobs = [job for config in configs for job in _jobs(config, request)]
    first = jobs[0]
    first.task.require_one_label("predict --images")
    competition, matched = _open_images(first, request)
    samples = _samples(competition, request)
    _require_controls(first.config, samples)
    folder = request.out.parent / f".{request.out.name}.images-{_digest(first, request, matched)}"
    try:
        report = _pack(competition, request, samples, folder, first)
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


# the run
# --------------------------------------------------------------------------------------------------


def _jobs(config: Config, request: Request) -> list[Job]:
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


# the images
# --------------------------------------------------------------------------------------------------


def _open_images(job: Job, request: Request) -> tuple[Competition, dict[str, str]]:
    """Return what reads the images, and the channels: the run's name -> as the files write it."""
    wanted = [job.store.channels[index] for index in job.channels]
    if request.layout == OWN:
        if request.channels or request.pattern or request.controls:
            raise InputError(f"--layout {OWN}: takes no --channels, --pattern or --controls")
        competition = job.competition
        channels = competition.channels_of(request.images)
        missing = [name for name in wanted if name not in channels]
        if missing:
            raise InputError(f"{request.images}: has no channel {missing[0]!r} of the run")
        return competition, {name: name for name in wanted}
    if job.competition.frames > 1:
        raise InputError(f"--images: {job.competition.id} has clips; give --layout {OWN}")
    plates = job.competition.id.startswith("plates")
    images, source = describe_images(
        request.images, request.pattern, job.config.data.root if plates else None
    )
    folder = request.images
    matched, how = match_channels(folder, images.channels, wanted, request.channels)
    log.info(
        "%s: %s; channels %s: %s",
        folder,
        source,
        how,
        ", ".join(f"{name} = {value}" for name, value in matched.items()),
    )
    images = images.model_copy(update={"channels": matched})
    if images.bits == 16 and not plates:
        log.warning(
            "%s: 16-bit images become 8-bit by percentiles of each plate, which is not how the "
            "images of %s were made",
            folder,
            job.competition.id,
        )
    cell_type = request.cell_type or job.cell_types[0]
    return NewImages(images, request.controls, cell_type), matched


def _samples(competition: Competition, request: Request) -> pd.DataFrame:
    """Return the samples table of the images, without any label."""
    samples = competition.samples(request.images)
    if request.layout == OWN:
        samples["role"] = samples.role.replace("reference", "treatment")
        if request.cell_type is not None:
            samples = samples[samples.cell_type == request.cell_type].reset_index(drop=True)
    if not (samples.role == "treatment").any():
        raise InputError(f"{request.images}: no image to name: all wells are controls")
    return samples


def _require_controls(config: Config, samples: pd.DataFrame) -> None:
    """Refuse images without the control wells that standardise the run's."""
    wells = config.normalization.wells
    if wells != "all" and not samples.role.isin(CONTROL_ROLES[wells]).any():
        raise InputError(
            f"--controls: {config.name} is standardised by {wells.replace('_', ' ')} of each "
            f"{config.normalization.by} (normalization.wells); name the control wells of these "
            "images, such as --controls A01,B12"
        )


def _digest(job: Job, request: Request, matched: dict[str, str]) -> str:
    """Return what tells packed images of one request from another's."""
    asked = {key: str(value) for key, value in vars(request).items() if key not in ("fold", "by")}
    size = job.config.data.size
    return digest([asked, str(request.images.absolute()), matched, size, job.competition.id])[:12]


def _pack(
    competition: Competition, request: Request, samples: pd.DataFrame, folder: Path, job: Job
) -> PackReport:
    data, root, out = job.config.data, request.images.absolute(), folder.absolute()
    out.mkdir(parents=True, exist_ok=True)
    competition = competition.calibrate(root, out / CALIBRATION, data.workers)
    shape = competition.root_shape(root)
    report = pack(
        samples,
        functools.partial(competition.read, root, shape=shape),
        out,
        channels=competition.channels_of(root),
        size=data.size,
        bad_site=data.bad_site,
        workers=data.workers,
        source={"competition": competition.id, "root": str(root), "classes": list(job.classes)},
        shape=shape,
        codec=data.codec,
        stamp=functools.partial(stamp_source, competition, root),
    )
    if report.skipped:
        name, why = report.skipped[0]
        log.warning("%s: left out %d sites, first %s: %s", root, len(report.skipped), name, why)
    store_shape = job.store.shape[1:]
    if data.size is None and tuple(shape) != tuple(store_shape):
        log.warning(
            "%s: images of %dx%d pixels; the run was trained on %dx%d",
            root,
            *reversed(shape),
            *reversed(store_shape),
        )
    return report


# predictions
# --------------------------------------------------------------------------------------------------


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
        new = _with_store(job, store)
        pixels = pixel_statistics(new.config, store, overall=_overall(job, store, state))
        reading = plan_reading(new, pixels, chosen)
        logits = predict_with(new, model, reading, tta_views(job.config.predict.tta))
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


def _with_store(job: Job, store: Store) -> NewJob:
    """Return the job on new images, with all their sites and its own channels."""
    fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(Job)}
    some = tuple(range(1, len(store.channels) + 1))  # `NewJob.channels` says which
    data = job.config.data.model_copy(update={"sites": None, "channels": some})
    fields |= {"store": store, "config": job.config.model_copy(update={"data": data})}
    return NewJob(**fields, trained_on=job)


def _overall(job: Job, store: Store, state: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the training pixels' mean and SD for the store's channels; (0, 1) of unused ones."""
    names = job.store.channels
    mean, sd = (dict(zip(names, values, strict=True)) for values in state["overall"])
    return (
        np.array([mean.get(name, 0) for name in store.channels], np.float32),
        np.array([sd.get(name, 1) for name in store.channels], np.float32),
    )


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
