"""Mechanisms of action (MoA): the annotation's strings, the classes, and folds even in them.

`moa.csv` has a row for each of the 292 MoA strings of the published table:

- `moa`: the mechanisms in it ("; " between them), in one spelling. partial_agonist and partial
  agonist are agonist, "PPAR agonist" is spelt out, an activator of a nuclear receptor is its
  agonist; agonist and antagonist stay apart. Empty: nothing is known ("Unknown_MoA"), and such
  compounds are unlabelled, as those with a blank cell.
- `coarse`: the group of each mechanism, in the same order. Compounds of the group "inactive
  analogue" are known not to act: they are labelled, as negatives, and never make a class.
- `note`: why, if it is a judgement.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import read_table
from cellsignal.competitions.idr0088.metadata import compounds, read_annotation

PATH = Path(__file__).with_name("moa.csv")
COLUMNS = ("raw", "moa", "coarse", "note")
GPCR_AGONIST, INACTIVE = "GPCR agonist", "inactive analogue"  # of the column `coarse`
# a mechanism with fewer labelled compounds is not a class: too few to hold out and to learn from
MIN_COMPOUNDS = 3
FOLDS = 5
DRAWS = 16  # iterative stratification is greedy and random: the most balanced draw is taken

Moas = tuple[str, ...] | None  # mechanisms of a compound; None if nothing is known
Classes = dict[str, frozenset[str]]  # class -> the mechanisms that are it
ClassRule = Callable[[Iterable[Moas]], Classes]


@dataclass(frozen=True)
class MoaTable:
    """The curated table `moa.csv`.

    Attributes:
        moas_of: raw string -> its mechanisms, () if nothing is known.
        coarse: mechanism -> its group.
    """

    moas_of: dict[str, tuple[str, ...]]
    coarse: dict[str, str]

    def moas(self, raw: Iterable[str], source: Path | str) -> Moas:
        """Return the sorted mechanisms of a compound from all its strings.

        Raises:
            InputError: a string that the table does not have.
        """
        moas: set[str] = set()
        for text in raw:
            if text not in self.moas_of:
                table = f"{PATH.name}; add a row that says what it means"
                raise InputError(f"{source}: Compound MoA {text!r} is not in {table}")
            moas.update(self.moas_of[text])
        return _sort_names(moas) or None


@functools.cache
def read_moa_table(path: Path = PATH) -> MoaTable:
    """Read the curated table.

    Raises:
        InputError: other columns, a string twice, not one group for each mechanism, or a mechanism
            in two groups.
    """
    moas_of: dict[str, tuple[str, ...]] = {}
    coarse: dict[str, str] = {}
    table = read_table(path, COLUMNS, filled=("raw",), unique="raw", missing={""})
    if tuple(table.columns) != COLUMNS:
        raise InputError(f"{path}: the columns must be {', '.join(COLUMNS)}")
    for number, row in table.iterrows():
        moas, groups = _split_cell(row.moa), _split_cell(row.coarse)
        if len(moas) != len(groups) or len(set(moas)) < len(moas):
            counts = f"{len(moas)} mechanisms, {len(groups)} groups"
            raise InputError(f"{path}: row {number}: {counts}; one of each, none twice")
        for moa, group in zip(moas, groups, strict=True):
            if coarse.setdefault(moa, group) != group:
                other = f"{moa!r} is in {group!r} here, in {coarse[moa]!r} above"
                raise InputError(f"{path}: row {number}: {other}")
        moas_of[row.raw] = tuple(moas)
    return MoaTable(moas_of, coarse)


def _split_cell(cell: str) -> list[str]:
    return [part.strip() for part in cell.split(";") if part.strip()]


def _sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sort as in a dictionary, whether capital or not."""
    return tuple(sorted(names, key=lambda name: (name.casefold(), name)))


def gpcr_classes(moas: Iterable[Moas]) -> Classes:
    """Return the one class of `idr0088_gpcr`: agonists of a G protein-coupled receptor.

    Nicotinic, GABA-A and ionotropic glutamate receptors are channels; the receptors of steroids,
    retinoids, PPAR, LXR, FXR and PXR are nuclear; Trk is a kinase; sigma-1 is none of these. Their
    agonists are not in it.
    """
    coarse = read_moa_table().coarse
    return {GPCR_AGONIST: frozenset(moa for moa, group in coarse.items() if group == GPCR_AGONIST)}


