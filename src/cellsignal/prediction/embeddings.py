"""Embed every sample with the networks of a run, and read and write embeddings files.

An embeddings file holds what the heads of a fold's last-stage models see, averaged over the views
of test-time augmentation, of every kept sample: training, validation and test treatments and all
controls.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import provenance
from cellsignal.common.stopping import Stop
from cellsignal.config import Config
from cellsignal.data.views import tta_views
from cellsignal.prediction.container import (
    open_checked,
    refuse_non_finite,
    save_arrays,
)
from cellsignal.prediction.freshness import is_current, made_from
from cellsignal.prediction.pieces import in_pieces, pieces_of, remove_pieces
from cellsignal.prediction.predict import (
    Predictors,
    checkpoint_path,
    model_keys,
    stage_facts,
    trained_model,
)
from cellsignal.training.adaptation import warn_of_units
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.job import Job, fold_name, predictable_samples
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import this_process

log = logging.getLogger(__name__)
VERSION = 1  # of what embeds: one more whenever the same inputs give other bytes
TEXT = (
    *("sample_id", "target_id", "well_id", "experiment", "plate"),
    *("cell_type", "role", "split", "part", "model"),
)


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of one fold.

    Attributes:
        path: the file.
        samples: N rows; the text columns `TEXT`, `site` and `label` (int, -1 where unknown; never a
            test sample's). `part` is "train", "oof" or "test" for treatments that train, validate
            or are to be predicted, else "none". `model` is the key of the model: "all" or a cell
            type.
        values: (N, D) float16. Those of different models are in different spaces.
        about: classes, competition, run, stage, fold, held-out groups, checkpoints and provenance.
    """

    path: Path
    samples: pd.DataFrame
    values: np.ndarray
    about: dict[str, Any]


def embed(config: Config) -> list[Path]:
    """Embed every kept sample with the last stage's models of every fold, one file a fold.

    Writes `<run folder>/embeddings/<fold>_<stage>.npz`. A file is left as it is where all that
    decides its bytes is unchanged (`freshness.made_from`); the log says what has changed.

    Raises:
        InputError: a checkpoint is missing, unfinished, damaged or of another competition or
            config; a cell type has no model.
        Interrupted: stopped by a signal, or by the time budget (`OutOfTime`); finished pieces and
            files are kept.
    """
    folds: dict[int | None, list[Job]] = {}
    for job in jobs_of(config):
        if job.stage_index == len(config.stages) - 1:
            folds.setdefault(job.fold, []).append(job)
    known: dict[str, np.ndarray] = {}
    with Stop() as stop:
        paths = [_embed_fold(config, jobs, known, stop) for jobs in folds.values()]
        stop.raise_if_signalled(config.name)
    return paths


def _embed_fold(config: Config, jobs: list[Job], known: dict[str, np.ndarray], stop: Stop) -> Path:
    """Write one fold's file.

    Args:
        known: fingerprint of a frozen network -> its embeddings: it is the same in all folds.
    """
    first, samples = jobs[0], jobs[0].store.samples
    path = config.run_folder / "embeddings" / f"{fold_name(first.fold)}_{first.stage.name}.npz"
    checkpoints = {job.key: checkpoint_path(config, job) for job in jobs}
    chosen = np.flatnonzero(predictable_samples(config, first.store))
    part = _parts(jobs, samples)
    stage = (config, first.stage_index, first.store)
    sample_ids = samples.sample_id.iloc[chosen]
    inputs = made_from(*stage, checkpoints, sample_ids, part[chosen], VERSION)
    if is_current(path, load_embeddings, inputs):
        log.info("%s: is up to date", path)
        return path
    keys = model_keys(jobs, samples, chosen, str(first.folder.parent))
    fingerprint = None
    if config.model.frozen and len(jobs) == 1 and this_process().world == 1:
        fingerprint = _fingerprint(first, checkpoints)
    values = known.get(fingerprint)
    if values is None:
        values = _embed_samples(path, jobs, checkpoints, chosen, keys, inputs, stop)
    if values is None:
        return path
    if fingerprint is not None:
        known[fingerprint] = values
    about = provenance(
        checkpoints,
        classes=list(first.classes),
        held_out=first.held_out,
        **stage_facts(config, first, inputs),
    )
    label = samples.label.where(samples.split == "train").fillna(-1)
    rows = samples.assign(part=part, label=label).iloc[chosen].assign(model=keys)
    save_embeddings(path, rows, values, about)
    remove_pieces(path)
    log.info("%s: %d samples, %d features", path, len(chosen), values.shape[1])
    return path


