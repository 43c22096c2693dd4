"""Find the columns of a profile table that say what a well is, and make the wells from them."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import MISSING, read_table
from cellsignal.common.ties import listed
from cellsignal.competitions.samples import ROLES
from cellsignal.profiles.names import USUAL
from cellsignal.profiles.table_files import TablePart, cell_text

NEEDED = ("plate", "well", "treatment")
_NEGATIVE = ("negcon", "negative_control", "negative", "control_vehicle", "vehicle")
_UNTREATED = ("dmso", "vehicle", "untreated", "mock", "empty")


def find_column(
    path: Path, columns: Sequence[str], meaning: str, named: Mapping[str, str]
) -> str | None:
    """Return the column that says `meaning`: the named one, or the first usual one that is there.

    Usual names count in any case. Those after Metadata_ come before plain ones.

    Args:
        columns: of the table.
        meaning: a key of `USUAL`.
        named: what the caller named, by meaning.

    Returns:
        None where the table has no such column and does not need it.

    Raises:
        InputError: the named column, or one that is needed, is missing. Names the nearest.
    """
    if meaning in named:
        for name in (named[meaning], f"Metadata_{named[meaning]}"):
            if name in columns:
                return name
        raise InputError(
            f"{path}: no column {named[meaning]!r} (--columns {meaning}={named[meaning]}); "
            f"{_nearest(named[meaning], columns)}"
        )
    lower = {name.lower(): name for name in reversed(columns)}
    for prefix in ("metadata_", ""):
        for name in USUAL[meaning]:
            if f"{prefix}{name.lower()}" in lower:
                return lower[f"{prefix}{name.lower()}"]
    if meaning in NEEDED:
        usual = f"Metadata_{USUAL[meaning][0]}"
        raise InputError(
            f"{path}: no column of the {meaning}, such as {usual}; name it by --columns "
            f"{meaning}=NAME; {_nearest(usual, columns)}"
        )
    return None


def _nearest(name: str, columns: Sequence[str]) -> str:
    bare = {column.removeprefix("Metadata_").lower(): column for column in reversed(columns)}
    word = name.removeprefix("Metadata_").lower()
    near = [bare[close] for close in difflib.get_close_matches(word, bare, 3, cutoff=0.5)]
    if near:
        return f"the nearest are {', '.join(near)}"
    metadata = [column for column in columns if column.startswith("Metadata_")] or list(columns)
    return f"it has {listed(metadata, 8)}"


def make_wells(
    parts: Sequence[TablePart],
    named: Mapping[str, str],
    controls: Mapping[str, str],
    batch_pattern: str | None = None,
) -> pd.DataFrame:
    """Return one row a well, as `sources.COLUMNS`, moa, targets, modality, gene, count.

    Args:
        named: columns by meaning, see `find_column`.
        controls: column -> value of the negative controls; empty finds them by a control type, or
            by the name of the treatment (DMSO).
        batch_pattern: regular expression whose match in the plate's name is the batch.

    Raises:
        InputError: a column is missing, a control value matches nothing, a count is no number, or
            rows of one well disagree. Names file, column and row.
    """
    rows = pd.concat(
        [_part_rows(part, named, controls, batch_pattern) for part in parts], ignore_index=True
    )
    if controls and not (rows.role == "negative_control").any():
        text = ", ".join(f"{column}={value}" for column, value in controls.items())
        title = listed(part.path.name for part in parts)
        raise InputError(f"{title}: --controls {text}: matches no row")
    for column in ("experiment", "treatment", "role", "compound", "moa"):
        values = rows[column].fillna("").groupby(rows.well_id).nunique()
        if (values > 1).any():
            row = rows[rows.well_id == values.idxmax()].iloc[-1]
            raise InputError(
                f"{row.file}: row {row.row}: well {row.plate} {row.well} has another {column} "
                "in a row before"
            )
    wells = rows.drop_duplicates("well_id").drop(columns=["file", "row"]).reset_index(drop=True)
    return wells.assign(count=wells.well_id.map(rows.groupby("well_id")["count"].mean()))


def _part_rows(
    part: TablePart,
    named: Mapping[str, str],
    controls: Mapping[str, str],
    batch_pattern: str | None,
) -> pd.DataFrame:
    """The columns of `make_wells`, and file and row, of every row of a file."""
    frame, path = part.metadata, part.path
    cells = {}
    for meaning in USUAL:
        column = find_column(path, list(frame.columns), meaning, named)
        if column is not None:
            cells[meaning] = frame[column].map(cell_text).map(_or_none).astype(object)
    empty = pd.Series(None, frame.index, dtype=object)
    treatment = cells["treatment"]
    compound = cells.get("compound", treatment).fillna(treatment)
    role = _roles(part, cells, controls, treatment.fillna(compound))
    if "concentration" in cells:
        dose = cells["concentration"]
        dosed = treatment.fillna("") + "@" + dose.fillna("")
        treatment = treatment.where(dose.isna() | treatment.isna(), dosed)
    targets = cells.get("targets", empty)
    treated = role != "negative_control"
    return pd.DataFrame(
        {
            "file": str(path),
            "row": frame.index,
            "well_id": part.keys.plate + "_" + part.keys.well,
            "experiment": _batches(part, cells, batch_pattern),
            "plate": part.keys.plate,
            "well": part.keys.well,
            "role": role,
            "compound": compound,
            "treatment": treatment.fillna(compound),
            "cell_type": cells.get("cell_type", empty).fillna("all wells"),
            "moa": cells.get("moa", empty).where(treated, None),
            "targets": [_genes(text) for text in targets.where(treated, None)],
            "modality": cells.get("modality", empty),
            "gene": cells.get("gene", empty).where(treated, None),
            "count": _counts(part, cells.get("count", empty)),
        }
    )


def _or_none(text: str) -> str | None:
    return None if text in MISSING else text


def _genes(text: str | None) -> tuple[str, ...]:
    if not isinstance(text, str):
        return ()
    genes = {gene.strip() for gene in re.split(r"[|;]", text)}
    return tuple(sorted(genes - MISSING))


def _roles(
    part: TablePart, cells: dict[str, pd.Series], controls: Mapping[str, str], names: pd.Series
) -> np.ndarray:
    """negative_control, positive_control or treatment of each row."""
    lower = cells["control"].fillna("").str.lower() if "control" in cells else None
    if part.record and not controls and lower is not None and lower.isin(ROLES).all():
        return lower.to_numpy(object)
    positive = np.zeros(len(names), bool)
    if lower is not None:
        positive = lower.str.startswith("pos").to_numpy()
    if controls:
        negative = np.ones(len(names), bool)
        for word, value in controls.items():
            column = find_column(
                part.path, list(part.metadata.columns), "control", {"control": word}
            )
            negative &= (part.metadata[column].map(cell_text) == value).to_numpy()
    elif lower is not None and lower.isin(_NEGATIVE).any():
        negative = lower.isin(_NEGATIVE).to_numpy()
    else:
        negative = names.fillna("").str.lower().isin(_UNTREATED).to_numpy()
    role = np.where(positive, "positive_control", "treatment")
    return np.where(negative, "negative_control", role).astype(object)


def _batches(part: TablePart, cells: dict[str, pd.Series], pattern: str | None) -> pd.Series | str:
    if pattern is None:
        return cells["batch"].fillna("one batch") if "batch" in cells else "one batch"
    try:
        matched = part.keys.plate.map(lambda plate: re.search(pattern, plate))
    except re.error as error:
        raise InputError(f"--batch-pattern {pattern!r}: not a pattern ({error})") from None
    if matched.isna().any():
        row = part.keys.index[matched.isna()][0]
        raise InputError(
            f"{part.path}: row {row}: plate {part.keys.plate[row]!r} does not match "
            f"--batch-pattern {pattern!r}"
        )
    return matched.map(lambda match: match[0])


def _counts(part: TablePart, cells: pd.Series) -> np.ndarray:
    numbers = pd.to_numeric(cells, errors="coerce").astype(float)
    wrong = cells.notna() & ~(np.isfinite(numbers) & (numbers >= 0))
    if wrong.any():
        row = cells.index[wrong][0]
        raise InputError(f"{part.path}: row {row}: count {cells[row]!r} is not a number of cells")
    return numbers.to_numpy()


def add_annotations(part: TablePart, path: Path, named: Mapping[str, str]) -> TablePart:
    """Return the part with the columns of an annotation file, joined by treatment or compound.

    Args:
        path: a table with a column named as the part's treatment or compound, with or without
            "Metadata_". Its other columns replace those of the part in the rows that it names.

    Raises:
        InputError: no column to join by, a value twice in it, or none of them occurs in the part.
    """
    table, columns = read_table(path), list(part.metadata.columns)
    keys = [
        find_column(part.path, columns, meaning, named) for meaning in ("treatment", "compound")
    ]
    for key in filter(None, keys):
        for name in (key, key.removeprefix("Metadata_")):
            if name in table:
                break
        else:
            continue
        filled = table[~table[name].isin(MISSING)]
        doubled = filled.index[filled[name].duplicated()]
        if len(doubled):
            raise InputError(f"{path}: row {doubled[0]}: {name} occurs more than once")
        by_key = filled.set_index(name)
        cells = part.metadata[key].map(cell_text)
        if not cells.isin(by_key.index).any():
            raise InputError(
                f"{path}: no {name} of it is in {part.path}, first {by_key.index[0]!r}"
            )
        metadata = part.metadata.copy()
        for column in by_key.columns:
            bare = column.removeprefix("Metadata_")
            full = f"Metadata_{bare}"
            before = metadata.get(full, metadata.get(bare, ""))
            metadata[full] = cells.map(by_key[column]).fillna(before).astype(object)
        return replace(part, metadata=metadata)
    wanted = " or ".join(dict.fromkeys(filter(None, keys)))
    raise InputError(f"{path}: no column {wanted} to join it by; {_nearest(wanted, list(table))}")
