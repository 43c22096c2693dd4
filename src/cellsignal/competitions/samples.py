"""The samples table: one row an image. Code downstream of a competition knows only these columns.

`check_samples` holds a table to the schema, and its files to their rows (`sample_files`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_wells
from cellsignal.competitions.sample_files import Places, refuse_misstated

# a `reference` is embedded, but never trained on by its label nor predicted (a gallery to search,
# compounds of other kinds)
ROLES = ("treatment", "positive_control", "negative_control", "reference")
SPLITS = ("train", "test")

# column -> (kind, may be missing). `label` is missing in test rows; `site` counts from 1.
COLUMNS: dict[str, tuple[str, bool]] = {
    "sample_id": ("text", False),  # one image: a site, a field, a track. Unique
    # what is predicted: the submission's id. Several samples may share one
    "target_id": ("text", False),
    "well_id": ("text", False),  # one physical well, unique over plates and experiments
    "experiment": ("text", False),  # batch
    "plate": ("text", False),  # unique within its experiment
    "well": ("text", False),  # address on the plate
    "site": ("int", False),
    "cell_type": ("text", False),  # domain; stage 2 fine-tunes for each
    "label": ("int", True),  # index into Competition.classes for treatments; beyond it for controls
    # of a multi-label competition, whose `label` is empty: indices of the classes, () for none
    "labels": ("labels", True),
    "role": ("text", False),
    "compound": ("text", True),  # what must not cross folds where it matters
    # compound and dose, or a guide; what profiles are aggregated to
    "treatment": ("text", True),
    "split": ("text", False),
    # tuple of paths relative to the root, in channel order (or one file of all channels); "path#2"
    # is a part of a picture
    "files": ("files", False),
}
ADDED = ("labels", "treatment")  # columns that a competition may leave out: they are then empty


def check_samples(
    frame: pd.DataFrame,
    source: Path | str,
    channels: Sequence[str] = (),
    stated: Callable[[str], dict[str, str]] | None = None,
) -> pd.DataFrame:
    """Hold a samples table to the schema and return it with the schema's columns and types.

    Text is stripped and wells are written A01.

    Args:
        frame: columns `COLUMNS` (those of `ADDED` may lack), and `origin` where the rows come from
            a table: "train.csv: row 5".
        source: the folder of the data, for the errors.
        channels, stated: as for `refuse_misstated`; without them the files' names are trusted.

    Raises:
        InputError: no row, a missing column, a doubled sample_id, an empty cell where none may be,
        an unknown role or split, a training treatment with neither label nor labels, labels that
        are not ascending numbers from 0, samples of one target_id that disagree, a well with two
        labels, or what `refuse_misstated` refuses. Names `source`, and the row.
    """
    frame = frame.assign(**{column: None for column in ADDED if column not in frame.columns})
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise InputError(f"{source}: samples table lacks the columns {missing}")
    if frame.empty:
        raise InputError(
            f"{source}: there are no samples: its tables, or one of them, hold a header and no rows"
        )
    frame = frame.reset_index(drop=True)
    places = Places(source, frame)
    frame = _typed(frame[list(COLUMNS)], places)
    doubled = frame.sample_id.duplicated()
    places.refuse(doubled, lambda row: f"sample_id {frame.sample_id[row]!r} occurs more than once")
    for column, allowed in (("role", ROLES), ("split", SPLITS)):
        unknown = ~frame[column].isin(allowed)
        if unknown.any():
            value = frame[column][unknown].iloc[0]
            places.refuse(unknown, f"{column} {value!r} is not one of {allowed}")
    frame["labels"] = _check_labels(frame, places)
    _refuse_contradictions(frame, places)
    refuse_misstated(frame, places, channels, stated)
    return frame


def _typed(frame: pd.DataFrame, places: Places) -> pd.DataFrame:
    for column, (kind, optional) in COLUMNS.items():
        if kind == "text":
            frame[column] = _texts(frame[column])
        if not optional:
            places.refuse(frame[column].isna(), f"{column} is empty")
        if kind == "int":
            frame[column] = frame[column].astype("Int64" if optional else "int64")
    frame["well"] = normalise_wells(frame.well)
    return frame


def _texts(column: pd.Series) -> pd.Series:
    """Return a column as stripped text: NaN for a blank cell, None in an empty column."""
    codes, values = pd.factorize(column)  # -1 where nothing stands
    texts = np.empty(len(values) + 1, dtype=object)
    texts[:] = [*(str(value).strip() or np.nan for value in np.asarray(values, object)), np.nan]
    filled = pd.Series(texts[codes], index=column.index, dtype=object)
    return filled if filled.notna().any() else filled.where(filled.notna(), None)


def _check_labels(frame: pd.DataFrame, places: Places) -> pd.Series:
    """Return the column `labels`; None for rows without labels, NaN if no row has any."""
    known = frame["labels"].notna()
    labels = pd.Series(np.nan, index=frame.index, dtype=object)
    if known.any():
        labels = frame["labels"].astype(object).where(known, None)
        wrong = known & ~labels.map(_are_labels) | frame.label.notna()
        why = "ascending class numbers, and no label beside them"
        places.refuse(wrong, lambda row: f"labels {labels[row]!r}: {why}")
    train = (frame.split == "train") & (frame.role == "treatment")
    unlabelled = train & frame.label.isna() & ~known
    places.refuse(unlabelled, "a training sample has no label")
    return labels


def _are_labels(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and all(isinstance(label, int) and label >= 0 for label in value)
        and list(value) == sorted(set(value))
    )


def _refuse_contradictions(frame: pd.DataFrame, places: Places) -> None:
    """Refuse samples of one target or one physical well that differ in well, split or label."""
    label = frame.label.fillna(-1).to_numpy(np.int64)
    several = frame["labels"].notna().to_numpy()
    labels = frame["labels"].map(str).to_numpy(object) if several.any() else np.zeros(len(frame))
    facts = {
        "label": label,
        "labels": labels,
        "split": frame.split.to_numpy(object),
        "well": frame.well_id.to_numpy(object),
    }
    first = _first_rows(frame.target_id)
    for column, values in facts.items():
        places.refuse(
            values != values[first],
            lambda row, c=column, v=values: (
                f"target_id {frame.target_id[row]!r} has two values of {c}: "
                f"{v.tolist()[first[row]]!r} and {v.tolist()[row]!r}"
            ),
        )
    known = np.flatnonzero(frame.label.notna().to_numpy() | several)
    first = known[
        _first_rows(*(frame[name].iloc[known] for name in ("experiment", "plate", "well")))
    ]
    differs = np.zeros(len(frame), bool)
    differs[known] = (label[known] != label[first]) | (labels[known] != labels[first])
    shown = frame.label.astype(object).where(frame.label.notna(), frame["labels"])
    places.refuse(
        differs,
        lambda row: (
            f"well {frame.well[row]!r} of plate {frame.plate[row]!r} has another label here "
            f"({shown[row]}) than in the other rows"
        ),
    )


def _first_rows(*columns: pd.Series) -> np.ndarray:
    """Return for each row the number of the first row with the same values in all columns."""
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        codes, values = pd.factorize(column)
        code = pd.factorize(code * (len(values) + 1) + codes)[0]
    first = np.empty(len(code), np.int64)
    first[code[::-1]] = np.arange(len(code))[::-1]
    return first[code]