def moa_classes(moas: Iterable[Moas]) -> Classes:
    """Return the classes of `idr0088_moa`: mechanisms that `MIN_COMPOUNDS` compounds have, sorted.

    Args:
        moas: of each compound.
    """
    coarse = read_moa_table().coarse
    counts = Counter(moa for names in moas for moa in names or ())
    frequent = [moa for moa, n in counts.items() if n >= MIN_COMPOUNDS and coarse[moa] != INACTIVE]
    return {moa: frozenset([moa]) for moa in _sort_names(frequent)}


def labels_of(moas: Moas, classes: Classes) -> tuple[int, ...] | None:
    """Return the class numbers of a compound, maybe none; None if its mechanisms are unknown."""
    if moas is None:
        return None
    return tuple(i for i, members in enumerate(classes.values()) if members & set(moas))


def label_compounds(path: Path, rule: ClassRule) -> tuple[pd.DataFrame, Classes]:
    """Read all compounds of an annotation with their mechanisms and labels, and the classes.

    Returns:
        `compounds` with `moa` (tuple) and `labels` (tuple), both None if the MoA is not known.
    """
    table, moas_of = compounds(read_annotation(path)), read_moa_table().moas
    moas = [moas_of(raw, path) for raw in table.raw]
    classes = rule(moas)
    if not classes:
        raise InputError(f"{path}: no MoA has compounds enough to be a class")
    labels = [labels_of(names, classes) for names in moas]
    columns = {"moa": pd.Series(moas, dtype=object), "labels": pd.Series(labels, dtype=object)}
    return table.assign(**columns), classes


def deal_compounds(
    compounds: pd.DataFrame, classes: int, n_splits: int = FOLDS, seed: int = 0
) -> pd.DataFrame:
    """Deal compounds to folds by iterative stratification over their classes and having none.

    See Sechidis et al. 2011. Compounds that differ in stereochemistry alone (propranolol and
    (S)-propranolol: the first 14 letters of their InChIKeys are the same) go to one fold together.

    Args:
        compounds: columns compound (InChIKey), labels (tuple of class numbers), n (wells), and any
            to be kept.
        classes: how many classes there are.

    Returns:
        Columns fold, compound, the kept ones, label (class numbers, "+" between them, "" for none),
        n; sorted.

    Raises:
        InputError: fewer compounds than folds.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    skeletons, group = np.unique(compounds["compound"].str[:14], return_inverse=True)
    dealing = f"folds: {len(skeletons)} compounds"
    if n_splits < 2 or len(skeletons) < n_splits:
        raise InputError(f"{dealing} (without stereochemistry) cannot be dealt to {n_splits} folds")
    counts = np.zeros((len(skeletons), classes + 1), int)  # compounds of each skeleton and class
    for row, labels in zip(group, compounds["labels"], strict=True):
        counts[row, list(labels) or [classes]] += 1
    has_class = (counts > 0).astype(int)
    sizes = np.bincount(group)
    best, least = None, np.inf
    for draw in np.random.default_rng(seed).integers(2**31, size=DRAWS):
        fold = np.empty(len(skeletons), int)
        split = MultilabelStratifiedKFold(n_splits, shuffle=True, random_state=int(draw))
        for number, (_, held_out) in enumerate(split.split(has_class, has_class)):
            fold[held_out] = number
        in_fold = fold[:, None] == np.arange(n_splits)
        uneven = (sizes @ in_fold).var() + (counts.T @ in_fold).var(axis=1).sum()
        if in_fold.any(axis=0).all() and uneven < least:
            best, least = fold, uneven
    if best is None:
        hint = "without an empty one; use fewer folds"
        raise InputError(f"{dealing} cannot be dealt to {n_splits} folds {hint}")
    label = compounds["labels"].map(lambda labels: "+".join(map(str, labels)))
    kept = [column for column in compounds.columns if column not in ("compound", "labels", "n")]
    table = compounds.assign(fold=best[group], label=label)
    columns = ["fold", "compound", *kept, "label", "n"]
    return table[columns].sort_values(["fold", "compound"], ignore_index=True)
