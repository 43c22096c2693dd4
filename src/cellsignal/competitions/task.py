"""What a competition asks of an id: one class, several classes, or a ranking of a gallery.

A task makes training targets from samples, merges logits, writes, reads and checks submissions, and
scores them. No code elsewhere asks which kind a competition is; a new kind is a new class.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.confidence import label_confidences
from cellsignal.competitions.targets import BOARDS, AnyCompetition, Runs, Targets, Truth
from cellsignal.competitions.units import OverUnits
from cellsignal.metrics.accuracy import Score
from cellsignal.metrics.paired import Paired

if TYPE_CHECKING:
    from cellsignal.config import Config
    from cellsignal.config.stage import Stage


class Task(OverUnits, ABC):
    """What a competition asks of an id.

    Attributes:
        loss_family: name of the loss on logits that a network trains with.
        monitored: the validation score that is better when higher.
        score_column: the column of `score_table` with the competition's metric.
        slices: columns of the answers by which the score is broken down.
        pictures: what a run's report shows of the outcome.
    """

    loss_family: ClassVar[Literal["cross_entropy", "binary_cross_entropy"]]
    monitored: ClassVar[Literal["accuracy", "average_precision"]]
    score_column: ClassVar[str]
    slices: ClassVar[tuple[str, ...]]
    printed_slices: ClassVar[tuple[str, ...]] = ("overall", *BOARDS, "cell_type")
    pictures: ClassVar[tuple[str, ...]] = ()

    def __init__(self, competition: AnyCompetition):
        self.competition = competition

    # training

    def check_config(self, config: "Config") -> None:
        """Refuse, by its key, a stage that needs other labels than the competition has."""
        for stage in config.stages:
            if stage.drop_predicted_controls is not None and config.data.controls == "ignore":
                raise InputError(
                    f"stages.{stage.name}.drop_predicted_controls: negative controls are not "
                    "classes; write data.controls: train"
                )
            self.check_monitor(stage)
            self.of_stage(stage).check_losses(stage)

    def check_monitor(self, stage: "Stage") -> None:
        """Refuse a stage that monitors a score that this task does not have."""
        if stage.monitor in {"accuracy", "average_precision"} - {self.monitored}:
            raise InputError(
                f"stages.{stage.name}.monitor: {self.competition.id} is scored by "
                f"{self.monitored}, not {stage.monitor}"
            )

    @abstractmethod
    def check_losses(self, stage: "Stage") -> None:
        """Refuse losses and batches that this task's targets do not allow."""

    @abstractmethod
    def of_stage(self, stage: "Stage") -> "Task":
        """Return the task that a training stage solves: its classes may be the compounds."""

    @abstractmethod
    def encode_targets(self, samples: pd.DataFrame, classes: int) -> np.ndarray:
        """Return the training targets: (N,) int64 labels, or (N, K) float32 of 1, 0 and NaN."""

    @abstractmethod
    def batch_labels(self, targets: np.ndarray) -> np.ndarray:
        """Return one label a sample for the batch samplers, (N,) int64; -1 where unknown."""

    @abstractmethod
    def balance_groups(self, targets: np.ndarray, classes: int) -> np.ndarray:
        """Return which groups a sample is of, (N, G) bool; balanced batches draw groups evenly."""

    @abstractmethod
    def check_targets(self, targets: np.ndarray, validation: np.ndarray, title: str) -> None:
        """Refuse encoded training and validation targets from which nothing can be learnt.

        Args:
            title: the training, for the message.
        """

    @abstractmethod
    def validation_scores(
        self, logits: np.ndarray, samples: pd.DataFrame, classes: int
    ) -> tuple[float, float]:
        """Return the loss by sample and the monitored score by target.

        Args:
            logits: (n, outputs) of the n rows of `samples`; those beyond `classes` are controls.
        """

    # prediction

    @abstractmethod
    def known_labels(self, samples: pd.DataFrame, classes: int) -> np.ndarray | None:
        """Return the (N, K) labels of a predictions file; None if each sample has one `label`."""

    @abstractmethod
    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Turn (N, K) logits into probabilities."""

    @abstractmethod
    def scores_of_probabilities(self, mean: np.ndarray) -> np.ndarray:
        """Turn mean probabilities (T, K) into scores of targets."""

    @abstractmethod
    def scores_of_logits(self, mean: np.ndarray) -> np.ndarray:
        """Turn mean logits (T, K) into scores of targets."""

    def confidences(self, probability: np.ndarray, labels: np.ndarray, classes) -> pd.DataFrame:
        """Return how sure each predicted label is: `confidence.label_confidences` says how."""
        return label_confidences(probability, labels, classes)

    # scores of merged predictions

    @abstractmethod
    def truth(self, answers: pd.DataFrame, classes: Sequence[str]) -> Truth:
        """Return the truth of the test targets, from `Competition.answers`."""

    @abstractmethod
    def truth_of_targets(self, targets: Targets, samples: pd.DataFrame) -> Truth:
        """Return the truth that out-of-fold targets know.

        Args:
            samples: one row a target, indexed by `target_id`.
        """

    @abstractmethod
    def truth_table(self, targets: Targets) -> pd.DataFrame:
        """Return the truth of out-of-fold targets as a table, for the leaderboard's hash."""

    @abstractmethod
    def evaluate(
        self, scores: np.ndarray, truth: Truth, classes: Sequence[str]
    ) -> tuple[Score, float]:
        """Score (T, K) scores against their truth.

        Returns:
            The score with its interval, and what blind guessing would score.
        """

    @abstractmethod
    def point_score(self, targets: Targets) -> float:
        """Score targets that know their truth; raise InputError where they cannot be scored."""

    @abstractmethod
    def clustered_score(self, targets: Targets, cluster: np.ndarray) -> tuple[float, float, float]:
        """Score targets that know their truth; return the score and its 95 % interval.

        Args:
            cluster: (T,) the unit of each, such as its experiment.
        """

    @abstractmethod
    def compare_targets(self, first: Targets, second: Targets, cluster: np.ndarray) -> Paired:
        """Compare two predictions of the same targets, in the same order."""

    @abstractmethod
    def chance(self, samples: pd.DataFrame, classes: int) -> float:
        """Return what guessing scores on labelled samples."""

    @abstractmethod
    def out_of_fold_text(
        self, runs: Runs, samples: pd.DataFrame, fold_group: str, classes: Sequence[str]
    ) -> str:
        """Print the out-of-fold scores of runs.

        Args:
            samples: one row a target, indexed by `target_id`.
            fold_group: the samples column that folds did not split.
        """

    # submissions

    @abstractmethod
    def format_predictions(
        self, target_ids: Iterable[str], scores: np.ndarray, root: Path
    ) -> pd.DataFrame:
        """Write merged scores (T, K) as a submission, in the sample submission's order.

        Raises:
            InvalidSubmission: an id of the sample submission has no prediction, or the reverse.
        """

    @abstractmethod
    def read_submission(self, path: Path | str, answers: pd.DataFrame) -> pd.DataFrame:
        """Read a submission file.

        Args:
            answers: `Competition.answers`, which know the classes.

        Raises:
            InvalidSubmission: names the file and the line.
        """

    @abstractmethod
    def check_submission(
        self, submission: pd.DataFrame, sample: pd.DataFrame, classes: Sequence[str]
    ) -> None:
        """Raise if columns, ids, their order or targets of a submission are wrong.

        Args:
            sample: `Competition.sample_submission`.

        Raises:
            InvalidSubmission: names the rows.
        """

    @abstractmethod
    def score(self, submission: pd.DataFrame, answers: pd.DataFrame) -> float:
        """Return the competition's metric over the answered ids, which must be the submission's."""

    @abstractmethod
    def score_table(
        self, submission: pd.DataFrame, answers: pd.DataFrame, name: str = "submission"
    ) -> pd.DataFrame:
        """Score a submission overall, by leaderboard and by slice.

        Args:
            name: the submission's, for messages.

        Returns:
            Columns slice, name, n, `score_column`, low and high (the 95 % interval over units),
            unit, units (their number) and others of the task.

        Raises:
            InvalidSubmission: ids that are missing, doubled or unknown, or a wrong target.
        """

    @abstractmethod
    def compare(self, first, second, answers, names: tuple[str, str]) -> Paired:
        """Compare two submissions on the answered ids, which must be those of both.

        Args:
            first, second, answers: as `score_table` takes them.
            names: the submissions', for messages.

        Raises:
            InvalidSubmission: as `score_table`.
        """

    @abstractmethod
    def table_text(self, table: pd.DataFrame) -> str:
        """Print a score table."""

    @abstractmethod
    def check_answers(self, answers: pd.DataFrame, root: Path, path: Path) -> None:
        """Refuse answers whose classes or gallery are not those of the raw data.

        Raises:
            InputError: names the answers' `path`.
        """

    @abstractmethod
    def check_names(
        self, submission: pd.DataFrame, answers: pd.DataFrame, root: Path | None, path: Path, name
    ) -> None:
        """Refuse targets of a submission that are not classes.

        Args:
            root: the raw data, which know the classes; None takes those that are answered.
            path, name: of the answers and the submission, for messages.
        """

    def fits(self, columns: Iterable[str]) -> bool:
        """Whether a file with these columns may be a submission."""
        return {self.competition.id_column, self.competition.target_column} <= set(columns)

    # what only some tasks can do

    @abstractmethod
    def require_one_label(self, verb: str) -> None:
        """Raise if the competition does not have one label per image; `verb` needs it."""

    def require_ranking(self, verb: str) -> None:
        """Raise if the competition has no gallery to rank; `verb` needs it."""
        raise InputError(f"{verb}: {self.competition.id} does not ask for rankings; use submit")

    def folds_text(self, folds: pd.DataFrame, classes: Sequence[str]) -> str:
        """Return a table of classes per fold, for samples with several labels; else ""."""
        return ""
