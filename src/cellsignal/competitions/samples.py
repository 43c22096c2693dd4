"""The samples table: one row an image. Code downstream of a competition knows only these columns.

`check_samples` holds a table to the schema. `refuse_misstated` holds the files to their rows: no
file stands for two channels or two samples, none says by its name another thing than its row, and
all lie under the root.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_well, normalise_wells

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
STATED = ("experiment", "plate", "well", "site")  # columns that a file's name may state


def origins(name: str, frame: pd.DataFrame) -> pd.Series:
    """Return the file and row of each row of a table ("train.csv: row 5").

    Args:
        frame: from `tables.read_table`, whose index is the row of the file.
    """
    return pd.Series(f"{name}: row " + frame.index.astype(str), index=frame.index, dtype=object)


def path_of(name: str) -> str:
    """Return the path of an entry of `files`, without the part of the picture that it names."""
    return name.partition("#")[0]


class Places:
    """Names the rows of a samples table in errors.

    Args:
        source: the folder of the data.
        frame: has a column `origin` ("train.csv: row 5") or a column `sample_id`.
    """

    def __init__(self, source: Path | str, frame: pd.DataFrame):
        self.source = source
        self.origin = frame.get("origin")
        self.ids = frame.get("sample_id")

    def name(self, row: int) -> str:
        """Return the file and row of a row of the frame, or the id of its sample."""
        if self.origin is not None:
            return f"{self.source}/{self.origin.iloc[row]}"
        return f"{self.source}: sample {self.ids.iloc[row]!r}"

    def refuse(self, wrong: pd.Series | np.ndarray, why: str | Callable[[int], str]) -> None:
        """Raise one line about the first wrong row, if there is any.

        Args:
            why: what is wrong with it, or what gives that by the row's number in the frame.
        """
        wrong = np.asarray(wrong, dtype=bool)
        if wrong.any():
            row = int(wrong.argmax())
            reason = why if isinstance(why, str) else why(row)
            more = f" ({int(wrong.sum())} such rows)" if wrong.sum() > 1 else ""
            raise InputError(f"{self.name(row)}: {reason}{more}")


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
    texts[:] = [*(str(value).strip() or np.nan for value in values), np.nan]
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
    facts = pd.DataFrame(
        {
            "label": frame.label.fillna(-1),
            "labels": frame["labels"].map(str),
            "split": frame.split,
            "well": frame.well_id,
        }
    )
    for column, values in facts.items():
        first = values.groupby(frame.target_id).transform("first")
        places.refuse(
            values != first,
            lambda row, c=column, f=first, v=values: (
                f"target_id {frame.target_id[row]!r} has two values of {c}: {f[row]!r} and "
                f"{v[row]!r}"
            ),
        )
    known = frame.label.notna() | frame["labels"].notna()
    label = (facts["label"].astype(str) + facts["labels"])[known]
    well = [frame[column][known] for column in ("experiment", "plate", "well")]
    differs = label != label.groupby(well).transform("first")
    shown = frame.label.astype(object).where(frame.label.notna(), frame["labels"])
    places.refuse(
        differs.reindex(frame.index, fill_value=False),
        lambda row: (
            f"well {frame.well[row]!r} of plate {frame.plate[row]!r} has another label here "
            f"({shown[row]}) than in the other rows"
        ),
    )


# what the files say
# --------------------------------------------------------------------------------------------------


def refuse_misstated(
    frame: pd.DataFrame,
    places: Places,
    channels: Sequence[str] = (),
    stated: Callable[[str], dict[str, str]] | None = None,
) -> None:
    """Refuse files outside the root or twice in a table, and names that contradict their row.

    Args:
        frame: a column `files` as in the samples table, and any of `STATED`.
        channels: what the files of a row are of, where there is one for each.
        stated: `Competition.stated`; None looks for doubled files alone.

    Raises:
        InputError: names the row, the file and what it says.
    """
    entries = frame.files.reset_index(drop=True).explode()
    names = "\n" + "\n".join(entries)
    some_may = "\n/" in names or ".." in names
    outside = entries.map(_is_outside).astype(bool) if some_may else np.zeros(0, bool)
    if outside.any():
        name = entries[outside].iloc[0]
        places.refuse(outside.groupby(level=0).any(), f"{name} lies outside the root")
    within = frame.files.map(lambda files: len(set(files)) < len(files))
    places.refuse(within, lambda row: _doubled_channels(frame.files.iloc[row], channels))
    doubled = entries.duplicated()
    if doubled.any():
        name = entries[doubled].iloc[0]
        first = places.name(entries.index[entries == name][0])
        places.refuse(doubled.groupby(level=0).any(), f"{name} is also the file of {first}")
    if stated is not None:
        columns = [column for column in STATED if column in frame.columns]
        rows = frame[columns].astype(str).to_dict("records")
        faults = [
            _find_fault(files, facts, channels, stated)
            for files, facts in zip(frame.files, rows, strict=True)
        ]
        wrong = np.array([fault is not None for fault in faults], dtype=bool)
        places.refuse(wrong, lambda row: faults[row])


def _is_outside(name: str) -> bool:
    return name.startswith("/") or (".." in name and ".." in name.split("/"))


def _doubled_channels(files: tuple[str, ...], channels: Sequence[str]) -> str:
    name = next(name for number, name in enumerate(files) if name in files[:number])
    titles = channels if len(channels) == len(files) else range(1, len(files) + 1)
    given = [str(title) for title, other in zip(titles, files, strict=True) if other == name]
    return f"{name} is given for the channels {' and '.join(given)}"


def _find_fault(
    files: tuple[str, ...],
    facts: dict[str, str],
    channels: Sequence[str],
    stated: Callable[[str], dict[str, str]],
) -> str | None:
    """Return how a row's file names contradict the row or each other, or None."""
    earlier: dict[str, tuple[str, str]] = {}  # key -> what an earlier file says, and its name
    for number, name in enumerate(files):
        said = dict(stated(path_of(name)))
        channel = said.pop("channel", None)
        if channel is not None and len(files) == len(channels) and channel != channels[number]:
            expected = channels[number]
            return f"{name} is given for the channel {expected}; by its name it shows {channel}"
        for key, value in said.items():
            if key == "well":
                value = normalise_well(value)
            if key in facts and value != facts[key]:
                return f"{name} is given for {key} {facts[key]}; by its name it is of {key} {value}"
            other_value, other = earlier.setdefault(key, (value, name))
            if other_value != value:
                return (
                    f"{name} and {other} are given for one image; by their names they are of "
                    f"{key} {value} and {other_value}"
                )
    return None
