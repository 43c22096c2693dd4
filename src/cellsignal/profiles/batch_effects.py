"""Remove plate and experiment effects from well profiles.

What a batch adds is learnt from reference wells. The reference is the caller's choice: the negative
controls (what the field's methods assume; RxRx1 has about one a plate), all control wells (RxRx1:
the same 30 siRNAs on every plate beside it), or all wells. Roles are read, labels of treatments
never, so wells that are to be predicted may take part.

Everywhere below x is (N, D) float, one row a well (or an image), and `samples` has a row for each
with the columns experiment, plate and role.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.optional import load_extra

Unit = Literal["plate", "experiment"]
Reference = Literal["negative_controls", "controls", "all"]
Normalisation = Literal["none", "centre", "standardise", "tvn", "sphere"]
_ROLES = {
    "negative_controls": ("negative_control",),
    "controls": ("positive_control", "negative_control"),
}


def normalise(
    x: np.ndarray,
    samples: pd.DataFrame,
    how: Normalisation,
    by: Unit = "plate",
    reference: Reference | None = None,
) -> np.ndarray:
    """Normalise by one of the ways below; "sphere" centres by `by` first. (N, D) float32.

    Args:
        reference: None is all wells for centring and standardising, the controls for the others.
    """
    reference = reference or ("all" if how in ("centre", "standardise") else "controls")
    if how == "centre":
        return centre(x, samples, by, reference)
    if how == "standardise":
        return centre(x, samples, by, reference, scale=True)
    if how == "tvn":
        return tvn(x, samples, by, reference)
    if how == "sphere":
        return sphere(centre(x, samples, by, reference), samples, reference)
    assert how == "none", how
    return np.asarray(x, np.float32)


def centre(
    x: np.ndarray,
    samples: pd.DataFrame,
    by: Unit = "plate",
    reference: Reference = "all",
    scale: bool = False,
) -> np.ndarray:
    """Subtract from each plate or experiment the mean of its reference wells. (N, D) float32.

    Args:
        scale: also divide by their SD (n - 1), feature by feature; features that do not vary among
            them are only centred.

    Raises:
        InputError: a unit has no reference well, or with `scale` less than two; the unit is named.
    """
    x = _check_finite("standardise" if scale else "centre", x, samples)
    out = np.empty(x.shape, np.float32)
    for rows, chosen in reference_units(samples, by, reference, 2 if scale else 1):
        sd = x[chosen].std(0, ddof=1) if scale else 1.0
        out[rows] = (x[rows] - x[chosen].mean(0)) / np.where(sd == 0, 1.0, sd)
    return out


def tvn(
    x: np.ndarray,
    samples: pd.DataFrame,
    by: Unit = "plate",
    reference: Reference = "controls",
    regularisation: float = 0.5,
    drop_variance: float = 0.0,
) -> np.ndarray:
    """Apply typical variation normalisation: shrink what varies among reference wells.

    All wells are centred and whitened by the principal axes of all reference wells (Ando et al.
    2017, doi:10.1101/161422). Then each unit is centred on its reference wells, and their
    covariance C aligned to that of all of them, T: z (C + r)^-1/2 (T + r)^1/2 (CORAL: Sun et al.
    2016, arXiv:1511.05547). Where a unit has fewer reference wells than features, r > 0 is needed.

    Args:
        regularisation: r, in units of the mean variance of a feature among the reference wells; it
            is added to each variance before whitening too. With 0 both steps are exact.
        drop_variance: share of the reference's variance; the smallest principal axes that hold no
            more of it together are dropped.

    Returns:
        (N, D) float32, along the principal axes of the reference, largest variance first.

    Raises:
        InputError: a unit has less than two reference wells, or they do not span all features.
    """
    x = _check_finite("tvn", x, samples)
    chosen = np.flatnonzero(_is_reference(samples, reference))
    units = list(reference_units(samples, by, reference, 2))
    mean = x[chosen].mean(0)
    try:
        variance, axes = _principal_axes(x[chosen])
    except np.linalg.LinAlgError as error:
        problem = f"the covariance of {len(chosen)} reference wells cannot be decomposed ({error})"
        fewest = _fewest(samples, by, reference)
        raise InputError(f"tvn: {problem}; fewest: {fewest}") from None
    variance, axes = _chosen_axes(variance, axes, reference, regularisation, drop_variance)
    floored = variance + regularisation * variance.mean()
    white = (x - mean) @ (axes / np.sqrt(floored))
    target = variance / floored  # the whitened reference's covariance is this diagonal
    ridge = regularisation * target.mean()
    out = np.empty(white.shape, np.float32)
    for rows, chosen in units:
        name, centred = _unit_name(samples, rows, by), white[rows] - white[chosen].mean(0)
        aligned = _inverse_root(centred, white[chosen], ridge, name)
        out[rows] = aligned * np.sqrt(target + ridge)
    return out


def _chosen_axes(
    variance: np.ndarray,
    axes: np.ndarray,
    reference: Reference,
    regularisation: float,
    drop_variance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The principal axes that `tvn` keeps, and their variances."""
    if variance[0] == 0:
        raise InputError(f"tvn: the {reference} wells do not differ in any feature")
    kept = np.cumsum(variance[::-1])[::-1] > drop_variance * variance.sum()
    variance, axes = variance[kept], axes[:, kept]
    if (
        regularisation == 0
        and variance[-1] <= variance[0] * len(variance) * np.finfo(variance.dtype).eps
    ):
        raise InputError(
            f"tvn: the {reference} wells do not vary in all {len(variance)} features; regularise"
        )
    return variance, axes


