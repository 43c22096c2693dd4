"""Normalise well profiles step by step, and see whether they are normalised already."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.optional import load_extra
from cellsignal.common.ties import listed
from cellsignal.profiles.batch_effects import Reference, Unit, sphere, tvn, unit_columns
from cellsignal.profiles.names import COMPONENTS, STEPS, Step
from cellsignal.profiles.optional_steps import combat, harmony
from cellsignal.profiles.position_effects import subtract_position

SELECTION = ["variance_threshold", "correlation_threshold", "drop_outliers", "blocklist"]
_BY_UNIT = ("standardize", "mad_robustize")
_QUERIES = {
    "negative_controls": "Metadata_role == 'negative_control'",
    "controls": "Metadata_role != 'treatment'",
    "all": "all",
}
_LARGEST = 1e6  # normalised values; larger ones are of features whose reference wells do not vary
_LEAST_VARIANCE = 1e-6  # pycytominer's threshold, below which it fails
_CONTROLS = 4  # negative controls of a plate from which on they say whether it is normalised
# of a normalised feature: |median| at most, spread within; and how many features have to look so
_CENTRE, _SPREAD, _SHARE = 0.75, (0.4, 2.5), 0.8


@dataclass(frozen=True)
class Profiles:
    """Well profiles.

    Attributes:
        x: (W, D) float32, finite.
        wells: W rows with `sources.COLUMNS`, and moa, targets (tuple of gene symbols) and modality,
            None where unknown.
        features: D names.
        trained: treatments whose wells trained the network that made the profiles; None where no
            network was trained.
        notes: what a reader of a figure made from them must know.
        label: what they are profiles of, in tables: "images", "embeddings", "cellprofiler", or a
            file's name.
        normalised: what says that they are normalised; "" where they are not.
        data_set: the competition; "" for tables alone.
        files: where they come from.
    """

    x: np.ndarray
    wells: pd.DataFrame
    features: tuple[str, ...]
    trained: frozenset[str] | None = None
    notes: tuple[str, ...] = ()
    label: str = "images"
    normalised: str = ""
    data_set: str = ""
    files: str = ""


def choose_steps(
    profiles: Profiles, steps: Sequence[Step] | None, default: Sequence[Step]
) -> tuple[Step, ...]:
    """Return the steps; if None, `default`, or no step for normalised profiles."""
    if steps is not None:
        return tuple(steps)
    return () if profiles.normalised else tuple(default)


def steps_text(
    profiles: Profiles, steps: Sequence[Step], chosen: bool, by: Unit, reference: Reference
) -> str:
    """Write one line on the steps that were applied.

    Args:
        profiles: as they were before.
        steps: the steps that were applied.
        chosen: whether the caller chose them.
    """
    state = f"the profiles say they are normalised ({profiles.normalised})"
    if not steps:
        return "no normalisation, as asked" if chosen else f"no normalisation: {state}"
    details = dict.fromkeys((*_BY_UNIT, "tvn"), f" (by {by}, on {reference})")
    details["spherize"] = f" (on {reference})"
    details |= dict.fromkeys(("combat", "harmony"), f" (by {by})")
    text = " > ".join(name + details.get(name, "") for name in steps)
    return f"{text}, though {state}" if profiles.normalised else text


def looks_normalised(x: np.ndarray, wells: pd.DataFrame) -> str:
    """Say which wells of every plate have a median of about 0 and a spread of about 1; else ""."""
    control = (wells.role == "negative_control").to_numpy()
    plates = list(wells.groupby(["experiment", "plate"], sort=True).indices.values())
    kinds = {"negative controls": [rows[control[rows]] for rows in plates], "wells": plates}
    for name, units in kinds.items():
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
    drop_variance: float = 0.0,
    position_reference: Reference = "all",
    components: int = COMPONENTS,
) -> Profiles:
    """Apply the steps in their order; roles are read, labels never.

    Args:
        steps: `standardize`, `mad_robustize`: pycytominer's, by plate or experiment, on its
            reference wells; features that become larger than 1e6 (their reference wells do not
            vary) are dropped. `feature_select`: pycytominer's `SELECTION`. `spherize`:
            `batch_effects.sphere` on all reference wells. `tvn`: `batch_effects.tvn`. `pca`:
            scikit-learn's, of all wells, without whitening.
            `well_position`: `position_effects.subtract_position` by plate. `combat`, `harmony`: see
            `optional_steps`.
        drop_variance: of `tvn`.
        position_reference: the wells that `well_position` learns a plate's rows and columns from.
        components: of `pca`, at most.

    Raises:
        InputError: an unknown step, a value that is not finite, a unit with too few reference wells
            (named), or no feature is left.
    """
    bad = ~np.isfinite(profiles.x)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        well = profiles.wells.iloc[row]
        raise InputError(
            f"normalise: feature {profiles.features[column]} of well {well.plate} {well.well} is "
            "not a finite number"
        )
    for step in steps:
        if step == "well_position":
            x = subtract_position(profiles.x, profiles.wells, position_reference)
            profiles = replace(profiles, x=x)
        elif step == "pca":
            profiles = _project(profiles, components)
        else:
            profiles = _apply_step(profiles, step, by, reference, drop_variance)
        if not profiles.x.shape[1]:
            why = f" ({profiles.notes[-1]})" if profiles.notes else ""
            raise InputError(f"normalise: {step} leaves no feature{why}")
    return profiles


def _apply_step(
    profiles: Profiles, step: Step, by: Unit, reference: Reference, drop_variance: float
) -> Profiles:
    if step in _BY_UNIT:
        return _standardise_units(profiles, step, by, reference)
    if step == "feature_select":
        return _select_features(profiles)
    if step == "spherize":
        return replace(profiles, x=sphere(profiles.x, profiles.wells, reference))
    if step == "tvn":
        x = tvn(profiles.x, profiles.wells, by, reference, drop_variance=drop_variance)
        return replace(profiles, x=x, features=tuple(f"tvn{n}" for n in range(x.shape[1])))
    if step == "combat":
        return replace(profiles, x=combat(profiles.x, profiles.wells, by))
    if step == "harmony":
        x = harmony(profiles.x, profiles.wells, by)
        return replace(profiles, x=x, features=tuple(f"harmony{n}" for n in range(x.shape[1])))
    raise InputError(f"normalise: {step!r} is not one of {', '.join(STEPS)}")


def _project(profiles: Profiles, components: int) -> Profiles:
    """The first principal components of all wells."""
    from sklearn.decomposition import PCA

    if components < 1:
        raise InputError(f"--components: at least 1, not {components}")
    count = min(components, len(profiles.x), profiles.x.shape[1])
    x = PCA(count, svd_solver="full").fit_transform(profiles.x.astype(np.float64))
    features = tuple(f"pc{number}" for number in range(count))
    return replace(profiles, x=x.astype(np.float32), features=features)


def _standardise_units(profiles: Profiles, method: str, by: Unit, reference: Reference) -> Profiles:
    pycytominer = load_extra("pycytominer", "profiles", method)
    features, wells = list(profiles.features), profiles.wells
    frame = pd.DataFrame(profiles.x.astype(np.float64), columns=features)
    frame = frame.assign(Metadata_role=wells.role.to_numpy())
    query = _QUERIES[reference]
    out = np.empty(profiles.x.shape)
    for name, rows in wells.groupby(unit_columns(by), sort=True).indices.items():
        part = frame.iloc[rows]
        count = len(part) if reference == "all" else len(part.query(query))
        if count < 2:
            unit = " ".join(map(str, name if isinstance(name, tuple) else (name,)))
            raise InputError(
                f"{method}: {by} {unit} has {count} wells of the reference {reference!r}, at "
                "least 2 needed; choose another reference"
            )
        metadata = {"meta_features": ["Metadata_role"], "samples": query}
        normalised = pycytominer.normalize(part, features, method=method, **metadata)
        out[rows] = normalised[features].to_numpy()
    kept = (np.isfinite(out) & (np.abs(out) < _LARGEST)).all(axis=0)
    lost = list(np.array(features)[~kept])
    note = f"{len(lost)} features left out, whose reference wells do not vary ({listed(lost)})"
    return _keep_features(profiles, out, kept, f"{method}: {note}")


def _select_features(profiles: Profiles) -> Profiles:
    names = list(profiles.features)
    frame = pd.DataFrame(profiles.x.astype(np.float64), columns=names)
    if not (np.var(frame.to_numpy(), axis=0) > _LEAST_VARIANCE).any():
        raise InputError(
            f"feature_select: none of the {len(names)} features varies among the {len(frame)} wells"
        )
    pycytominer = load_extra("pycytominer", "profiles", "feature_select")
    kept = pycytominer.feature_select(frame, features=names, operation=SELECTION).columns
    note = f"feature_select: {len(kept)} of {len(names)} features kept"
    return _keep_features(profiles, profiles.x, np.isin(names, kept), note)


def _keep_features(profiles: Profiles, x: np.ndarray, keep: np.ndarray, note: str) -> Profiles:
    """Keep the features of the mask `keep`; add `note` if some are dropped."""
    names = tuple(name for name, kept in zip(profiles.features, keep, strict=True) if kept)
    notes = profiles.notes if keep.all() else (*profiles.notes, note)
    x = np.ascontiguousarray(x[:, keep], np.float32)
    return replace(profiles, x=x, features=names, notes=notes)
