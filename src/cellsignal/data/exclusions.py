"""Read the list of samples that `data.exclude` leaves out of training and validation.

The list is a CSV with the column `sample_id`; or `well_id`; or `experiment`, `plate` and perhaps
`well`, whose empty cell means the whole plate. The first of these that the header has counts; other
columns may say why. `cellsignal qc --out DIR` writes one.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_wells, read_table, refuse_rows

WAYS = (("sample_id",), ("well_id",), ("experiment", "plate"))


def read_exclusions(path: Path | str, samples: pd.DataFrame) -> np.ndarray:
    """Return which samples a list names, (N,) bool.

    Raises:
        InputError: no such table, one with none of the columns, an empty cell, or a row that no
            sample is of; names the file, the row and the value.
    """
    return excluded_samples(read_table(path, filled=()), samples, path)


def excluded_samples(table: pd.DataFrame, samples: pd.DataFrame, path: Path | str) -> np.ndarray:
    """Return which samples the rows of a list name, (N,) bool; see `read_exclusions`."""
    way = next((way for way in WAYS if set(way) <= set(table.columns)), None)
    if way is None:
        raise InputError(
            f"{path}: has the columns {', '.join(table.columns)}; a list of what to leave out has "
            "sample_id, or well_id, or experiment and plate (and well)"
        )
    for column in way:
        refuse_rows(path, table, table[column] == "", column, "is empty")
    if way != ("experiment", "plate") or "well" not in table.columns:
        return _named(table, list(way), samples, path)
    table = table.assign(well=normalise_wells(table.well))
    whole = (table.well == "").to_numpy()
    out = np.zeros(len(samples), bool)
    if whole.any():
        out |= _named(table[whole], list(way), samples, path)
    return out | _named(table[~whole], [*way, "well"], samples, path)


def _named(
    table: pd.DataFrame, columns: list[str], samples: pd.DataFrame, path: Path | str
) -> np.ndarray:
    listed = pd.MultiIndex.from_frame(table[columns].astype(str))
    present = pd.MultiIndex.from_frame(samples[columns].astype(str))
    unknown = ~listed.isin(present)
    words = "is of no sample"
    if len(columns) > 1:
        words = f"with {' and '.join(columns[:-1])} as given is of no sample"
    refuse_rows(path, table, unknown, columns[-1], words)
    return present.isin(listed)