def _inverse_root(z: np.ndarray, reference: np.ndarray, ridge: float, unit: str) -> np.ndarray:
    """z (C + ridge I)^-1/2, C the (D, D) covariance of the rows of `reference`.

    These may be far fewer than D, so only their span is decomposed.
    """
    centred = (reference - reference.mean(0)) / np.sqrt(len(reference) - 1)
    try:
        _, sd, axes = np.linalg.svd(centred, full_matrices=False)
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"tvn: {unit}: its {len(reference)} reference wells cannot be decomposed ({error})"
        ) from None
    if ridge == 0 and (len(sd) < z.shape[1] or sd[-1] <= sd[0] * z.shape[1] * np.finfo(float).eps):
        raise InputError(
            f"tvn: {unit}: its {len(reference)} reference wells do not vary in all {z.shape[1]} "
            "features; regularise"
        )
    inside = z @ axes.T
    scaled = (inside / np.sqrt(sd**2 + ridge)) @ axes
    return scaled if ridge == 0 else scaled + (z - inside @ axes) / np.sqrt(ridge)


def _principal_axes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return variances (D,), largest first, and axes (D, D) in columns.

    Raises:
        numpy.linalg.LinAlgError: the covariance cannot be decomposed.
    """
    variance, axes = np.linalg.eigh(np.cov(x, rowvar=False).reshape(x.shape[1], -1))
    return np.maximum(variance[::-1], 0), axes[:, ::-1]


def sphere(
    x: np.ndarray,
    samples: pd.DataFrame,
    reference: Reference = "controls",
    method: Literal["ZCA", "PCA", "ZCA-cor", "PCA-cor"] = "ZCA",
    regularisation: float = 0.01,
) -> np.ndarray:
    """Sphere profiles by pycytominer's `Spherize`, fitted on control wells.

    Source: Kessy, Lewin & Strimmer 2018, arXiv:1512.00809.

    Args:
        regularisation: share of the mean variance of a feature; its root is added to the SD along
            each axis.

    Returns:
        (N, D) float32; features that do not vary at all among the control wells are 0.

    Raises:
        InputError: the reference is `all`, or its wells are too few or linearly dependent.
    """
    if reference == "all":
        raise InputError(
            "sphere: is fitted on control wells, so the reference must be controls or "
            "negative_controls"
        )
    x = _check_finite("sphere", x, samples)
    chosen = np.flatnonzero(_is_reference(samples, reference))
    varies = np.ptp(x[chosen], axis=0) > 0 if len(chosen) else np.zeros(x.shape[1], bool)
    fewest = f"fewest: {_fewest(samples, 'plate', reference)}"
    if len(chosen) < 2 or not varies.any():
        raise InputError(
            f"sphere: {len(chosen)} {reference} wells in all, and they must differ; {fewest}"
        )
    fitted = pd.DataFrame(x[np.ix_(chosen, varies)])
    _check_span(fitted, f"{reference} wells", regularisation, fewest)
    unit = fitted.var(ddof=1).mean() if method in ("ZCA", "PCA") else 1.0
    epsilon = np.sqrt(regularisation * unit * (len(chosen) - 1))
    try:
        operations = load_extra("pycytominer.operations", "profiles", "spherize")
        sphering = operations.Spherize(epsilon, True, method, True).fit(fitted)
    except ValueError as error:
        raise InputError(f"sphere: {' '.join(str(error).split())}") from None
    out = np.zeros(x.shape, np.float32)
    out[:, varies] = sphering.transform(pd.DataFrame(x[:, varies]))
    return out


def unit_columns(by: Unit) -> list[str]:
    """The columns that name a unit: experiment and plate, or experiment alone."""
    return ["experiment", "plate"] if by == "plate" else ["experiment"]


def _is_reference(samples: pd.DataFrame, reference: Reference) -> np.ndarray:
    if reference == "all":
        return np.ones(len(samples), bool)
    return samples.role.isin(_ROLES[reference]).to_numpy()


def _check_finite(step: str, x: np.ndarray, samples: pd.DataFrame) -> np.ndarray:
    """The profiles as float64; refuse a value that is not finite, by its well and feature."""
    x = np.asarray(x, np.float64)
    bad = ~np.isfinite(x)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        well = f"row {row + 1}"
        if "well" in samples:
            well = f"{samples.plate.iloc[row]} {samples.well.iloc[row]}"
        raise InputError(
            f"{step}: feature {column + 1} of well {well} is not a finite number "
            f"({int(bad.any(axis=0).sum())} such features)"
        )
    return x


def _check_span(fitted: pd.DataFrame, wells: str, regularisation: float, fewest: str) -> None:
    """Refuse wells (W, D) that span too few dimensions to be sphered."""
    count, width = fitted.shape
    rank = np.linalg.matrix_rank(fitted - fitted.mean())
    if regularisation == 0 and rank < width:
        raise InputError(f"sphere: the {wells} do not vary in all {width} features; regularise")
    if rank < min(count - 1, width):
        raise InputError(
            f"sphere: the {count} {wells} span {rank} dimensions, too few for {width} features; "
            f"{fewest}. Leave the step out, or use tvn"
        )


def _unit_name(samples: pd.DataFrame, rows: np.ndarray, by: Unit) -> str:
    return " ".join(f"{column} {samples[column].iloc[rows[0]]}" for column in unit_columns(by))


def _fewest(samples: pd.DataFrame, by: Unit, reference: Reference) -> str:
    """The unit with the fewest reference wells, and how many it has."""
    rows, chosen = min(reference_units(samples, by, reference, 0), key=lambda unit: len(unit[1]))
    return f"{_unit_name(samples, rows, by)} with {len(chosen)} reference wells"


def reference_units(
    samples: pd.DataFrame, by: Unit, reference: Reference, least: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each unit's rows and its reference rows; raise if there are fewer than `least`."""
    is_reference = _is_reference(samples, reference)
    for rows in samples.groupby(unit_columns(by), sort=True).indices.values():
        chosen = rows[is_reference[rows]]
        if len(chosen) < least:
            raise InputError(
                f"{_unit_name(samples, rows, by)}: {len(chosen)} wells of the reference "
                f"{reference!r}, at least {least} needed; choose another reference or a larger unit"
            )
        yield rows, chosen
