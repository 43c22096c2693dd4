"""Make profiles that hold no phenotype, to measure beside the true ones.

What position alone, the number of cells alone, or exchanged labels reach, a figure of true profiles
does not prove.
"""

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError

POSITION, COUNT, SHUFFLED = "position only", "cell count only", "shuffled labels"
_WELL = r"^([A-Z]{1,2})(\d{1,2})$"


def baseline_profiles(x: np.ndarray, wells: pd.DataFrame, seed: int = 0) -> dict[str, np.ndarray]:
    """Return the baselines by name: position, cell count (where known of all wells), shuffled.

    Args:
        x: (W, D) the true profiles.
        wells: W rows with experiment, plate, well, role, and perhaps count.
    """
    kinds = {POSITION: position_profiles(wells)}
    if "count" in wells and pd.to_numeric(wells["count"], errors="coerce").notna().all():
        kinds[COUNT] = count_profiles(wells)
    kinds[SHUFFLED] = np.asarray(x)[shuffled_rows(wells, seed)]
    return kinds


def position_profiles(wells: pd.DataFrame) -> np.ndarray:
    """Return profiles of nothing but the position: row and column, one-hot. (W, D) float32.

    Raises:
        InputError: an address that is not a plate position such as C07.
    """
    parts = wells.well.astype(str).str.upper().str.extract(_WELL)
    wrong = parts.isna().any(axis=1)
    if wrong.any():
        raise InputError(
            f"position: well {wells.well[wrong].iloc[0]!r} is not an address such as C07"
        )
    columns = (parts[0], parts[1].astype(int))
    return np.hstack([pd.get_dummies(column).to_numpy(np.float32) for column in columns])


def count_profiles(wells: pd.DataFrame) -> np.ndarray:
    """Return profiles of nothing but the number of cells. (W, 2) float32.

    A quarter of a circle, from the plate's fewest cells to its most, by log(1 + count): the cosine
    of two wells falls with the difference of their counts.
    """
    count = np.log1p(pd.to_numeric(wells["count"]).astype(float))
    by_plate = count.groupby([wells.experiment.to_numpy(), wells.plate.to_numpy()])
    least, most = by_plate.transform("min"), by_plate.transform("max")
    angle = (np.pi / 2 * (count - least) / (most - least).where(most > least, 1)).to_numpy()
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def shuffled_rows(wells: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """Return the rows (W,) that exchange the treated wells of each plate at random."""
    rng, rows = np.random.default_rng(seed), np.arange(len(wells))
    treated = (wells.role != "negative_control").to_numpy()
    for plate in wells.groupby(["experiment", "plate"], sort=True).indices.values():
        chosen = plate[treated[plate]]
        rows[chosen] = rng.permutation(chosen)
    return rows


def shuffled_mechanisms(wells: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the wells with the mechanisms exchanged at random among the compounds."""
    named = wells[wells.moa.notna() & (wells.role != "negative_control")]
    compound = named["compound"].fillna(named.treatment)
    moa = named.moa.groupby(compound).first()
    order = np.random.default_rng(seed).permutation(len(moa))
    exchanged = dict(zip(moa.index, moa.to_numpy()[order], strict=True))
    return wells.assign(moa=compound.map(exchanged).reindex(wells.index).astype(object))
