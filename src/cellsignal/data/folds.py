"""Fold tables: which groups (experiments, compounds, wells) are held out together.

A table is a CSV with the columns `fold`, the name of a samples column (what is never split), and
readable ones beside them. Fold -1 means never held out, fold -2 kept for the test: no fold trains
on it or validates with it. A group may be held out in two folds.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import changed_inputs, digest, sha256, write_csv, write_json
from cellsignal.common.tables import normalise_wells, read_table, refuse_rows
from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import NEVER, TEST, labelled, make_folds
from cellsignal.simulation.output import MARKER

log = logging.getLogger(__name__)

SPLITS, RUN_SPLITS = 5, 3  # folds that `folds` and `run` make by default
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
        """Return the groups that a fold holds out.

        Raises:
            InputError: there is no such fold.
        """
        if fold not in self.folds:
            folds = ", ".join(map(str, self.folds))
            raise InputError(f"fold {fold}: the table has the folds {folds}")
        return set(self.rows[self.group][self.rows.fold == fold])

    def validation(self, samples: pd.DataFrame, fold: int) -> np.ndarray:
        """Return (N,) bool: the labelled training treatments that `fold` holds out."""
        return labelled(samples) & samples[self.group].isin(self.held_out(fold)).to_numpy()

    def training(self, samples: pd.DataFrame, fold: int | None) -> np.ndarray:
        """Return (N,) bool: the labelled training treatments that `fold` trains on.

        With fold None: all of them but those kept for the test.
        """
        excluded = self.test
        if fold is not None:
            excluded = excluded | self.held_out(fold)
        return labelled(samples) & ~samples[self.group].isin(excluded).to_numpy()


# making
# --------------------------------------------------------------------------------------------------


def make_folds_file(
    competition_id: str,
    root: Path,
    out: Path,
    *,
    group: str | None = None,
    splits: int | None = None,
    seed: int = 0,
    named: str | None = None,
    force: bool = False,
) -> pd.DataFrame:
    """Make and write a fold table: the named one, or groups dealt to `splits` folds.

    Without a name and a group it is the competition's default.

    Args:
        splits: None makes five, or one a group where there are fewer groups.
        force: replace a file that holds another table.

    Raises:
        InputError: `out` holds another table, and `force` is not given.
    """
    table = _make_fold_table(competition_id, root, group, splits, seed, named, SPLITS)
    if out.exists() and not force and not _holds(out, table):
        raise InputError(
            f"{out}: holds another table; give --out for a file of its own, or --force to replace "
            "it"
        )
    write_csv(out, table)
    return table


def _make_fold_table(
    competition_id: str,
    root: Path,
    group: str | None,
    splits: int | None,
    seed: int,
    named: str | None,
    default: int,
) -> pd.DataFrame:
    competition, fewer = get_competition(competition_id), splits is None
    if group is None:
        named = named or competition.default_folds
        group = competition.fold_group(root)
    if group not in competition.fold_groups:
        groups = ", ".join(competition.fold_groups)
        raise InputError(f"--group {group}: {competition_id} has the fold groups {groups}")
    samples = competition.samples(root)
    competition.require_classes(root)
    if named is not None:
        return competition.named_folds(named, samples)
    count, groups = default if fewer else splits, competition.plate_groups(samples)
    word = competition.group_words.get(group, group)
    return make_folds(samples, group, count, seed, groups, fewer=fewer, word=word)


def default_folds_file(competition_id: str, root: Path) -> Path:
    """Return the default path of a fold table: `folds/<competition>.csv`.

    Raises:
        InputError: `root` is a simulated copy: its table would replace that of the real data set.
    """
    if (root / MARKER).is_file():
        raise InputError(
            f"{root}: is a simulated copy (it has a {MARKER}); give --out, a file of its own for "
            "its fold table"
        )
    return Path("folds") / f"{competition_id}.csv"


def bring_folds_up_to_date(
    competition_id: str, root: Path, out: Path, *, splits: int | None, seed: int
) -> None:
    """Make a fold table if it is missing, or if `run` made it and would now make another.

    With `splits` None these are three folds, or one a group where there are fewer groups.
    What it is made from is noted beside it (`<file>.made_by_run.json`). A table that somebody else
    made, or changed since, is left alone.
    """
    note_path = out.with_name(f"{out.name}.made_by_run.json")
    note = _read_note(note_path)
    if out.is_file() and note.get("sha256") != sha256(out):
        return
    table = _make_fold_table(competition_id, root, None, splits, seed, None, RUN_SPLITS)
    if _holds(out, table):
        return
    samples = get_competition(competition_id).samples(root).drop(columns="files")
    made_from = {"splits": splits or RUN_SPLITS, "seed": seed, "samples": digest(samples.to_csv())}
    if out.is_file():
        changed = changed_inputs(note.get("made_from"), made_from) or ["the code"]
        log.warning("%s: is made anew; changed: %s", out, ", ".join(changed))
    write_csv(out, table)
    write_json(note_path, {"sha256": sha256(out), "made_from": made_from})


def _read_note(path: Path) -> dict:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _holds(path: Path, table: pd.DataFrame) -> bool:
    """Return whether a file holds a table, whatever its line ends."""
    try:
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return False
    return text == table.to_csv(index=False, lineterminator="\n")


# reading
# --------------------------------------------------------------------------------------------------


def read_folds(path: Path | str, samples: pd.DataFrame) -> FoldTable:
    """Read a fold table and hold it to the samples.

    Raises:
        InputError: no such table; a group twice in a fold, or both held out and never, or kept for
        the test and not; a group without training labels, a training group that the table lacks,
        no fold, or a fold that leaves nothing to validate or to train on.
    """
    path = Path(path)
    rows = read_fold_rows(path)
    group = rows.columns[1]
    if group not in samples.columns or group in ("files", "label", "split", "role"):
        columns = ", ".join(samples.columns)
        raise InputError(
            f"{path}: {group!r} is not a samples column to group by; there are {columns}"
        )
    if group == "well":
        rows[group] = normalise_wells(rows[group])
    _check_rows(path, rows, group)
    table = FoldTable(group, _rows_of_samples(path, rows, group, samples))
    _check_folds(path, table, samples)
    return table


def read_fold_rows(path: Path) -> pd.DataFrame:
    """Read a fold table without the samples that it deals.

    Returns:
        Text, and `fold` as int64; its index is the row of the file.

    Raises:
        InputError: the file is not a table, its first columns are not `fold` and a group, or a fold
            is not a number from -2.
    """
    rows = read_table(path, filled=())
    if rows.columns[0] != "fold" or len(rows.columns) < 2:
        columns = ", ".join(rows.columns)
        raise InputError(
            f"{path}: the first columns must be fold and what it groups; it has {columns}"
        )
    wrong = ~rows.fold.str.fullmatch(r"-[12]|\d{1,6}")
    refuse_rows(path, rows, wrong, "fold", f"is neither {TEST} nor {NEVER} nor a number from 0")
    group = rows.columns[1]
    refuse_rows(path, rows, rows[group] == "", group, "is empty")
    return rows.assign(fold=rows.fold.astype("int64"))


def _check_rows(path: Path, rows: pd.DataFrame, group: str) -> None:
    doubled = rows.duplicated(["fold", group])
    refuse_rows(path, rows, doubled, group, "occurs twice in its fold")
    for fold, words in ((NEVER, "never held out"), (TEST, "kept for the test")):
        inside = rows.fold == fold
        both = set(rows[group][inside]) & set(rows[group][~inside])
        if both:
            name = min(both)
            raise InputError(
                f"{path}: {group} {name!r} is {words} (fold {fold}) and in another fold"
            )


def _rows_of_samples(
    path: Path, rows: pd.DataFrame, group: str, samples: pd.DataFrame
) -> pd.DataFrame:
    """Return the rows of the groups that the samples have.

    Of a data set that is there in part, a table of the whole may be used.
    """
    known = set(samples[group].dropna().astype(str))
    trained = set(samples[group][labelled(samples)].dropna().astype(str))
    missing = sorted(trained - set(rows[group]))
    unknown = ~rows[group].isin(known)
    if missing:
        refuse_rows(path, rows, unknown, group, "is unknown: no sample has it")
    if unknown.any():
        count = int(unknown.sum())
        log.warning("%s: %d of %d values of %s have no image here", path, count, len(rows), group)
        rows = rows[~unknown]
    unlabelled = ~rows[group].isin(trained)
    if "labels" in rows.columns:
        unlabelled &= rows.labels != DERIVED
    refuse_rows(path, rows, unlabelled, group, "has no labelled training sample")
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
