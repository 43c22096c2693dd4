"""The labels that an entry predicts: what the plates' layouts add to merged scores."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.competitions.base import PlateGroups
from cellsignal.prediction.ensemble import Targets, refuse_not_finite
from cellsignal.prediction.plate_layout.assignment import assign, restrict, soften
from cellsignal.prediction.plate_layout.groups import (
    PlateGroupInference,
    infer_plate_groups,
    read_plate_groups,
)
from cellsignal.prediction.plate_layout.repeats import Repeat, add_evidence, find_repeats

if TYPE_CHECKING:
    from cellsignal.prediction.submit import Entry


def labels_of(
    entry: "Entry", targets: Targets, groups: PlateGroups | None
) -> tuple[np.ndarray, PlateGroupInference | None]:
    """Predicted labels (T,) of merged scores as `entry.how` says, and the plate groups that were
    used.
    """
    targets, _ = with_repeats(entry, targets, groups)
    return assign_labels(entry, targets, groups)


def with_repeats(
    entry: "Entry", targets: Targets, groups: PlateGroups | None
) -> tuple[Targets, list[Repeat]]:
    """The repeated layouts among the targets' experiments and, with `repeats: use`, the targets
    with what they tell.

    Every labelled training experiment but the one itself is compared, held-out ones too: a layout
    is no image, and on the test set all of them are known.
    """
    if groups is None or entry.how.repeats == "off":
        return targets, []
    known = entry.samples.drop_duplicates("target_id")
    train = known[(known.split == "train") & (known.role == "treatment") & known.label.notna()]
    well = known.set_index("target_id").well.loc[targets.target_id].to_numpy()
    wells = pd.DataFrame({"experiment": targets.experiment, "plate": targets.plate, "well": well})
    found = find_repeats(targets.scores, wells, train, groups.class_group)
    if found and entry.how.repeats == "use":
        temperature = plate_groups_of(entry, targets, groups).temperature
        targets = replace(
            targets, scores=add_evidence(targets.scores, wells, train, found, temperature)
        )
    return targets, found


def plate_groups_of(entry: "Entry", targets: Targets, groups: PlateGroups) -> PlateGroupInference:
    """The group of each of the targets' plates: given, else inferred."""
    given = {}
    if entry.how.groups is not None:
        treated = entry.samples[entry.samples.role == "treatment"]
        given = read_plate_groups(
            entry.how.groups, set(zip(treated.experiment, treated.plate, strict=True)), groups
        )
    return infer_plate_groups(
        targets.scores,
        targets.experiment,
        targets.plate,
        groups,
        given=given,
        least_confidence=entry.how.least_confidence,
    )


def assign_labels(
    entry: "Entry", targets: Targets, groups: PlateGroups | None
) -> tuple[np.ndarray, PlateGroupInference | None]:
    refuse_not_finite(targets.scores, targets.target_id)
    if groups is None or entry.how.assignment == "none":
        return targets.scores.argmax(1), None
    inferred = plate_groups_of(entry, targets, groups)
    return labels_by(entry, targets, groups, inferred, entry.how.assignment), inferred


def labels_by(
    entry: "Entry", targets: Targets, groups: PlateGroups, inferred: PlateGroupInference, kind: str
) -> np.ndarray:
    """Labels (T,) by one kind of assignment. What is reported does not count, but how probable each
    group is.
    """
    layout = (
        targets.scores,
        targets.experiment,
        targets.plate,
        groups.class_group,
        inferred.beliefs,
    )
    if kind == "sinkhorn":
        return soften(*layout, entry.how.temperature).argmax(1)
    return {"groups": restrict, "hungarian": assign}[kind](*layout)
