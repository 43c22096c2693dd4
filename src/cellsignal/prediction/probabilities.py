"""Calibrated probabilities of merged predictions, and a confidence for each submitted row.

The temperature is fitted on out-of-fold targets, which their model did not train on. Out of fold
one fold's model predicts a target, in the test set the mean of all folds: means are less sure than
they might be, so test probabilities tend to be somewhat too low.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import PlateGroups
from cellsignal.competitions.submissions import in_sample_order
from cellsignal.competitions.targets import Targets, subset
from cellsignal.metrics.reliability import (
    Fitted,
    Reliability,
    consecutive,
    cross_fit,
    fit_by_truth,
    fit_temperature,
    reliability_text,
    sharpened,
)
from cellsignal.prediction.entry import Entry, with_part
from cellsignal.prediction.plate_layout.apply import assign_labels, infer_groups, use_repeats
from cellsignal.prediction.plate_layout.marginals import (
    AssignedTruth,
    assignment_marginals,
    group_probabilities,
    whole_runs,
)
from cellsignal.prediction.steps import truth_of

SOFTMAX = "softmax over all classes"
GROUPS = "softmax over the classes that the plate may hold, weighed by how probable its group is"
ASSIGNED = (
    "share of the plate's assignments that give the well this class, each class once (belief "
    "propagation)"
)
SIGMOID = "each class by itself"
_ROWS = 4096  # turned to float64 at a time


@dataclass(frozen=True)
class Calibrated:
    """Probabilities of test targets.

    Attributes:
        probability: (T, K), classes as the entry's.
        temperatures: fitted on all out-of-fold targets: of the scores, and of the assignment.
        meaning: what the probabilities are.
        reliability: of halves fitted and tested apart; None where there is one fold group alone.
    """

    probability: np.ndarray
    temperatures: tuple[float, ...]
    meaning: str
    reliability: Reliability | None


@dataclass(frozen=True)
class Known:
    """Out-of-fold targets whose truth is known.

    Attributes:
        truth: (T,) int, or (T, K) of 1, 0 and NaN.
        unit, units: what the folds hold out whole, and (T,) that of each target.
        beliefs: of the targets' plates, see `Calibrator.beliefs`.
    """

    targets: Targets
    truth: np.ndarray
    unit: str
    units: np.ndarray
    beliefs: dict


class Calibrator:
    """Turns merged scores into probabilities as `submit.assignment` uses the plates.

    Args:
        groups: `Competition.plate_groups`.
        by_layout: use the plates' layout; False takes the scores alone.
    """

    def __init__(self, entry: Entry, groups: PlateGroups | None, by_layout: bool = True):
        self.entry, self.groups = entry, groups
        uses = by_layout and groups is not None and entry.how.assignment != "none"
        self.kind = entry.how.assignment if uses else "none"

    @property
    def meaning(self) -> str:
        """What the probabilities are, in words."""
        if self.kind != "none":
            return GROUPS if self.kind == "groups" else ASSIGNED
        one_label = self.entry.competition.task.loss_family == "cross_entropy"
        return SOFTMAX if one_label else SIGMOID

    def beliefs(self, targets: Targets) -> dict:
        """Return how probable each group of the targets' plates is, where layouts are used."""
        if self.kind == "none":
            return {}
        return infer_groups(self.entry, targets, self.groups).beliefs

    def probabilities(
        self, targets: Targets, temperatures: tuple, beliefs: dict, once: bool = True
    ) -> np.ndarray:
        """Return the (T, K) probabilities of targets; of whole plates where layouts are used.

        Args:
            temperatures: of the scores, then of the assignment where there is one.
            beliefs: of the targets' plates.
            once: each class occurs once on a plate, where the assignment says so.
        """
        scores, temperature = targets.scores, temperatures[0]
        if self.kind == "none":
            out = np.empty(scores.shape)
            for start in range(0, len(out), _ROWS):
                part = scores[start : start + _ROWS].astype(np.float64)
                of_part = self.entry.competition.task.probabilities(part / temperature)
                out[start : start + _ROWS] = of_part
            return out
        plates = (targets.experiment, targets.plate, self.groups.class_group, beliefs)
        if self.kind == "groups" or not once:
            return group_probabilities(scores, *plates, temperature)
        assigned = assignment_marginals(scores, *plates, temperature)
        return sharpened(assigned, temperatures[1], out=assigned)

    def out_of_fold(self) -> Targets:
        """Merge the out-of-fold predictions whose truth is known.

        Raises:
            InputError: there are none.
        """
        if not with_part(self.entry.final(), "oof"):
            raise InputError(
                f"{self.entry.members[0].path}: no out-of-fold predictions to fit a temperature on"
            )
        targets = self.entry.merge(self.entry.final(), "oof", pool=self.entry.how.pool)
        if self.kind != "none":
            targets, _ = use_repeats(self.entry, targets, self.groups)
        return targets

    @cached_property
    def known(self) -> "Known":
        """The out-of-fold targets whose truth is known."""
        targets = self.out_of_fold()
        truth = np.asarray(truth_of(self.entry, targets, None).values)
        unit = self.entry.members[0].about.get("fold_group", "experiment")
        samples = self.entry.samples.drop_duplicates("target_id").set_index("target_id")
        units = samples[unit].loc[targets.target_id].to_numpy(object)
        rows = truth >= 0 if truth.ndim == 1 else ~np.isnan(truth).all(axis=1)
        beliefs = self.beliefs(targets)
        if not rows.all():
            targets = subset(targets, rows)
        return Known(targets, truth[rows], unit, units[rows], beliefs)

    def fit_all(self) -> Fitted:
        """Fit on all out-of-fold targets; its `predict` is for them alone."""
        return self._fit_rows(np.arange(len(self.known.truth)))

    def measure(self) -> Reliability | None:
        """Fit on halves of the units and test on the other half; None with one unit alone."""
        known = self.known
        if len(pd.unique(known.units)) < 2:
            return None

        def as_predicted(rows: np.ndarray) -> np.ndarray:
            return self.probabilities(subset(known.targets, rows), (1.0, 1.0), known.beliefs)

        return cross_fit(
            self._fit_rows, as_predicted, known.truth, known.units, pieces=self._pieces
        )

    def _pieces(self, rows: np.ndarray) -> list[np.ndarray]:
        """Split rows in order where that changes no probability: between plates, if they matter."""
        if self.kind == "none":
            return consecutive(rows)
        targets = self.known.targets
        plates = zip(targets.experiment[rows], targets.plate[rows], strict=True)
        return np.split(rows, whole_runs(pd.factorize(pd.MultiIndex.from_tuples(plates))[0], _ROWS))

    def _fit_rows(self, rows: np.ndarray) -> Fitted:
        return self.fit(self.known.targets, self.known.truth, self.known.beliefs, rows)

    def fit(self, targets: Targets, truth: np.ndarray, beliefs: dict, rows: np.ndarray) -> Fitted:
        """Fit the temperature of the scores on some rows, then that of the assignment.

        The first is fitted on the softmax of each well, which is what it is about. Assigning each
        class once makes wells of a plate depend on each other, and errors that they share make it
        too sure; the second takes that back.
        """

        def of_scores(chosen: np.ndarray, temperature: float) -> np.ndarray:
            temperatures = (temperature, 1.0)
            return self.probabilities(subset(targets, chosen), temperatures, beliefs, once=False)

        temperatures: tuple[float, ...] = (fit_temperature(of_scores, truth, rows),)
        if self.kind in ("hungarian", "sinkhorn"):
            plates = (targets.experiment[rows], targets.plate[rows], self.groups.class_group)
            scores = targets.scores if len(rows) == len(truth) else targets.scores[rows]
            assigned = AssignedTruth(truth[rows], scores, *plates, beliefs, *temperatures)
            temperatures = (*temperatures, fit_by_truth(assigned.sharpened, len(rows)))

        def predict(chosen: np.ndarray) -> np.ndarray:
            return self.probabilities(subset(targets, chosen), temperatures, beliefs)

        return Fitted(temperatures, predict)


