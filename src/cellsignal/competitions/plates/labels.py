"""Read what the wells of a platemap are labelled with: one label, or any number of them."""

from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import MISSING, refuse_rows
from cellsignal.competitions.class_columns import BESIDE
from cellsignal.competitions.plates.description import FILE, MULTI_LABEL, Description, nearest

NO_LABEL = "no label"  # shown for a well that is known to have none of the labels


def read_labels(
    path: Path, table: pd.DataFrame, description: Description
) -> tuple[pd.Series, pd.Series]:
    """Return the labels of each row of a platemap, as one text and as a tuple of names.

    Args:
        table: the cells of `path`.

    Returns:
        Text, "" where nothing is known; and with `task: multi_label` tuples of different names in
        the order of the cell or the columns, () for none, None where nothing is known. With one
        label a well the tuples are None.

    Raises:
        InputError: a column that is not there, or a cell of `label_columns` that is not 0 or 1.
    """
    if description.label_columns:
        return _read_columns(path, table, description.label_columns)
    require_column(path, table, "label", description.label)
    cells = table[description.label]
    texts = cells.where(~cells.isin(MISSING), "")
    if description.task != MULTI_LABEL:
        return texts, _objects([None] * len(texts), table)
    names = [_split(text, description.label_separator) for text in texts]
    joined = [description.label_separator.join(part) for part in names]
    return _objects(joined, table), _objects([part or None for part in names], table)


def _split(text: str, separator: str) -> tuple[str, ...]:
    """Return the different names of a cell, in their order."""
    parts = (part.strip() for part in text.split(separator))
    return tuple(dict.fromkeys(part for part in parts if part))


def _read_columns(
    path: Path, table: pd.DataFrame, columns: tuple[str, ...]
) -> tuple[pd.Series, pd.Series]:
    """Read a column of 0 and 1 for each label; a row with any empty cell is not known."""
    for column in columns:
        require_column(path, table, "label_columns", column)
        is_wrong = ~table[column].isin({"0", "1", *MISSING})
        refuse_rows(path, table, is_wrong, column, "is neither 0 nor 1")
    cells = table[list(columns)]
    is_known = ~cells.isin(MISSING).any(axis=1)
    names = [
        tuple(np.array(columns, object)[row]) if known else None
        for row, known in zip((cells == "1").to_numpy(), is_known, strict=True)
    ]
    texts = ["" if part is None else "|".join(part) or NO_LABEL for part in names]
    return _objects(texts, table), _objects(names, table)


def _objects(values: list, table: pd.DataFrame) -> pd.Series:
    return pd.Series(values, index=table.index, dtype=object)


def require_column(path: Path, table: pd.DataFrame, key: str, column: str) -> None:
    """Refuse a platemap without a column that the description names; offer the nearest."""
    if column not in table:
        hint = nearest(column, list(table.columns))
        raise InputError(f"{path}: has no column {column!r}, which {FILE} gives as {key}{hint}")


def refuse_reserved(root: Path, classes: tuple[str, ...], id_column: str) -> None:
    """Refuse labels that a table with a column for each label could not tell from its others."""
    reserved = sorted({id_column, *BESIDE} & set(classes))
    if reserved:
        raise InputError(
            f"{root / FILE}: a label is called {reserved[0]!r}, as a column that answers may have; "
            "give it another name in the platemap"
        )