def _parts(jobs: list[Job], samples: pd.DataFrame) -> np.ndarray:
    """Return "train", "oof" or "test" for the jobs' treatments, else "none": (n,) text."""
    part = np.full(len(samples), "none", object)
    part[(samples.split == "test").to_numpy()] = "test"  # also those that `data.exclude` lists
    for job in jobs:
        for name, positions in (("train", job.train), ("oof", job.valid), ("test", job.test)):
            part[positions] = name
    part[(samples.role != "treatment").to_numpy()] = "none"
    return part


def _fingerprint(job: Job, checkpoints: dict[str, Path]) -> str:
    """A digest of all that a network's embeddings depend on.

    Its weights but for the heads', and the statistics of the training samples where these
    standardise.
    """
    state = load_checkpoint(checkpoints[job.key])
    overall = state["overall"] if job.config.normalization.by == "global" else None
    content = hashlib.sha256(repr(overall).encode())
    for name, value in sorted(trained_model(job, state).state_dict().items()):
        if name.partition(".")[0] not in ("head", "cosine"):
            content.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


def _embed_samples(
    path: Path,
    jobs: list[Job],
    checkpoints: dict[str, Path],
    chosen: np.ndarray,
    keys: np.ndarray,
    inputs: dict[str, Any],
    stop: Stop,
) -> np.ndarray | None:
    """(n, D) float16 embeddings of the chosen positions, averaged over the views, in rank 0.

    Each is embedded by the model that `keys` names. None in the other processes.
    """
    predict_config, samples = jobs[0].config.predict, jobs[0].store.samples
    predictors = Predictors(jobs, checkpoints)
    views, sample_ids = tta_views(predict_config.tta), samples.sample_id.to_numpy()[chosen]

    def compute(places: np.ndarray) -> dict[str, np.ndarray]:
        key = keys[places[0]]
        by_view = predictors.of(key)(chosen[places], views, embeddings=True)
        for view, values in by_view.items():
            what = f"{checkpoints[key]}: embeddings of view {view!r}"
            refuse_non_finite(values, sample_ids[places], what)
        mean = sum(by_view.values()) / len(by_view)
        if not (np.abs(mean) <= np.finfo(np.float16).max).all():
            raise InputError(
                f"{checkpoints[key]}: its embeddings are not finite numbers of 16 bits"
            )
        return {"embedding": mean}

    ranks = this_process()
    if ranks.first:
        warn_of_units(jobs[0], chosen)
    places = pieces_of(samples, chosen, predict_config.adapt, keys)
    arrays = in_pieces(path, inputs, places, compute, ranks, stop)
    return None if arrays is None else arrays["embedding"]


def save_embeddings(
    path: Path, samples: pd.DataFrame, values: np.ndarray, about: dict[str, Any]
) -> None:
    """Write embeddings atomically as an uncompressed .npz; arguments as in `Embeddings`."""
    arrays = {name: samples[name].to_numpy(object).astype(str) for name in TEXT}
    arrays |= {name: samples[name].to_numpy(dtype=np.int32) for name in ("site", "label")}
    save_arrays(path, (arrays | {"values": values.astype(np.float16)}).items(), about)


def load_embeddings(path: Path | str) -> Embeddings:
    """Read an embeddings file.

    Raises:
        InputError: no such file, damaged, or not an embeddings file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such embeddings file")
    with open_checked(path, "an embeddings file") as archive:  # zip checks every array
        samples = pd.DataFrame({name: archive[name] for name in (*TEXT, "site", "label")})
        values, about = archive["values"], json.loads(str(archive["about"]))
        sample_ids = samples.sample_id.to_numpy()
    refuse_non_finite(values, sample_ids, f"{path}: embeddings")
    return Embeddings(path, samples, values, about)
