"""What files say of themselves, held to what the table says of them, for every competition.

A file's name often states its channel, well, site or plate. `Competition.stated` reads that from a name; here is the rule:
no file stands for two channels or two samples, and none says another thing than its row.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.errors import InputError
from cellsignal.tables import normalise_well

if TYPE_CHECKING:
    from cellsignal.competitions.base import Competition

HELD = ("experiment", "plate", "well", "site")  # samples columns that a name may state


class Places:
    """Where the rows of a samples table come from, to name them in errors.

    Args:
        source: The folder of the data.
        frame: Has a column `origin` ("train.csv: row 5") or a column `sample_id`.
    """

    def __init__(self, source: Path | str, frame: pd.DataFrame):
        self.source = source
        self.origin = frame.get("origin")
        self.ids = frame.get("sample_id")

    def name(self, row: int) -> str:
        """The file and row of a row of the frame, or the id of its sample."""
        if self.origin is not None:
            return f"{self.source}/{self.origin.iloc[row]}"
        return f"{self.source}: sample {self.ids.iloc[row]!r}"

    def refuse(self, wrong: pd.Series | np.ndarray, why: Callable[[int], str]) -> None:
        """Raise one line about the first wrong row, if there is any.

        Args:
            why: What is wrong with a row, by its number in the frame.
        """
        wrong = np.asarray(wrong, dtype=bool)
        if wrong.any():
            row = int(wrong.argmax())
            more = f" ({int(wrong.sum())} such rows)" if wrong.sum() > 1 else ""
            raise InputError(f"{self.name(row)}: {why(row)}{more}")


def refuse_misstated(
    frame: pd.DataFrame, places: Places, competition: "Competition | None" = None
) -> None:
    """Refuse files that stand twice in a table, and names that contradict their row or the other files of the row.

    Args:
        frame: A column `files` as in the samples table, and any of `HELD`.
        competition: Whose `stated` reads the names; None looks for doubled files alone.

    Raises:
        InputError: Names the row, the file and what it says.
    """
    _refuse_doubled(frame, places, competition)
    if competition is not None:
        faults = [_fault(competition, row) for row in _rows(frame)]
        places.refuse(np.array([fault is not None for fault in faults], dtype=bool), lambda row: faults[row])


def _refuse_doubled(frame: pd.DataFrame, places: Places, competition: "Competition | None") -> None:
    within = np.array([len(set(files)) < len(files) for files in frame.files], dtype=bool)
    places.refuse(within, lambda row: _doubled_channels(frame.files.iloc[row], competition))
    entries = pd.Series([name for files in frame.files for name in files], dtype=object)
    doubled = entries.duplicated()
    if doubled.any():
        row_of = np.repeat(np.arange(len(frame)), [len(files) for files in frame.files])
        wrong = np.zeros(len(frame), dtype=bool)
        wrong[row_of[doubled]] = True
        entry = entries[doubled].iloc[0]
        first = places.name(int(row_of[int((entries == entry).argmax())]))
        places.refuse(wrong, lambda row: f"{entry} is also the file of {first}")


def _doubled_channels(files: tuple[str, ...], competition: "Competition | None") -> str:
    name = next(name for number, name in enumerate(files) if name in files[:number])
    numbers = [number for number, other in enumerate(files) if other == name]
    titles = [_channel(competition, files, number) for number in numbers]
    return f"{name} is given for the channels {' and '.join(titles)}"


def _channel(competition: "Competition | None", files: tuple[str, ...], number: int) -> str:
    if competition is None or len(files) != len(competition.channels):
        return str(number + 1)
    return competition.channels[number]


def _rows(frame: pd.DataFrame):
    """(files, what the row says of itself, as `stated` would) of every row."""
    columns = [column for column in HELD if column in frame.columns]
    for files, *values in zip(frame.files, *(frame[column] for column in columns), strict=True):
        yield files, dict(zip(columns, map(str, values), strict=True))


def _fault(competition: "Competition", row: tuple[tuple[str, ...], dict[str, str]]) -> str | None:
    """What a row's files say that its table does not, or None."""
    files, held = row
    said: dict[str, tuple[str, str]] = {}  # what the row's earlier files say, and which one says it
    for number, name in enumerate(files):
        stated = dict(competition.stated(name.partition("#")[0]))
        channel = stated.pop("channel", None)
        if channel is not None and len(files) == len(competition.channels):
            expected = competition.channels[number]
            if channel != expected:
                return f"{name} is given for the channel {expected}; by its name it shows {channel}"
        for key, value in stated.items():
            if key == "well":
                value = normalise_well(value)
            if key in held and value != held[key]:
                return f"{name} is given for {key} {held[key]}; by its name it is of {key} {value}"
            earlier, other = said.setdefault(key, (value, name))
            if earlier != value:
                return f"{name} and {other} are given for one image; by their names they are of two ({key} {value}, {earlier})"
    return None
