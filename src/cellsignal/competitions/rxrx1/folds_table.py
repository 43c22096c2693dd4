"""The fold table of RxRx1's winning entry: whole experiments, dealt within a cell type.

The rule is what the published code of the 1st place does
(github.com/maciej-sypetkowski/kaggle-rcic-1st); with seed 0 it gives the split of their runs, whose
fold 0 is HEPG2-03, HEPG2-05, HUVEC-02, HUVEC-14, RPE-04, U2OS-02.
"""

import random
from collections.abc import Collection

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import PlateGroups
from cellsignal.competitions.rxrx1 import groups as class_groups

# Experiments that each fold holds out.
SIX_FOLD_COUNTS: tuple[dict[str, int], ...] = (
    {"HEPG2": 2, "HUVEC": 2, "RPE": 1, "U2OS": 1},
    {"HEPG2": 1, "HUVEC": 3, "RPE": 2, "U2OS": 1},
    *({"HEPG2": 1, "HUVEC": 3, "RPE": 1, "U2OS": 1} for _ in range(4)),
)

SERVES_TWICE = "U2OS"  # three experiments for six folds
SPLIT_SEED = 0  # of the winner's runs

# A test experiment and the training experiment whose layout it repeats, well for well: plate p of
# the first holds what
# plate p + 3 of the second does, counted round. So its labels can be worked out, and the winner's
# split counts it as
# labelled. (HUVEC-07 and RPE-03 repeat each other too; both are training experiments.)
REPEAT = ("HUVEC-18", "RPE-03")


def first_place_folds(
    samples: pd.DataFrame, groups: PlateGroups, seed: int = SPLIT_SEED
) -> pd.DataFrame:
    """Deal the labelled experiments to six folds as the winner's code does.

    HUVEC-18, a test experiment, is dealt as theirs was, with `labels` "derived": it has no labelled
    wells (`n` 0) and is neither trained nor validated on unless its labels are added to the
    samples.

    Args:
        seed: of the split; the winner's is 0.

    Raises:
        InputError: other experiments than those of the published RxRx1.
    """
    treated = (samples.split == "train") & (samples.role == "treatment") & samples.label.notna()
    wells = samples[treated].drop_duplicates("target_id").groupby("experiment").size()
    if REPEAT[0] not in set(samples.experiment):
        raise InputError(
            f"first-place folds: no experiment {REPEAT[0]!r} in the samples; this table is for "
            "the published RxRx1"
        )
    assignments = class_groups.assignments(groups)
    rows = []
    for fold, names in enumerate(deal_experiments({*wells.index, REPEAT[0]}, seed)):
        for name in names:
            labels = "train" if name in wells.index else "derived"
            assignment = "-".join(map(str, assignments.get(name, ())))
            cell_type = _cell_type(name)
            rows.append((fold, name, cell_type, assignment, int(wells.get(name, 0)), labels))
    columns = ["fold", "experiment", "cell_type", "assignment", "n", "labels"]
    return pd.DataFrame(rows, columns=columns)


def deal_experiments(names: Collection[str], seed: int = SPLIT_SEED) -> list[list[str]]:
    """The experiments of each fold, sorted: one random stream shuffles cell type after cell type.

    Cell types come in alphabetical order. The experiments of one are sorted, shuffled by
    `random.Random(seed)`, whose stream goes on from the cell type before, and dealt from the first
    on; those of U2OS stand twice in the list.

    Raises:
        InputError: a cell type with more or fewer experiments than the folds hold out.
    """
    stream = random.Random(seed)
    folds: list[list[str]] = [[] for _ in SIX_FOLD_COUNTS]
    for cell_type in sorted(SIX_FOLD_COUNTS[0]):
        dealt = sorted(name for name in names if _cell_type(name) == cell_type)
        dealt *= 2 if cell_type == SERVES_TWICE else 1
        wanted = sum(counts[cell_type] for counts in SIX_FOLD_COUNTS)
        if len(dealt) != wanted:
            raise InputError(
                f"first-place folds: {len(dealt)} places of {cell_type} experiments for {wanted}; "
                "this table is for the published RxRx1"
            )
        stream.shuffle(dealt)
        for fold, counts in zip(folds, SIX_FOLD_COUNTS, strict=True):
            fold += dealt[: counts[cell_type]]
            del dealt[: counts[cell_type]]
    return [sorted(fold) for fold in folds]


def _cell_type(experiment: str) -> str:
    return experiment.rpartition("-")[0]
