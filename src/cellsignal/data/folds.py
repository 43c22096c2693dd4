"""Fold tables: which groups (experiments, compounds, wells) are held out together, so that a
validation score means what it says.

A table is a CSV with the columns `fold`, the name of a samples column (what is never split), and
readable ones beside them. Fold -1 means never held out, fold -2 kept for the test: no fold trains
on it or validates with it. A group may be held out in two folds.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_wells, read_table, refuse_rows

if TYPE_CHECKING:
    from cellsignal.competitions.base import PlateGroups

log = logging.getLogger(__name__)

NEVER, TEST = -1, -2
NONE = "none"  # the stratum of groups that are known to have no class
# iterative stratification is greedy and random: the most balanced of so many draws is taken
DRAWS = 64
# in a column `labels`: a group without training labels that may stand in the table all the same
DERIVED = "derived"


@dataclass(frozen=True)
class FoldTable:
    """A checked fold table.

    Attributes:
        group: the samples column that is never split.
        rows: columns `fold` (int), `group` (text) and whatever the file says beside them.
    """

    group: str
    rows: pd.DataFrame

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that hold something out, in order."""
        return tuple(sorted(int(fold) for fold in self.rows.fold.unique() if fold >= 0))

    @property
    def test(self) -> set[str]:
        """The groups that are kept for the test."""
        return set(self.rows[self.group][self.rows.fold == TEST])

    def held_out(self, fold: int) -> set[str]:
        """The groups that a fold holds out.

        Raises:
            InputError: there is no such fold.
        """
        if fold not in self.folds:
            raise InputError(
                f"fold {fold}: the table has the folds {', '.join(map(str, self.folds))}"
            )
        return set(self.rows[self.group][self.rows.fold == fold])

    def validation(self, samples: pd.DataFrame, fold: int) -> np.ndarray:
        """(N,) bool: the labelled training-split treatments of the groups that `fold` holds out."""
        return labelled(samples) & samples[self.group].isin(self.held_out(fold)).to_numpy()

    def training(self, samples: pd.DataFrame, fold: int | None) -> np.ndarray:
        """(N,) bool: all other labelled training-split treatments but those kept for the test; with
        fold None every one of them.
        """
        inside = labelled(samples) & ~samples[self.group].isin(self.test).to_numpy()
        return (
            inside
            if fold is None
            else inside & ~samples[self.group].isin(self.held_out(fold)).to_numpy()
        )


def labelled(samples: pd.DataFrame) -> np.ndarray:
    """(N,) bool: training-split treatments with a label, or with labels."""
    known = samples.label.notna()
    if "labels" in samples.columns:
        known |= samples["labels"].notna()
    return ((samples.split == "train") & (samples.role == "treatment") & known).to_numpy(dtype=bool)


def make_folds(
    samples: pd.DataFrame,
    group: str,
    n_splits: int = 5,
    seed: int = 0,
    plate_groups: "PlateGroups | None" = None,
) -> pd.DataFrame:
    """Deal the groups of the labelled training treatments to folds, whole, as evenly as can be.

    Even in: the class, where most groups hold a single one (compounds, wells); every class and
    having none, where a sample has several labels; else the cell type and, for experiments with
    `plate_groups`, the assignment of class groups to plates. A stratum with fewer groups than folds
    is missing from some folds (RxRx1 has three U2OS experiments). A class that only one group holds
    cannot be held out: that group gets fold -1, and a log line says so.

    Args:
        group: a samples column.

    Returns:
        Columns fold, <group>, cell_type, then `label` (several joined by "+") or `assignment` where
        known, and n, the group's number of targets; sorted.

    Raises:
        InputError: no such column, an empty group name, or fewer groups than folds.
    """
    if group not in samples.columns:
        raise InputError(
            f"folds: {group!r} is no samples column; there are {', '.join(samples.columns)}"
        )
    if n_splits < 2:
        raise InputError(f"folds: n_splits must be at least 2, not {n_splits}")
    train = samples[labelled(samples)]
    if not len(train):
        raise InputError(
            f"folds: none of the {len(samples)} samples is a labelled training treatment; nothing "
            "can be held out"
        )
    if train[group].isna().any():
        raise InputError(
            f"folds: training sample {train.sample_id[train[group].isna()].iloc[0]!r} has no "
            f"{group}"
        )
    rows = _describe(train, group, plate_groups)
    by_class = "label" in rows.columns
    rows["fold"] = NEVER
    dealt = ~_only_of_its_class(train, rows, group) if by_class else np.ones(len(rows), dtype=bool)
    if dealt.sum() < n_splits:
        raise InputError(
            f"folds: {int(dealt.sum())} values of {group} can be held out, too few for {n_splits} "
            "folds"
        )
    if rows.get("labels") is not None:
        rows["fold"] = _deal_evenly(
            rows["labels"].str.get_dummies("+").to_numpy(dtype=int), n_splits, seed
        )
    else:
        strata = (
            ["label"]
            if by_class
            else [name for name in ("cell_type", "assignment") if name in rows.columns]
        )
        rows.loc[dealt, "fold"] = _deal(rows.loc[dealt, strata].astype(str), n_splits, seed)
    if "labels" in rows.columns:  # which says another thing in a fold table, see DERIVED
        rows = rows.rename(columns={"labels": "label"}).replace({"label": {NONE: ""}})
    columns = [
        "fold",
        group,
        *(name for name in ("cell_type", "label", "assignment", "n") if name in rows.columns),
    ]
    return rows[columns].sort_values(["fold", group], ignore_index=True)


