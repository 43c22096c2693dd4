"""Any number of classes an id, none included: a score for every class, ranked against the truth.

A submission is the id and one column a class, in the order of the classes, of finite numbers:
higher is likelier. Only the order counts, so logits and probabilities score the same.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned
from cellsignal.competitions import class_columns, submissions
from cellsignal.competitions.confidence import class_confidences
from cellsignal.competitions.folds import balance_table
from cellsignal.competitions.out_of_fold import out_of_fold_precision_text
from cellsignal.competitions.single_label import SingleLabel
from cellsignal.competitions.targets import (
    Runs,
    Targets,
    Truth,
    label_matrix,
    slices_of,
    sum_by_target,
)
from cellsignal.competitions.task import Task
from cellsignal.competitions.units import interval_note, over_text
from cellsignal.metrics.accuracy import Score
from cellsignal.metrics.average_precision import (
    average_precision_table,
    macro_average_precision,
    macro_leave_out_scores,
)
from cellsignal.metrics.intervals import NO_INTERVAL, jackknife_interval, range_text
from cellsignal.metrics.paired import Paired, compare_macro

COLUMNS = (
    *("slice", "name", "positives", "n", "prevalence"),
    *("average_precision", "low", "high", "roc_auc", "unit", "units"),
)


class MultiLabel(Task):
    """Several classes an id: binary cross-entropy, scored by macro average precision.

    `target_column` of the competition names the samples column of the labels; no submission has it.
    """

    loss_family = "binary_cross_entropy"
    monitored = "average_precision"
    score_column = "average_precision"
    slices = ("cell_type",)
    printed_slices = (*Task.printed_slices, "class")

    def check_config(self, config) -> None:
        super().check_config(config)
        if config.data.controls != "ignore":
            problem = f"{self.competition.id} has no classes of its control wells"
            raise InputError(f"data.controls: {problem}")

    def check_monitor(self, stage) -> None:
        super().check_monitor(stage)
        if stage.monitor == "retrieval":
            self.require_one_label(f"stages.{stage.name}.monitor: retrieval")

    def check_losses(self, stage) -> None:
        parts = ("margin", "triplet", "center", "pseudo_labels", "mean_teacher")
        keys = [name for name in parts if getattr(stage, name) is not None]
        keys += ["batches.labels: unique"] if stage.batches.labels == "unique" else []
        keys += ["batches.images"] if stage.batches.images is not None else []
        if keys:
            self.require_one_label(f"stages.{stage.name}.{keys[0]}")

    def of_stage(self, stage) -> Task:
        return self if stage.target == "label" else SingleLabel(self.competition)

    def encode_targets(self, samples: pd.DataFrame, classes: int) -> np.ndarray:
        return label_matrix(samples, classes)

    def batch_labels(self, targets: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(targets).any(axis=1), -1, 0)

    def balance_groups(self, targets: np.ndarray, classes: int) -> np.ndarray:
        has_class = targets == 1
        return np.column_stack([has_class, ~has_class.any(axis=1)])

    def check_targets(self, targets: np.ndarray, validation: np.ndarray, title: str) -> None:
        if not (targets == 1).any():
            samples = f"none of the {len(targets)} training samples"
            raise InputError(f"{title}: {samples} has any of the {targets.shape[1]} classes")
        testable = (validation == 1).any(axis=0) & (validation == 0).any(axis=0)
        if len(validation) and not testable.any():
            samples = f"the {len(validation)} validation samples"
            raise InputError(
                f"{title}: no class has both a positive and a negative among {samples}"
            )

    def validation_scores(
        self, logits: np.ndarray, samples: pd.DataFrame, classes: int
    ) -> tuple[float, float]:
        """Return binary cross-entropy by sample, and macro average precision of mean logits."""
        from scipy.special import log_expit

        truth = label_matrix(samples, classes).astype(float)
        loss = -(truth * log_expit(logits) + (1 - truth) * log_expit(-logits)).mean()
        target_id = samples.target_id.to_numpy().astype(str)
        targets, sums, first = sum_by_target(logits, target_id)
        mean = sums / np.bincount(np.searchsorted(targets, target_id))[:, None]
        return float(loss), macro_average_precision(truth[first], mean)

    def known_labels(self, samples: pd.DataFrame, classes: int) -> np.ndarray:
        return label_matrix(samples, classes)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        from scipy.special import expit

        return expit(logits)

    def scores_of_probabilities(self, mean: np.ndarray) -> np.ndarray:
        from scipy.special import logit

        return logit(np.clip(mean, 1e-7, 1 - 1e-7))

    def scores_of_logits(self, mean: np.ndarray) -> np.ndarray:
        return mean

    def truth(self, answers: pd.DataFrame, classes: Sequence[str]) -> Truth:
        ids = answers[self.competition.id_column].to_numpy(object)
        class_columns.require_classes(answers, classes)
        return Truth(ids, answers[list(classes)].to_numpy(float), *self.units_of(answers))

    def truth_of_targets(self, targets: Targets, samples: pd.DataFrame) -> Truth:
        rows = samples.loc[targets.target_id].reset_index()
        return Truth(targets.target_id, targets.labels, *self.units_of(rows))

    def truth_table(self, targets: Targets) -> pd.DataFrame:
        frame = pd.DataFrame({"target_id": targets.target_id, "label": targets.label})
        return frame.join(pd.DataFrame(targets.labels).add_prefix("class"))

    def evaluate(
        self, scores: np.ndarray, truth: Truth, classes: Sequence[str]
    ) -> tuple[Score, float]:
        table = average_precision_table(truth.values, scores, classes, truth.cluster)
        macro = table.iloc[0]
        ends = (macro.low, macro.high) if truth.unit else NO_INTERVAL
        over = (truth.unit, len(pd.unique(truth.cluster)))
        figures = (macro.average_precision, *ends, int(macro.n))
        score = Score(*figures, "average precision", *over)
        return score, float(macro.prevalence)

    def point_score(self, targets: Targets) -> float:
        return macro_average_precision(targets.labels, targets.scores)

    def confidences(self, probability, labels, classes) -> pd.DataFrame:
        return class_confidences(probability, classes)

    def clustered_score(self, targets: Targets, cluster: np.ndarray) -> tuple[float, float, float]:
        value, without, share = macro_leave_out_scores(targets.labels, targets.scores, cluster)
        return value, *jackknife_interval(value, without, share)

    def compare_targets(self, first: Targets, second: Targets, cluster: np.ndarray) -> Paired:
        return compare_macro(first.labels, first.scores, second.scores, cluster)

    def chance(self, samples: pd.DataFrame, classes: int) -> float:
        """Return the mean over the classes of their share of the samples."""
        return float(label_matrix(samples, classes).mean())

    def out_of_fold_text(
        self, runs: Runs, samples: pd.DataFrame, fold_group: str, classes: Sequence[str]
    ) -> str:
        truths = {run: self.truth_of_targets(of["target"], samples) for run, of in runs.items()}
        scores = {run: pools["target"].scores for run, pools in runs.items()}
        return out_of_fold_precision_text(truths, scores, classes)

    def format_predictions(
        self, target_ids: Iterable[str], scores: np.ndarray, root: Path
    ) -> pd.DataFrame:
        return self.format_scores(target_ids, self.probabilities(scores.astype(np.float64)), root)

    def format_scores(
        self, target_ids: Iterable[str], scores: np.ndarray, root: Path
    ) -> pd.DataFrame:
        """Write scores (T, K) as a submission, in the sample submission's order.

        Raises:
            InvalidSubmission: ids that are not the sample submission's; a score that is not finite.
        """
        classes, ids = self.competition.classes(root), self.competition.id_column
        frame = pd.DataFrame(np.asarray(scores), columns=list(classes))
        frame.insert(0, ids, pd.Series(list(target_ids), dtype=object))
        frame = submissions.in_sample_order(frame, self.competition.sample_submission(root), ids)
        class_columns.check_scores(frame, classes, ids)
        return frame

    def placeholders(self, target_ids: Iterable[str], classes: Sequence[str]) -> pd.DataFrame:
        """Make a submission that says nothing: 0.5 for every class of every id."""
        ids = pd.DataFrame({self.competition.id_column: list(target_ids)}, dtype=object)
        return ids.join(pd.DataFrame(0.5, index=ids.index, columns=list(classes)))

    def read_submission(self, path: Path | str, answers: pd.DataFrame) -> pd.DataFrame:
        classes = class_columns.answer_classes(answers, self.competition.id_column)
        return class_columns.read_class_scores(Path(path), self.competition.id_column, classes)

    def check_submission(
        self, submission: pd.DataFrame, sample: pd.DataFrame, classes: Sequence[str]
    ) -> None:
        ids = self.competition.id_column
        class_columns.check_column_order(submission, ids, classes)
        submissions.check_submission_ids(submission, sample, ids)
        submissions.check_order(submission, sample, ids)
        class_columns.check_scores(submission, classes, ids)

    def read_answers(self, path: Path) -> pd.DataFrame:
        return class_columns.read_class_answers(path, self.competition.id_column)

    def score(self, submission: pd.DataFrame, answers: pd.DataFrame) -> float:
        ids = self.competition.id_column
        truth, scores, _ = class_columns.truth_and_scores(submission, answers, ids)
        return macro_average_precision(truth, scores)

    def compare(self, first, second, answers, names) -> Paired:
        ids = self.competition.id_column
        truth, scores, _ = class_columns.truth_and_scores(first, answers, ids, names[0])
        _, others, _ = class_columns.truth_and_scores(second, answers, ids, names[1])
        units, unit = self.units_of(answers)
        return compare_macro(truth, scores, others, units if unit else None)

    def score_table(
        self,
        submission: pd.DataFrame,
        answers: pd.DataFrame,
        name: str = submissions.SUBMISSION,
    ) -> pd.DataFrame:
        """Compute average precision overall, by leaderboard, cell type and class.

        All rows but those of classes are macro averages over the classes that the slice holds both
        with and without. `low` and `high` are the 95 % interval over `units` of the `unit`.

        Returns:
            Columns `COLUMNS`; NaN where nothing can be ranked, or units are too few.
        """
        if answers.empty:
            raise InputError("answers: there are none")
        ids = self.competition.id_column
        truth, scores, classes = class_columns.truth_and_scores(submission, answers, ids, name)
        unit = self.resampled_column(answers)
        units = answers[unit].to_numpy(object)
        parts = []
        for kind, slice_name, inside in slices_of(answers, self.slices):
            table = average_precision_table(truth[inside], scores[inside], classes, units[inside])
            count = len(set(units[inside]))
            parts.append(table[:1].assign(slice=kind, name=slice_name, units=count))
            if kind == "overall":
                of_classes = table[1:].assign(slice="class", name=table["class"][1:], units=count)
        table = pd.concat([*parts, of_classes], ignore_index=True).assign(unit=unit)
        if unit == ids:
            table["low"], table["high"] = NO_INTERVAL
            table["units"] = 0
        return table[list(COLUMNS)].astype({"positives": "int64", "n": "int64"})

    def table_text(self, table: pd.DataFrame) -> str:
        head = ("slice", "name", "AP", "95 % interval", "over", "prevalence", "ROC AUC")
        lines = [(*head, "positives", "n")]
        for row in table.to_dict("records"):
            numbers = [row[name] for name in ("average_precision", "prevalence", "roc_auc")]
            score, prevalence, auc = ("" if np.isnan(n) else f"{n:.4f}" for n in numbers)
            ends = (range_text(row["low"], row["high"]), over_text(row["unit"], row["units"]))
            counts = (f"{row['positives']:,}", f"{row['n']:,}")
            lines.append((row["slice"], row["name"], score, *ends, prevalence, auc, *counts))
        return f"{aligned(lines, right={2, 5, 6, 7, 8})}\n{interval_note(table)}"

    def check_answers(self, answers: pd.DataFrame, root: Path, path: Path) -> None:
        classes = set(self.competition.classes(root))
        names = class_columns.answer_classes(answers, self.competition.id_column)
        unknown = [name for name in names if name not in classes]
        if unknown:
            raise InputError(f"{path}: column {unknown[0]!r} is not a class of {root}")

    def check_names(self, submission, answers, root, path, name) -> None:
        """Nothing to do: `read_submission` checks the columns."""

    def fits(self, columns: Iterable[str]) -> bool:
        """No: which columns are classes is known from the raw data alone."""
        return False

    def require_one_label(self, verb: str) -> None:
        raise InputError(
            f"{verb}: needs one label an image; those of {self.competition.id} have several or none"
        )

    def folds_text(self, folds: pd.DataFrame, classes: Sequence[str]) -> str:
        return balance_table(folds, classes)
