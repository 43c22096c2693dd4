"""The published splits of RxRx1: Kaggle's leaderboard, WILDS' parts, the winner's six folds."""

import random
from collections.abc import Collection

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import PlateGroups
from cellsignal.competitions.folds import labelled
from cellsignal.competitions.published import Protocol
from cellsignal.competitions.rxrx1.groups import assignments

KAGGLE = Protocol(
    "kaggle",
    "Kaggle 2019",
    "experiment",
    "Test: the treatments of the 18 test experiments; public leaderboard: the first "
    "of each cell type.",
    assignment=True,
)
RANDOM_WELLS = Protocol(
    "wells",
    "random wells",
    "well_id",
    "Wells held out at random: their batches are in training, so it is optimistic. Kept to "
    "measure by how much.",
    assignment=True,
)
# Koh et al., WILDS: A Benchmark of in-the-Wild Distribution Shifts, ICML 2021, arXiv:2012.07421,
# split "official"
WILDS = Protocol(
    "wilds",
    "WILDS RxRx1",
    "experiment",
    "Channels 1, 2 and 3 at 256 px. Trained on site 1 of the train experiments; in-distribution "
    "test: their site 2; OOD validation: the public leaderboard's experiments; OOD test: the other "
    "test experiments.",
    by_site=True,
    controls_are_classes=True,
    parts=(
        ("train", 40_612),
        ("id_test", 40_612),
        ("ood_validation", 9_854),
        ("ood_test", 34_432),
    ),
)

# The rule of the 1st place's published code (github.com/maciej-sypetkowski/kaggle-rcic-1st): with
# seed 0 it gives the split of their runs, whose fold 0 is HEPG2-03, HEPG2-05, HUVEC-02, HUVEC-14,
# RPE-04, U2OS-02.
SIX_FOLD_COUNTS: tuple[dict[str, int], ...] = (  # experiments that each fold holds out
    {"HEPG2": 2, "HUVEC": 2, "RPE": 1, "U2OS": 1},
    {"HEPG2": 1, "HUVEC": 3, "RPE": 2, "U2OS": 1},
    *({"HEPG2": 1, "HUVEC": 3, "RPE": 1, "U2OS": 1} for _ in range(4)),
)
SERVES_TWICE = "U2OS"  # three experiments for six folds
SPLIT_SEED = 0  # of the winner's runs

# A test experiment and the training experiment whose layout it repeats, well for well: plate p of
# the first holds what plate p + 3 of the second does, counted round. So its labels can be worked
# out, and the winner's split counts it as labelled. (HUVEC-07 and RPE-03 repeat each other too;
# both are training experiments.)
REPEAT = ("HUVEC-18", "RPE-03")


def cell_types(experiments: pd.Series) -> pd.Series:
    """Return the cell type of each experiment: "HUVEC" of "HUVEC-01"."""
    names = {name: name.rsplit("-", maxsplit=1)[0] for name in experiments.unique()}
    return experiments.map(names).astype(object)


def public_experiments(experiments: pd.Series) -> set[str]:
    """Return the test experiments of Kaggle's public leaderboard: the first of each cell type.

    None is public where no cell type has two.
    """
    names = pd.DataFrame({"experiment": experiments.unique()})
    names["cell_type"] = cell_types(names.experiment)
    names["number"] = names.experiment.str.rsplit("-", n=1).str[1].astype(int)
    first = names.sort_values(["cell_type", "number"]).drop_duplicates("cell_type")
    return set(first.experiment) if len(first) < len(names) else set()


def wilds_parts(samples: pd.DataFrame) -> pd.Series:
    """Return the part of `WILDS` that each sample belongs to, controls included.

    A training site that is neither 1 nor 2 belongs to none: "".
    """
    train = samples.split == "train"
    public = samples.experiment.isin(public_experiments(samples.experiment[~train]))
    conditions = [train & (samples.site == 1), train & (samples.site == 2), ~train & public, ~train]
    names = [name for name, _ in WILDS.parts]
    return pd.Series(np.select(conditions, names, default=""), samples.index, dtype=object)


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
    if REPEAT[0] not in set(samples.experiment):
        raise InputError(
            f"first-place folds: no experiment {REPEAT[0]!r} in the samples; this table is for "
            "the published RxRx1"
        )
    train = samples[labelled(samples)].drop_duplicates("target_id")
    wells = train.groupby("experiment").size()
    plate_groups = assignments(groups)
    rows = []
    for fold, names in enumerate(deal_experiments({*wells.index, REPEAT[0]}, seed)):
        for name in names:
            row = {
                "fold": fold,
                "experiment": name,
                "cell_type": _cell_type(name),
                "assignment": "-".join(map(str, plate_groups.get(name, ()))),
                "n": int(wells.get(name, 0)),
                "labels": "train" if name in wells.index else "derived",
            }
            rows.append(row)
    return pd.DataFrame(rows)


def deal_experiments(names: Collection[str], seed: int = SPLIT_SEED) -> list[list[str]]:
    """Return the experiments of each fold, sorted.

    Cell types come in alphabetical order. The experiments of one are sorted, shuffled by
    `random.Random(seed)`, whose stream goes on from the cell type before, and dealt from the first
    on; those of U2OS occur twice in the list.

    Raises:
        InputError: a cell type with more or fewer experiments than the folds hold out.
    """
    stream = random.Random(seed)
    folds: list[list[str]] = [[] for _ in SIX_FOLD_COUNTS]
    for cell_type in sorted(SIX_FOLD_COUNTS[0]):
        dealt = sorted(name for name in names if _cell_type(name) == cell_type)
        if cell_type == SERVES_TWICE:
            dealt *= 2
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
