"""Say what of the wells may not be as the user thinks: empty cells, names that resemble others."""

import difflib
import re
from collections.abc import Sequence

import pandas as pd

from cellsignal.competitions.plates.description import Description

NO_BATCH = "no batch"  # the batch of wells whose cell of a batch column is empty
_MOST_TYPOS = 50  # single labels up to which misspellings are looked for
_LEAST = 5  # letters of a word that may be misspelt
_SIMILAR = 0.8


def note_wells(frame: pd.DataFrame, description: Description) -> list[str]:
    """Return lines on empty cells, on labels with one well and on compounds written in two ways.

    Args:
        frame: a row a site, as `wells.read_rows` makes it.
    """
    treated = frame[(frame.role == "treatment") & (frame.split == "train")]
    lines = _note_empty_cells(frame, treated, description)
    lines += _note_single_labels(treated)
    if description.compound is not None:
        lines += _note_two_spellings(sorted(set(treated["compound"]) - {""}))
    return lines


def _note_empty_cells(
    frame: pd.DataFrame, treated: pd.DataFrame, description: Description
) -> list[str]:
    lines = []
    for key in ("compound", "concentration", "batch", "cell_type"):
        column = getattr(description, key)
        part = treated if key in ("compound", "concentration") else frame
        cells = part["experiment" if key == "batch" else key]
        wells = part.well_id[cells == (NO_BATCH if key == "batch" else "")].drop_duplicates()
        if column is not None and len(wells):
            count = f"{len(wells)} wells have" if len(wells) > 1 else "1 well has"
            name = key.replace("_", " ")
            lines.append(f"{count} no {name} (column {column!r}); first {wells.iloc[0]}")
    return lines


def _note_single_labels(treated: pd.DataFrame) -> list[str]:
    names = treated["labels"].where(treated["labels"].notna(), treated.label_name)
    wells = treated.assign(name=names).explode("name").groupby("name").well_id
    counts = wells.nunique()
    single = list(counts.index[counts == 1])
    lines = []
    others = [name for name in counts.index if counts[name] > 1]
    for name in single:
        if meant := find_resembling(name, others, typos=len(single) <= _MOST_TYPOS):
            well = wells.first()[name]
            lines.append(f"label {name!r} has one well ({well}); did you mean {meant!r}?")
    return lines


def find_resembling(name: str, others: Sequence[str], typos: bool = True) -> str | None:
    """Return the first other name that differs in case, blanks, signs or one misspelt word."""
    same = next((other for other in others if _squeezed(other) == _squeezed(name)), None)
    if same is not None or not typos:
        return same
    return next((other for other in others if _is_misspelt(name, other)), None)


def _note_two_spellings(compounds: list[str]) -> list[str]:
    spellings = pd.Series(compounds, dtype=object).groupby(list(map(_squeezed, compounds)))
    return [
        f"compounds {names.iloc[0]!r} and {names.iloc[1]!r} differ only in case, blanks or signs: "
        "they count as two, so folds may part them"
        for _, names in spellings
        if len(names) > 1
    ]


def _squeezed(name: str) -> str:
    """Return a name's letters and digits in lower case; all of it where it has none."""
    return "".join(char for char in name.casefold() if char.isalnum()) or name


def _is_misspelt(name: str, other: str) -> bool:
    """Whether two names differ in one long word, a little."""
    words = [re.findall(r"\w+", text.casefold()) for text in (name, other)]
    if len(words[0]) != len(words[1]):
        return False
    differing = [(a, b) for a, b in zip(*words, strict=True) if a != b]
    if len(differing) != 1:
        return False
    first, second = differing[0]
    if not (first.isalpha() and second.isalpha() and min(len(first), len(second)) >= _LEAST):
        return False
    return difflib.SequenceMatcher(None, first, second).ratio() >= _SIMILAR
