"""Normalise well profiles step by step, and see whether they are normalised already."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.ties import listed
from cellsignal.profiles.well_profiles import Reference, Unit, sphere, tvn

Step = Literal["standardize", "mad_robustize", "feature_select", "spherize", "tvn"]
SELECTION = ["variance_threshold", "correlation_threshold", "drop_outliers", "blocklist"]
_BY_UNIT = ("standardize", "mad_robustize")
_CONTROLS = 4  # negative controls of a plate from which on they say whether it is normalised
# of a normalised feature; how many features have to look so
_CENTRE, _SPREAD, _SHARE = 0.75, (0.4, 2.5), 0.8


@dataclass(frozen=True)
class Profiles:
    """Well profiles.

    Attributes:
        x: (W, D) float32, finite.
        wells: W rows with `profiling.COLUMNS`, and moa, targets (tuple of gene symbols) and
        modality, None where unknown. features: D names. trained: treatments whose wells trained the
        network that made the profiles; None where no network was trained. notes: what a reader of a
        figure made from them must know. label: what they are profiles of, in tables: "images",
        "embeddings", "cellprofiler", or a file's name. normalised: how it was seen that they are
        normalised; "" where they are not.
    """

    x: np.ndarray
    wells: pd.DataFrame
    features: tuple[str, ...]
    trained: frozenset[str] | None = None
    notes: tuple[str, ...] = ()
    label: str = "images"
    normalised: str = ""


def choose_steps(
    profiles: Profiles, steps: Sequence[Step] | None, default: Sequence[Step]
) -> tuple[Step, ...]:
    """The steps as given; where None, `default`, or none for profiles that are normalised."""
    if steps is not None:
        return tuple(steps)
    return () if profiles.normalised else tuple(default)


def steps_text(
    profiles: Profiles, steps: Sequence[Step], asked: bool, by: Unit, reference: Reference
) -> str:
    """What was done to the profiles, in a line.

    Args:
        profiles: As they were before.
        steps: The steps that were applied.
        asked: Whether the caller chose them.
    """
    if not steps:
        return (
            "no normalisation, as asked"
            if asked
            else (f"no normalisation: the profiles say they are normalised ({profiles.normalised})")
        )
    details = {name: f" (by {by}, on {reference})" for name in (*_BY_UNIT, "tvn")} | {
        "spherize": f" (on {reference})"
    }
    text = " > ".join(name + details.get(name, "") for name in steps)
    return text + (
        f", though the profiles say they are normalised ({profiles.normalised})"
        if profiles.normalised
        else ""
    )


def looks_normalised(x: np.ndarray, wells: pd.DataFrame) -> str:
    """Say in what way every plate's wells have a median of about 0 and a spread of about 1; ""
    where they have not.
    """
    control = (wells.role == "negative_control").to_numpy()
    plates = list(wells.groupby(["experiment", "plate"], sort=True).indices.values())
    kinds = [("negative controls", [rows[control[rows]] for rows in plates]), ("wells", plates)]
    for name, units in kinds:
        if all(len(rows) >= _CONTROLS and _is_standard(x[rows]) for rows in units):
            return f"the {name} of each plate have a median of about 0 and a spread of about 1"
    return ""


def _is_standard(x: np.ndarray) -> bool:
    median = np.median(x, axis=0)
    spread = 1.4826 * np.median(np.abs(x - median), axis=0)
    standard = (np.abs(median) <= _CENTRE) & (spread >= _SPREAD[0]) & (spread <= _SPREAD[1])
    return bool(standard.mean() >= _SHARE)


def normalise_profiles(
    profiles: Profiles,
    steps: Sequence[Step],
    by: Unit = "plate",
    reference: Reference = "negative_controls",
) -> Profiles:
    """Apply the steps in their order; labels are never looked at, roles are.

    Args:
        steps: `standardize`, `mad_robustize`: pycytominer's, by plate or experiment, on its
        reference wells; features
            that become larger than 1e6 (their reference wells do not vary) are dropped.
            `feature_select`: pycytominer's `SELECTION`. `spherize`: `profiles.sphere` on all
            reference wells. `tvn`: `profiles.tvn`.

    Raises:
        InputError: An unknown step, a value that is not finite, a unit with too few reference wells
        (named), or no
            feature is left.
    """
    bad = ~np.isfinite(profiles.x)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        well = profiles.wells.iloc[row]
        raise InputError(
            f"normalise: feature {profiles.features[column]} of well {well.plate} {well.well} is "
            "no finite number"
        )
    for step in steps:
        if step in _BY_UNIT:
            profiles = _by_unit(profiles, step, by, reference)
        elif step == "feature_select":
            profiles = _select(profiles)
        elif step == "spherize":
            profiles = replace(profiles, x=sphere(profiles.x, profiles.wells, reference))
        elif step == "tvn":
            x = tvn(profiles.x, profiles.wells, by, reference)
            profiles = replace(
                profiles, x=x, features=tuple(f"tvn{number}" for number in range(x.shape[1]))
            )
        else:
            raise InputError(
                f"normalise: {step!r} is none of standardize, mad_robustize, feature_select, "
                "spherize, tvn"
            )
        if not profiles.x.shape[1]:
            why = f" ({profiles.notes[-1]})" if profiles.notes else ""
            raise InputError(f"normalise: {step} leaves no feature{why}")
    return profiles


def _by_unit(profiles: Profiles, method: str, by: Unit, reference: Reference) -> Profiles:
    from pycytominer import normalize

    features, wells = list(profiles.features), profiles.wells
    frame = pd.DataFrame(profiles.x.astype(np.float64), columns=features).assign(
        Metadata_role=wells.role.to_numpy()
    )
    query = {
        "negative_controls": "Metadata_role == 'negative_control'",
        "controls": "Metadata_role != 'treatment'",
        "all": "all",
    }[reference]
    out = np.empty(profiles.x.shape)
    columns = ["experiment", "plate"] if by == "plate" else ["experiment"]
    for name, rows in wells.groupby(columns, sort=True).indices.items():
        part = frame.iloc[rows]
        count = len(part) if reference == "all" else len(part.query(query))
        if count < 2:
            unit = f"{by} {' '.join(map(str, name if isinstance(name, tuple) else (name,)))}"
            raise InputError(
                f"{method}: {unit} has {count} wells of the reference {reference!r}, at least 2 "
                "needed; choose another reference"
            )
        done = normalize(
            part, features=features, meta_features=["Metadata_role"], samples=query, method=method
        )
        out[rows] = done[features].to_numpy()
    fine = (np.isfinite(out) & (np.abs(out) < 1e6)).all(axis=0)
    lost = [name for name, kept in zip(features, fine, strict=True) if not kept]
    return _keep(
        profiles,
        out,
        fine,
        f"{method}: {len(lost)} features left out, whose reference wells do not vary "
        f"({listed(lost)})",
    )


def _select(profiles: Profiles) -> Profiles:
    from pycytominer import feature_select

    frame = pd.DataFrame(profiles.x.astype(np.float64), columns=list(profiles.features))
    # pycytominer's threshold, below which it fails
    if not (np.var(frame.to_numpy(), axis=0) > 1e-6).any():
        raise InputError(
            f"feature_select: none of the {frame.shape[1]} features varies among the {len(frame)} "
            "wells"
        )
    kept = feature_select(frame, features=list(profiles.features), operation=SELECTION).columns
    note = f"feature_select: {len(kept)} of {len(profiles.features)} features kept"
    return _keep(profiles, profiles.x, np.isin(profiles.features, kept), note)


def _keep(profiles: Profiles, x: np.ndarray, keep: np.ndarray, note: str) -> Profiles:
    names = tuple(name for name, kept in zip(profiles.features, keep, strict=True) if kept)
    notes = profiles.notes if keep.all() else (*profiles.notes, note)
    return replace(
        profiles, x=np.ascontiguousarray(x[:, keep], np.float32), features=names, notes=notes
    )
