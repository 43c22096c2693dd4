"""The hidden design of the plates: classes fall into fixed groups, and a plate holds one group,
each class once.

Found from training labels alone. In RxRx1 there are four groups of 277, and every experiment deals
them to its plates in one of four cyclic rotations; nothing here assumes four.
"""

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import PlateGroups


def plate_groups(samples: pd.DataFrame) -> PlateGroups:
    """Class groups, and the group of each training plate, from the labelled training treatments of
    a samples table.

    A plate's group is what most of its classes say, a class's group what most of its plates say,
    repeated until nothing changes; then every well must agree. Group g is what the first plates of
    the first training experiment (by name) hold, in plate order.

    Raises:
        InputError: a well contradicts its plate's group, two plates of an experiment hold the same
        group, or a class
            has no group.
    """
    train = samples[
        (samples.split == "train") & (samples.role == "treatment") & samples.label.notna()
    ]
    if not len(train):
        raise InputError("plate groups: no labelled training treatment")
    wells = train.drop_duplicates("target_id")
    label = wells.label.to_numpy(dtype=int)
    plate_code, plates = pd.factorize(
        pd.MultiIndex.from_frame(wells[["experiment", "plate"]]), sort=True
    )
    counts = np.zeros((len(plates), label.max() + 1), dtype=int)  # plates x classes
    np.add.at(counts, (plate_code, label), 1)
    experiments = plates.get_level_values(0).to_numpy()
    plate_group, class_group = _consensus(counts, experiments)
    _check(wells, label, plate_code, class_group, plate_group, plates)
    order = _canonical(plates, experiments, plate_group)
    return PlateGroups(
        order[class_group],
        {(str(e), str(p)): int(order[g]) for (e, p), g in zip(plates, plate_group, strict=True)},
    )


def rotations(groups: PlateGroups) -> dict[str, int]:
    """Each experiment's rotation r: its i-th plate (from 0) holds group (i + r) mod n_groups.

    Raises:
        InputError: an experiment's plates are no cyclic rotation of the groups.
    """
    found = {}
    for experiment, held in assignments(groups).items():
        shift = {(group - index) % groups.n_groups for index, group in enumerate(held)}
        if len(shift) != 1 or len(held) != groups.n_groups:
            raise InputError(
                f"{experiment}: its plates hold groups {held}, which is no cyclic rotation of "
                f"{groups.n_groups} groups"
            )
        found[experiment] = shift.pop()
    return found


def assignments(groups: PlateGroups) -> dict[str, tuple[int, ...]]:
    """Each experiment's groups in plate order."""
    held: dict[str, list[tuple[tuple[int, str], int]]] = {}
    for (experiment, plate), group in groups.plate_group.items():
        held.setdefault(experiment, []).append((_plate_order(plate), group))
    return {
        experiment: tuple(group for _, group in sorted(pairs))
        for experiment, pairs in sorted(held.items())
    }


def _plate_order(plate: str) -> tuple[int, str]:
    return (int(plate) if str(plate).isdigit() else 0, str(plate))


def _consensus(counts: np.ndarray, experiments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(plates,) and (classes,) group numbers, -1 where nothing tells, from (plates, classes) well
    counts.
    """
    plate_group = np.full(len(counts), -1)
    while (plate_group < 0).any():  # once, unless some experiments share no class with the others
        open_plates = plate_group < 0
        wells = {
            e: (counts[(experiments == e) & open_plates] > 0).sum()
            for e in np.unique(experiments[open_plates])
        }
        seed = max(sorted(wells), key=wells.__getitem__)
        chosen = (experiments == seed) & open_plates
        plate_group[chosen] = plate_group.max() + 1 + np.arange(chosen.sum())
        n_groups = plate_group.max() + 1
        for _ in range(50):
            before = plate_group
            class_group = _vote(counts.T, plate_group, n_groups)
            plate_group = _vote(counts, class_group, n_groups)
            if (plate_group == before).all():
                break
    return plate_group, _vote(counts.T, plate_group, plate_group.max() + 1)


def _vote(counts: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """The most voted group of each row; columns with group -1 do not vote, a row without votes gets
    -1.
    """
    votes = counts @ (group[:, None] == np.arange(n_groups)).astype(int)
    return np.where(votes.max(axis=1) > 0, votes.argmax(axis=1), -1)


def _check(wells, label, plate_code, class_group, plate_group, plates) -> None:
    wrong = np.flatnonzero(class_group[label] != plate_group[plate_code])
    if len(wrong):
        row = wells.iloc[wrong[0]]
        raise InputError(
            f"plate groups: class {row.label} on {row.experiment} plate {row.plate} (well "
            f"{row.well}) belongs to "
            f"another group than the rest of that plate; {len(wrong)} of {len(wells)} wells "
            "contradict"
        )
    absent = np.flatnonzero(class_group < 0)
    if len(absent):
        raise InputError(
            f"plate groups: class {absent[0]} has no training well ({len(absent)} such classes)"
        )
    shared = (
        pd.Series(plate_group)
        .groupby(plates.get_level_values(0).to_numpy())
        .agg(lambda g: g.duplicated().any())
    )
    if shared.any():
        experiment = shared.idxmax()
        held = [str(p) for (e, p) in plates if e == experiment]
        raise InputError(
            f"plate groups: {experiment}: two of its plates {', '.join(held)} hold the same group "
            "of classes"
        )


def _canonical(
    plates: pd.MultiIndex, experiments: np.ndarray, plate_group: np.ndarray
) -> np.ndarray:
    """Old group number -> new, numbered as they are met over experiments by name and plates by
    number.
    """
    order = np.full(plate_group.max() + 1, -1)
    by_name = sorted(range(len(plates)), key=lambda i: (experiments[i], _plate_order(plates[i][1])))
    for index in by_name:
        if order[plate_group[index]] < 0:
            order[plate_group[index]] = order.max() + 1
    return order
