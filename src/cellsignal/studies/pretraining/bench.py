"""Train the rows of the pretraining study, and score them out of fold, by well."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.baselines.classifiers import linear_classifier_scores
from cellsignal.baselines.features import cached, with_plate_differences
from cellsignal.baselines.measuring import TITLES, baseline_scores, open_problem
from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, sha256
from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.data.views import tta_views
from cellsignal.evaluation.matching import average
from cellsignal.metrics.paired import Paired, compare_means
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.merge import merge
from cellsignal.prediction.predict import Predictors, checkpoint_path, predict
from cellsignal.studies.pretraining.rows import (
    GENTLE,
    NETWORKS,
    SCRATCH,
    SIMCLR,
    UNTRAINED,
    check_reference,
    config_of_row,
    longer_epochs,
    trained_rows,
)
from cellsignal.studies.seeds import OverSeeds
from cellsignal.training.checkpoints import has_checkpoint, load_last, save_checkpoint
from cellsignal.training.job import Job
from cellsignal.training.plan import jobs_of
from cellsignal.training.run import train
from cellsignal.training.self_supervised import images_without_labels

log = logging.getLogger(__name__)
VERSION = 1  # of the kept features: one more whenever the same inputs give others
BASELINES = ("imagenet", "untrained", "intensity", "cells", "position")


@dataclass(frozen=True)
class Scored(OverSeeds):
    """One row of the table, on the W wells that some fold holds out.

    Attributes:
        right: (S, W) bool, seeds x wells in the order of `well_id`; one row where there is no seed.
        unit: (W,) the experiment or compound of each well.
        reason: why it was not measured; then `right` has no row.
    """

    title: str
    right: np.ndarray
    unit: np.ndarray
    reason: str = ""

    def against(self, other: "Scored") -> Paired:
        """Compare with another row on the same wells, means over seeds, by units."""
        return compare_means(self.right.mean(0), other.right.mean(0), self.unit)


@dataclass(frozen=True)
class Bench:
    """The rows of one config.

    Attributes:
        reference: a stage without labels, and one with them that starts from it.
        weights: file of ImageNet weights; None takes the package's.
    """

    reference: Config
    seeds: Sequence[int]
    weights: Path | None = None

    def check(self) -> None:
        """Refuse a config whose rows would not be what the table says.

        Raises:
            InputError: names the key, or the store or fold table that is missing.
        """
        check_reference(self.reference)
        get_competition(self.reference.competition).task.require_one_label("study pretraining")
        if not len(self.wells):
            raise InputError(f"{self.reference.folds.file}: holds out no well to score")

    def train(self) -> None:
        """Train and predict every network with every seed; finished ones are left as they are."""
        rows = trained_rows(self.seeds)
        for number, (name, seed) in enumerate(rows, 1):
            config = config_of_row(self.reference, name, seed)
            log.info("%s: training %d of %d", config.name, number, len(rows))
            if name == GENTLE:
                hand_on_first_stage(config_of_row(self.reference, SIMCLR, seed), config)
            train(config)
            if name != UNTRAINED:
                predict(config)

    @cached_property
    def jobs(self) -> list[Job]:
        """The jobs with labels, one a fold."""
        return [job for job in jobs_of(self.reference) if job.stage.self_supervised is None]

    @cached_property
    def wells(self) -> pd.DataFrame:
        """The held-out wells, a row of the samples table each, in the order of `well_id`."""
        samples = self.jobs[0].store.samples
        held_out = np.unique(np.concatenate([job.valid for job in self.jobs]))
        wells = samples.iloc[held_out].drop_duplicates("well_id")
        return wells.sort_values("well_id", ignore_index=True)

    @property
    def group(self) -> str:
        """The samples column that folds do not split."""
        return self.jobs[0].folds.group

    def facts(self) -> dict[str, Any]:
        """Return the numbers that a table's text names."""
        views, labels = self.reference.stages
        pretraining = [job for job in jobs_of(self.reference) if job.stage.self_supervised]
        sizes = [len(images_without_labels(job)) for job in pretraining]
        return {
            "classes": len(self.jobs[0].classes),
            "labelled": range_of([len(job.train) for job in self.jobs]),
            "views": range_of(sizes),
            "wells": len(self.wells),
            "views_epochs": views.epochs,
            "epochs": labels.epochs,
            "longer": longer_epochs(self.reference),
            "chance": 1 / len(self.jobs[0].classes),
        }

    def rows(self) -> list[Scored]:
        """Score every row of the table."""
        networks = [network for network in NETWORKS if network.name != UNTRAINED]
        rows = [self._row(item.title, self._network_right, item.name) for item in networks]
        frozen = [network for network in NETWORKS if network.frozen_title]
        rows += [self._row(item.frozen_title, self._frozen_right, item.name) for item in frozen]
        return rows + [self._baseline(name) for name in BASELINES]

    def _row(self, title: str, right: Callable[[Config], np.ndarray], name: str) -> Scored:
        configs = [config_of_row(self.reference, name, seed) for seed in self.seeds]
        values = np.array([right(config) for config in configs])
        return Scored(title, values, self.wells[self.group].to_numpy(object))

    def _network_right(self, config: Config) -> np.ndarray:
        """Return whether the last stage's merged predictions are right, (W,)."""
        files = [load_predictions(path) for path in predict(config)]
        task = get_competition(config.competition).task
        targets = merge(files, "oof", task, config.submit.merge, pool="well")
        wells, first = np.unique(targets.well_id, return_index=True)
        return self._right(wells, targets.scores[first])

    def _frozen_right(self, config: Config) -> np.ndarray:
        """Return whether a logistic regression of the first stage's features is right, (W,)."""
        wells: list[np.ndarray] = []
        scores: list[np.ndarray] = []
        for job in (job for job in jobs_of(config) if job.stage_index == 0):
            rows = np.concatenate([job.train, job.valid])
            samples = job.store.samples.iloc[rows].reset_index(drop=True)
            x = with_plate_differences(job_features(job, rows), samples)
            size = len(job.train)
            train_x, train_wells = average(x[:size], samples.iloc[:size], ["well_id"])
            query_x, query = average(x[size:], samples.iloc[size:], ["well_id"])
            label = train_wells.label.to_numpy(np.int64)
            classes = len(job.classes)
            scores.append(linear_classifier_scores(train_x, label, query_x, classes))
            wells.append(query.well_id.to_numpy(object))
        return self._right(np.concatenate(wells), np.concatenate(scores))

    def _baseline(self, name: str) -> Scored:
        """Score one of `cellsignal baseline`'s rows; a missing package is said, not raised."""
        config = config_of_row(self.reference, SCRATCH, self.seeds[0])
        config = config.model_copy(
            update={"submit": config.submit.model_copy(update={"pool": "well"})}
        )
        problem = open_problem(config, get_competition(config.competition), None)
        unit = self.wells[self.group].to_numpy(object)
        try:
            scores = baseline_scores(problem, name, workers=0, weights=self.weights)
        except InputError as error:
            return Scored(TITLES[name], np.zeros((0, len(unit)), bool), unit, str(error))
        known = np.flatnonzero(np.isfinite(scores).all(axis=1))
        samples = problem.samples.iloc[known].reset_index(drop=True)
        first = samples.drop_duplicates("well_id").index.to_numpy()
        right = self._right(samples.well_id.to_numpy(object)[first], scores[known][first])
        return Scored(TITLES[name], right[None], unit)

    def _right(self, wells: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return whether scores (W, K) of wells in any order are right, in the order of `wells`."""
        place = pd.Index(wells).get_indexer(self.wells.well_id)
        assert len(wells) == len(place) and (place >= 0).all(), "other wells than the folds' own"
        return scores[place].argmax(axis=1) == self.wells.label.to_numpy(np.int64)


def hand_on_first_stage(trained: Config, config: Config) -> None:
    """Copy the first stage's checkpoints to a run whose first stage is the same.

    Training it again would give the same weights, and takes most of the time.
    """
    assert trained.stages[0] == config.stages[0] and trained.seed == config.seed
    for source, job in zip(jobs_of(trained), jobs_of(config), strict=True):
        path = job.folder / "last.pt"
        if job.stage_index == 0 and not has_checkpoint(path):
            state, _ = load_last(source.folder / "last.pt")
            path.parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint(path, state | {"config": config.model_dump(mode="json")})


def range_of(numbers: Sequence[int]) -> str:
    """Write numbers by their ends: "192", or "288 to 332"."""
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def job_features(job: Job, rows: np.ndarray) -> np.ndarray:
    """Return what a job's heads see of samples, averaged over the views, (n, D) float32.

    They are kept beside the checkpoint.

    Args:
        rows: positions in `job.store.samples`.
    """
    checkpoint = checkpoint_path(job.config, job)
    views = tta_views(job.config.predict.tta)

    def embed() -> dict[str, np.ndarray]:
        predictor = Predictors([job], {job.key: checkpoint}).of(job.key)
        by_view = predictor(rows, views, embeddings=True)
        return {"x": np.mean(list(by_view.values()), axis=0).astype(np.float32)}

    sample_ids = job.store.samples.sample_id.iloc[rows].tolist()
    key = digest([VERSION, sha256(checkpoint), job.store.content_hash, sample_ids, list(views)])
    return cached(job.folder / "features.npz", key, embed)["x"]
