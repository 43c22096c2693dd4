"""The samples table: one row an image. Everything downstream of a competition knows only these
columns.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_wells
from cellsignal.competitions.stated import Places, refuse_misstated

if TYPE_CHECKING:
    from cellsignal.competitions.base import Competition

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
    # what the well got: compound and dose, a guide; what profiles are aggregated to
    "treatment": ("text", True),
    "split": ("text", False),
    # tuple of paths relative to the root, in channel order (or one file of all channels); "path#2"
    # is a part of a picture
    "files": ("files", False),
}
ADDED = ("labels", "treatment")  # columns that a competition may leave out: they are then empty


def origins(name: str, frame: pd.DataFrame) -> pd.Series:
    """Where each row of a table of `tables.read_table` stands, for the column `origin` that
    `check_samples` reads.
    """
    return pd.Series(f"{name}: row " + frame.index.astype(str), index=frame.index, dtype=object)


def check_samples(
    frame: pd.DataFrame, source: Path | str, competition: "Competition | None" = None
) -> pd.DataFrame:
    """Hold a samples table to the schema and give it back with the schema's column order and types.

    Text is stripped and wells are written A01.

    Args:
        frame: Columns `COLUMNS` (those of `ADDED` may lack), and `origin` where the rows come from
        a table: "train.csv: row 5". source: The folder of the data, for the errors. competition:
        Whose `stated` the files' names are held to; None trusts the names.

    Raises:
        InputError: no row, a missing column, a doubled sample_id, an empty cell where none may be,
        an unknown role or split, a training
            treatment with neither label nor labels, labels that are not ascending numbers from 0,
            samples of one target_id that disagree, a well with two labels, or a file that stands
            twice or says another thing than its row (`stated.refuse_misstated`). The message names
            `source`, and the row by its origin or its sample_id.
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
    frame = frame[list(COLUMNS)]
    for column, (kind, optional) in COLUMNS.items():
        if kind == "text":
            frame[column] = _texts(frame[column])
        empty = frame[column].isna()
        if not optional:
            places.refuse(empty, lambda row, column=column: f"{column} is empty")
        if kind == "int":
            frame[column] = frame[column].astype("Int64" if optional else "int64")
    frame["well"] = normalise_wells(frame.well)
    doubled = frame.sample_id.duplicated()
    places.refuse(doubled, lambda row: f"sample_id {frame.sample_id[row]!r} occurs more than once")
    for column, allowed in (("role", ROLES), ("split", SPLITS)):
        wrong = ~frame[column].isin(allowed)
        places.refuse(
            wrong, lambda row, c=column, a=allowed: f"{c} {frame[c][row]!r} is none of {a}"
        )
    known = frame["labels"].notna()
    labels = [value if there else None for value, there in zip(frame["labels"], known, strict=True)]
    frame["labels"] = pd.Series(labels if known.any() else None, index=frame.index, dtype=object)
    wrong = known & ~frame["labels"].map(_are_labels)
    if known.any():
        wrong |= frame.label.notna()
    why = "ascending class numbers, and no label beside them"
    places.refuse(wrong, lambda row: f"labels {frame['labels'][row]!r}: {why}")
    unlabelled = (
        (frame.split == "train") & (frame.role == "treatment") & frame.label.isna() & ~known
    )
    places.refuse(unlabelled, lambda row: "a training sample has no label")
    _refuse_contradictions(frame, places)
    known = () if competition is None else (competition.channels, competition.stated)
    refuse_misstated(frame, places, *known)
    return frame


def _texts(column: pd.Series) -> pd.Series:
    """A column as stripped text; NaN where it is missing or blank, None in an empty column, as
    pandas keeps them.
    """
    texts = {value: str(value).strip() for value in column.dropna().unique()}
    texts = {value: text for value, text in texts.items() if text}
    missing = np.nan if texts else None
    return pd.Series(
        [texts.get(value, missing) for value in column], index=column.index, dtype=object
    )


def _refuse_contradictions(frame: pd.DataFrame, places: "Places") -> None:
    """Samples that share a target or a physical well are of one well, split and label."""
    facts = pd.DataFrame(
        {
            "label": frame.label.fillna(-1),
            "labels": frame["labels"].map(str),
            "split": frame.split,
            "well": frame.well_id,
        }
    )
    for column, names in facts.items():
        first = names.groupby(frame.target_id).transform("first")
        places.refuse(
            names != first,
            lambda row, c=column, f=first, n=names: (
                f"target_id {frame.target_id[row]!r} has two values of {c}: {f[row]!r} and "
                f"{n[row]!r}"
            ),
        )
    labelled = frame[frame.label.notna() | frame["labels"].notna()]
    label = facts.loc[labelled.index, "label"].astype(str) + facts.loc[labelled.index, "labels"]
    first = label.groupby([labelled.experiment, labelled.plate, labelled.well]).transform("first")
    shown = labelled.label.astype(object).where(labelled.label.notna(), labelled["labels"])
    wrong = (label != first).reindex(frame.index, fill_value=False)
    places.refuse(
        wrong,
        lambda row: (
            f"well {frame.well[row]!r} of plate {frame.plate[row]!r} has another label here "
            f"({shown[row]}) than in the other rows"
        ),
    )


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
    """(N, classes) float32: 1 where a sample has a class, 0 where it is known not to, NaN in rows
    without `labels`.
    """
    known = samples["labels"].notna().to_numpy()
    matrix = np.full((len(samples), classes), np.nan, np.float32)
    matrix[known] = 0
    for row, labels in zip(np.flatnonzero(known), samples["labels"].to_numpy()[known], strict=True):
        matrix[row, list(labels)] = 1
    return matrix
