"""Read RxRx1's labels, which are numbers in one release and text such as `sirna_250` in another."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError

UNTREATED = ("UNTREATED", "EMPTY")
PENDING = -1  # the label of UNTREATED until all files are read
_LABEL = re.compile(r"(?:[A-Za-z]\w*?_)?(\d{1,18})|(\d{1,18})\.0*")


def parse_labels(column: pd.Series, path: Path | str, ids: pd.Series) -> pd.Series:
    """Return labels as int64: "250", "250.0" and "sirna_250" are 250; untreated is -1.

    Args:
        column: Text or numbers. An index called "row" (of `tables.read_table`) is named in the
        error.

    Raises:
        InputError: an empty label, or one without a number; names the file, the row and the id.
    """
    text = column.astype(object).where(column.notna(), "")
    codes, values = pd.factorize(text.map(str))
    numbers = [_label_number(value.strip()) for value in np.asarray(values, object)]
    wrong = np.array([number is None for number in numbers], bool)[codes]
    if wrong.any():
        first = int(wrong.argmax())
        row = f"row {column.index[first]} " if column.index.name == "row" else ""
        label = str(text.iloc[first]).strip()
        why = f"label {label!r} is not an siRNA" if label else "the label is empty"
        raise InputError(f"{path}: {row}({ids.iloc[first]!r}): {why}")
    return pd.Series(np.array(numbers, np.int64)[codes], column.index, name=column.name)


def _label_number(text: str) -> int | None:
    """Return the number of a label, `PENDING` of an untreated well, None of any other text."""
    if text.upper() in UNTREATED:
        return PENDING
    match = _LABEL.fullmatch(text)
    return None if match is None else int(match[1] or match[2])
