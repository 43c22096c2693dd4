"""Batch correction by packages that are not installed by default: ComBat and Harmony."""

import importlib
import warnings
from types import ModuleType

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.profiles.batch_effects import Unit, unit_columns

PACKAGES = {"combat": "scanpy", "harmony": "harmonypy"}
COMPONENTS = 50  # principal components that Harmony corrects, at most
SEED = 0


def combat(x: np.ndarray, wells: pd.DataFrame, by: Unit) -> np.ndarray:
    """Correct each unit's means and variances by empirical Bayes (Johnson, Li & Rabinovic 2007).

    The code is scanpy's. Treatments are not looked at, so units should hold the same treatments.

    Args:
        x: (W, D) float32. wells: W rows with experiment and plate. by: the unit.

    Returns:
        (W, D) float32.

    Raises:
        InputError: scanpy is not installed, there is one unit only or one with a single well, or a
            feature does not vary.
    """
    scanpy = _load("combat")
    unit = _units(wells, by, "combat")
    constant = np.flatnonzero(np.ptp(x, axis=0) == 0)
    if len(constant):
        raise InputError(
            f"combat: {len(constant)} of {x.shape[1]} features do not vary; put feature_select "
            "before it"
        )
    from anndata import AnnData

    names = pd.Index([str(row) for row in range(len(x))], dtype=object)
    obs = pd.DataFrame({"unit": pd.Categorical(unit)}, index=names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = AnnData(X=x.astype(np.float64), obs=obs)
        corrected = scanpy.pp.combat(data, key="unit", inplace=False)
    return np.ascontiguousarray(corrected, np.float32)


def harmony(x: np.ndarray, wells: pd.DataFrame, by: Unit) -> np.ndarray:
    """Align the units' clusters of the principal components (Korsunsky et al. 2019).

    The code is harmonypy's, which is licensed under the GPL 3: install it yourself if that suits
    you. Features are standardised over all wells, and their first `COMPONENTS` principal components
    corrected.

    Args:
        x: (W, D) float32. wells: W rows with experiment and plate. by: the unit.

    Returns:
        (W, min(`COMPONENTS`, D, W - 1)) float32.

    Raises:
        InputError: harmonypy is not installed, or there is one unit only or one with a single well.
    """
    harmonypy = _load("harmony")
    unit = _units(wells, by, "harmony")
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    count = min(COMPONENTS, x.shape[1], len(x) - 1)
    scores = PCA(count, svd_solver="full").fit_transform(
        StandardScaler().fit_transform(x.astype(np.float64))
    )
    clusters = max(1, min(round(len(x) / 30), 100))  # its default, which is 0 for few wells
    result = harmonypy.run_harmony(
        scores,
        pd.DataFrame({"unit": unit}),
        "unit",
        nclust=clusters,
        random_state=SEED,
        verbose=False,
    )
    corrected = np.asarray(result.Z_corr)
    if corrected.shape != scores.shape:  # components x wells before version 1
        corrected = corrected.T
    return np.ascontiguousarray(corrected, np.float32)


def _load(step: str) -> ModuleType:
    package = PACKAGES[step]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        note = ", which is GPL 3" if step == "harmony" else ""
        raise InputError(
            f"{step}: needs the package {package}{note} (pip install {package}): {error}"
        ) from None


def _units(wells: pd.DataFrame, by: Unit, step: str) -> np.ndarray:
    """Return each well's unit, as text."""
    unit = wells[unit_columns(by)].astype(str).agg(" ".join, axis=1)
    sizes = unit.value_counts()
    if len(sizes) < 2:
        raise InputError(f"{step}: all wells are of one {by}; there is no batch to correct")
    if sizes.min() < 2:
        raise InputError(f"{step}: {by} {sizes.idxmin()} has one well, at least 2 needed")
    return unit.to_numpy()
