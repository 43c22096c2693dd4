"""Read files of well profiles: CSV, TSV, parquet or AnnData, each as numbers and metadata."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import MISSING, normalise_well, read_table
from cellsignal.profiles.feature_columns import choose_features

PLATE, WELL = "Metadata_Plate", "Metadata_Well"
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
    """

    path: Path
    numbers: pd.DataFrame
    keys: pd.DataFrame
    left_out: dict[str, list[str]]
    metadata: pd.DataFrame


def read_part(path: Path, features: Sequence[str], find_keys: FindKeys | None = None) -> TablePart:
    """Read one file.

    Args:
        features: see `feature_columns.choose_features`.
        find_keys: finds the columns of plate and well; None takes Metadata_Plate and Metadata_Well.

    Raises:
        InputError: no readable table, no feature, or a row without plate or well.
    """
    frame = read_frame(path, () if find_keys else (PLATE, WELL))
    plate, well = find_keys(path, list(frame.columns)) if find_keys else (PLATE, WELL)
    for column in (plate, well):
        refuse_empty(path, frame, column)
    names, left_out = choose_features(path, frame.columns, features)
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
    return TablePart(path, numbers.drop(columns=texts), keys, left_out, metadata)


def read_frame(path: Path, required: Sequence[str] = ()) -> pd.DataFrame:
    """Read a .csv, .tsv (or either with .gz), .parquet or .h5ad; rows count from 2.

    Raises:
        InputError: no readable table, or a column that is `required` is missing. Names the file.
    """
    if path.suffix == ".parquet":
        return _clean(path, _read_parquet(path), required)
    if path.suffix == ".h5ad":
        return _clean(path, _read_h5ad(path), required)
    return read_table(path, required)


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


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError:
        raise InputError(
            f"{path}: reading parquet needs pyarrow (pip install pyarrow); a .csv does not"
        ) from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # pandas' and pyarrow's errors of damage are ValueErrors
        reason = str(error).splitlines()[0][:100]
        raise InputError(f"{path}: not a readable table ({reason})") from None


def _read_h5ad(path: Path) -> pd.DataFrame:
    """The columns of obs, then those of X, named by var."""
    try:
        import anndata
    except ImportError:
        raise InputError(
            f"{path}: reading .h5ad needs anndata (pip install anndata); a .csv does not"
        ) from None
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        data = anndata.read_h5ad(path)
    except Exception as error:  # of damaged bytes h5py and anndata raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise InputError(f"{path}: not a readable table ({reason})") from None
    x = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    values = pd.DataFrame(x, columns=data.var_names.astype(str))
    return pd.concat([data.obs.astype(object).reset_index(drop=True), values], axis=1)


def _clean(path: Path, frame: pd.DataFrame, required: Sequence[str]) -> pd.DataFrame:
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
        if column in required or column.startswith("Metadata_"):
            frame[column] = frame[column].map(cell_text).astype(object)
    return frame


def cell_text(cell: object) -> str:
    """Write an identifier as text: 7.0 becomes 7, a missing one ""."""
    if pd.isna(cell):
        return ""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace").strip()
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()
