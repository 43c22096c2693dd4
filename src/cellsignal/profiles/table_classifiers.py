"""Classify the wells of profile tables, each by the wells of other compounds, plates or batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.common.tables import aligned
from cellsignal.evaluation.baselines import SHUFFLED, baseline_profiles, shuffled_mechanisms
from cellsignal.metrics.accuracy import Accuracy
from cellsignal.metrics.intervals import mean_interval, plural, range_text
from cellsignal.profiles.batch_effects import Reference, Unit
from cellsignal.profiles.comparisons import head_lines
from cellsignal.profiles.profile_steps import (
    Profiles,
    Step,
    choose_steps,
    normalise_profiles,
    steps_text,
)

Label = Literal["moa", "treatment", "compound"]
HeldOut = Literal["compound", "treatment", "plate", "experiment", "well_id"]
# scores of training wells (N, D), their labels, query wells (M, D) and the number of classes
Scores = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Classified:
    """Wells and the classes they were given.

    Attributes:
        table: one row a well: well_id, label, group (what was held out), predicted (None where no
            well of its class stands outside its group), right.
        accuracy: right wells of those with a prediction, with Wilson's interval.
        cluster_low, cluster_high: 95 % interval over the groups.
        balanced: mean of the classes' shares.
    """

    table: pd.DataFrame
    accuracy: Accuracy
    cluster_low: float
    cluster_high: float
    balanced: float


def classify_held_out(
    x: np.ndarray, wells: pd.DataFrame, label: Label, held_out: HeldOut, scores: Scores
) -> Classified:
    """Give each treated well the likeliest class, by the wells outside its group.

    Args:
        x: (W, D) one row a well.
        wells: W rows with role, well_id and the columns `label` and `held_out`. Negative controls
            and wells without a label take no part; wells whose class has no well outside their
            group are not scored.

    Raises:
        InputError: less than two classes, or no well can be scored.
    """
    keep = (wells[label].notna() & (wells.role != "negative_control")).to_numpy()
    x, wells = np.asarray(x)[keep], wells[keep].reset_index(drop=True)
    classes, code = np.unique(wells[label].astype(str), return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"classify: {len(classes)} classes of {label} among {len(wells)} wells")
    group = wells[held_out].fillna("").astype(str)
    predicted = np.full(len(wells), -1)
    for rows in group.groupby(group, sort=True).indices.values():
        train = np.setdiff1d(np.arange(len(wells)), rows)
        scored = rows[np.isin(code[rows], code[train])]
        if len(scored) and len(np.unique(code[train])) > 1:
            predicted[scored] = scores(x[train], code[train], x[scored], len(classes)).argmax(1)
    some = predicted >= 0
    if not some.any():
        raise InputError(f"classify: no class of {label} has wells in two groups of {held_out}")
    right = some & (predicted == code)
    table = pd.DataFrame(
        {
            "well_id": wells.well_id,
            "label": classes[code],
            "group": group,
            "predicted": np.where(some, classes[predicted], None),
            "right": right,
        }
    )
    scored_table = table[some]
    interval = mean_interval(scored_table.right, scored_table.group)
    accuracy = Accuracy.of(int(right.sum()), int(some.sum()))
    balanced = float(scored_table.groupby("label").right.mean().mean())
    return Classified(table, accuracy, *interval, balanced)


def classification_figures(
    profiles: Profiles, label: Label, held_out: HeldOut, scores: Scores
) -> dict[str, Classified]:
    """Classify by the profiles, and by the baselines; the key says by which."""
    wells = profiles.wells
    kinds = {profiles.label: profiles.x, **baseline_profiles(profiles.x, wells)}
    figures = {}
    for name, x in kinds.items():
        shuffled = name == SHUFFLED and label == "moa"
        data = (profiles.x, shuffled_mechanisms(wells)) if shuffled else (x, wells)
        figures[name] = classify_held_out(*data, label, held_out, scores)
    return figures


def classification_text(figures: dict[str, Classified], label: str, held_out: str) -> str:
    """Show the figures, and each class of the profiles themselves."""
    first = next(iter(figures.values())).table
    scored = first[first.predicted.notna()]
    over = f"95 % over {plural(held_out, scored.group.nunique())}"
    lines = [("profiles", "wells right", "share", "Wilson 95 %", over, "balanced")]
    for name, figure in figures.items():
        a = figure.accuracy
        share = (f"{a.correct}/{a.total}", f"{a.value:.3f}", f"{a.low:.3f} .. {a.high:.3f}")
        ends = range_text(figure.cluster_low, figure.cluster_high, 3)
        lines.append((name, *share, ends, f"{figure.balanced:.3f}"))
    by_class = [(label, "right")]
    for name, rows in scored.groupby("label"):
        by_class.append((str(name), f"{int(rows.right.sum())}/{len(rows)}"))
    note = f"each well is given a class by the wells of other groups of {held_out}"
    lost = len(first) - len(scored)
    if lost:
        note += f"; {lost} wells are not scored, whose class stands in one group alone"
    return "\n\n".join([aligned(lines, {1, 2, 5}), aligned(by_class, {1}), note])


def classify_table(
    loaded: Profiles,
    label: Label,
    held_out: HeldOut,
    method: str = "centre",
    metric: str = "cosine",
    k: int = 5,
    normalise: Sequence[Step] | None = None,
    by: Unit = "plate",
    reference: Reference = "negative_controls",
    *,
    drop_variance: float = 0.0,
    position_reference: Reference = "all",
    out: Path | None = None,
) -> str:
    """Return how many wells are given the right class beside the baselines, as text.

    Args:
        label, held_out: see `table_classifiers.classify_held_out`.
        method: "centre", "knn" or "linear", see `prediction.well_classifiers`.
        normalise: None is no step.
        out: a CSV of every well of every row.

    Raises:
        InputError: less than two classes, or see `normalise_profiles`.
    """
    from cellsignal.prediction.well_classifiers import scores_of

    steps = choose_steps(loaded, normalise, ())
    profiles = normalise_profiles(loaded, steps, by, reference, drop_variance, position_reference)
    scores = scores_of(method, metric, k)
    figures = classification_figures(profiles, label, held_out, scores)
    if out is not None:
        tables = [figure.table.assign(profiles=name) for name, figure in figures.items()]
        scored = pd.concat(tables, ignore_index=True)
        write_csv(out, scored[scored.predicted.notna()])
    done = steps_text(loaded, steps, normalise is not None, by, reference)
    text = classification_text(figures, label, held_out)
    return "\n".join([*head_lines(profiles, done), "", text])
