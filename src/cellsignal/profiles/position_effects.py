"""Subtract what a plate's rows and columns add to well profiles.

By median polish (Tukey 1977), as the B score does on screens (Malo et al., Nat Biotechnol 24:167,
2006): row and column medians are subtracted in turn until nothing changes.
"""

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.profiles.batch_effects import Reference, reference_units

_WELL = r"^([A-Z]{1,2})(\d{1,2})$"
_ROUNDS = 10
_SETTLED = 1e-3  # largest change in a round, in units of the values' spread, after which it ends


def subtract_position(
    x: np.ndarray, wells: pd.DataFrame, reference: Reference = "all"
) -> np.ndarray:
    """Subtract each plate's row and column effects, feature by feature. (W, D) float32.

    The plate's own level stays. A row or column without a reference well has no effect.

    Args:
        x: (W, D), finite.
        wells: W rows with experiment, plate, well and role.
        reference: the wells that the effects are estimated from. With `all`, a treatment that
            fills a row is taken for the row; with few controls most rows and columns have none.

    Raises:
        InputError: an address that is not a plate position, or a plate without reference wells.
    """
    parts = wells.well.astype(str).str.extract(_WELL)
    wrong = parts.isna().any(axis=1)
    if wrong.any():
        raise InputError(
            f"well_position: well {wells.well[wrong].iloc[0]!r} is not an address such as C07"
        )
    row, column = (pd.factorize(parts[name])[0] for name in (0, 1))
    out = np.array(x, np.float64)
    for rows, chosen in reference_units(wells, "plate", reference, 1):
        by_row, by_column = median_polish(out[chosen], row[chosen], column[chosen])
        for code, effects in ((row, by_row), (column, by_column)):
            for number, effect in effects.items():
                out[rows[code[rows] == number]] -= effect
    return out.astype(np.float32)


def median_polish(
    x: np.ndarray, row: np.ndarray, column: np.ndarray
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Estimate row and column effects, whose medians are zero.

    Args:
        x: (N, D) values.
        row: (N,) number of each value's row.
        column: (N,) number of its column.

    Returns:
        Effects (D,) by row and by column.
    """
    rest = x - np.median(x, axis=0)
    settled = _SETTLED * np.median(np.abs(rest), axis=0)
    lines = [{int(n): np.flatnonzero(code == n) for n in np.unique(code)} for code in (row, column)]
    effects = [{n: np.zeros(x.shape[1]) for n in groups} for groups in lines]
    for _ in range(_ROUNDS):
        largest = np.zeros(x.shape[1])
        for groups, effect in zip(lines, effects, strict=True):
            for number, chosen in groups.items():
                change = np.median(rest[chosen], axis=0)
                rest[chosen] -= change
                effect[number] += change
                largest = np.maximum(largest, np.abs(change))
        if (largest <= settled).all():
            break
    for effect in effects:
        middle = np.median(list(effect.values()), axis=0)
        for number in effect:
            effect[number] = effect[number] - middle
    return effects[0], effects[1]
