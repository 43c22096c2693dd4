"""Dealing groups (experiments, compounds, wells) to folds: whole, and as evenly as can be.

Fold -1 means never held out, fold -2 kept for the test. `data.folds` writes and reads the tables.
"""

import functools
import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import PlateGroups

log = logging.getLogger(__name__)

NEVER, TEST = -1, -2
NO_CLASS = "none"  # the stratum of groups that are known to have no class
DRAWS = 64  # iterative stratification is greedy and random: the most balanced draw is taken


def labelled(samples: pd.DataFrame) -> np.ndarray:
    """Return (N,) bool: the training-split treatments that have a label, or labels."""
    known = samples.label.notna()
    if "labels" in samples.columns:
        known |= samples["labels"].notna()
    return ((samples.split == "train") & (samples.role == "treatment") & known).to_numpy(dtype=bool)


def make_folds(
    samples: pd.DataFrame,
    group: str,
    n_splits: int = 5,
    seed: int = 0,
    plate_groups: PlateGroups | None = None,
    *,
    fewer: bool = False,
    word: str = "",
) -> pd.DataFrame:
    """Deal the groups of the labelled training treatments to folds, whole, as evenly as can be.

    Folds are even in the class, where most groups hold a single one (compounds, wells); in every
    class and in having none, where a sample has several labels; else in the cell type and, for
    experiments with `plate_groups`, in the order of class groups on the plates. A stratum with
    fewer groups than folds is missing from some folds. A class that only one group holds cannot be
    held out: that group gets fold -1, and a log line says so.

    Args:
        group: a samples column.
        fewer: make one fold a group where there are fewer groups than folds, if they are two.
        word: what the user calls the group, where it isn't called as the column.

    Returns:
        Columns fold, <group>, cell_type, then `label` (several joined by "+") or `assignment` where
        known, and n, the group's number of targets; sorted.

    Raises:
        InputError: no such column, an empty group name, or fewer groups than folds.
    """
    count_folds = functools.partial(_count_folds, word or group, n_splits, fewer)
    train = _training_samples(samples, group, n_splits)
    rows = _describe_groups(train, group, plate_groups)
    rows["fold"] = NEVER
    if "labels" in rows.columns:
        classes = rows["labels"].str.get_dummies("+").to_numpy(dtype=int)
        rows["fold"] = _deal_evenly(classes, count_folds(len(rows)), seed)
        # a column `labels` says another thing in a fold table: see `data.folds.DERIVED`
        rows = rows.rename(columns={"labels": "label"}).replace({"label": {NO_CLASS: ""}})
    elif "label" in rows.columns:
        dealt = ~_holds_class_alone(train, rows, group)
        number = count_folds(int(dealt.sum()))
        rows.loc[dealt, "fold"] = _deal(rows.loc[dealt, ["label"]], number, seed)
    else:
        strata = [name for name in ("cell_type", "assignment") if name in rows.columns]
        rows["fold"] = _deal(rows[strata].astype(str), count_folds(len(rows)), seed)
    known = [name for name in ("cell_type", "label", "assignment", "n") if name in rows.columns]
    if group == "cell_type":
        known.remove("cell_type")
    return rows[["fold", group, *known]].sort_values(["fold", group], ignore_index=True)


def _training_samples(samples: pd.DataFrame, group: str, n_splits: int) -> pd.DataFrame:
    if group not in samples.columns:
        columns = ", ".join(samples.columns)
        raise InputError(f"folds: {group!r} is not a samples column; there are {columns}")
    if n_splits < 2:
        raise InputError(f"folds: n_splits must be at least 2, not {n_splits}")
    train = samples[labelled(samples)]
    if train.empty:
        raise InputError(
            f"folds: none of the {len(samples)} samples is a labelled training treatment; nothing "
            "can be held out"
        )
    unnamed = train[group].isna()
    if unnamed.any():
        sample = train.sample_id[unnamed].iloc[0]
        raise InputError(f"folds: training sample {sample!r} has no {group}")
    return train


def _count_folds(word: str, n_splits: int, fewer: bool, count: int) -> int:
    """Return the number of folds that `count` groups are dealt to."""
    if fewer and 2 <= count < n_splits:
        log.info("folds: %d values of %s can be held out: %d folds", count, word, count)
        return count
    if count < n_splits:
        raise InputError(
            f"folds: {count} value{'' if count == 1 else 's'} of {word} can be held out, too few "
            f"for {2 if fewer else n_splits} folds"
        )
    return n_splits


def _describe_groups(
    train: pd.DataFrame, group: str, plate_groups: PlateGroups | None
) -> pd.DataFrame:
    """Return one row per group with the properties that folds are balanced by."""
    targets = train.drop_duplicates("target_id")
    grouped = targets.groupby(group, sort=True)
    rows = grouped.size().rename("n").reset_index()
    if group != "cell_type":
        rows["cell_type"] = grouped.cell_type.agg(_join).to_numpy()
    if "labels" in train.columns and train["labels"].notna().any():
        names = grouped["labels"].agg(
            lambda labels: _join(label for row in labels for label in row)
        )
        rows["labels"] = names.replace("", NO_CLASS).to_numpy()
    elif (grouped.label.nunique() == 1).mean() > 0.5:
        rows["label"] = grouped.label.agg(_join).to_numpy()
    elif plate_groups is not None and group == "experiment":
        rows["assignment"] = [
            _plate_group_order(experiment, plates, plate_groups)
            for experiment, plates in grouped.plate
        ]
    return rows


