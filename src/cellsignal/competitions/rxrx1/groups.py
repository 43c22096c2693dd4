"""Find the class groups of the plates: a plate holds one group, each class once.

Found from training labels alone. In RxRx1 there are four groups of 277, and every experiment deals
them to its plates in one of four cyclic rotations; nothing here assumes four.
"""

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import PlateGroups
from cellsignal.competitions.folds import labelled


def plate_groups(samples: pd.DataFrame) -> PlateGroups:
    """Find the class groups and the group of each training plate, from training labels alone.

    A plate's group is what most of its classes say, a class's group what most of its plates say,
    repeated until nothing changes; then every well must agree. Group g is what the first plates of
    the first training experiment (by name) hold, in plate order.

    Raises:
        InputError: a well contradicts its plate's group, two plates of an experiment hold the same
        group, or a class has no group.
    """
    wells = samples[labelled(samples)].drop_duplicates("target_id")
    if wells.empty:
        raise InputError("plate groups: no labelled training treatment")
    label = wells.label.to_numpy(dtype=int)
    experiment, experiment_names = pd.factorize(wells.experiment, sort=True)
    plate, plate_names = pd.factorize(wells.plate, sort=True)
    codes, plate_code = np.unique(experiment * len(plate_names) + plate, return_inverse=True)
    places = (experiment_names[codes // len(plate_names)], plate_names[codes % len(plate_names)])
    plates = pd.MultiIndex.from_arrays(places)
    counts = np.zeros((len(plates), label.max() + 1), dtype=int)  # plates x classes
    np.add.at(counts, (plate_code, label), 1)
    experiments = plates.get_level_values(0).to_numpy()
    plate_group, class_group = _consensus(counts, experiments)
    _check(wells, label, plate_code, class_group, plate_group, plates)
    number = _number_groups(plates, plate_group)
    group_of = {
        (str(experiment), str(plate)): int(number[group])
        for (experiment, plate), group in zip(plates, plate_group, strict=True)
    }
    return PlateGroups(number[class_group], group_of)


def rotations(groups: PlateGroups) -> dict[str, int]:
    """Return each experiment's rotation r: its i-th plate holds group (i + r) mod n_groups.

    Raises:
        InputError: an experiment's plates are not a cyclic rotation of the groups.
    """
    rotation = {}
    for experiment, order in assignments(groups).items():
        shifts = {(group - index) % groups.n_groups for index, group in enumerate(order)}
        if len(shifts) != 1 or len(order) != groups.n_groups:
            raise InputError(
                f"{experiment}: its plates hold groups {order}, which is not a cyclic rotation of "
                f"{groups.n_groups} groups"
            )
        rotation[experiment] = shifts.pop()
    return rotation


def assignments(groups: PlateGroups) -> dict[str, tuple[int, ...]]:
    """Return each experiment's groups in plate order."""
    order: dict[str, tuple[int, ...]] = {}
    for experiment, plate in sorted(groups.plate_group, key=_plate_order):
        group = groups.plate_group[experiment, plate]
        order[experiment] = (*order.get(experiment, ()), group)
    return order


def _plate_order(place: tuple[str, str]) -> tuple[str, int, str]:
    """Sort (experiment, plate) by experiment, then plate number, then plate name."""
    experiment, plate = str(place[0]), str(place[1])
    return experiment, int(plate) if plate.isdigit() else 0, plate


def _consensus(counts: np.ndarray, experiments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of each plate and of each class, -1 if unknown.

    Args:
        counts: (plates, classes) wells.
        experiments: (plates,) names.
    """
    plate_group = np.full(len(counts), -1)
    while (
        plate_group < 0
    ).any():  # once, unless some experiments share not classes with the others
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
    """Return each row's most voted group, -1 without votes; columns of -1 do not vote."""
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


def _number_groups(plates: pd.MultiIndex, plate_group: np.ndarray) -> np.ndarray:
    """Return old group number -> new, as they are met over experiments by name and plates."""
    number = np.full(plate_group.max() + 1, -1)
    for index in sorted(range(len(plates)), key=lambda index: _plate_order(plates[index])):
        if number[plate_group[index]] < 0:
            number[plate_group[index]] = number.max() + 1
    return number
