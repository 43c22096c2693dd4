"""What files say of themselves, held to what the table says of them, for every competition.

A file's name often states its channel, well, site or plate. `Competition.stated` reads that from a
name; here is the rule: no file stands for two channels or two samples, none says another thing than
its row, and all lie under the root.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_well

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
    frame: pd.DataFrame,
    places: Places,
    channels: Sequence[str] = (),
    stated: Callable[[str], dict[str, str]] | None = None,
) -> None:
    """Refuse files outside the root or twice in a table, and names that contradict their row or the
    row's other files.

    Args:
        frame: A column `files` as in the samples table, and any of `HELD`.
        channels: What the files of a row are of, where there is one for each.
        stated: `Competition.stated`; None looks for doubled files alone.

    Raises:
        InputError: Names the row, the file and what it says.
    """
    outside = np.array([any(map(_is_outside, files)) for files in frame.files], dtype=bool)
    places.refuse(
        outside,
        lambda row: f"{next(filter(_is_outside, frame.files.iloc[row]))} lies outside the root",
    )
    within = np.array([len(set(files)) < len(files) for files in frame.files], dtype=bool)
    places.refuse(within, lambda row: _doubled_channels(frame.files.iloc[row], channels))
    entries = pd.Series([name for files in frame.files for name in files], dtype=object)
    doubled = entries.duplicated().to_numpy()
    if doubled.any():
        row_of = np.repeat(np.arange(len(frame)), [len(files) for files in frame.files])
        wrong = np.zeros(len(frame), dtype=bool)
        wrong[row_of[doubled]] = True
        entry = entries[doubled].iloc[0]
        first = places.name(int(row_of[int((entries == entry).argmax())]))
        places.refuse(wrong, lambda row: f"{entry} is also the file of {first}")
    if stated is not None:
        faults = [_fault(files, held, channels, stated) for files, held in _rows(frame)]
        wrong = np.array([fault is not None for fault in faults], dtype=bool)
        places.refuse(wrong, lambda row: faults[row])


def _is_outside(name: str) -> bool:
    return name.startswith("/") or (".." in name and ".." in name.split("/"))


def _doubled_channels(files: tuple[str, ...], channels: Sequence[str]) -> str:
    name = next(name for number, name in enumerate(files) if name in files[:number])
    titles = channels if len(channels) == len(files) else range(1, len(files) + 1)
    given = [str(title) for title, other in zip(titles, files, strict=True) if other == name]
    return f"{name} is given for the channels {' and '.join(given)}"


def _rows(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:
    """(files, what the row says of itself, as `stated` would) of every row."""
    columns = [column for column in HELD if column in frame.columns]
    for files, *values in zip(frame.files, *(frame[column] for column in columns), strict=True):
        yield files, dict(zip(columns, map(str, values), strict=True))


def _fault(
    files: tuple[str, ...],
    held: dict[str, str],
    channels: Sequence[str],
    stated: Callable[[str], dict[str, str]],
) -> str | None:
    """What a row's files say against their row or each other, or None."""
    said: dict[str, tuple[str, str]] = {}  # what the row's earlier files say, and which of them
    for number, name in enumerate(files):
        facts = dict(stated(name.partition("#")[0]))
        channel = facts.pop("channel", None)
        if channel is not None and len(files) == len(channels) and channel != channels[number]:
            return f"{name} is given for the channel {channels[number]}; by its name it shows {channel}"
        for key, value in facts.items():
            if key == "well":
                value = normalise_well(value)
            if key in held and value != held[key]:
                return f"{name} is given for {key} {held[key]}; by its name it is of {key} {value}"
            earlier, other = said.setdefault(key, (value, name))
            if earlier != value:
                return f"{name} and {other} are given for one image; by their names they are of {key} {value} and {earlier}"
    return None
