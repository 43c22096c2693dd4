"""The fold counts of RxRx1's winning entry, as a fold table: whole experiments, dealt within a cell type."""

import pandas as pd

from cellsignal.competitions.base import PlateGroups
from cellsignal.competitions.rxrx1 import groups as class_groups
from cellsignal.errors import InputError

# Experiments held out in each fold. The first place published these numbers, not which experiments they were.
SIX_FOLD_COUNTS: tuple[dict[str, int], ...] = (
    {"HEPG2": 2, "HUVEC": 2, "RPE": 1, "U2OS": 1},
    {"HEPG2": 1, "HUVEC": 3, "RPE": 2, "U2OS": 1},
    *({"HEPG2": 1, "HUVEC": 3, "RPE": 1, "U2OS": 1} for _ in range(4)),
)

# A test experiment that repeats a training one, well for well, two plates on; so its labels can be worked out.
REPEAT = ("HUVEC-18", "RPE-03")


def first_place_folds(samples: pd.DataFrame, groups: PlateGroups) -> pd.DataFrame:
    """Six folds with the winner's counts; experiments are dealt by name, starting over where they run out.

    The three U2OS experiments so serve twice. HUVEC-18, a test experiment, is counted as theirs was, with `labels`
    "derived": it has no labelled wells (`n` 0) and is neither trained nor validated on unless its labels are added to
    the samples.
    """
    train = samples[(samples.split == "train") & (samples.role == "treatment") & samples.label.notna()].drop_duplicates(
        "target_id"
    )
    wells = train.groupby("experiment").size()
    if REPEAT[0] not in set(samples.experiment):
        raise InputError(
            f"first-place folds: no experiment {REPEAT[0]!r} in the samples; this table is for the published RxRx1"
        )
    held = class_groups.assignments(groups)
    rows = []
    for cell_type in SIX_FOLD_COUNTS[0]:
        names = sorted(name for name in {*wells.index, REPEAT[0]} if name.rsplit("-", 1)[0] == cell_type)
        at = 0
        for fold, counts in enumerate(SIX_FOLD_COUNTS):
            for _ in range(counts[cell_type]):
                name = names[at % len(names)]
                labels = "train" if name in wells.index else "derived"
                rows.append(
                    (fold, name, cell_type, "-".join(map(str, held.get(name, ()))), int(wells.get(name, 0)), labels)
                )
                at += 1
    table = pd.DataFrame(rows, columns=["fold", "experiment", "cell_type", "assignment", "n", "labels"])
    return table.sort_values(["fold", "cell_type", "experiment"], ignore_index=True)
