"""Turn predictions of images into predictions of treatments, as Kensert et al. count them.

Source: Kensert, Harrison & Spjuth, SLAS Discovery 24:466, 2019. The median over a well's images (or
crops), then the median over a treatment's replicate wells, then the largest: BBBC021's "x of 103
treatments". A replicate or an image that was not predicted is absent; it is never counted as zeros,
which would pull every median down.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned
from cellsignal.common.ties import draw_one, tied_best
from cellsignal.config import Config
from cellsignal.metrics.accuracy import Accuracy
from cellsignal.metrics.intervals import mean_interval, plural, range_text


@dataclass(frozen=True)
class TreatmentPredictions:
    """One prediction a treatment.

    Attributes:
        table: one row a treatment, sorted by name: treatment, compound, label, predicted (class
            numbers), tied (classes of the largest median), right, wells and images (how many were
            predicted).
        accuracy: right treatments, with Wilson's interval.
        cluster_low, cluster_high: 95 % interval over compounds.
    """

    table: pd.DataFrame
    accuracy: Accuracy
    cluster_low: float
    cluster_high: float


def predict_treatments(probabilities: np.ndarray, samples: pd.DataFrame) -> TreatmentPredictions:
    """Aggregate the predictions of images to treatments.

    Args:
        probabilities: (N, K), one row an image or a crop; softmax outputs, as published; logits
            would give other medians.
        samples: N rows with the columns well_id, treatment, compound and label (int).

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
        empty = samples[column].isna()
        if empty.any():
            well = samples.well_id[empty].iloc[0]
            raise InputError(f"treatments: an image of well {well!r} has no {column}")
    if not np.isfinite(probabilities).all():
        raise InputError("treatments: a prediction is not a finite number")
    facts = samples.fillna({"compound": ""}).groupby("treatment")[["label", "compound"]]
    values = facts.nunique().max(axis=1)
    if (values > 1).any():
        raise InputError(f"treatments: images of {values.idxmax()!r} disagree on label or compound")
    keys = [samples.treatment.to_numpy(), samples.well_id.to_numpy()]
    wells = pd.DataFrame(probabilities).groupby(keys).median()
    medians = wells.groupby(level=0, sort=True).median()
    table = samples.groupby("treatment").agg(
        compound=("compound", "first"),
        label=("label", "first"),
        wells=("well_id", "nunique"),
        images=("well_id", "size"),
    )
    table = table.loc[medians.index].rename_axis("treatment").reset_index()
    table["label"] = table.label.astype(int)
    largest = tied_best(medians.to_numpy())
    table["predicted"], table["tied"] = draw_one(largest), largest.sum(axis=1)
    table["right"] = table.predicted == table.label
    compound = table["compound"].fillna(table.treatment)
    interval = mean_interval(table.right, compound)
    return TreatmentPredictions(table, Accuracy.of(int(table.right.sum()), len(table)), *interval)


def treatments_text(result: TreatmentPredictions, classes: tuple[str, ...]) -> str:
    """Show the count with its intervals, each class, and each treatment that is wrong."""
    a, table = result.accuracy, result.table
    figures = (
        *(f"{a.correct}/{a.total}", f"{a.value:.3f}", f"{a.low:.3f} .. {a.high:.3f}"),
        range_text(result.cluster_low, result.cluster_high, 3),
        *(f"{table.wells.sum():,}", f"{table.images.sum():,}"),
    )
    over = f"95 % over {plural('compound', table['compound'].fillna(table.treatment).nunique())}"
    header = ("treatments right", "share", "Wilson 95 %", over, "wells", "images")
    by_class = [("class", "treatments", "right")]
    for label, rows in table.groupby("label"):
        by_class.append((classes[label], str(len(rows)), str(int(rows.right.sum()))))
    parts = [aligned([header, figures], right={1, 4, 5}), aligned(by_class, right={1, 2})]
    wrong = [("wrong", "class", "predicted", "wells")]
    for row in table[~table.right].itertuples():
        wrong.append((row.treatment, classes[row.label], classes[row.predicted], str(row.wells)))
    if len(wrong) > 1:
        parts.append(aligned(wrong, right={3}))
    tied = int((table.tied > 1).sum())
    if tied:
        count = f"{tied} of {len(table)} treatments"
        parts.append(f"{count} have several classes of the largest median; one was drawn")
    return "\n\n".join(parts)


def treatment_table(config: Config) -> str:
    """Count the treatments that are right out of fold, as Kensert et al. do.

    Reads `<run folder>/predictions/*.npz`; views and repeated images are averaged first.

    Raises:
        InputError: no predictions, several labels a sample, or samples that name no treatment.
    """
    from cellsignal.prediction.entry import open_entry
    from cellsignal.prediction.freshness import config_predictions

    files = config_predictions(config, all_seeds=False)
    entry = open_entry(files, config.submit, root=config.data.root)
    entry.competition.task.require_one_label("treatments")
    parts = []
    for member in entry.final():
        rows = np.flatnonzero(member.ids["part"] == "oof")
        views = [member.logits(view)[rows].astype(np.float32) for view in member.views]
        mean = sum(entry.competition.task.probabilities(logits) for logits in views) / len(views)
        parts.append(pd.DataFrame(mean, index=member.ids["sample_id"][rows]))
    probabilities = pd.concat(parts).groupby(level=0, sort=True).mean()
    samples = entry.samples.set_index("sample_id")
    treated = samples[samples.label.notna() & (samples.role == "treatment")]
    if treated.treatment.isna().all():
        raise InputError(f"treatments: the samples of {entry.competition.id} name no treatment")
    counted = predict_treatments(probabilities.to_numpy(), samples.loc[probabilities.index])
    text = treatments_text(counted, tuple(entry.competition.classes(entry.root)))
    missing = sorted(set(treated.treatment.dropna()) - set(counted.table.treatment))
    if missing:
        text += (
            f"\n\n{len(missing)} treatments have no out-of-fold prediction and are not counted, "
            f"first {missing[0]}"
        )
    return text
