"""Fold tables of idr0088: compounds dealt whole, and evenly in every class.

Compounds that differ in stereochemistry alone (propranolol and (S)-propranolol: the first 14
letters of their InChIKeys are the same) go to one fold together.
"""

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError

FOLDS = 5
# iterative stratification is greedy and random: the most balanced of so many draws is taken
DRAWS = 16


def deal_compounds(
    compounds: pd.DataFrame, classes: int, n_splits: int = FOLDS, seed: int = 0
) -> pd.DataFrame:
    """Deal compounds to folds by iterative stratification (Sechidis et al. 2011) over their classes
    and over having none.

    Args:
        compounds: columns compound (InChIKey), labels (tuple of class numbers), n (wells), and any
        to be kept. classes: how many classes there are.

    Returns:
        Columns fold, compound, the kept ones, label (class numbers, "+" between them, "" for none),
        n; sorted.

    Raises:
        InputError: fewer compounds than folds.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    skeleton = compounds["compound"].str[:14]
    names = pd.Index(sorted(set(skeleton)))
    if n_splits < 2 or len(names) < n_splits:
        raise InputError(
            f"folds: {len(names)} compounds (without stereochemistry) cannot be dealt to "
            f"{n_splits} folds"
        )
    group = names.get_indexer(skeleton)
    member = np.zeros((len(names), classes + 1), int)
    for row, labels in zip(group, compounds["labels"], strict=True):
        member[row, list(labels) or [classes]] = 1
    size = np.bincount(group, minlength=len(names))
    counted = np.zeros_like(member)  # compounds, where `member` tells skeletons
    for row, labels in zip(group, compounds["labels"], strict=True):
        counted[row, list(labels) or [classes]] += 1
    best, least = None, np.inf
    for draw in np.random.default_rng(seed).integers(2**31, size=DRAWS):
        fold = np.empty(len(names), int)
        split = MultilabelStratifiedKFold(n_splits, shuffle=True, random_state=int(draw))
        for number, (_, held_out) in enumerate(split.split(member, member)):
            fold[held_out] = number
        inside = fold[:, None] == np.arange(n_splits)
        uneven = (size @ inside).var() + (counted.T @ inside).var(axis=1).sum()
        if inside.any(axis=0).all() and uneven < least:
            best, least = fold, uneven
    if best is None:
        raise InputError(
            f"folds: {len(names)} compounds cannot be dealt to {n_splits} folds without an empty "
            "one; use fewer folds"
        )
    label = compounds["labels"].map(lambda labels: "+".join(map(str, labels)))
    kept = [column for column in compounds.columns if column not in ("compound", "labels", "n")]
    table = compounds.assign(fold=best[group], label=label)
    return table[["fold", "compound", *kept, "label", "n"]].sort_values(
        ["fold", "compound"], ignore_index=True
    )