def _join(values) -> str:
    return "+".join(str(value) for value in sorted(set(values)))


def _plate_group_order(experiment: str, plates: pd.Series, plate_groups: PlateGroups) -> str:
    """Return the class groups on the plates of one experiment, in plate order: "2-3-0-1"."""
    ordered = sorted(set(plates), key=lambda plate: (len(plate), plate))
    groups = [plate_groups.plate_group.get((experiment, plate), "?") for plate in ordered]
    return "-".join(map(str, groups))


def _holds_class_alone(train: pd.DataFrame, rows: pd.DataFrame, group: str) -> np.ndarray:
    """Return (G,) bool: the groups that hold a class which no other group holds."""
    holders = train[[group, "label"]].drop_duplicates().groupby("label")[group]
    single = holders.first()[holders.size() == 1]
    for label, name in single.items():
        log.info(
            "folds: class %s has one %s, %s: it is never held out (fold %d)",
            label,
            group,
            name,
            NEVER,
        )
    return rows[group].isin(set(single)).to_numpy()


def _deal(strata: pd.DataFrame, n_splits: int, seed: int) -> np.ndarray:
    """Return (G,) fold numbers, each stratum of each column spread as evenly as can be.

    One column whose every value has enough groups is sklearn's exact case; else iterative
    stratification.
    """
    from sklearn.model_selection import StratifiedKFold

    first = strata.iloc[:, 0]
    if strata.shape[1] == 1 and first.value_counts().min() >= n_splits:
        split = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
        return _fold_numbers(split.split(np.zeros(len(strata)), first), len(strata))
    return _deal_evenly(pd.get_dummies(strata).to_numpy(dtype=int), n_splits, seed)


def _deal_evenly(member: np.ndarray, n_splits: int, seed: int) -> np.ndarray:
    """Return (G,) fold numbers by iterative stratification (Sechidis et al. 2011).

    Of several draws the one nearest to even shares is taken. Groups that differ in no stratum are
    dealt at random.

    Args:
        member: (G, S) 1 where a group is of a stratum.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
    from sklearn.model_selection import KFold

    if (member == member[:1]).all():
        split = KFold(n_splits, shuffle=True, random_state=seed)
        return _fold_numbers(split.split(member), len(member))
    if member.shape[1] == 1:  # in it or not: the library takes two columns or more
        member = np.column_stack([member, 1 - member])
    best, least = None, np.inf
    for draw in np.random.default_rng(seed).integers(2**31, size=DRAWS):
        split = MultilabelStratifiedKFold(n_splits, shuffle=True, random_state=int(draw))
        fold = _fold_numbers(split.split(member, member), len(member))
        inside = fold[:, None] == np.arange(n_splits)
        sizes = inside.sum(axis=0)
        uneven = sizes.var() + (member.T @ inside).var(axis=1).sum()
        if sizes.min() > 0 and uneven < least:
            best, least = fold, uneven
    if best is None:
        raise InputError(
            f"folds: {len(member)} groups cannot be dealt to {n_splits} folds without an empty "
            "one; use fewer folds"
        )
    return best


def _fold_numbers(splits, count: int) -> np.ndarray:
    fold = np.full(count, NEVER)
    for number, (_, held_out) in enumerate(splits):
        fold[held_out] = number
    return fold


def balance(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Count the compounds of each class in each fold.

    Args:
        table: a fold table; `label` is class numbers joined by "+", empty for none.

    Returns:
        One row a fold and class: fold, class, positives and compounds, prevalence (positives /
        compounds), positive_wells, wells.
    """
    member = np.zeros((len(table), len(classes)), int)
    for row, text in enumerate(table.label.astype(str)):
        member[row, [int(number) for number in text.split("+") if number]] = 1
    fold, wells, parts = table.fold.astype(int).to_numpy(), table.n.astype(int).to_numpy(), []
    for number in sorted(set(fold)):
        inside = fold == number
        positives = member[inside].sum(axis=0)
        columns = {
            "fold": number,
            "class": list(classes),
            "positives": positives,
            "compounds": inside.sum(),
            "prevalence": positives / inside.sum(),
            "positive_wells": wells[inside] @ member[inside],
            "wells": wells[inside].sum(),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def balance_table(table: pd.DataFrame, classes: Sequence[str]) -> str:
    """Print `balance`: compounds of each class by fold, their sum and share; the folds' sizes."""
    frame = balance(table, classes)
    wide = frame.pivot(index="class", columns="fold", values="positives").loc[list(classes)]
    sizes = frame.drop_duplicates("fold").set_index("fold")
    shown = wide.rename(columns=lambda fold: f"fold {fold}")
    shown["all"] = wide.sum(axis=1)
    shown["prevalence"] = (wide.sum(axis=1) / sizes.compounds.sum()).map("{:.4f}".format)
    lowest, highest = (wide / sizes.compounds).min(axis=1), (wide / sizes.compounds).max(axis=1)
    shown["by fold"] = [
        f"{low:.4f} to {high:.4f}" for low, high in zip(lowest, highest, strict=True)
    ]
    shown = shown.astype(object)  # numbers, and text in the rows below
    for name in ("compounds", "wells"):
        shown.loc[f"({name})"] = [*sizes[name].map(str), str(sizes[name].sum()), "", ""]
    return shown.rename_axis(index=None, columns=None).to_string()
