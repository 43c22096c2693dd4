"""Test embeddings of RxRx1's sites by WILDS' protocol: a probe on unseen experiments.

Source: Koh et al., WILDS, ICML 2021, arXiv:2012.07421. A classifier of all siRNAs, controls
included, is fitted on site 1 of the training experiments. In distribution it is tested on their
site 2, out of distribution on the test experiments; what has to be chosen is chosen on the
experiments of OOD validation. WILDS trains networks; here the network stays as it is, and a linear
classifier of its embeddings is fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.common.tables import aligned, normalise_wells, read_table
from cellsignal.common.ties import listed
from cellsignal.competitions import get_competition
from cellsignal.evaluation.baselines import POSITION, position_profiles
from cellsignal.metrics.intervals import mean_interval, plural, range_text
from cellsignal.profiles.batch_effects import Normalisation, Reference, Unit, normalise
from cellsignal.profiles.feature_columns import choose_features
from cellsignal.profiles.table_files import cell_text, read_frame, refuse_empty

COMPETITION, PROTOCOL = "rxrx1", "wilds"
KEY = "site_id"
# what is needed -> its names in the releases of the metadata
COLUMNS = {
    "experiment": ("experiment",),
    "plate": ("plate",),
    "well": ("well",),
    "site": ("site",),
    "dataset": ("dataset", "split"),
    "label": ("sirna", "sirna_id", "label"),
    "well_type": ("well_type",),
    "cell_type": ("cell_type",),
}
TRAIN, VALIDATION = "train", "ood_validation"
_TRAINING = ("train", "id_test")  # values of `dataset` in the training experiments
_LEAST_CLASSES = 2


@dataclass(frozen=True)
class Sites:
    """Embeddings of sites.

    Attributes:
        x: (N, D) float32, finite.
        rows: N rows with `COLUMNS`, role and part (see the protocol), the index from 0.
        notes: what was left out.
    """

    x: np.ndarray
    rows: pd.DataFrame
    notes: tuple[str, ...]


def read_sites(table: Path, features: Sequence[str], metadata: Path | None) -> Sites:
    """Read a table with a row a site.

    Args:
        table: .csv, .tsv, .parquet or .h5ad with the features, and with `COLUMNS` unless
            `metadata` has them.
        features: see `feature_columns.choose_features`.
        metadata: RxRx1's metadata.csv, joined by site_id.

    Raises:
        InputError: a column is missing, a site stands twice or has no metadata, a feature is not
            a finite number, or a part of the protocol has no site.
    """
    stored = read_frame(table)
    names, _ = choose_features(table, stored.frame.columns, features, stored.features)
    numbers = stored.frame[names].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        row, column = stored.frame.index[bad[0][0]], names[bad[0][1]]
        raise InputError(f"{table}: row {row}: feature {column} is not a finite number")
    frame = stored.frame.drop(columns=names).map(cell_text)
    source = table
    if metadata is not None:
        frame, source = _join(table, frame, metadata), metadata
    rows = _named_columns(source, frame)
    place = rows.duplicated(["experiment", "plate", "well", "site"])
    if place.any():
        raise InputError(f"{table}: row {rows.index[place][0]}: this site stands twice in it")
    parts = _parts(source, rows)
    kept = (parts != "").to_numpy()
    notes = [f"{len(names)} features of {int(kept.sum()):,} sites of {table.name}"]
    if not kept.all():
        notes.append(f"{int((~kept).sum()):,} sites belong to no part of the protocol")
    rows = rows.assign(part=parts)[kept].reset_index(drop=True)
    return Sites(numbers[kept].astype(np.float32), rows, tuple(notes))


def _join(table: Path, frame: pd.DataFrame, metadata: Path) -> pd.DataFrame:
    """The metadata's row of each site of the table."""
    key = _column(table, frame, (KEY,), KEY)
    facts = read_table(metadata, [KEY], unique=KEY).set_index(KEY)
    unknown = ~frame[key].isin(facts.index)
    if unknown.any():
        row = frame.index[unknown][0]
        raise InputError(f"{table}: row {row}: {KEY} {frame[key][row]!r} is not in {metadata}")
    return facts.loc[frame[key]].set_axis(frame.index)


def _column(path: Path, frame: pd.DataFrame, usual: Sequence[str], meaning: str) -> str:
    lower = {name.lower().removeprefix("metadata_"): name for name in reversed(list(frame.columns))}
    for name in usual:
        if name in lower:
            return lower[name]
    raise InputError(
        f"{path}: no column of the {meaning}, such as {usual[0]}; it has "
        f"{listed(frame.columns, 8)}. --metadata joins RxRx1's metadata.csv by {KEY}"
    )


