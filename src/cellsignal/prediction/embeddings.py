"""Embeddings of every sample, and treatments named by their neighbours among them instead of by the
softmax.

An embeddings file holds what the heads of a fold's last-stage models see, averaged over the views
of test-time augmentation, of every kept sample: training, validation and test treatments and all
controls. Classification fits on the training wells of the file's fold alone and writes an ordinary
predictions file.
"""

import hashlib
import json
import logging
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path, open_arrays, provenance, sha256
from cellsignal.common.stopping import Stop
from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.data.views import tta_views
from cellsignal.evaluation.matching import average
from cellsignal.prediction.container import refuse_non_finite, save_predictions
from cellsignal.prediction.freshness import MADE_FROM, is_current, made_from
from cellsignal.prediction.pieces import forget, in_pieces, pieces_of
from cellsignal.prediction.predict import Predictors, checkpoint_path, model_keys, trained_model
from cellsignal.prediction.well_classifiers import (
    Metric,
    centre_scores,
    linear_scores,
    neighbour_scores,
)
from cellsignal.profiles.batch_effects import Normalisation, Reference, Unit, normalise
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.job import Job, fold_name, kept_samples
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import this_process

log = logging.getLogger(__name__)
VERSION = 1  # of what embeds: one more whenever the same inputs give other bytes
TEXT = (
    "sample_id",
    "target_id",
    "well_id",
    "experiment",
    "plate",
    "cell_type",
    "role",
    "split",
    "part",
    "model",
)


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of one fold.

    Attributes:
        path: the file.
        samples: N rows; the text columns `TEXT`, `site` and `label` (int, -1 where unknown; never a
        test sample's). `part` is "train", "oof" or "test" for
            treatments that train, validate or are to be predicted, else "none". `model` is the key
            of the model: "all" or a cell type.
        values: (N, D) float16. Those of different models are in different spaces.
        about: classes, competition, run, stage, fold, held-out groups, checkpoints and provenance.
    """

    path: Path
    samples: pd.DataFrame
    values: np.ndarray
    about: dict[str, Any]


@dataclass(frozen=True)
class Nearest:
    """How embeddings become scores; see `evaluation.profiles`. `by` and `reference` say nothing
    with "none", `k` but with "knn", `metric` with "linear".
    """

    method: Literal["centre", "knn", "linear"] = "centre"
    metric: Metric = "cosine"
    k: int = 5
    normalise: Normalisation = "centre"
    by: Unit = "plate"
    reference: Reference | None = None


def embed(config: Config) -> list[Path]:
    """Embed every kept sample with the last stage's models of every fold; one file a fold, `<run
    folder>/embeddings/<fold>_<stage>.npz`.

    A file is left as it is where all that decides its bytes is unchanged (`freshness.made_from`);
    the log says what has changed.

    Raises:
        InputError: a checkpoint is missing, unfinished, damaged or of another competition or
        config; a cell type has no model. Interrupted: stopped by a signal, or by the time budget
        (`OutOfTime`); finished pieces and files are kept.
    """
    folds: dict[int | None, list[Job]] = {}
    for job in jobs_of(config):
        if job.stage_index == len(config.stages) - 1:
            folds.setdefault(job.fold, []).append(job)
    known: dict[str, np.ndarray] = {}
    with Stop() as stop:
        paths = [_embed_fold(config, jobs, known, stop) for jobs in folds.values()]
        stop.finish(config.name)
    return paths


def _embed_fold(config: Config, jobs: list[Job], known: dict[str, np.ndarray], stop: Stop) -> Path:
    """One fold's file. `known` is what networks have told already: those of a frozen backbone are
    alike in all folds.
    """
    first, samples = jobs[0], jobs[0].store.samples
    path = config.run_folder / "embeddings" / f"{fold_name(first.fold)}_{first.stage.name}.npz"
    checkpoints = {job.key: checkpoint_path(config, job) for job in jobs}
    kept = kept_samples(config, first.store)
    chosen = np.flatnonzero(kept)
    part = _parts(jobs, samples)
    inputs = made_from(
        config,
        first.stage_index,
        first.store,
        checkpoints,
        samples.sample_id[kept],
        part[kept],
        VERSION,
    )
    if is_current(path, load_embeddings, inputs):
        log.info("%s: is up to date", path)
        return path
    keys = model_keys(jobs, samples, chosen)
    orphans = samples.cell_type.iloc[chosen[keys == ""]]
    if len(orphans):
        raise InputError(
            f"{first.folder.parent}: no model for cell type {orphans.iloc[0]!r}, which training "
            "has not"
        )
    alike = (
        _fingerprint(jobs[0], checkpoints)
        if config.model.frozen and len(jobs) == 1 and this_process().world == 1
        else None
    )
    values = known.get(alike)
    if values is None:
        values = _embed_samples(path, jobs, checkpoints, chosen, keys, inputs, stop)
    if values is None:
        return path
    if alike is not None:
        known[alike] = values
    about = provenance(
        checkpoints,
        competition=first.competition.id,
        classes=list(first.classes),
        run=f"{config.name}/seed{config.seed}",
        seed=config.seed,
        stage=first.stage.name,
        stage_index=first.stage_index,
        fold=first.fold,
        fold_group=first.folds.group,
        held_out=first.held_out,
        settings=config.predict.model_dump(mode="json"),
        data_root=str(config.data.root),
        **{MADE_FROM: inputs},
    )
    label = samples.label.where(samples.split == "train").fillna(-1)
    save_embeddings(
        path, samples.assign(part=part, label=label)[kept].assign(model=keys), values, about
    )
    forget(path)
    log.info("%s: %d samples, %d features", path, kept.sum(), values.shape[1])
    return path


def _parts(jobs: list[Job], samples: pd.DataFrame) -> np.ndarray:
    """(n,) text: "train", "oof" or "test" of treatments that train, validate or are to be
    predicted, else "none".
    """
    part = np.full(len(samples), "none", object)
    for job in jobs:
        for name, positions in (("train", job.train), ("oof", job.valid), ("test", job.test)):
            part[positions] = name
    part[(samples.role != "treatment").to_numpy()] = "none"
    return part


def _fingerprint(job: Job, checkpoints: dict[str, Path]) -> str:
    """All that a network's embeddings depend on: its weights but for the heads', and the statistics
    of the training samples where these standardise.
    """
    state = load_checkpoint(checkpoints[job.key])
    found = hashlib.sha256(
        repr(state["overall"] if job.config.normalization.by == "global" else None).encode()
    )
    for name, value in sorted(trained_model(job, state).state_dict().items()):
        if name.partition(".")[0] not in ("head", "cosine"):
            found.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _embed_samples(
    path: Path,
    jobs: list[Job],
    checkpoints: dict[str, Path],
    chosen: np.ndarray,
    keys: np.ndarray,
    inputs: dict[str, Any],
    stop: Stop,
) -> np.ndarray | None:
    """(n, D) float16 embeddings of the chosen positions, each by the model that `keys` names,
    averaged over the views; None but in the first process.
    """
    config = jobs[0].config
    samples = jobs[0].store.samples
    predictors = Predictors(jobs, checkpoints)
    views, sample_ids = tta_views(config.predict.tta), samples.sample_id.to_numpy()[chosen]

    def compute(places: np.ndarray) -> dict[str, np.ndarray]:
        key = keys[places[0]]
        found = predictors.of(key)(chosen[places], views, embeddings=True)
        for view, values in found.items():
            refuse_non_finite(
                values, sample_ids[places], f"{checkpoints[key]}: embeddings of view {view!r}"
            )
        mean = sum(found.values()) / len(found)
        if not (np.abs(mean) <= np.finfo(np.float16).max).all():
            raise InputError(
                f"{checkpoints[key]}: its embeddings are not finite numbers of 16 bits"
            )
        return {"embedding": mean}

    places = pieces_of(samples, chosen, config.predict.adapt, keys)
    found = in_pieces(path, inputs, places, compute, this_process(), stop)
    return None if found is None else found["embedding"]


def save_embeddings(
    path: Path, samples: pd.DataFrame, values: np.ndarray, about: dict[str, Any]
) -> None:
    """Write embeddings atomically, as an uncompressed .npz without pickle. The arguments are as in
    `Embeddings`.
    """
    arrays = {name: samples[name].to_numpy(dtype=np.str_) for name in TEXT}
    arrays |= {name: samples[name].to_numpy(dtype=np.int32) for name in ("site", "label")}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            **arrays,
            values=values.astype(np.float16),
            about=np.asarray(json.dumps(about, default=str)),
        )


def load_embeddings(path: Path | str) -> Embeddings:
    """Read an embeddings file.

    Raises:
        InputError: no such file, damaged, or not an embeddings file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such embeddings file")
    try:
        with open_arrays(path) as archive:  # zipfile holds every array to its checksum
            samples = pd.DataFrame({name: archive[name] for name in (*TEXT, "site", "label")})
            found = Embeddings(path, samples, archive["values"], json.loads(str(archive["about"])))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, AttributeError) as error:
        raise InputError(
            f"{path}: not an embeddings file of cellsignal ({str(error)[:100]})"
        ) from None
    refuse_non_finite(found.values, samples.sample_id.to_numpy(), f"{path}: embeddings")
    return found


def classify(config: Config, how: Nearest) -> list[Path]:
    """Name the out-of-fold and test wells of every fold by its training wells; embeds first where
    that is still to do.

    Writes `<run folder>/predictions_embeddings/<fold>_<stage>_<method>.npz`, predictions files with
    the one view "embedding" and a run of their own, `<name>_<method>/seed<k>`, so that they can be
    submitted alone or merged with the softmax's.

    Raises:
        InputError: see `embed`; a plate or experiment with too few reference wells; less than k
        training wells.
    """
    if get_competition(config.competition).multilabel:
        raise InputError(
            f"classify: names one class a well; those of {config.competition} have several or none"
        )
    paths = []
    for source in embed(config):
        embeddings = load_embeddings(source)
        frame, scores = classify_wells(embeddings, how)
        path = config.run_folder / "predictions_embeddings" / f"{source.stem}_{how.method}.npz"
        kept = (
            "competition",
            "classes",
            "seed",
            "stage",
            "stage_index",
            "fold",
            "fold_group",
            "data_root",
        )
        about = provenance(
            {str(source): source},
            **{name: embeddings.about[name] for name in kept},
            run=f"{config.name}_{how.method}/seed{config.seed}",
            settings=embeddings.about["settings"] | asdict(how),
            submit=config.submit.model_dump(mode="json"),
            **{MADE_FROM: {"embeddings": sha256(source), "how": asdict(how)}},
        )
        save_predictions(path, frame, frame.part.to_numpy(), {"embedding": scores}, about)
        paths.append(path)
    return paths


def classify_wells(embeddings: Embeddings, how: Nearest) -> tuple[pd.DataFrame, np.ndarray]:
    """Scores of the out-of-fold and test wells of one fold, by the fold's training treatments,
    within each model's space.

    The sites of a well are averaged first. A label is read of training wells alone; normalisation
    may see all wells, but no label.

    Returns:
        One row of the samples for each target, and (T, K) float32 log-probabilities; targets of a
        well share its scores.
    """
    samples, n_classes = embeddings.samples, len(embeddings.about["classes"])
    frames, scores = [], []
    for _, rows in samples.groupby("model", sort=True).indices.items():
        # a fold table may split the images of a well: then each part is averaged by itself
        x, wells = average(embeddings.values[rows], samples.iloc[rows], ("well_id", "part"))
        x = normalise(x, wells, how.normalise, how.by, how.reference)
        train, asked = (
            np.flatnonzero(wells.part.isin(names)) for names in (("train",), ("oof", "test"))
        )
        targets = samples.iloc[rows]
        targets = targets[targets.part.isin(("oof", "test"))].drop_duplicates("target_id")
        if not len(targets):
            continue
        known = (x[train], wells.label.to_numpy()[train], x[asked], n_classes)
        if how.method == "linear":
            found = linear_scores(*known)
        else:
            found = (
                neighbour_scores(*known, how.metric, how.k)
                if how.method == "knn"
                else centre_scores(*known, how.metric)
            )
        place = pd.MultiIndex.from_frame(wells.loc[asked, ["well_id", "part"]])
        frames.append(targets)
        scores.append(
            found[place.get_indexer(pd.MultiIndex.from_frame(targets[["well_id", "part"]]))]
        )
    if not frames:
        raise InputError(f"{embeddings.path}: has neither out-of-fold nor test wells to classify")
    return pd.concat(frames, ignore_index=True), np.concatenate(scores)
