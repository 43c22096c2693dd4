"""Hold merged predictions, their truth and its slices, one row per target, for a task to score."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError

BOARDS = ("public", "private")


@dataclass(frozen=True)
class Targets:
    """Merged predictions, one row a target, sorted by `target_id`.

    Attributes:
        target_id, well_id, experiment, plate, cell_type: (T,) text.
        label: (T,) int, -1 where unknown.
        scores: (T, K) float32 log-probabilities; logits where several classes may be true.
        labels: (T, K) float32, NaN where unknown, where several classes may be true; else None.
    """

    target_id: np.ndarray
    well_id: np.ndarray
    experiment: np.ndarray
    plate: np.ndarray
    cell_type: np.ndarray
    label: np.ndarray
    scores: np.ndarray
    labels: np.ndarray | None = None


Runs = dict[str, dict[Literal["target", "well"], Targets]]  # run -> its targets, pooled or not


@dataclass(frozen=True)
class Truth:
    """What is true of each target.

    Attributes:
        target_id: (M,) text, each once.
        values: (M,) int labels; (M, K) of 1, 0 and NaN where several classes may be true.
        cluster: (M,) the unit of each, such as its compound.
        unit: what the units are, such as "compound"; "" if each target is one.
    """

    target_id: np.ndarray
    values: np.ndarray
    cluster: np.ndarray
    unit: str = ""

    def take(self, rows: np.ndarray) -> "Truth":
        """Return some rows, by number or mask."""
        arrays = (self.target_id[rows], self.values[rows], self.cluster[rows])
        return Truth(*arrays, self.unit)

    def of(self, target_id: Sequence[str]) -> "Truth":
        """Return the rows of some targets, in their order.

        Raises:
            InputError: the truth of a target is not known.
        """
        rows = pd.Index(self.target_id).get_indexer(target_id)
        if (rows < 0).any():
            first = target_id[int(np.argmax(rows < 0))]
            raise InputError(
                f"answers: {int((rows < 0).sum())} of {len(rows)} targets are not answered, first "
                f"{first!r}; give answers of the whole test set"
            )
        return self.take(rows)


def subset(targets: Targets, rows: np.ndarray) -> Targets:
    """Return some rows of targets, by number (a row may come twice) or by mask."""
    values = {field.name: getattr(targets, field.name) for field in fields(targets)}
    chosen = {name: value[rows] for name, value in values.items() if value is not None}
    return replace(targets, **chosen)


def sum_by_target(
    scores: np.ndarray, target_id: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum the scores of samples over the samples of a target.

    Args:
        scores: (n, K), one row a sample.
        target_id: (n,) text.

    Returns:
        The T target ids, sorted; (T, K) sums; (T,) the first sample of each.
    """
    targets, first, inverse = np.unique(target_id, return_index=True, return_inverse=True)
    sums = np.zeros((len(targets), scores.shape[1]))
    np.add.at(sums, inverse, scores)
    return targets, sums, first


def label_matrix(samples: pd.DataFrame, classes: int) -> np.ndarray:
    """Return (N, classes) float32: 1 where a sample has a class, 0 where it has not.

    Rows without `labels` are NaN.
    """
    known = samples["labels"].notna().to_numpy()
    matrix = np.full((len(samples), classes), np.nan, np.float32)
    matrix[known] = 0
    for row, labels in zip(np.flatnonzero(known), samples["labels"].to_numpy()[known], strict=True):
        matrix[row, list(labels)] = 1
    return matrix


def slices_of(
    answers: pd.DataFrame, columns: Iterable[str]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield the slices of answers: kind, name and (N,) bool; all, by leaderboard, by column."""
    yield "overall", "overall", np.ones(len(answers), bool)
    for column in ("leaderboard", *columns):
        if column not in answers.columns:
            continue
        values = answers[column]
        names = BOARDS if column == "leaderboard" else sorted(values.dropna().unique(), key=str)
        for name in names:
            inside = values.eq(name).to_numpy(bool)
            if inside.any():
                yield name if column == "leaderboard" else column, str(name), inside


class AnyCompetition(Protocol):
    """The part of `base.Competition` that a task uses."""

    id: str
    id_column: str
    target_column: str
    fold_groups: tuple[str, ...]

    def classes(self, root: Path) -> tuple[str, ...]: ...

    def sample_submission(self, root: Path) -> pd.DataFrame: ...

    def comparable(self, frame: pd.DataFrame, name: str) -> pd.DataFrame: ...
