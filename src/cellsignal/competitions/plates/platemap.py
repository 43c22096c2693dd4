"""Read platemaps: what each well of a plate got."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import MISSING, is_well, normalise_wells, read_sheet, read_table
from cellsignal.competitions.plates.conditions import KEYS, explain_values, match_condition
from cellsignal.competitions.plates.description import FILE, Description, parse_condition
from cellsignal.competitions.plates.labels import read_labels, require_column

BARCODES = ("Assay_Plate_Barcode", "Plate_Map_Name")  # columns of barcode_platemap.csv
WELL_NAMES = ("well", "well_position", "Metadata_Well", "Well", "well_id")
PLATE_NAMES = ("plate", "Metadata_Plate", "Plate", "barcode", "Assay_Plate_Barcode")
_COLUMN_KEYS = ("compound", "concentration", "batch", "cell_type")


def read_any_table(path: Path) -> pd.DataFrame:
    """Read a CSV, TSV or XLSX (its first sheet) as text cells.

    Raises:
        InputError: no such file, or it is damaged; see `tables.read_table`.
    """
    if path.suffix.lower() == ".xlsx":
        return read_sheet(path)
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".txt") else None
    return read_table(path, any_row=True, delimiter=delimiter)


def read_platemaps(root: Path, description: Description, plates: list[str]) -> pd.DataFrame:
    """Return what every well of the plates got, one row a well.

    Args:
        plates: names of the plates that have images.

    Returns:
        Columns plate, well, label, compound, concentration, batch, cell_type (text; "" where the
        description names no such column), labels (see `labels.read_labels`), and
        is_negative_controls, is_positive_controls, is_hidden (bool), with the cell that
        each of these conditions looks at (cell_negative_controls, ...).

    Raises:
        InputError: a column that is not there, a doubled well, a condition that matches no well.
    """
    root, source = Path(root), platemaps_of(Path(root), description.platemap)
    if isinstance(source, dict):
        parts = [
            _read_one(root / file, description, plate, plates)
            for plate, file in source.items()
            if plate in plates
        ]
        if not parts:
            listed = ", ".join(source)
            raise InputError(
                f"{root / FILE}: platemap: names the plates {listed}; the images are of "
                f"{', '.join(plates)}"
            )
        table = pd.concat(parts, ignore_index=True)
        files = [root / file for plate, file in source.items() if plate in plates]
    else:
        table = _read_one(root / source, description, None, plates)
        files = [root / source]
    _refuse_unmatched(root, files, table, description)
    return table


def _refuse_unmatched(
    root: Path, files: list[Path], table: pd.DataFrame, description: Description
) -> None:
    """Refuse a condition of which a value stands nowhere in its column; say where it stands."""
    for key in KEYS:
        text = getattr(description, key)
        condition = parse_condition(text) if text else None
        held = set(table[f"cell_{key}"])
        absent = [value for value in condition.values if value not in held] if text else []
        if absent:
            cells = pd.concat([read_any_table(path) for path in dict.fromkeys(files)]).fillna("")
            raise InputError(
                f"{root / FILE}: {key}: no well of the platemap has "
                f"'{condition.column} = {absent[0]}'; {explain_values(cells, condition, absent)}"
            )


def platemaps_of(root: Path, source: Path | dict[str, Path]) -> Path | dict[str, Path]:
    """Return {plate: file} of a table that names a platemap for each barcode; else the source.

    The platemaps lie in the folder `platemap` beside it, as the Cell Painting Gallery keeps them.

    Raises:
        InputError: one of them is not there, or the table has no row.
    """
    if isinstance(source, dict):
        return source
    table = read_any_table(root / source)
    if not set(BARCODES) <= set(table):
        return source
    folder = source.parent / "platemap"
    files = {path.stem: folder / path.name for path in sorted((root / folder).glob("*.*"))}
    for row, name in table[BARCODES[1]].items():
        if name not in files:
            raise InputError(f"{root / source}: row {row}: there is no {root / folder / name}.txt")
    return {barcode: files[name] for barcode, name in table[list(BARCODES)].itertuples(index=False)}


def _read_one(
    path: Path, description: Description, plate: str | None, plates: list[str]
) -> pd.DataFrame:
    table = read_any_table(path)
    well_column = _find(path, table, "well", description.well, WELL_NAMES)
    wells = normalise_wells(table[well_column])
    wrong = ~wells.map(is_well).astype(bool)
    if wrong.any():
        row = table.index[wrong][0]
        raise InputError(f"{path}: row {row}: {well_column} {wells[row]!r} is not a well")
    made = pd.DataFrame({"well": wells})
    made["label"], made["labels"] = read_labels(path, table, description)
    for key in _COLUMN_KEYS:
        column = getattr(description, key)
        if column is not None:
            require_column(path, table, key, column)
        cells = table[column] if column is not None else pd.Series("", index=table.index)
        made[key] = cells.where(~cells.isin(MISSING), "")
    for key in KEYS:
        made[f"cell_{key}"], made[f"is_{key}"] = match_condition(
            path, table, key, getattr(description, key)
        )
    if plate is not None:
        parts = [made.assign(plate=plate)]
    else:
        parts = _of_plates(path, table, made, description, plates)
    made = pd.concat(parts)
    doubled = made.duplicated(["plate", "well"])
    if doubled.any():
        row = made[doubled].iloc[0]
        hint = ""
        if plate is None and _plate_column(table, description) is None:
            holding = column_of_plates(table, plates)
            hint = f"; if the table holds several plates, say plate: COLUMN in {FILE}"
            hint += f"; {holding!r} holds the plates' names" if holding else ""
        raise InputError(
            f"{path}: row {made.index[doubled][0]}: well {row.well} of plate {row.plate} occurs "
            f"twice{hint}"
        )
    return made.reset_index(drop=True)


def _of_plates(
    path: Path,
    table: pd.DataFrame,
    made: pd.DataFrame,
    description: Description,
    plates: list[str],
) -> list[pd.DataFrame]:
    """Give the rows their plate: by a column, or each row to every plate."""
    column = _plate_column(table, description)
    if column is None:
        if description.plate != "plate":
            require_column(path, table, "plate", description.plate)
        holding = column_of_plates(table, plates)
        # plates called 1, 2, ... may stand in a column of doses: there a doubled well is awaited
        if holding and not all(plate.isdigit() for plate in plates):
            raise InputError(
                f"{path}: if the table holds several plates, say plate: COLUMN in {FILE}; "
                f"{holding!r} holds the plates' names"
            )
        return [made.assign(plate=plate) for plate in plates]
    made = made.assign(plate=table[column])
    if not set(made.plate) & set(plates):
        raise InputError(
            f"{path}: {column}: names the plates {', '.join(sorted(set(made.plate))[:5])}; the "
            f"images are of {', '.join(plates[:5])}{_other_column(table, column, plates)}"
        )
    return [made]


def _plate_column(table: pd.DataFrame, description: Description) -> str | None:
    usual = PLATE_NAMES if description.plate == PLATE_NAMES[0] else ()
    return next((name for name in (description.plate, *usual) if name in table), None)


def column_of_plates(table: pd.DataFrame, plates: Collection[str]) -> str | None:
    """Return the column that names most of the plates of the images, if any does."""
    counts = {name: len(set(table[name]) & set(plates)) for name in table}
    best = max(counts, key=counts.get, default=None)
    return best if best is not None and counts[best] else None


def _other_column(table: pd.DataFrame, column: str, plates: list[str]) -> str:
    holding = column_of_plates(table, plates)
    return f"; {holding!r} holds the plates' names" if holding not in (None, column) else ""


def _find(path: Path, table: pd.DataFrame, key: str, column: str, usual: tuple[str, ...]) -> str:
    """Return the column of a key, or one of its usual names where the default is not there."""
    for name in (column, *(usual if column == usual[0] else ())):
        if name in table:
            return name
    require_column(path, table, key, column)
    raise AssertionError
