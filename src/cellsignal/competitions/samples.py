"""The samples table: one row an image. Everything downstream of a competition knows only these columns."""

from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.errors import InputError

# a `reference` is embedded, but never trained on by its label nor predicted (a gallery to search, compounds of other kinds)
ROLES = ("treatment", "positive_control", "negative_control", "reference")
SPLITS = ("train", "test")

# column -> (kind, may be missing). `label` is missing in test rows; `site` counts from 1.
COLUMNS: dict[str, tuple[str, bool]] = {
    "sample_id": ("text", False),  # one image: a site, a field, a track. Unique
    "target_id": ("text", False),  # what is predicted: the submission's id. Several samples may share one
    "well_id": ("text", False),  # one physical well, unique over plates and experiments
    "experiment": ("text", False),  # batch
    "plate": ("text", False),  # unique within its experiment
    "well": ("text", False),  # address on the plate
    "site": ("int", False),
    "cell_type": ("text", False),  # domain; stage 2 fine-tunes for each
    "label": ("int", True),  # index into Competition.classes for treatments; beyond it for controls
    "labels": ("labels", True),  # of a multi-label competition, whose `label` is empty: indices of the classes, () for none
    "role": ("text", False),
    "compound": ("text", True),  # what must not cross folds where it matters
    "treatment": ("text", True),  # what the well got: compound and dose, a guide; what profiles are aggregated to
    "split": ("text", False),
    # tuple of paths relative to the root, in channel order (or one file of all channels); "path#2" is a part of a picture
    "files": ("files", False),
}
ADDED = ("labels", "treatment")  # columns that a competition may leave out: they are then empty


def check_samples(frame: pd.DataFrame, source: Path | str) -> pd.DataFrame:
    """Hold a samples table to the schema and give it back with the schema's column order and types.

    Raises:
        InputError: a missing column, a doubled sample_id, an empty cell where none may be, an unknown role or split, a training
            treatment with neither label nor labels, labels that are not ascending numbers from 0, or samples of one target_id
            that disagree. The message names `source` and the row.
    """
    frame = frame.assign(**{column: None for column in ADDED if column not in frame.columns})
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise InputError(f"{source}: samples table lacks the columns {missing}")
    frame = frame[list(COLUMNS)].reset_index(drop=True)
    for column, (kind, optional) in COLUMNS.items():
        empty = frame[column].isna()
        if empty.any() and not optional:
            raise InputError(
                f"{source}: {column} is empty in row {int(empty.idxmax()) + 2} ({frame.sample_id[empty.idxmax()]!r})"
            )
        if kind == "int":
            frame[column] = frame[column].astype("Int64" if optional else "int64")
        elif kind == "text":
            frame[column] = (
                frame[column]
                .astype("object")
                .where(~empty, None)
                .map(lambda v: v if v is None else str(v))
                .astype("object")
            )
    doubled = frame.sample_id[frame.sample_id.duplicated()]
    if len(doubled):
        raise InputError(f"{source}: sample_id {doubled.iloc[0]!r} occurs more than once ({len(doubled)} such rows)")
    for column, allowed in (("role", ROLES), ("split", SPLITS)):
        wrong = ~frame[column].isin(allowed)
        if wrong.any():
            raise InputError(
                f"{source}: {column} {frame[column][wrong].iloc[0]!r} of {frame.sample_id[wrong].iloc[0]!r} is none of {allowed}"
            )
    known = frame["labels"].notna()
    if known.any():
        told = [labels if there else None for labels, there in zip(frame["labels"], known, strict=True)]
        frame["labels"] = pd.Series(told, index=frame.index, dtype=object)
        wrong = ~frame["labels"][known].map(_are_labels)
        if wrong.any() or frame.label.notna().any():
            row = wrong.idxmax() if wrong.any() else frame.label.notna().idxmax()
            raise InputError(
                f"{source}: labels {frame['labels'][row]!r} of {frame.sample_id[row]!r}: ascending class numbers, and no label beside them"
            )
    else:
        frame["labels"] = pd.Series(None, index=frame.index, dtype=object)
    unlabelled = (frame.split == "train") & (frame.role == "treatment") & frame.label.isna() & ~known
    if unlabelled.any():
        raise InputError(
            f"{source}: training sample {frame.sample_id[unlabelled].iloc[0]!r} has no label ({int(unlabelled.sum())} such rows)"
        )
    told = pd.DataFrame({"label": frame.label.fillna(-1), "labels": frame["labels"].map(str), "split": frame.split, "well_id": frame.well_id})
    spread = told.groupby(frame.target_id).nunique().max(axis=1)
    if (spread > 1).any():
        raise InputError(f"{source}: samples of target_id {spread.idxmax()!r} disagree on label, split or well")
    return frame


def _are_labels(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and all(isinstance(label, int) and label >= 0 for label in value)
        and list(value) == sorted(set(value))
    )


def path_of(name: str) -> str:
    """The path of an entry of `files`, without the part of the picture that it names."""
    return name.partition("#")[0]


def label_matrix(samples: pd.DataFrame, classes: int) -> np.ndarray:
    """(N, classes) float32: 1 where a sample has a class, 0 where it is known not to, NaN in rows without `labels`."""
    known = samples["labels"].notna().to_numpy()
    matrix = np.full((len(samples), classes), np.nan, np.float32)
    matrix[known] = 0
    for row, labels in zip(np.flatnonzero(known), samples["labels"].to_numpy()[known], strict=True):
        matrix[row, list(labels)] = 1
    return matrix