def calibrate(entry: Entry, targets: Targets, groups: PlateGroups | None) -> Calibrated:
    """Return the calibrated probabilities of test targets.

    Args:
        targets: merged, with the evidence of repeats if it is used.

    Raises:
        InputError: no out-of-fold predictions.
    """
    calibrator = Calibrator(entry, groups)
    temperatures, beliefs = calibrator.fit_all().temperatures, calibrator.beliefs(targets)
    reliability = calibrator.measure()  # first: its tables and those of the targets are large
    del calibrator.known
    probability = calibrator.probabilities(targets, temperatures, beliefs)
    return Calibrated(probability, temperatures, calibrator.meaning, reliability)


def confidence_table(
    entry: Entry, targets: Targets, groups: PlateGroups | None, calibrated: Calibrated
) -> pd.DataFrame:
    """Return the confidence of each row of a submission, in its order; see `Task.confidences`."""
    competition, ids = entry.competition, entry.competition.id_column
    labels, _ = assign_labels(entry, targets, groups)
    table = competition.task.confidences(calibrated.probability, labels, entry.classes)
    table.insert(0, ids, targets.target_id)
    return in_sample_order(table, competition.sample_submission(entry.root), ids)


def about_probabilities(file: Path, calibrated: Calibrated) -> dict:
    """Return the provenance of a submission's probabilities."""
    about = {
        "file": str(file),
        "meaning": calibrated.meaning,
        "temperatures": calibrated.temperatures,
        "reliability": None,
    }
    if calibrated.reliability is not None:
        about["reliability"] = asdict(calibrated.reliability) | {
            "table": calibrated.reliability.table.to_dict("records")
        }
    return about


def probabilities_path(submission: Path) -> Path:
    """Return the path of a submission's probabilities, beside it."""
    return submission.with_suffix(".probabilities.csv")


def out_of_fold_reliability(entry: Entry) -> str:
    """Print how reliable the merged out-of-fold probabilities are; "" with one fold group alone."""
    calibrator = Calibrator(entry, None, by_layout=False)
    reliability = calibrator.measure()
    if reliability is None:
        return ""
    what = f"probabilities of all runs merged ({calibrator.meaning})"
    return reliability_text(reliability, calibrator.known.unit, what)
