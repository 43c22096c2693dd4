"""Hold the files of a samples table to their rows, and name rows in errors.

No file stands for two channels or two samples, none says by its name another thing than its row,
and all lie under the root.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_well

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
    names = list(chain.from_iterable(frame.files.tolist()))
    text = "\n" + "\n".join(names)
    hashes = np.sort(np.fromiter(map(hash, names), np.int64, len(names)))  # quicker than a set
    if "\n/" in text or ".." in text or (hashes[1:] == hashes[:-1]).any():
        _refuse_files(frame, places, channels)
    del names, text, hashes
    if stated is not None:
        columns = [column for column in STATED if column in frame.columns]
        rows = frame[columns].astype(str).to_dict("records")
        faults = [
            _find_fault(files, facts, channels, stated)
            for files, facts in zip(frame.files, rows, strict=True)
        ]
        wrong = np.array([fault is not None for fault in faults], dtype=bool)
        places.refuse(wrong, lambda row: faults[row])


def _refuse_files(frame: pd.DataFrame, places: Places, channels: Sequence[str]) -> None:
    """Refuse files outside the root or twice in a table, row by row; as `refuse_misstated`."""
    entries = frame.files.reset_index(drop=True).explode()
    outside = entries.map(_is_outside).astype(bool)
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
