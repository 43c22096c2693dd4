"""Score accuracy by the parts of a protocol, for benchmarks other than Kaggle's.

The parts are scored apart because they ask different questions: known experiments (in distribution)
and new ones (out of distribution). The gap between them is what the benchmark is about.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned
from cellsignal.metrics.accuracy import Accuracy
from cellsignal.metrics.intervals import mean_interval, range_text

if TYPE_CHECKING:
    from cellsignal.competitions.base import Competition

COLUMNS = (
    *("part", "correct", "n", "experiments"),
    *("accuracy", "low", "high", "cluster_low", "cluster_high"),
)


def true_labels(
    target_id: np.ndarray,
    label: np.ndarray,
    competition: "Competition",
    answers: pd.DataFrame,
    classes: Sequence[str],
) -> np.ndarray:
    """Return all labels: the sample's own if known (training, controls), else the answer.

    Args:
        target_id: (N,) text.
        label: (N,) int, -1 where unknown.
        answers: `Competition.answers`.
        classes: of the treatments, in label order: `Competition.classes`.

    Returns:
        (N,) int64, -1 where the answers do not know the target either.

    Raises:
        InputError: an answer that is not a class.
    """
    ids, target = competition.id_column, competition.target_column
    names = pd.DataFrame({ids: list(classes), target: list(classes)})
    index = {
        name: i
        for i, name in enumerate(competition.comparable(names, "classes")[target].astype(str))
    }
    answers = competition.comparable(answers, "answers")
    known = pd.Series(answers[target].astype(str).map(index).to_numpy(), index=answers[ids])
    if known.isna().any():
        first = int(np.argmax(known.isna()))
        raise InputError(
            f"answers: {answers[target].iloc[first]!r} of {known.index[first]!r} is not a class"
        )
    label = np.asarray(label, dtype=np.int64)
    answered = pd.Series(np.asarray(target_id, dtype=object)).map(known)
    return np.where(label >= 0, label, answered.fillna(-1).to_numpy(dtype=np.int64))


def protocol_scores(
    part, experiment, target_id, labels_true, labels_predicted, parts: Sequence[str] | None = None
) -> pd.DataFrame:
    """Score each part of a protocol, every sample (site) for itself.

    `low` and `high` are the 95 % Wilson interval, which takes the two sites of a well as
    independent though they are not: it is too narrow. `cluster_low` and `cluster_high` take
    experiments as the units; NaN where a part has too few (`intervals.LEAST_UNITS`).

    Args:
        part: (N,) text, `Competition.protocol_parts`; "" is not scored.
        experiment: (N,) text.
        target_id: (N,) text, for messages.
        labels_true, labels_predicted: (N,) int, indices of the same classes; -1 is unknown.
        parts: which parts in which order; None takes all there are, by name.

    Returns:
        The columns `COLUMNS`, one row a part.

    Raises:
        InputError: the lengths differ, a part has no sample, or a scored sample no true label.
    """
    part, experiment, target_id = (
        np.asarray(values, dtype=object) for values in (part, experiment, target_id)
    )
    true, predicted = np.asarray(labels_true), np.asarray(labels_predicted)
    lengths = {len(values) for values in (part, experiment, target_id, true, predicted)}
    if len(lengths) > 1:
        raise InputError(
            f"protocol: part, experiment, target_id and labels differ in length: {sorted(lengths)}"
        )
    rows = []
    for name in parts if parts is not None else sorted(set(part) - {""}):
        inside = part == name
        if not inside.any():
            raise InputError(f"protocol: no predictions of part {name!r}")
        unknown = inside & (true < 0)
        if unknown.any():
            first, number = target_id[np.argmax(unknown)], int(unknown.sum())
            raise InputError(
                f"protocol: {number} samples of part {name!r} have no true label, first {first!r}"
            )
        correct = (true == predicted)[inside]
        figure = Accuracy.of(int(correct.sum()), len(correct))
        clusters = experiment[inside]
        counts = (figure.correct, figure.total, len(set(clusters)))
        interval = (figure.low, figure.high, *mean_interval(correct, clusters))
        rows.append((name, *counts, figure.value, *interval))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def protocol_text(scores: pd.DataFrame, published: dict[str, int] | None = None) -> str:
    """The table for a terminal. A part whose number of samples is not the published one says so.

    Args:
        scores: of `protocol_scores`.
        published: part -> number of samples, `dict(Protocol.parts)`.
    """
    lines = [("part", "accuracy", "Wilson 95 %", "95 % over", "experiments", "n", "note")]
    for row in scores.itertuples():
        expected = (published or {}).get(row.part, row.n)
        note = "" if expected == row.n else f"published: {expected:,} ({row.n - expected:+,})"
        intervals = (range_text(row.low, row.high), range_text(row.cluster_low, row.cluster_high))
        counts = (f"{row.experiments}", f"{row.n:,}")
        lines.append((row.part, f"{row.accuracy:.4f}", *intervals, *counts, note))
    return aligned(lines, right={1, 4, 5})
