"""Merged predictions beside their truth: what is right, where, and how sure it was."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from cellsignal.competitions.base import PlateGroups
from cellsignal.competitions.targets import Targets, Truth, subset
from cellsignal.metrics.accuracy import Score, accuracy
from cellsignal.prediction.entry import Entry, with_part
from cellsignal.prediction.plate_layout.apply import predict_labels
from cellsignal.prediction.steps import truth_of

PARTS = {"test": "test set", "oof": "out of fold"}


@dataclass(frozen=True)
class Outcome:
    """Predictions of one part, and what is true.

    Attributes:
        part: "test" or "oof".
        targets: the merged predictions. Where targets share the prediction of their well, each well
            is there once.
        truth: of the targets, in their order.
        predicted: (T,) labels after the plate layout; None where a target may have several labels.
        groups: class groups of the plates, if there are any.
        classes: K names.
        entry: what the predictions are from.
    """

    part: str
    targets: Targets
    truth: Truth
    predicted: np.ndarray | None
    groups: PlateGroups | None
    classes: tuple[str, ...]
    entry: Entry

    @property
    def name(self) -> str:
        """The part in words."""
        return PARTS[self.part]

    @property
    def right(self) -> np.ndarray:
        """(T,) bool: whether the final label is the true one."""
        return self.predicted == self.truth.values

    @cached_property
    def merged_right(self) -> np.ndarray:
        """(T,) bool: whether the merged predictions are right, before the plate layout."""
        return self.targets.scores.argmax(axis=1) == self.truth.values

    def score(self, chosen: np.ndarray) -> Score:
        """Score the merged predictions of some targets, before the plate layout.

        Args:
            chosen: (T,) bool.
        """
        if self.predicted is not None:
            right = self.merged_right[chosen]
            return accuracy(np.ones(len(right), bool), right)
        truth = self.truth.take(chosen)
        task = self.entry.competition.task
        return task.evaluate(self.targets.scores[chosen], truth, self.classes)[0]

    @property
    def final_targets(self) -> Targets:
        """The targets that score as the final labels do: of two classes, wrong and right.

        Where a target may have several labels they are the merged predictions.
        """
        if self.predicted is None:
            return replace(self.targets, labels=self.truth.values)
        says_right = np.tile(np.array([0, 1], np.float32), (len(self.right), 1))
        return replace(self.targets, scores=says_right, label=self.right.astype(int))

    def units(self, by: str) -> tuple[str, np.ndarray]:
        """Return the column that intervals are over, and the unit of each target, (T,).

        Test compounds, which a competition may hide, are in the answers alone; where they are not
        known either the unit is the experiment.

        Args:
            by: a column of the samples table.
        """
        samples = self.entry.samples.drop_duplicates("target_id").set_index("target_id")
        unit = samples[by].loc[self.targets.target_id].to_numpy(object)
        if pd.isna(unit).any():
            unit = np.asarray(self.truth.cluster, object)
        if pd.isna(unit).any() or np.array_equal(unit, self.targets.target_id):
            return "experiment", self.targets.experiment
        return by, unit

    def clustered(self, by: str, other: "Outcome | None" = None) -> tuple[float, float, float]:
        """Return the final score and its 95 % interval over units; or how far `other` is above it.

        Args:
            by: as for `units`.
            other: an outcome of the same targets, in the same order.
        """
        (_, unit), task = self.units(by), self.entry.competition.task
        if other is None:
            return task.clustered_score(self.final_targets, unit)
        paired = task.compare_targets(other.final_targets, self.final_targets, unit)
        return paired.difference, paired.low, paired.high

    def kept(self, target_ids: np.ndarray) -> "Outcome":
        """Return the rows of these targets, in their order."""
        rows = pd.Index(self.targets.target_id).get_indexer(target_ids)
        return replace(
            self,
            targets=subset(self.targets, rows),
            truth=self.truth.of(target_ids),
            predicted=None if self.predicted is None else self.predicted[rows],
        )

    def probabilities(self) -> np.ndarray:
        """(T, K) probabilities before the plate layout."""
        scores = self.targets.scores.astype(np.float64)
        if self.predicted is None:
            return 1 / (1 + np.exp(-scores))
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)


def make_outcome(entry: Entry, part: str, truth: Truth | None) -> Outcome:
    """Merge the predictions of a part and put their truth beside them.

    Args:
        truth: of the test targets; unused out of fold.
    """
    task = entry.competition.task
    targets = entry.merge(with_part(entry.final(), part), part, pool=entry.how.pool)
    groups = entry.competition.plate_groups(entry.samples)
    predicted = None
    if "outcome" in task.pictures:
        predicted, _ = predict_labels(entry, targets, groups)
    known = truth_of(entry, targets, truth if part == "test" else None)
    counted = np.arange(len(targets.target_id))
    if entry.how.pool == "well":  # the targets of a well share one prediction: it counts once
        counted = np.sort(np.unique(targets.well_id, return_index=True)[1])
    return Outcome(
        part=part,
        targets=subset(targets, counted),
        truth=known.take(counted),
        predicted=None if predicted is None else predicted[counted],
        groups=groups,
        classes=entry.classes,
        entry=entry,
    )


def plates_of(outcome: Outcome) -> pd.DataFrame:
    """Return the share of right labels of each plate: experiment, plate, right, n."""
    frame = pd.DataFrame(
        {
            "experiment": outcome.targets.experiment,
            "plate": outcome.targets.plate,
            "right": outcome.right,
        }
    )
    table = frame.groupby(["experiment", "plate"], sort=True).right.agg(["mean", "size"])
    return table.reset_index().rename(columns={"mean": "right", "size": "n"})
