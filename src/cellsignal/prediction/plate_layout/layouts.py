"""Find the possible layouts of an experiment's plates from the training layouts.

A layout says which group of classes each plate holds.

A layout says which group each plate of an experiment holds. Where the known layouts are all cyclic
rotations of one order (RxRx1's are), only the rotations of it are candidates; else every way to
deal the groups to the plates is.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import factorial

import numpy as np

Plate = tuple[str, str]  # experiment, plate
# largest chance of rotations only, were layouts dealt at random, at which they count as the rule
ACCIDENT = 0.01
MOST_LAYOUTS = 100_000  # beyond it only the best layout and those near it are compared


def plate_order(plates: Iterable) -> list:
    """Return the different names of plates in order: numbers by value, then other names."""

    def order(name: object) -> tuple[bool, int, str]:
        text = str(name)
        return not text.isdecimal(), int(text) if text.isdecimal() else 0, text

    return sorted(set(plates), key=order)


def find_rotations(
    plate_group: Mapping[Plate, int], n_groups: int
) -> tuple[list[str], np.ndarray] | None:
    """Return the plate names and all rotations, if the known layouts rotate one order.

    Only layouts that hold every group once count. Had they been dealt at random, n of them would
    all be rotations of the first with the chance (1 / (n_groups - 1)!) ^ (n - 1); above `ACCIDENT`
    that says nothing.

    Args:
        plate_group: (experiment, plate) -> group of the known plates.

    Returns:
        The (G,) names and the (G, G) layouts, row r being the first experiment's order moved by r
        plates. None where there is no such rule, or too few layouts to tell.
    """
    held: dict[str, dict[str, int]] = {}
    for (experiment, plate), group in plate_group.items():
        held.setdefault(experiment, {})[str(plate)] = int(group)
    complete = {
        name: groups
        for name, groups in held.items()
        if sorted(groups.values()) == list(range(n_groups))
    }
    if (
        n_groups < 2
        or not complete
        or (1 / factorial(n_groups - 1)) ** (len(complete) - 1) > ACCIDENT
    ):
        return None
    names = plate_order(plate for groups in complete.values() for plate in groups)
    if len(names) != n_groups:
        return None
    first = complete[min(complete)]
    order = np.array([first[name] for name in names])
    layouts = np.stack([np.roll(order, -shift) for shift in range(n_groups)])
    rotations = {tuple(layout) for layout in layouts.tolist()}
    if any(tuple(groups[name] for name in names) not in rotations for groups in complete.values()):
        return None
    return names, layouts


def candidate_layouts(
    plates: Sequence[str],
    n_groups: int,
    rotations: tuple[list[str], np.ndarray] | None,
    given: Mapping[str, int],
) -> tuple[np.ndarray | None, str]:
    """Return the possible layouts of an experiment's plates, and a name for them.

    Plates are matched to `rotations` by name; where an experiment names its plates otherwise, in
    order if it has as many. Without rotations, or where none agrees with the given groups, each
    group serves at most ceil(plates / groups) plates: once where there are no more plates than
    groups.

    Args:
        plates: (P,) names in order.
        rotations: of `find_rotations`, or None.
        given: plate -> group, which every layout returned has.

    Returns:
        (L, P) int groups, or None where there are more than `MOST_LAYOUTS`; and words such as "4
        rotations of one order".
    """
    if rotations is not None:
        names, layouts = rotations
        if set(plates) <= set(names):
            layouts = layouts[:, [names.index(plate) for plate in plates]]
        elif len(plates) != len(names):
            layouts = layouts[:0]
        agrees = np.all(
            [layouts[:, plates.index(plate)] == group for plate, group in given.items()], axis=0
        )
        layouts = layouts[np.broadcast_to(agrees, len(layouts))]
        if len(layouts):
            return layouts, f"{len(layouts)} rotations of one order"
    counts = np.bincount(list(given.values()), minlength=n_groups)
    capacity = np.maximum(-(-len(plates) // n_groups) - counts, 0)
    free = [place for place, plate in enumerate(plates) if plate not in given]
    dealt = _deal(len(free), tuple(capacity.tolist()))
    if dealt is None:
        return None, f"more than {MOST_LAYOUTS} permutations"
    layouts = np.empty((len(dealt), len(plates)), dtype=int)
    layouts[:, free] = dealt
    for plate, group in given.items():
        layouts[:, plates.index(plate)] = group
    return layouts, f"{len(layouts)} permutations"


@lru_cache(maxsize=64)
def _deal(plates: int, capacity: tuple[int, ...]) -> np.ndarray | None:
    """Return all ways to give plates groups, each used `capacity` times at most: (L, plates).

    None if there are too many.
    """
    dealt = np.empty((1, 0), dtype=np.int16)
    for _ in range(plates):
        parts = []
        for group, most in enumerate(capacity):
            rows = dealt[(dealt == group).sum(axis=1) < most]
            parts.append(np.column_stack([rows, np.full(len(rows), group, dtype=np.int16)]))
        dealt = np.concatenate(parts)
        if len(dealt) > MOST_LAYOUTS:
            return None
    dealt.flags.writeable = False
    return dealt


def near_layouts(evidence: np.ndarray, given: Mapping[int, int]) -> np.ndarray:
    """Return the best layout by (P, G) evidence, and its neighbours.

    A neighbour exchanges the groups of two plates, or gives one plate another group.

    Args:
        given: index of a plate -> its group, where it is known.
    """
    from scipy.optimize import linear_sum_assignment

    n_plates, n_groups = evidence.shape
    plates_per_group = -(-n_plates // n_groups)  # rounded up
    slots = np.repeat(np.arange(n_groups), plates_per_group)
    value = evidence[:, slots].astype(float)
    # larger than any difference in evidence, so that a known group always wins
    reward = 1.0 + 2.0 * n_plates * float(np.abs(evidence).max())
    for plate, group in given.items():
        value[plate, slots == group] += reward
    best = slots[linear_sum_assignment(value, maximize=True)[1]]
    free = [plate for plate in range(n_plates) if plate not in given]
    layouts = [best]
    for number, plate in enumerate(free):
        for other in free[number + 1 :]:
            swapped = best.copy()
            swapped[[plate, other]] = best[[other, plate]]
            layouts.append(swapped)
        for group in np.flatnonzero(np.bincount(best, minlength=n_groups) < plates_per_group):
            moved = best.copy()
            moved[plate] = group
            layouts.append(moved)
    return np.unique(np.stack(layouts), axis=0)
