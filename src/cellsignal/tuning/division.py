"""Deal the folds of a config to the search and to the measuring of its winner.

The groups of the left-out folds (experiments, compounds) neither train nor validate in the search.
Afterwards the base config and the winner are trained on all other groups and scored on these. Where
there are too few groups for that, all take part in both, and the winner is measured on folds of
another draw; its gain is then less sure, and the text says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.competitions.base import Competition
from cellsignal.competitions.folds import TEST, labelled, make_folds
from cellsignal.data.folds import FoldTable
from cellsignal.metrics.intervals import LEAST_UNITS

SEARCH_TABLE, FRESH_TABLE = "search_folds.csv", "fresh_folds.csv"
_DRAWS = 20  # of a fresh table, until it differs from the config's


@dataclass(frozen=True)
class Division:
    """Which folds search, and which measure the winner.

    Attributes:
        group: the samples column that folds do not split.
        search: folds of `SEARCH_TABLE`, in the order in which trials are trained.
        left_out: folds of the config's own table; empty: all of `FRESH_TABLE`.
        units: number of groups that measure the winner.
    """

    group: str
    search: tuple[int, ...]
    left_out: tuple[int, ...]
    units: int


def divide_folds(
    table: FoldTable, search: Sequence[int] | None, left_out: Sequence[int] | None
) -> Division:
    """Choose the folds that search and those that are left out.

    Args:
        search: None takes all that are not left out.
        left_out: None leaves the last third of the folds out, at least one and so many that an
            interval over their groups can be had, if two folds to search on remain; else none.

    Raises:
        InputError: a fold that the table does not have, one in both, or none left to search on.
    """
    for option, folds in (("--folds", search), ("--left-out", left_out)):
        unknown = [fold for fold in folds or () if fold not in table.folds]
        if unknown:
            raise InputError(
                f"{option}: the fold table has the folds {list(table.folds)}, not {unknown[0]}"
            )
    if left_out is None:
        left_out = _choose_left_out(table, search)
    groups = _groups_of(table, left_out)
    chosen = search if search is not None else [f for f in table.folds if f not in left_out]
    for fold in chosen:
        if fold in left_out:
            raise InputError(f"--folds: fold {fold} is left out of the search by --left-out")
        if not table.held_out(fold) - groups:
            raise InputError(f"--folds: every group of fold {fold} is in a fold that is left out")
    if not chosen:
        raise InputError("--left-out: no fold remains to search on")
    units = len(groups) if left_out else len(_groups_of(table, table.folds))
    return Division(table.group, tuple(dict.fromkeys(chosen)), tuple(left_out), units)


def _choose_left_out(table: FoldTable, search: Sequence[int] | None) -> list[int]:
    free = [fold for fold in table.folds if search is None or fold not in search]
    most = len(free) if search is not None else len(free) - 2
    least = max(1, len(table.folds) // 3)
    for count in range(least, most + 1):
        chosen = free[len(free) - count :]
        if len(_groups_of(table, chosen)) >= LEAST_UNITS:
            return chosen
    return []


def _groups_of(table: FoldTable, folds: Sequence[int]) -> set[str]:
    return {group for fold in folds for group in table.held_out(fold)}


def write_search_table(table: FoldTable, division: Division, folder: Path) -> Path:
    """Write the table of the search: the left-out groups are kept for the test there."""
    rows = table.rows.copy()
    is_left_out = rows[table.group].isin(_groups_of(table, division.left_out))
    rows.loc[is_left_out, "fold"] = TEST
    rows = rows[~(is_left_out & rows.duplicated(table.group))]
    path = folder / SEARCH_TABLE
    write_csv(path, rows)
    return path


def write_fresh_table(
    competition: Competition, samples: pd.DataFrame, table: FoldTable, seed: int, folder: Path
) -> Path:
    """Write a fold table of the same groups and as many folds, dealt by another draw.

    Groups that are never held out, or kept for the test, stay so.
    """
    never = table.rows[table.rows.fold < 0]
    groups = _groups_of(table, table.folds)
    dealt = samples[labelled(samples) & samples[table.group].astype(str).isin(groups).to_numpy()]
    layouts = competition.plate_groups(samples)
    old = _parts(table.rows[table.rows.fold >= 0], table.group)
    for draw in range(_DRAWS):
        seeds = np.random.SeedSequence([seed, draw]).generate_state(1)
        options = {"plate_groups": layouts, "fewer": True}
        rows = make_folds(dealt, table.group, len(table.folds), int(seeds[0]), **options)
        if _parts(rows, table.group) != old:
            break
    path = folder / FRESH_TABLE
    columns = [name for name in rows.columns if name in never.columns]
    write_csv(path, pd.concat([rows[columns], never[columns]], ignore_index=True))
    return path


def _parts(rows: pd.DataFrame, group: str) -> set[frozenset[str]]:
    return {frozenset(part) for _, part in rows.groupby("fold")[group]}
