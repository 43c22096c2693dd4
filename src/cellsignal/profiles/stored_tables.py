"""Read and write parquet and AnnData files of profiles; nothing in a file is ever executed.

What a file was made from stands in it as JSON text: in a parquet's schema under `RECORD`, in an
AnnData's `uns[RECORD]`.
"""

import contextlib
import importlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path
from cellsignal.profiles.feature_columns import COMPARTMENTS, is_counter

RECORD = "cellsignal"
PACKAGES = {".parquet": "pyarrow", ".h5ad": "anndata"}  # the extras have the packages' names
_MAGIC = {b"PAR1": ".parquet", b"\x89HDF": ".h5ad"}
_FLOAT32_WHOLE = 2**24  # up to here float32 holds every whole number
_NO_NAMES = (None, "", "index", "_index")  # names of an index that say nothing


@dataclass(frozen=True)
class StoredTable:
    """A table as a file holds it.

    Attributes:
        frame: metadata and features, a row a profile.
        features: the features that the file itself names; None where the columns' names decide.
        record: what `write_stored` was given; empty in a file of another program.
    """

    frame: pd.DataFrame
    features: tuple[str, ...] | None
    record: dict[str, Any]


def read_stored(path: Path) -> StoredTable:
    """Read a .parquet or .h5ad file.

    Of an AnnData file the columns of obs become metadata (`Metadata_` is put before their names),
    and the names of obs `Metadata_obs_names`, or as they are called. X may be sparse. Its columns
    are the features, whatever they are called, unless some are of CellProfiler's compartments:
    then these are, as in any table.

    Raises:
        InputError: no such file, a package is missing, a damaged file, or a column twice.
    """
    package = load_package(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a table")
    read = _read_parquet if package.__name__ == "pyarrow" else _read_h5ad
    try:
        with _quiet():
            table = read(path, package)
    except InputError:
        raise
    except Exception as error:  # of damaged bytes pyarrow, h5py and anndata raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise InputError(f"{path}: not a readable table ({reason})") from None
    doubled = table.frame.columns[table.frame.columns.duplicated()]
    if len(doubled):
        raise InputError(f"{path}: column {doubled[0]!r} occurs twice")
    return table


def refuse_other_suffix(path: Path) -> None:
    """Refuse a parquet or AnnData file whose name does not say so."""
    try:
        with open(path, "rb") as file:
            suffix = _MAGIC.get(file.read(4))
    except OSError:  # the reader says why
        return
    if suffix is not None:
        raise InputError(f"{path}: is not a CSV but a {suffix} file; name it so")


def load_package(path: Path) -> ModuleType:
    """Import the package that reads and writes a file.

    Raises:
        InputError: it is not installed; names the extra that installs it.
    """
    name = PACKAGES[path.suffix]
    try:
        with _quiet():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise InputError(f"{path}: {name} lacks the package {error.name}") from None
    except ImportError as error:
        raise InputError(f"{path}: {name} cannot be loaded ({error})") from None
    raise InputError(
        f"{path}: a {path.suffix} needs {name}, which is not installed; install the extra of that "
        f'name (pip install -e ".[{name}]"), or take a .csv'
    )


def write_stored(
    path: Path, metadata: pd.DataFrame, x: np.ndarray, features: list[str], record: dict[str, Any]
) -> None:
    """Write a .parquet or .h5ad file atomically.

    Args:
        metadata: W rows, the index their names (of .h5ad), columns of text or of floats.
        x: (W, D) float32.
        features: D names.
        record: what it was made from, of JSON's kinds.

    Raises:
        InputError: a package is missing, or the file cannot be written.
    """
    package, text = load_package(path), json.dumps(record, sort_keys=True)
    write = _write_parquet if package.__name__ == "pyarrow" else _write_h5ad
    with atomic_path(path) as temporary, _quiet():
        write(temporary, metadata, pd.DataFrame(x, metadata.index, features), text, package)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings of the packages about themselves and the pandas they use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read_parquet(path: Path, pyarrow: ModuleType) -> StoredTable:
    from pyarrow import parquet

    schema = parquet.read_schema(path)
    doubled = {name for name in schema.names if schema.names.count(name) > 1}
    if doubled:
        raise InputError(f"{path}: column {min(doubled)!r} occurs twice")
    record = _parse_record(path, (schema.metadata or {}).get(RECORD.encode()))
    # pandas' engine refuses extension types that older pyarrow would unpickle
    frame = pd.read_parquet(path, engine="pyarrow")
    features = None
    if record:
        features = tuple(name for name in schema.names if not name.startswith("Metadata_"))
    return StoredTable(frame, features, record)


def _write_parquet(
    path: Path, metadata: pd.DataFrame, values: pd.DataFrame, text: str, pyarrow: ModuleType
) -> None:
    from pyarrow import parquet

    frame = pd.concat([metadata, values], axis=1)
    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    about = {**(table.schema.metadata or {}), RECORD.encode(): text.encode()}
    parquet.write_table(table.replace_schema_metadata(about), path)


def _read_h5ad(path: Path, anndata: ModuleType) -> StoredTable:
    import h5py
    from anndata.io import read_elem

    with h5py.File(path, "r") as file:
        for name in ("X", "obs", "var"):
            if name not in file:
                raise InputError(f"{path}: has no {name}, so it holds no profiles of AnnData")
        # layers, raw and the rest of uns are not read
        obs, var, x = (read_elem(file[name]) for name in ("obs", "var", "X"))
        text = file.get(f"uns/{RECORD}")
        record = _parse_record(path, None if text is None else text[()])
    if not isinstance(obs, pd.DataFrame) or not isinstance(var, pd.DataFrame):
        raise InputError(
            f"{path}: was written by an anndata before 0.7; read and write it with a new one"
        )
    x = x.toarray() if hasattr(x, "toarray") else np.asarray(x)
    if x.dtype.kind not in "fiub" or x.shape != (len(obs), len(var)):
        raise InputError(
            f"{path}: X is {x.dtype} of shape {x.shape}, not numbers of {len(obs)} obs x "
            f"{len(var)} var"
        )
    names = [str(name) for name in var.index]
    values = pd.DataFrame(x, columns=names)
    _refuse_rounded(path, values)
    features = [name for name in names if not name.startswith("Metadata_")]
    by_name = not record and any(name.startswith(COMPARTMENTS) for name in features)
    if not record:
        features = [name for name in features if not is_counter(name)]
    frame = pd.concat([_obs_columns(obs), values], axis=1)
    return StoredTable(frame, None if by_name else tuple(features), record)


def _obs_columns(obs: pd.DataFrame) -> pd.DataFrame:
    """The columns of obs and its names as metadata."""
    index = "obs_names" if obs.index.name in _NO_NAMES else str(obs.index.name)
    frame = pd.DataFrame({str(name): column for name, column in obs.items()}, obs.index)
    frame = frame.reset_index(drop=True)
    if index not in frame:
        frame[index] = obs.index.astype(object)
    taken = set(frame.columns)
    prefixed = {name: f"Metadata_{name}" for name in taken if not name.startswith("Metadata_")}
    return frame.rename(columns={old: new for old, new in prefixed.items() if new not in taken})


def _refuse_rounded(path: Path, values: pd.DataFrame) -> None:
    """Refuse metadata in X, as pycytominer writes numbers, that float32 has rounded."""
    for name in values.columns[values.columns.str.startswith("Metadata_")]:
        column = np.asarray(values[name], np.float64)
        if values.dtypes.iloc[0] == np.float32 and (np.abs(column) >= _FLOAT32_WHOLE).any():
            raise InputError(
                f"{path}: {name} is a number of X in float32, which rounds it; keep it in obs"
            )


def _write_h5ad(
    path: Path, metadata: pd.DataFrame, values: pd.DataFrame, text: str, anndata: ModuleType
) -> None:
    var = pd.DataFrame(index=values.columns.astype(object))
    x = values.to_numpy(np.float32)
    obs = metadata.copy()
    for name in obs.select_dtypes(object).columns:
        obs[name] = pd.Categorical(obs[name], pd.Index(sorted(set(obs[name])), dtype=object))
    data = anndata.AnnData(X=x, obs=obs, var=var, uns={RECORD: text})
    plain = {"allow_write_nullable_strings": False}  # which older readers and R can read
    known = hasattr(anndata.settings, "allow_write_nullable_strings")
    with anndata.settings.override(**plain) if known else contextlib.nullcontext():
        data.write_h5ad(path, compression="gzip")


def _parse_record(path: Path, text: Any) -> dict[str, Any]:
    """The record of a file; {} where there is none."""
    if text is None:
        return {}
    try:
        record = json.loads(text)
    except (TypeError, ValueError):
        record = None
    kinds = {"label": str, "normalised": str, "trained": list | None, "notes": list}
    if not isinstance(record, dict) or not isinstance(record.get("profiles"), dict):
        raise InputError(f"{path}: its record {RECORD!r} of what it was made from is damaged")
    for name, kind in kinds.items():
        value = record["profiles"].get(name)
        if not isinstance(value, kind) or (isinstance(value, list) and not _texts(value)):
            raise InputError(f"{path}: {name!r} of its record {RECORD!r} is damaged")
    return record


def _texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