def _named_columns(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """`COLUMNS`, stripped text, and role."""
    made = pd.DataFrame(index=frame.index)
    for meaning, usual in COLUMNS.items():
        column = _column(path, frame, usual, meaning)
        refuse_empty(path, frame, column)
        made[meaning] = frame[column]
    made["well"] = normalise_wells(made.well)
    site = pd.to_numeric(made.site, errors="coerce")
    if site.isna().any():
        row = made.index[site.isna()][0]
        raise InputError(f"{path}: row {row}: site {made.site[row]!r} is not a number")
    return made.assign(site=site.astype(int), role=made.well_type)


def _parts(path: Path, rows: pd.DataFrame) -> pd.Series:
    """The part of the protocol that each site belongs to, "" for none."""
    split = np.where(rows.dataset.isin(_TRAINING), "train", "test")
    parts = get_competition(COMPETITION).protocol_parts(PROTOCOL, rows.assign(split=split))
    empty = {TRAIN, "id_test", "ood_test"} - set(parts)
    if empty:
        raise InputError(
            f"{path}: no site of the part {min(empty)} (dataset: train or test; site 1 trains, "
            "site 2 is the in-distribution test)"
        )
    return parts


def probe_text(
    sites: Sites,
    method: str = "linear",
    strengths: Sequence[float] = (1.0,),
    how: Normalisation = "none",
    by: Unit = "experiment",
    reference: Reference | None = None,
    out: Path | None = None,
) -> str:
    """Return the probe's accuracy on each part beside position alone, as text.

    Args:
        method: "linear", "centre" or "knn", see `prediction.well_classifiers`.
        strengths: of the linear probe; of several the best on OOD validation is taken.
        how, by, reference: see `batch_effects.normalise`.
        out: a CSV of every site.

    Raises:
        InputError: less than two classes, several strengths without OOD validation, or see
            `batch_effects.normalise`.
    """
    rows = sites.rows
    classes = np.unique(rows.label[rows.part == TRAIN])
    if len(classes) < _LEAST_CLASSES:
        raise InputError(f"probe: {len(classes)} class of siRNA in training; two are needed")
    if len(strengths) > 1 and VALIDATION not in set(rows.part):
        raise InputError("--strength: several are chosen among on OOD validation; there is none")
    x = normalise(sites.x, rows, how, by, reference)
    predicted, chosen = _predict(x, rows, classes, method, strengths)
    position, _ = _predict(position_profiles(rows), rows, classes, method, strengths[:1])
    lines = [("part", "embeddings of", "sites", "right", "accuracy", "95 % over experiments")]
    lines += _lines(rows, predicted, "images")
    lines += _lines(rows, position, POSITION, ("id_test", "ood_test"))
    if out is not None:
        table = rows.drop(columns=["role"]).assign(predicted=predicted)
        write_csv(out, table.assign(right=predicted == rows.label.to_numpy()))
    unit = f" by {by}" if how != "none" else ""
    probe = f"{method} probe{f', C {chosen:g}' if method == 'linear' else ''}"
    few = f"{plural('class', len(classes)).replace('classs', 'classes')}, controls included"
    note = f"a random class: {1 / len(classes):.4f}; {probe}; normalisation: {how}{unit}"
    return "\n".join([*sites.notes, few, "", aligned(lines, {2, 3, 4}), "", note])


def _predict(
    x: np.ndarray,
    rows: pd.DataFrame,
    classes: np.ndarray,
    method: str,
    strengths: Sequence[float],
) -> tuple[np.ndarray, float]:
    """The class of every site outside training (training sites too), and the chosen strength."""
    from cellsignal.prediction.well_classifiers import linear_scores, scores_of

    train = (rows.part == TRAIN).to_numpy()
    code = np.searchsorted(classes, rows.label[train].to_numpy())
    valid = (rows.part == VALIDATION).to_numpy()
    label, best = rows.label.to_numpy(object), None
    for strength in strengths if method == "linear" else (float("nan"),):
        if method == "linear":
            scores = linear_scores(x[train], code, x, len(classes), strength)
        else:
            scores = scores_of(method, "cosine", 5)(x[train], code, x, len(classes))
        predicted = classes[scores.argmax(1)]
        right = (predicted == label)[valid].mean() if valid.any() else 0.0
        if best is None or right > best[0]:
            best = (right, predicted, strength)
    assert best is not None
    return best[1], best[2]


def _lines(
    rows: pd.DataFrame, predicted: np.ndarray, name: str, shown: Sequence[str] = ()
) -> list[tuple[str, ...]]:
    """The accuracy on each part, and on each cell type of the OOD test."""
    right = pd.Series(predicted == rows.label.to_numpy(object), rows.index)
    groups = [(part, rows.part == part) for part in shown or _order(rows)]
    if not shown:
        ood = rows.part == "ood_test"
        types = sorted(rows.cell_type[ood].unique())
        groups += [(f"ood_test, {kind}", ood & (rows.cell_type == kind)) for kind in types]
    lines = []
    for part, chosen in groups:
        found = right[chosen]
        ends = range_text(*mean_interval(found, rows.experiment[chosen]))
        counts = (f"{len(found):,}", f"{int(found.sum()):,}", f"{found.mean():.4f}")
        lines.append((part, name, *counts, ends))
    return lines


def _order(rows: pd.DataFrame) -> list[str]:
    """The parts that are tested, in the protocol's order."""
    return [part for part in ("id_test", VALIDATION, "ood_test") if (rows.part == part).any()]
