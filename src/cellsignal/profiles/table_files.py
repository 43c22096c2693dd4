"""Read files of well profiles: CSV, TSV, parquet or AnnData, each as numbers and metadata."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import MISSING, normalise_well, read_table
from cellsignal.profiles.feature_columns import choose_features
from cellsignal.profiles.names import USUAL
from cellsignal.profiles.stored_tables import (
    PACKAGES,
    StoredTable,
    read_stored,
    refuse_other_suffix,
)

PLATE, WELL = "Metadata_Plate", "Metadata_Well"
_PLAIN = {name.lower() for names in USUAL.values() for name in names}  # of metadata
# a file and its columns -> the columns that hold plate and well
FindKeys = Callable[[Path, Sequence[str]], tuple[str, str]]


@dataclass(frozen=True)
class TablePart:
    """One file.

    Attributes:
        numbers: its feature columns.
        keys: plate and well of each row.
        left_out: other columns by reason.
        metadata: all columns that are no feature, the index the row in the file.
        record: of an exported file: what it was made from, see `table_export`.
    """

    path: Path
    numbers: pd.DataFrame
    keys: pd.DataFrame
    left_out: dict[str, list[str]]
    metadata: pd.DataFrame
    record: dict[str, Any] = field(default_factory=dict)


def read_part(path: Path, features: Sequence[str], find_keys: FindKeys | None = None) -> TablePart:
    """Read one file.

    Args:
        features: see `feature_columns.choose_features`.
        find_keys: finds the columns of plate and well; None takes Metadata_Plate and Metadata_Well.

    Raises:
        InputError: no readable table, no feature, or a row without plate or well.
    """
    table = read_frame(path, () if find_keys else (PLATE, WELL))
    frame = table.frame
    plate, well = find_keys(path, list(frame.columns)) if find_keys else (PLATE, WELL)
    for column in (plate, well):
        refuse_empty(path, frame, column)
    names, left_out = choose_features(path, frame.columns, features, table.features)
    numbers = pd.DataFrame({name: _to_numbers(frame[name]) for name in names})
    filled = ~frame[names].isin(MISSING) & frame[names].notna()
    is_text = (numbers.isna() & filled).any()
    texts = [name for name in names if is_text[name]]
    if features and texts:
        row = numbers.index[numbers[texts[0]].isna()][0]
        raise InputError(
            f"{path}: row {row}: feature {texts[0]} is {frame.at[row, texts[0]]!r}, not a number"
        )
    if len(texts) == len(names):
        row = frame.index[0]
        raise InputError(
            f"{path}: none of the {len(names)} features is a column of numbers; "
            f"row {row}: {texts[0]} is {frame.at[row, texts[0]]!r}"
        )
    left_out["not numbers"] = texts
    keys = pd.DataFrame({"plate": frame[plate].map(cell_text), "well": frame[well].map(cell_text)})
    keys["well"] = keys.well.map(normalise_well)
    metadata = frame.drop(columns=[name for name in names if name not in texts])
    return TablePart(path, numbers.drop(columns=texts), keys, left_out, metadata, table.record)


def read_frame(path: Path, required: Sequence[str] = ()) -> StoredTable:
    """Read a .csv, .tsv (or either with .gz), .parquet or .h5ad; rows count from 2.

    Raises:
        InputError: no readable table, no row, or a column that is `required` is missing. Names the
            file.
    """
    if path.suffix in PACKAGES:
        table = read_stored(path)
        frame = _clean(path, table.frame, required, table.features or ())
        if frame.empty:
            raise InputError(f"{path}: has columns but no rows")
        return replace(table, frame=frame)
    refuse_other_suffix(path)
    return StoredTable(read_table(path, required, any_row=True), None, {})


def refuse_empty(path: Path, frame: pd.DataFrame, column: str) -> None:
    """Refuse a table with a row whose cell in `column` is empty."""
    empty = frame.index[frame[column].map(cell_text).isin(MISSING)]
    if len(empty):
        raise InputError(f"{path}: row {empty[0]}: {column} is empty")


def _to_numbers(cells: pd.Series) -> pd.Series:
    """Convert cells to float64; NaN if a cell is not a number, and for all cells of dates."""
    if pd.api.types.is_datetime64_any_dtype(cells) or pd.api.types.is_timedelta64_dtype(cells):
        return pd.Series(np.nan, cells.index)
    return pd.to_numeric(cells, errors="coerce").astype(np.float64)


def _clean(
    path: Path, frame: pd.DataFrame, required: Sequence[str], features: Sequence[str]
) -> pd.DataFrame:
    """As `read_table` reads a CSV: metadata are stripped text, and rows count from 2."""
    # plate and well may be the index
    kept = [name for name in frame.index.names if name is not None and name not in frame]
    frame = frame.reset_index(kept).reset_index(drop=True)
    frame.columns = [str(name) for name in frame.columns]
    frame.index = pd.RangeIndex(2, len(frame) + 2, name="row")
    for column in required:
        if column not in frame:
            raise InputError(f"{path}: no column {column!r}, which says where a profile is from")
    for column in frame.columns:
        is_metadata = column in required or column.startswith("Metadata_")
        is_metadata |= column.lower() in _PLAIN and column not in features
        is_object = frame[column].dtype == object
        if is_metadata or (is_object and frame[column].map(_is_nested).any()):
            frame[column] = _shortest(frame[column]).map(cell_text).astype(object)
        elif isinstance(frame[column].dtype, pd.CategoricalDtype):
            frame[column] = frame[column].astype(object)
    return frame


def _shortest(cells: pd.Series) -> pd.Series:
    """The cells; of float32 those float64 that are written alike, as 0.1 is."""
    if cells.dtype in (np.float16, np.float32):
        return cells.map(lambda cell: float(str(np.asarray(cell, cells.dtype)[()])))
    return cells


def _is_nested(cell: object) -> bool:
    return isinstance(cell, list | tuple | np.ndarray | dict)


def cell_text(cell: object) -> str:
    """Write an identifier as text: 7.0 becomes 7, a missing one "", a list its items between |."""
    if isinstance(cell, list | tuple | np.ndarray):
        return "|".join(cell_text(item) for item in cell)
    if isinstance(cell, dict):
        return str(cell)
    if pd.isna(cell):
        return ""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace").strip()
    is_whole = isinstance(cell, float | np.floating) and float(cell).is_integer()
    return str(int(cell)) if is_whole else str(cell).strip()
