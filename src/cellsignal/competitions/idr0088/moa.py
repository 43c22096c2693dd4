"""Mechanisms of action: the annotation's strings, as the curated table `moa.csv` reads them, and
the classes of the tasks.

`moa.csv` has a row for each of the 292 strings of the published table: `raw`; `moa`, the mechanisms
in it ("; " between them), in one spelling (partial_agonist and partial agonist are agonist, "PPAR
agonist" is spelt out, an activator of a nuclear receptor is its agonist; agonist and antagonist
stay apart); `coarse`, the group of each mechanism in the same order; `note`, why, where it is a
judgement. A row without `moa` says that nothing is known ("Unknown_MoA"): such compounds are
unlabelled, as those with a blank cell. "negative_control" compounds are inactive analogues of
inhibitors: they are known not to act, so they are labelled, as negatives, and never make a class.
"""

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.common.tables import read_table

PATH = Path(__file__).with_name("moa.csv")
COLUMNS = ("raw", "moa", "coarse", "note")
GPCR_AGONIST, INACTIVE = "GPCR agonist", "inactive analogue"  # of the column `coarse`
# a mechanism with fewer labelled compounds is no class: too few to hold out and to learn from
MIN_COMPOUNDS = 3


@dataclass(frozen=True)
class MoaTable:
    """The curated table.

    Attributes:
        of: raw string -> its mechanisms, () where nothing is known.
        coarse: mechanism -> its group.
    """

    of: dict[str, tuple[str, ...]]
    coarse: dict[str, str]

    def moas(self, raw: Iterable[str], source: Path | str) -> tuple[str, ...] | None:
        """The mechanisms of a compound from all its strings, in the order of the alphabet; None
        where nothing is known.

        Raises:
            InputError: a string that the table does not have.
        """
        found: set[str] = set()
        for text in raw:
            if text not in self.of:
                raise InputError(
                    f"{source}: Compound MoA {text!r} is not in {PATH.name}; add a row that says "
                    "what it means"
                )
            found.update(self.of[text])
        return alphabetical(found) or None


@functools.cache
def read_moa_table(path: Path = PATH) -> MoaTable:
    """Read the curated table.

    Raises:
        InputError: other columns, a string twice, as many groups as mechanisms not given, or a
        mechanism in two groups.
    """
    of: dict[str, tuple[str, ...]] = {}
    coarse: dict[str, str] = {}
    table = read_table(path, COLUMNS, filled=("raw",), unique="raw", missing={""})
    if tuple(table.columns) != COLUMNS:
        raise InputError(f"{path}: the columns must be {', '.join(COLUMNS)}")
    for number, raw, *cells in zip(table.index, table.raw, table.moa, table.coarse, strict=True):
        moas, groups = (
            [part.strip() for part in cell.split(";") if part.strip()] for cell in cells
        )
        if len(moas) != len(groups) or len(set(moas)) < len(moas):
            raise InputError(
                f"{path}: row {number}: {len(moas)} mechanisms, {len(groups)} groups; one of "
                "each, none twice"
            )
        for moa, group in zip(moas, groups, strict=True):
            if coarse.setdefault(moa, group) != group:
                raise InputError(
                    f"{path}: row {number}: {moa!r} is in {group!r} here, in {coarse[moa]!r} above"
                )
        of[raw] = tuple(moas)
    return MoaTable(of, coarse)


def alphabetical(names: Iterable[str]) -> tuple[str, ...]:
    """Sorted as in a dictionary, capitals or not."""
    return tuple(sorted(names, key=lambda name: (name.casefold(), name)))


def gpcr_classes(moas: Iterable[tuple[str, ...] | None]) -> dict[str, frozenset[str]]:
    """The one class of `idr0088_gpcr` and the mechanisms that are it: agonists of a G
    protein-coupled receptor.

    Nicotinic, GABA-A and ionotropic glutamate receptors are channels; the receptors of steroids,
    retinoids, PPAR, LXR, FXR and PXR are nuclear; Trk is a kinase; sigma-1 is none of these. Their
    agonists are not in it.
    """
    coarse = read_moa_table().coarse
    return {GPCR_AGONIST: frozenset(moa for moa, group in coarse.items() if group == GPCR_AGONIST)}


def moa_classes(moas: Iterable[tuple[str, ...] | None]) -> dict[str, frozenset[str]]:
    """The classes of `idr0088_moa`: each mechanism that at least `MIN_COMPOUNDS` compounds have, in
    the order of the alphabet.

    Args:
        moas: of each compound; None where nothing is known.
    """
    coarse = read_moa_table().coarse
    counts = Counter(moa for found in moas for moa in found or ())
    frequent = (moa for moa, n in counts.items() if n >= MIN_COMPOUNDS and coarse[moa] != INACTIVE)
    return {moa: frozenset([moa]) for moa in alphabetical(frequent)}


def labels_of(
    moas: tuple[str, ...] | None, classes: dict[str, frozenset[str]]
) -> tuple[int, ...] | None:
    """The class numbers of a compound: () where its mechanisms are known and none is a class, None
    where they are not known.
    """
    return (
        None
        if moas is None
        else tuple(i for i, members in enumerate(classes.values()) if members & set(moas))
    )