def read_folds(path: Path | str, samples: pd.DataFrame) -> FoldTable:
    """Read a fold table and hold it to the samples.

    Raises:
        InputError: not a CSV, no `fold` column, no samples column beside it, a fold that is no
        number from -2, a row
            twice, a group both held out and never, or kept for the test and not; a group that has
            no training labels, a training group that the table lacks, no fold, or a fold that
            leaves nothing to validate or to train on.
    """
    path = Path(path)
    rows = read_fold_rows(path)
    group = rows.columns[1]
    if group not in samples.columns or group in ("files", "label", "split", "role"):
        raise InputError(
            f"{path}: {group!r} is no samples column to group by; there are "
            f"{', '.join(samples.columns)}"
        )
    if group == "well":
        rows[group] = normalise_wells(rows[group])
    table = FoldTable(group, _checked_groups(path, rows, group, samples))
    _check_folds(path, table, samples)
    return table


def read_fold_rows(path: Path) -> pd.DataFrame:
    """A fold table without the samples that it deals: text, and `fold` as int64; its index is the
    row of the file.

    Raises:
        InputError: no table, other first columns than fold and a group, or a fold that is no number
        from -2.
    """
    rows = read_table(path, filled=())
    if rows.columns[0] != "fold" or len(rows.columns) < 2:
        raise InputError(
            f"{path}: the first columns must be fold and what it groups; it has "
            f"{', '.join(rows.columns)}"
        )
    wrong = ~rows.fold.str.fullmatch(r"-[12]|\d{1,6}")
    refuse_rows(path, rows, wrong, "fold", f"is neither {TEST} nor {NEVER} nor a number from 0")
    group = rows.columns[1]
    refuse_rows(path, rows, rows[group] == "", group, "is empty")
    return rows.assign(fold=rows.fold.astype("int64"))


def _checked_groups(
    path: Path, rows: pd.DataFrame, group: str, samples: pd.DataFrame
) -> pd.DataFrame:
    """The rows of groups that the samples have: of a data set that is there in part, a table of the
    whole may be used.
    """
    doubled = rows.duplicated(["fold", group])
    refuse_rows(path, rows, doubled, group, "stands twice in its fold")
    for kind, words in ((NEVER, "never held out"), (TEST, "kept for the test")):
        both = set(rows[group][rows.fold == kind]) & set(rows[group][rows.fold != kind])
        if both:
            raise InputError(
                f"{path}: {group} {min(both)!r} is {words} (fold {kind}) and in another fold"
            )
    known = set(samples[group].dropna().astype(str))
    trained = set(samples[group][labelled(samples)].dropna().astype(str))
    missing = sorted(trained - set(rows[group]))
    unknown = ~rows[group].isin(known)
    if unknown.any() and missing:
        refuse_rows(path, rows, unknown, group, "is unknown: no sample has it")
    if unknown.any():
        log.warning(
            "%s: %d of %d values of %s have no image here", path, unknown.sum(), len(rows), group
        )
        rows = rows[~unknown]
    derived = (
        rows.labels.eq(DERIVED) if "labels" in rows.columns else pd.Series(False, index=rows.index)
    )
    bare = ~rows[group].isin(trained) & ~derived
    refuse_rows(path, rows, bare, group, "has no labelled training sample")
    if missing:
        raise InputError(
            f"{path}: {len(missing)} training values of {group} are missing, first {missing[0]!r}; "
            f"give them a fold, or {NEVER}"
        )
    return rows.reset_index(drop=True)


