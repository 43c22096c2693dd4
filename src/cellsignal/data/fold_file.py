"""Fold tables as files: made by `folds` or `run`, and never put in another table's place without a
word.
"""

import json
import logging
from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import changed_inputs, digest, sha256, write_csv, write_json
from cellsignal.competitions import get_competition
from cellsignal.data.folds import make_folds
from cellsignal.simulation.output import MARKER

log = logging.getLogger(__name__)


def make_folds_file(
    competition_id: str,
    root: Path,
    out: Path,
    *,
    group: str | None = None,
    splits: int = 5,
    seed: int = 0,
    named: str | None = None,
    force: bool = False,
) -> pd.DataFrame:
    """Make and write a fold table: by its name, or groups dealt to `splits` folds; without either
    the competition's default. Gives it back.

    Args:
        force: replace a file that holds another table.

    Raises:
        InputError: `out` holds another table, and `force` is not given.
    """
    table = _make_fold_table(competition_id, root, group, splits, seed, named)
    if out.exists() and not force and _file_text(out) != _table_text(table):
        raise InputError(
            f"{out}: holds another table; give --out for a file of its own, or --force to replace "
            "it"
        )
    write_csv(out, table)
    return table


def _make_fold_table(
    competition_id: str, root: Path, group: str | None, splits: int, seed: int, named: str | None
) -> pd.DataFrame:
    competition = get_competition(competition_id)
    named = named or (competition.default_folds if group is None else None)
    group = group or competition.fold_groups[0]
    if group not in competition.fold_groups:
        raise InputError(
            f"--group {group}: {competition_id} has the fold groups "
            f"{', '.join(competition.fold_groups)}"
        )
    samples = competition.samples(root)
    competition.require_classes(root)
    if named is not None:
        return competition.named_folds(named, samples)
    return make_folds(samples, group, splits, seed, plate_groups=competition.plate_groups(samples))


def default_folds_file(competition_id: str, root: Path) -> Path:
    """Where `folds` writes without --out: beside the tables that configs of the real data set name.

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
    competition_id: str, root: Path, out: Path, *, splits: int, seed: int
) -> None:
    """Make a fold table if its file is not there, or if this has made it and it would be another
    one now.

    What it is made from is noted beside it (`<file>.made_by_run.json`). A table that somebody else
    made, or changed since, is left alone.
    """
    note = out.with_name(f"{out.name}.made_by_run.json")
    made = _read_note(note)
    if out.is_file() and made.get("sha256") != sha256(out):
        return
    table = _make_fold_table(competition_id, root, None, splits, seed, None)
    text = _table_text(table)
    samples = get_competition(competition_id).samples(root)
    made_from = {
        "splits": splits,
        "seed": seed,
        "samples": digest(samples.drop(columns="files").to_csv()),
    }
    if out.is_file():
        if _file_text(out) == text:
            return
        changed = changed_inputs(made.get("made_from"), made_from) or ["the code"]
        log.warning("%s: is made anew; changed: %s", out, ", ".join(changed))
    write_csv(out, table)
    write_json(note, {"sha256": sha256(out), "made_from": made_from})


def _read_note(path: Path) -> dict:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _table_text(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n")


def _file_text(path: Path) -> str:
    """A file's text with plain line ends; "" where it cannot be read as text."""
    try:
        return path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return ""
