"""Predictions of images become predictions of treatments, as Kensert, Harrison & Spjuth count them
(SLAS Discovery 24:466, 2019).

The median over a well's images (or crops), then the median over a treatment's replicate wells, then
the largest: BBBC021's "x of 103 treatments". A replicate or an image that was not predicted is
absent; it is never counted as zeros, which would pull every median down.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.ties import draw_one, tied_best
from cellsignal.metrics.accuracy import Accuracy, clustered_interval


@dataclass(frozen=True)
class TreatmentPredictions:
    """One prediction a treatment.

    Attributes:
        table: one row a treatment, sorted by name: treatment, compound, label, predicted (class
        numbers), tied (classes of the largest median),
            right, wells and images (how many spoke).
        accuracy: right treatments, with Wilson's interval.
        cluster_low, cluster_high: 95 % interval from a bootstrap over compounds.
    """

    table: pd.DataFrame
    accuracy: Accuracy
    cluster_low: float
    cluster_high: float


def predict_treatments(probabilities: np.ndarray, samples: pd.DataFrame) -> TreatmentPredictions:
    """Aggregate the predictions of images to treatments.

    Args:
        probabilities: (N, K), one row an image or a crop; softmax outputs, as published; logits
        would give other medians. samples: N rows with the columns well_id, treatment, compound and
        label (int).

    Returns:
        The class with the largest median; of equally large ones one is drawn, with a seed, and
        `table.tied` says of how many.

    Raises:
        InputError: nothing to count, a row without a treatment or label, a number that is not
        finite, or a treatment with two labels or compounds.
    """
    probabilities = np.asarray(probabilities)
    if len(probabilities) != len(samples) or not len(samples):
        raise InputError(f"treatments: {len(probabilities)} predictions for {len(samples)} images")
    for column in ("treatment", "label"):
        if samples[column].isna().any():
            row = samples.iloc[int(samples[column].isna().to_numpy().argmax())]
            raise InputError(f"treatments: an image of well {row.well_id!r} has no {column}")
    if not np.isfinite(probabilities).all():
        raise InputError("treatments: a prediction is no finite number")
    spread = (
        samples.fillna({"compound": ""})
        .groupby("treatment")[["label", "compound"]]
        .nunique()
        .max(axis=1)
    )
    if (spread > 1).any():
        raise InputError(f"treatments: images of {spread.idxmax()!r} disagree on label or compound")
    keys = [samples.treatment.to_numpy(), samples.well_id.to_numpy()]
    wells = pd.DataFrame(probabilities).groupby(keys).median()
    found = wells.groupby(level=0, sort=True).median()
    facts = samples.groupby("treatment").agg(
        compound=("compound", "first"),
        label=("label", "first"),
        wells=("well_id", "nunique"),
        images=("well_id", "size"),
    )
    table = facts.loc[found.index].rename_axis("treatment").reset_index()
    table["label"] = table.label.astype(int)
    largest = tied_best(found.to_numpy())
    table["predicted"], table["tied"] = draw_one(largest), largest.sum(axis=1)
    table["right"] = table.predicted == table.label
    low, high = clustered_interval(table.right, table["compound"].fillna(table.treatment), seed=0)
    return TreatmentPredictions(table, Accuracy.of(int(table.right.sum()), len(table)), low, high)


def treatments_text(found: TreatmentPredictions, classes: tuple[str, ...]) -> str:
    """For a terminal: the count with its intervals, each class, and each treatment that was given a
    wrong class.
    """
    from cellsignal.common.tables import aligned

    a, table = found.accuracy, found.table
    head = [("treatments right", "share", "95 % interval", "over compounds", "wells", "images")]
    head.append(
        (
            f"{a.correct}/{a.total}",
            f"{a.value:.3f}",
            f"{a.low:.3f} .. {a.high:.3f}",
            f"{found.cluster_low:.3f} .. {found.cluster_high:.3f}",
            f"{table.wells.sum():,}",
            f"{table.images.sum():,}",
        )
    )
    by_class = [("class", "treatments", "right")]
    for label, rows in table.groupby("label"):
        by_class.append((classes[label], str(len(rows)), str(int(rows.right.sum()))))
    parts = [aligned(head, right={1, 4, 5}), aligned(by_class, right={1, 2})]
    wrong = [("wrong", "class", "predicted", "wells")]
    wrong += [
        (row.treatment, classes[row.label], classes[row.predicted], str(row.wells))
        for row in table[~table.right].itertuples()
    ]
    parts += [aligned(wrong, right={3})] if len(wrong) > 1 else []
    tied = int((table.tied > 1).sum())
    parts += (
        [
            f"{tied} of {len(table)} treatments have several classes of the largest median; one "
            "was drawn"
        ]
        if tied
        else []
    )
    return "\n\n".join(parts)
