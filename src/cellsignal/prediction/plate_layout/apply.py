"""Apply the plate-layout steps of the `submit` section to merged scores."""

from dataclasses import replace

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import Competition, PlateGroups
from cellsignal.competitions.targets import Targets
from cellsignal.config.schema import Submit
from cellsignal.prediction.entry import Entry
from cellsignal.prediction.merge import refuse_not_finite
from cellsignal.prediction.plate_layout.assignment import assign, restrict, soften
from cellsignal.prediction.plate_layout.groups import (
    PlateGroupInference,
    infer_plate_groups,
    read_plate_groups,
)
from cellsignal.prediction.plate_layout.repeats import Repeat, add_evidence, find_repeats


def predict_labels(
    entry: Entry, targets: Targets, groups: PlateGroups | None
) -> tuple[np.ndarray, PlateGroupInference | None]:
    """Return the labels (T,) of merged scores with every layout step, and the plate groups used."""
    targets, _ = use_repeats(entry, targets, groups)
    return assign_labels(entry, targets, groups)


def use_repeats(
    entry: Entry, targets: Targets, groups: PlateGroups | None
) -> tuple[Targets, list[Repeat]]:
    """Find repeated layouts; with `repeats: use` add their evidence to the scores.

    Every labelled training experiment but the one itself is compared, held-out ones too: a layout
    is not an image, and on the test set all of them are known.
    """
    if groups is None or entry.how.repeats == "off":
        return targets, []
    known = entry.samples.drop_duplicates("target_id")
    train = known[(known.split == "train") & (known.role == "treatment") & known.label.notna()]
    well = known.set_index("target_id").well.loc[targets.target_id].to_numpy()
    wells = pd.DataFrame({"experiment": targets.experiment, "plate": targets.plate, "well": well})
    repeats = find_repeats(targets.scores, wells, train, groups.class_group)
    if repeats and entry.how.repeats == "use":
        temperature = infer_groups(entry, targets, groups).temperature
        scores = add_evidence(targets.scores, wells, train, repeats, temperature)
        targets = replace(targets, scores=scores)
    return targets, repeats


def infer_groups(entry: Entry, targets: Targets, groups: PlateGroups) -> PlateGroupInference:
    """Return the group of each of the targets' plates: given, else inferred."""
    given = {}
    if entry.how.groups is not None:
        treated = entry.samples[entry.samples.role == "treatment"]
        plates = set(zip(treated.experiment, treated.plate, strict=True))
        given = read_plate_groups(entry.how.groups, plates, groups)
    return infer_plate_groups(
        targets.scores,
        targets.experiment,
        targets.plate,
        groups,
        given=given,
        least_confidence=entry.how.least_confidence,
    )


def assign_labels(
    entry: Entry, targets: Targets, groups: PlateGroups | None
) -> tuple[np.ndarray, PlateGroupInference | None]:
    """Return the labels (T,) as `submit.assignment` says, and the plate groups used."""
    refuse_not_finite(targets.scores, targets.target_id)
    if groups is None or entry.how.assignment == "none":
        return targets.scores.argmax(1), None
    inferred = infer_groups(entry, targets, groups)
    return assign_by(entry.how.assignment, entry, targets, groups, inferred), inferred


def assign_by(
    kind: str, entry: Entry, targets: Targets, groups: PlateGroups, inferred: PlateGroupInference
) -> np.ndarray:
    """Return the labels (T,) by one kind of assignment: groups, hungarian or sinkhorn.

    How probable each group of a plate is counts, also where no group is reported.
    """
    plates = (targets.experiment, targets.plate, groups.class_group, inferred.beliefs)
    if kind == "groups":
        return restrict(targets.scores, *plates)
    if kind == "hungarian":
        return assign(targets.scores, *plates)
    return soften(targets.scores, *plates, entry.how.temperature).argmax(1)


def refuse_idle_options(how: Submit, groups: PlateGroups | None, competition: Competition) -> None:
    """Refuse keys of the `submit` section that would do nothing.

    Raises:
        InputError: names the key.
    """
    if groups is None and (how.groups is not None or how.repeats == "use"):
        key = "groups" if how.groups is not None else "repeats: use"
        raise InputError(f"submit.{key}: the plates of {competition.id} hold no class groups")
    if how.groups is not None and how.assignment == "none":
        raise InputError("submit.groups: would do nothing with assignment: none")
    default = Submit.model_fields["temperature"].default
    if how.temperature != default and (groups is None or how.assignment != "sinkhorn"):
        raise InputError(
            "submit.temperature: would do nothing; only assignment: sinkhorn has one, where "
            "plates hold class groups"
        )
