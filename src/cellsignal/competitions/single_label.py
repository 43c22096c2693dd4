"""One class an id, scored by accuracy."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.common.tables import aligned
from cellsignal.competitions import submissions
from cellsignal.competitions.out_of_fold import out_of_fold_accuracy, out_of_fold_accuracy_text
from cellsignal.competitions.targets import Runs, Targets, Truth, slices_of, sum_by_target
from cellsignal.competitions.task import Task
from cellsignal.competitions.units import interval_note, over_text, unit_interval
from cellsignal.metrics.accuracy import Accuracy, accuracy
from cellsignal.metrics.intervals import mean_interval, range_text
from cellsignal.metrics.paired import Paired, compare_means

_INTERVALS = ("low", "high", "unit", "units", "wilson_low", "wilson_high")
COLUMNS = ("slice", "name", "correct", "n", "accuracy", *_INTERVALS)


class SingleLabel(Task):
    """One class an id: networks learn by cross-entropy, submissions are scored by accuracy."""

    loss_family = "cross_entropy"
    monitored = "accuracy"
    score_column = "accuracy"
    slices = ("cell_type", "experiment", "plate")
    pictures = ("outcome",)

    def check_losses(self, stage) -> None:
        if stage.positive_weight is not None:
            raise InputError(
                f"stages.{stage.name}.positive_weight: an image of {self.competition.id} has one "
                "label; use class_weights"
            )

    def of_stage(self, stage) -> Task:
        return self

    def encode_targets(self, samples: pd.DataFrame, classes: int) -> np.ndarray:
        return samples.label.to_numpy(dtype=np.int64, na_value=-1)

    def batch_labels(self, targets: np.ndarray) -> np.ndarray:
        return targets

    def balance_groups(self, targets: np.ndarray, classes: int) -> np.ndarray:
        return targets[:, None] == np.arange(classes)

    def check_targets(self, targets: np.ndarray, validation: np.ndarray, title: str) -> None:
        if len(np.unique(targets)) < 2:
            raise InputError(
                f"{title}: all {len(targets)} training samples are of one class; there is "
                "nothing to tell apart"
            )

    def validation_scores(
        self, logits: np.ndarray, samples: pd.DataFrame, classes: int
    ) -> tuple[float, float]:
        from scipy.special import log_softmax

        scores = log_softmax(logits[:, :classes], axis=1)
        labels = self.encode_targets(samples, classes)
        _, sums, first = sum_by_target(scores, samples.target_id.to_numpy().astype(str))
        loss = -scores[np.arange(len(labels)), labels].mean()
        return float(loss), float((sums.argmax(1) == labels[first]).mean())

    def known_labels(self, samples: pd.DataFrame, classes: int) -> None:
        return None

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return np.exp(self.scores_of_logits(logits))

    def scores_of_probabilities(self, mean: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(mean, 1e-30))

    def scores_of_logits(self, mean: np.ndarray) -> np.ndarray:
        from scipy.special import log_softmax

        return log_softmax(mean, axis=1)

    def truth(self, answers: pd.DataFrame, classes: Sequence[str]) -> Truth:
        target = self.competition.target_column
        index = {name: label for label, name in enumerate(self._spelt(classes))}
        answers = self.competition.comparable(answers, "answers")
        ids = answers[self.competition.id_column].to_numpy(object)
        label = answers[target].astype(str).map(index)
        if label.isna().any():
            row = int(np.argmax(label.isna()))
            raise InputError(
                f"answers: {answers[target].iloc[row]!r} of {ids[row]!r} is not a class"
            )
        return Truth(ids, label.to_numpy(np.int64), *self.units_of(answers))

    def truth_of_targets(self, targets: Targets, samples: pd.DataFrame) -> Truth:
        rows = samples.loc[targets.target_id].reset_index()
        return Truth(targets.target_id, targets.label, *self.units_of(rows))

    def truth_table(self, targets: Targets) -> pd.DataFrame:
        return pd.DataFrame({"target_id": targets.target_id, "label": targets.label})

    def evaluate(
        self, scores: np.ndarray, truth: Truth, classes: Sequence[str]
    ) -> tuple[Accuracy, float]:
        return self.evaluate_labels(scores.argmax(1), truth), 1 / scores.shape[1]

    def point_score(self, targets: Targets) -> float:
        return float((targets.scores.argmax(1) == targets.label).mean())

    def evaluate_labels(self, labels: np.ndarray, truth: Truth) -> Accuracy:
        """Score (T,) predicted labels; the interval is over the truth's units, if it has any."""
        figure = accuracy(truth.values, labels)
        if not truth.unit:
            return figure
        low, high = mean_interval(truth.values == labels, truth.cluster)
        count = len(pd.unique(truth.cluster))
        return replace(figure, low=low, high=high, unit=truth.unit, units=count)

    def clustered_score(self, targets: Targets, cluster: np.ndarray) -> tuple[float, float, float]:
        right = targets.scores.argmax(1) == targets.label
        return float(right.mean()), *mean_interval(right, cluster)

    def compare_targets(self, first: Targets, second: Targets, cluster: np.ndarray) -> Paired:
        right = [targets.scores.argmax(1) == targets.label for targets in (first, second)]
        return compare_means(*right, cluster)

    def chance(self, samples: pd.DataFrame, classes: int) -> float:
        return 1 / classes

    def out_of_fold_text(
        self, runs: Runs, samples: pd.DataFrame, fold_group: str, classes: Sequence[str]
    ) -> str:
        table = out_of_fold_accuracy(runs, samples, fold_group)
        return out_of_fold_accuracy_text(table, fold_group, self.chance(samples, len(classes)))

    def format_predictions(
        self, target_ids: Iterable[str], scores: np.ndarray, root: Path
    ) -> pd.DataFrame:
        return self.format_labels(target_ids, scores.argmax(1), root)

    def format_labels(
        self, target_ids: Iterable[str], labels: Iterable[int], root: Path
    ) -> pd.DataFrame:
        """Write predicted labels as a submission, in the sample submission's order.

        Raises:
            InvalidSubmission: an id of the sample submission has no prediction, or the reverse.
        """
        ids, target = self.competition.id_column, self.competition.target_column
        names = np.asarray(self.competition.classes(root), dtype=object)
        columns = {ids: list(target_ids), target: names[np.asarray(list(labels), dtype=int)]}
        sample = self.competition.sample_submission(root)
        return submissions.in_sample_order(pd.DataFrame(columns), sample, ids)

    def read_submission(self, path: Path | str, answers: pd.DataFrame) -> pd.DataFrame:
        """Read a submission: ids as text, targets as int64 if they are whole numbers, else text."""
        ids, column = self.competition.id_column, self.competition.target_column
        frame = submissions.read_rows(Path(path), ids, [column])
        submissions.refuse_empty_cells(Path(path), frame, column)
        target = frame[column]
        whole = target.str.fullmatch(r"[+-]?\d{1,18}")
        numeric = pd.to_numeric(target, errors="coerce").notna()
        if whole.all():
            frame[column] = target.astype("int64")
        elif whole.any() or numeric.any():
            line = int((~whole).idxmax())
            problem = f"{target[line]!r} in line {line} is not a whole number"
            raise InvalidSubmission(f"{path}: {problem}, as {column} must be")
        return frame.reset_index(drop=True)

    def check_submission(
        self, submission: pd.DataFrame, sample: pd.DataFrame, classes: Sequence[str]
    ) -> None:
        ids, target = self.competition.id_column, self.competition.target_column
        submissions.check_columns(submission.columns, ids, [target])
        submissions.check_submission_ids(submission, sample, ids)
        submissions.check_order(submission, sample, ids)
        self.check_values(submission, sample, classes)

    def check_values(
        self, submission: pd.DataFrame, sample: pd.DataFrame, classes: Sequence[str]
    ) -> None:
        """Refuse targets that are not classes."""
        ids, target = self.competition.id_column, self.competition.target_column
        submissions.check_submission_targets(submission, classes, ids, target)

    def score(self, submission: pd.DataFrame, answers: pd.DataFrame) -> float:
        return float(self._correct(submission, answers, submissions.SUBMISSION).mean())

    def _correct(self, submission: pd.DataFrame, answers: pd.DataFrame, name: str) -> np.ndarray:
        """Return whether each answered id is right, (N,) bool."""
        ids, target = self.competition.id_column, self.competition.target_column
        submission = self.competition.comparable(submission, name)
        answers = self.competition.comparable(answers, "answers")
        submissions.require_columns(submission.columns, ids, [target], name)
        submissions.check_submission_ids(submission, answers, ids, name)
        missing = submission[target].isna()
        if missing.any():
            first = submission[ids][missing].iloc[0]
            problem = f"{missing.sum()} targets are missing, first that of {first!r}"
            raise InvalidSubmission(f"{name}: {problem}")
        if answers.empty or answers[target].isna().any():
            number = int(answers[target].isna().sum())
            problem = f"{number} targets are missing" if number else "there are none"
            raise InputError(f"answers: {problem}")
        predicted = submission.set_index(ids)[target].loc[answers[ids]].astype(str).to_numpy()
        return predicted == answers[target].astype(str).to_numpy()

    def _scores_of_ids(
        self, submission: pd.DataFrame, answers: pd.DataFrame, name: str
    ) -> np.ndarray:
        """Return the score of each answered id, (N,) in 0 .. 1; NaN where there is none."""
        return self._correct(submission, answers, name).astype(float)

    def compare(self, first, second, answers, names) -> Paired:
        pair = zip((first, second), names, strict=True)
        scores = [self._scores_of_ids(frame, answers, name) for frame, name in pair]
        scored = ~np.isnan(scores[0])
        units, unit = self.units_of(answers)
        scores = [values[scored] for values in scores]
        return compare_means(*scores, units[scored] if unit else None)

    def score_table(
        self, submission: pd.DataFrame, answers: pd.DataFrame, name: str = submissions.SUBMISSION
    ) -> pd.DataFrame:
        """Compute accuracy overall, by leaderboard, cell type, experiment and plate.

        `low` and `high` are the 95 % interval over `units` of the `unit` that the competition
        names (`resampled_column`); NaN where a slice has too few. `wilson_low` and `wilson_high`
        take the ids as independent.

        Returns:
            Columns `COLUMNS`; a plate is named experiment/plate.
        """
        ids, correct = self.competition.id_column, self._correct(submission, answers, name)
        unit = self.resampled_column(answers)
        units = answers[unit].to_numpy()
        if {"experiment", "plate"} <= set(answers.columns):
            plate = answers.experiment.astype(str) + "/" + answers.plate.astype(str)
            answers = answers.assign(plate=plate)
        else:
            answers = answers.drop(columns="plate", errors="ignore")
        rows = []
        for kind, slice_name, inside in slices_of(answers, self.slices):
            figure = Accuracy.of(int(correct[inside].sum()), int(inside.sum()))
            numbers = (figure.correct, figure.total, figure.value)
            interval = unit_interval(correct[inside], unit, units[inside], ids)
            ends = (*interval, figure.low, figure.high)
            rows.append((kind, slice_name, *numbers, *ends))
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def table_text(self, table: pd.DataFrame) -> str:
        lines = [("slice", "name", "accuracy", "95 % interval", "over", "Wilson", "right")]
        for row in table.to_dict("records"):
            ends = (range_text(row["low"], row["high"]), over_text(row["unit"], row["units"]))
            wilson = range_text(row["wilson_low"], row["wilson_high"])
            right = f"{row['correct']}/{row['n']}"
            score = f"{row['accuracy']:.4f}"
            lines.append((row["slice"], row["name"], score, *ends, wilson, right))
        return f"{aligned(lines, right={2, 6})}\n{interval_note(table)}"

    def check_answers(self, answers: pd.DataFrame, root: Path, path: Path) -> None:
        ids, target = self.competition.id_column, self.competition.target_column
        known = self._spelt(self.competition.classes(root))
        spelt = self.competition.comparable(answers, "answers")[target].astype(str)
        unknown = answers[~spelt.isin(known)]
        if len(unknown):
            first = unknown.iloc[0]
            example = f"first {str(first[target])!r} of {first[ids]!r}"
            raise InputError(f"{path}: {len(unknown)} targets are not classes of {root}, {example}")

    def check_names(
        self, submission: pd.DataFrame, answers: pd.DataFrame, root: Path | None, path: Path, name
    ) -> None:
        ids, target = self.competition.id_column, self.competition.target_column
        answered = answers[target].astype(str).unique()
        known = self._spelt(answered if root is None else self.competition.classes(root))
        submission = self.competition.comparable(submission, name)
        unknown = submission[~submission[target].astype(str).isin(known)]
        if root is None and len(unknown):
            first = unknown.iloc[0]
            raise InvalidSubmission(
                f"{name}: {len(unknown)} targets are in no row of {path}, first "
                f"{first[ids]!r}: {str(first[target])!r}; with --root the raw data tell which "
                "classes there are"
            )
        submissions.check_submission_targets(submission, known, ids, target, name)

    def require_one_label(self, verb: str) -> None:
        """Allow the verb."""

    def _spelt(self, classes: Sequence[str]) -> list[str]:
        """Return class names as `comparable` spells them."""
        target = self.competition.target_column
        names = pd.DataFrame({self.competition.id_column: classes, target: classes})
        return self.competition.comparable(names, "classes")[target].astype(str).tolist()
