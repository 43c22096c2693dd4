"""Predict held-out wells by frozen layers, trained runs and baselines, one change at a time."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from cellsignal.baselines.features import cached, with_plate_differences
from cellsignal.baselines.measuring import (
    TITLES,
    Problem,
    Units,
    baseline_scores,
    open_problem,
    out_of_fold_scores,
)
from cellsignal.baselines.networks import LAYERS, missing_weights, network_features
from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, sha256
from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.config.options import read_configs
from cellsignal.evaluation.blend_members import Members
from cellsignal.evaluation.matching import average
from cellsignal.evaluation.nested_blend import PARTS, WAYS, cross_fit, deal_units
from cellsignal.metrics.intervals import mean_interval
from cellsignal.metrics.paired import Paired, compare_means
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.freshness import config_predictions
from cellsignal.prediction.merge import merge
from cellsignal.prediction.well_classifiers import centre_scores, linear_scores, neighbour_scores
from cellsignal.profiles.batch_effects import normalise

log = logging.getLogger(__name__)
VERSION = 1  # of the kept features: one more whenever the same inputs give others
NETWORKS = tuple(f"tf_efficientnet_lite{size}" for size in range(3))
DEEP = (*LAYERS, 4)  # of the first network, so that each layer can be looked at
MERGED = "the three merged"
BASELINES = ("position", "intensity", "cells", "untrained")
Classify = Callable[[Units, np.ndarray, Units, int], np.ndarray]


@dataclass(frozen=True)
class Change:
    """One row: log-probabilities of the W held-out wells.

    Attributes:
        scores: (W, K).
        label: (W,) int.
        unit: (W,) the compound of each well.
    """

    section: str
    title: str
    scores: np.ndarray
    label: np.ndarray
    unit: np.ndarray

    @cached_property
    def right(self) -> np.ndarray:
        """(W,) 1.0 where the likeliest class is the well's."""
        return (self.scores.argmax(1) == self.label).astype(float)

    @cached_property
    def loss(self) -> np.ndarray:
        """(W,) the surprise at the well's class, in nats."""
        return -log_softmax(self.scores, axis=1)[np.arange(len(self.label)), self.label]

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the accuracy over units."""
        return mean_interval(self.right, self.unit)

    def against(self, other: "Change") -> Paired:
        """Compare the accuracies on the same wells, by units."""
        return compare_means(self.right, other.right, self.unit)

    def surprise(self, other: "Change") -> tuple[float, float, float]:
        """Return the difference of the mean losses, with its 95 % interval over units."""
        change = self.loss - other.loss
        return float(change.mean()), *mean_interval(change, self.unit, bounded=False)


class Changes:
    """All rows of one config's store and folds.

    Args:
        config: its store, folds and channels are used, none of its training.
        weights: folder of NETWORKS' weights; None takes those of the packages.
        runs: names of trained runs on the same folds; the first is blended with the frozen layers.
    """

    def __init__(self, config: Config, weights: Path | None, runs: Sequence[str] = ()):
        competition = get_competition(config.competition)
        competition.task.require_one_label("study bbbc021")
        self.config, self.weights, self.runs = config, weights, runs
        pooled = config.submit.model_copy(update={"pool": "well"})
        self.problem = open_problem(config.model_copy(update={"submit": pooled}), competition, None)
        samples = self.problem.samples
        held_out = np.unique(np.concatenate([split.valid for split in self.problem.splits]))
        first = samples.iloc[held_out].drop_duplicates("well_id").sort_values("well_id")
        self.rows = first.index.to_numpy()
        self.wells = first.well_id.to_numpy(object)
        self.label = first.label.to_numpy(np.int64)
        self.unit = first[self.problem.folds.group].to_numpy(object)

    @property
    def group(self) -> str:
        """The samples column that folds do not split."""
        return self.problem.folds.group

    def all_rows(self) -> list[Change]:
        """Return the rows of every section; the first is the reference."""
        networks = {name: self._frozen(name) for name in NETWORKS}
        merged = np.mean(list(networks.values()), axis=0)
        rows = [self._row("frozen layers", MERGED, merged)]
        rows += [self._row("frozen layers", f"{name} alone", x) for name, x in networks.items()]
        rows += [self._row("frozen layers, changed", *item) for item in self._changed(merged)]
        rows += [self._row("layers of the first network", *item) for item in self._layers()]
        trained = dict(self._trained())
        rows += [self._row("trained on these images", *item) for item in trained.items()]
        if trained:
            blends = self._blends(merged, next(iter(trained.values())))
            rows += [self._row(f"with {self.runs[0]}", *item) for item in blends]
        return rows + [self._row("baselines", *item) for item in self._baselines()]

    def _row(self, section: str, title: str, scores: np.ndarray) -> Change:
        return Change(section, title, scores, self.label, self.unit)

    # frozen layers
    # ----------------------------------------------------------------------------------------------

    def features(self, name: str, view: str = "identity") -> np.ndarray:
        """Return the (n, D) features of a network's layers; they are kept in the runs' folder."""
        file = None if self.weights is None else self.weights / f"{name}.safetensors"
        reason = missing_weights(file, name)
        if reason:
            raise InputError(reason)
        layers = DEEP if name == NETWORKS[0] and view == "identity" else LAYERS
        store, planes = self.problem.store, list(self.problem.planes.values())
        rows = store.samples.row.to_numpy()[self.problem.used]
        options = {"backbone": name, "layers": layers, "view": view}

        def embed() -> dict[str, np.ndarray]:
            log.info("features of %s, view %s, %d images", name, view, len(rows))
            return {
                "x": network_features(store, rows, planes, pretrained=True, weights=file, **options)
            }

        known = [VERSION, store.content_hash, rows.tolist(), planes, options]
        key = digest([*known, None if file is None else sha256(file)])
        path = self.config.runs / f"{self.config.competition}_study" / f"{name}_{view}.npz"
        return cached(path, key, embed)["x"]

    def layer_columns(self, layers: Sequence[int]) -> np.ndarray:
        """Return which columns of the first network's features are of some layers."""
        from cellsignal.models.torchvision_cpu import import_timm

        known = import_timm().create_model(NETWORKS[0], features_only=True).feature_info.channels()
        ends = np.cumsum([2 * known[layer] for layer in DEEP])
        layer_of = np.repeat(DEEP, [2 * known[layer] for layer in DEEP])
        assert ends[-1] == self.features(NETWORKS[0]).shape[1]
        return np.flatnonzero(np.isin(layer_of, layers))

    def _middle(self, name: str) -> np.ndarray:
        x = self.features(name)
        return x[:, self.layer_columns(LAYERS)] if name == NETWORKS[0] else x

    def _frozen(self, name: str, change: Callable | None = None, **options) -> np.ndarray:
        x = self._middle(name)
        return self.classified(x if change is None else change(x), **options)

    def classified(
        self, x: np.ndarray, classify: Classify | None = None, problem: Problem | None = None
    ) -> np.ndarray:
        """Return the (W, K) scores of (n, D) features by a classifier of the training wells."""
        problem = problem or self.problem
        scores = out_of_fold_scores(problem, x, classify or _linear(1.0))
        if problem.unit == "well_id":
            return scores[self.rows]
        known = np.isfinite(scores).all(axis=1)
        table = pd.DataFrame(log_softmax(scores[known], axis=1))
        by_well = table.groupby(problem.samples.well_id.to_numpy(object)[known]).mean()
        return by_well.loc[self.wells].to_numpy()

    def _merged(self, **options) -> np.ndarray:
        return np.mean([self._frozen(name, **options) for name in NETWORKS], axis=0)

    def _changed(self, merged: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        samples, by_image = self.problem.samples, replace(self.problem, unit="target_id")
        joined = np.hstack([self._middle(name) for name in NETWORKS])
        yield "features side by side, one regression", self.classified(joined)
        for how, title in (("centre", "centred"), ("standardise", "standardised")):
            change = partial(_normalised, samples=samples, how=how)
            yield f"features {title} by plate", self._merged(change=change)
        change = partial(with_plate_differences, samples=samples)
        yield "features beside their difference from the plate", self._merged(change=change)
        yield "each image by itself, then merged", self._merged(problem=by_image)
        yield "nearest class centre (cosine)", self._merged(classify=_centre)
        yield "five nearest neighbours (cosine)", self._merged(classify=_neighbours)
        for strength in (0.1, 10.0):
            title = f"regression with C = {strength:g} in place of 1"
            yield title, self._merged(classify=_linear(strength))
        flipped = self.features(NETWORKS[0], "hflip")
        two = (self._middle(NETWORKS[0]) + flipped) / 2
        others = [self._frozen(name) for name in NETWORKS[1:]]
        title = "two views of each image (mirrored) in the first network"
        yield title, np.mean([self.classified(two), *others], axis=0)

    def _layers(self) -> Iterator[tuple[str, np.ndarray]]:
        x = self.features(NETWORKS[0])
        for layer in DEEP:
            yield f"layer {layer} alone", self.classified(x[:, self.layer_columns([layer])])

    # runs and baselines
    # ----------------------------------------------------------------------------------------------

    def _trained(self) -> Iterator[tuple[str, np.ndarray]]:
        for name in self.runs:
            config = read_configs(name)[0]
            files = config_predictions(config)
            members = [load_predictions(path) for path in files]
            seeds = len({member.about["seed"] for member in members})
            title = f"{name} ({seeds} seed{'s merged' if seeds > 1 else ''})"
            yield title, self._run_scores(members)
            if name == self.runs[0] and len(members[0].views) > 1:
                one = self._run_scores(members, views=members[0].views[:1])
                yield f"{name}, one view in place of {len(members[0].views)}", one

    def _run_scores(self, members: Sequence, **options) -> np.ndarray:
        task = self.problem.competition.task
        targets = merge(members, "oof", task, pool="well", **options)
        wells, first = np.unique(targets.well_id.astype(object), return_index=True)
        if wells.tolist() != self.wells.tolist():
            raise InputError(
                f"{members[0].path}: holds out {len(wells)} wells that are not the "
                f"{len(self.wells)} of {self.config.folds.file}"
            )
        return targets.scores[first].astype(np.float64)

    def _blends(self, frozen: np.ndarray, trained: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Blend the frozen layers with a run; what is chosen is chosen on the other compounds."""
        unit = np.unique(self.unit.astype(str), return_inverse=True)[1]
        scores = np.stack([log_softmax(values, axis=1) for values in (frozen, trained)])
        task = self.problem.competition.task
        members = Members(
            names=("frozen layers", self.runs[0]),
            scores=scores,
            truth=self.label,
            unit=unit,
            equal=np.array([0.5, 0.5]),
            loss=task.loss_family,
            metric=task.monitored,
        )
        fits = cross_fit(members, WAYS, deal_units(members, PARTS, seed=0))
        for way in ("equal weights", "calibrated, equal weights", "stacking"):
            yield f"blended by {way}", fits[way].scores.astype(np.float64)

    def _baselines(self) -> Iterator[tuple[str, np.ndarray]]:
        for name in BASELINES:
            scores = baseline_scores(self.problem, name, workers=0, weights=None)
            yield f"{name}: {TITLES[name]}", scores[self.rows]


def _linear(strength: float) -> Classify:
    def classify(train: Units, encoded: np.ndarray, query: Units, classes: int) -> np.ndarray:
        return linear_scores(train.x, encoded, query.x, classes, strength)

    return classify


def _centre(train: Units, encoded: np.ndarray, query: Units, classes: int) -> np.ndarray:
    return centre_scores(train.x, encoded, query.x, classes)


def _neighbours(train: Units, encoded: np.ndarray, query: Units, classes: int) -> np.ndarray:
    return neighbour_scores(train.x, encoded, query.x, classes, "cosine", 5)


def _normalised(x: np.ndarray, samples: pd.DataFrame, how: str) -> np.ndarray:
    """Return each image's well, normalised among the wells of its plate, (n, D)."""
    means, wells = average(x, samples, ["well_id"])
    place = pd.Index(wells.well_id).get_indexer(samples.well_id)
    return normalise(means, wells, how)[place]