def _check_folds(path: Path, table: FoldTable, samples: pd.DataFrame) -> None:
    if not table.folds:
        raise InputError(f"{path}: no fold holds anything out")
    for fold in table.folds:
        if not table.validation(samples, fold).any():
            raise InputError(f"{path}: fold {fold} has no labelled sample to validate on")
        if not table.training(samples, fold).any():
            raise InputError(
                f"{path}: fold {fold} holds out every labelled sample; nothing is left to train on"
            )


def _describe(train: pd.DataFrame, group: str, plate_groups: "PlateGroups | None") -> pd.DataFrame:
    """One row a group: its name and n; its cell type; its label where most groups hold one; its
    assignment where it is an experiment.
    """
    targets = train.drop_duplicates("target_id")
    grouped = targets.groupby(group, sort=True)
    rows = grouped.size().rename("n").reset_index()
    if group != "cell_type":
        rows["cell_type"] = grouped.cell_type.agg(
            lambda names: "+".join(sorted(set(names)))
        ).to_numpy()
    if "labels" in train.columns and train["labels"].notna().any():
        merged = grouped["labels"].agg(
            lambda found: sorted({label for labels in found for label in labels})
        )
        rows["labels"] = ["+".join(map(str, labels)) or NONE for labels in merged]
    elif (grouped.label.nunique() == 1).mean() > 0.5:
        rows["label"] = grouped.label.agg(
            lambda labels: "+".join(str(label) for label in sorted(set(labels)))
        ).to_numpy()
    elif plate_groups is not None and group == "experiment":
        held = plate_groups.plate_group
        plates = targets.groupby("experiment").plate.agg(
            lambda names: sorted(set(names), key=lambda name: (len(name), name))
        )
        rows["assignment"] = [
            "-".join(str(held.get((name, plate), "?")) for plate in plates[name])
            for name in rows[group]
        ]
    return rows


def _only_of_its_class(train: pd.DataFrame, rows: pd.DataFrame, group: str) -> np.ndarray:
    """(G,) bool: the groups that hold a class which no other group holds."""
    pairs = train[[group, "label"]].drop_duplicates()
    holders = pairs.groupby("label")[group].agg(["size", "first"])
    single = holders[holders["size"] == 1]
    for label, name in single["first"].items():
        log.info(
            "folds: class %s has one %s, %s: it is never held out (fold %d)",
            label,
            group,
            name,
            NEVER,
        )
    return rows[group].isin(set(single["first"])).to_numpy()


def _deal(strata: pd.DataFrame, n_splits: int, seed: int) -> np.ndarray:
    """(G,) fold numbers, each stratum of each column spread as evenly as can be.

    One column whose every value has enough groups is sklearn's exact case. Otherwise: iterative
    stratification.
    """
    from sklearn.model_selection import StratifiedKFold

    if strata.shape[1] == 1 and strata.iloc[:, 0].value_counts().min() >= n_splits:
        split = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
        return _numbers(split.split(np.zeros(len(strata)), strata.iloc[:, 0]), len(strata))
    return _deal_evenly(pd.get_dummies(strata).to_numpy(dtype=int), n_splits, seed)


def _deal_evenly(member: np.ndarray, n_splits: int, seed: int) -> np.ndarray:
    """(G,) fold numbers by iterative stratification (Sechidis et al. 2011), of several draws the
    one nearest to even shares.

    Groups that differ in no stratum are dealt at random.

    Args:
        member: (G, S) 1 where a group is of a stratum.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
    from sklearn.model_selection import KFold

    if (member == member[:1]).all():
        split = KFold(n_splits, shuffle=True, random_state=seed)
        return _numbers(split.split(member), len(member))
    if member.shape[1] == 1:  # in it or not: the library takes two columns or more
        member = np.column_stack([member, 1 - member])
    best, least = None, np.inf
    for draw in np.random.default_rng(seed).integers(2**31, size=DRAWS):
        split = MultilabelStratifiedKFold(n_splits, shuffle=True, random_state=int(draw))
        fold = _numbers(split.split(member, member), len(member))
        inside = fold[:, None] == np.arange(n_splits)
        size, counts = inside.sum(axis=0), member.T @ inside  # (folds,), (strata, folds)
        uneven = size.var() + counts.var(axis=1).sum()
        if size.min() > 0 and uneven < least:
            best, least = fold, uneven
    if best is None:
        raise InputError(
            f"folds: {len(member)} groups cannot be dealt to {n_splits} folds without an empty "
            "one; use fewer folds"
        )
    return best


def _numbers(splits, n: int) -> np.ndarray:
    fold = np.full(n, NEVER)
    for number, (_, held_out) in enumerate(splits):
        fold[held_out] = number
    return fold
