"""Read the course project's folder: a table of RNA planes and the TIFFs themselves.

1. The table: `metadata.csv`, or the one `metadata*.csv` in the root, such as
   `metadata_BR00116991_filtered.csv`. Columns FileName_OrigRNA, Metadata_pert_iname, Metadata_Well
   and Metadata_Plate; others are left alone. `test.csv`, if it is there, has the hidden wells.
2. The images: `images/`, or the one folder in the root, or the root itself, that holds TIFFs with
   the key r##c##f## (row, column, field) in their names.

A row and a file belong together by that key, in any case and order; what is behind it may differ.
"""

from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import describe_folder
from cellsignal.common.tables import normalise_wells, read_table, refuse_rows
from cellsignal.competitions.cpjump1.metadata import CHANNELS, keys_of, stated
from cellsignal.competitions.sample_files import Places, origins, refuse_misstated

SOLVENT = "DMSO"  # what a well without a name got
SUFFIXES = (".tif", ".tiff")
CHANNEL = "rna"
TABLE, HIDDEN, IMAGES = "metadata.csv", "test.csv", "images"
_COLUMNS = ("FileName_OrigRNA", "Metadata_Well", "Metadata_Plate")
_NAME = "Metadata_pert_iname"


def read_images(root: Path) -> tuple[pd.DataFrame, tuple[tuple[str, str], ...]]:
    """Return the rows that have a file, sorted by key, and (reason, name) of what was left out.

    Returns:
        Columns key, plate, well, site, name, split, origin, files; and the rows without a file, the
        files without a row and those without a key.

    Raises:
        InputError: no table or two, no folder of images or two, a missing column, an empty cell, a
        key twice among rows or files, two plates, or no row that has a file.
    """
    table = find_table(root)
    parts = [_read_rows(table, "train")]
    if (root / HIDDEN).is_file():
        parts.append(_read_rows(root / HIDDEN, "test"))
    rows = pd.concat(parts, ignore_index=True)
    doubled = rows.key.duplicated()
    Places(root, rows).refuse(doubled, lambda row: f"another row has the key {rows.key[row]}, too")
    plates = sorted(rows.plate.unique())
    if len(plates) > 1:
        names = ", ".join(plates[:3])
        raise InputError(f"{table}: plates {names}; this competition has one plate")
    folder = find_images(root)
    file_of, others = _list_files(root, folder)
    has_file = rows.key.isin(set(file_of))
    lists = {
        "row without a file": rows.key[~has_file].to_list(),
        "file without a row": [file_of[key] for key in sorted(set(file_of) - set(rows.key))],
        "file without a key r##c##f##": others,
    }
    left_out = tuple((reason, name) for reason, names in lists.items() for name in names)
    if not has_file.any():
        first = rows.key.iloc[0] if len(rows) else "none"
        raise InputError(
            f"{root}: none of the rows of {table.name} has a file in {folder}, first {first}"
        )
    rows = rows[has_file].sort_values("key", ignore_index=True)
    return rows.assign(files=[(file_of[key],) for key in rows.key]), left_out


def find_table(root: Path) -> Path:
    """Return `metadata.csv`, or the one `metadata*.csv` in the root.

    Raises:
        InputError: there is none, or there are two of another name.
    """
    if (root / TABLE).is_file():
        return root / TABLE
    paths = sorted(path for path in root.glob("metadata*.csv") if path.is_file())
    if len(paths) > 1:
        raise InputError(
            f"{root}: {paths[0].name} and {paths[1].name}: keep one, or name it {TABLE}"
        )
    if not paths:
        raise InputError(
            f"{root / TABLE}: no such file, nor metadata*.csv; {describe_folder(root)}"
        )
    return paths[0]


def find_images(root: Path) -> Path:
    """Return the folder of the TIFFs.

    Raises:
        InputError: none holds a TIFF with a key, or two do.
    """
    if (root / IMAGES).is_dir():
        return root / IMAGES
    within = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    folders = [path for path in (root, *sorted(within)) if _holds_plane(path)]
    if len(folders) > 1:
        raise InputError(f"{root}: both {folders[0]} and {folders[1]} hold planes; keep one folder")
    if not folders:
        raise InputError(
            f"{root / IMAGES}: no such folder, and no other has r##c##f##*.tiff; "
            f"{describe_folder(root)}"
        )
    return folders[0]


def state_names(name: str) -> dict[str, str]:
    """Return `metadata.stated` with the channel as this competition calls it."""
    facts = stated(name)
    if facts.get("channel") in CHANNELS:
        facts["channel"] = facts["channel"].lower()
    return facts


def _read_rows(path: Path, split: str) -> pd.DataFrame:
    is_train = split == "train"
    columns = (*_COLUMNS, _NAME) if is_train else _COLUMNS
    table = read_table(path, columns, filled=_COLUMNS, any_row=is_train)
    keys, wells = keys_of(table.FileName_OrigRNA), normalise_wells(table.Metadata_Well)
    refuse_rows(path, table, keys.isna(), "FileName_OrigRNA", "holds no key r..c..f..")
    origin = origins(path.name, table)
    files = [(name,) for name in table.FileName_OrigRNA]
    stating = pd.DataFrame({"well": wells, "files": files, "origin": origin})
    refuse_misstated(stating, Places(path.parent, stating), (CHANNEL,), state_names)
    return pd.DataFrame(
        {
            "key": keys,
            "plate": table.Metadata_Plate,
            "well": wells,
            "site": keys.str[7:9].astype(int),
            "name": table[_NAME].replace("", SOLVENT) if is_train else "",
            "split": split,
            "origin": origin,
        }
    )


def _list_files(root: Path, folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return key -> path relative to the root of each TIFF, and the TIFFs without a key."""
    prefix = "" if folder == root else f"{folder.name}/"
    names = _tiffs(folder)
    file_of: dict[str, str] = {}
    others = []
    for name, key in zip(names, keys_of(pd.Series(names, dtype=str)), strict=True):
        if pd.isna(key):
            others.append(prefix + name)
            continue
        if key in file_of:
            both = f"{Path(file_of[key]).name} and {name}"
            raise InputError(f"{folder}: {both} have the same key; keep one channel and one plane")
        file_of[key] = prefix + name
    return file_of, others


def _holds_plane(folder: Path) -> bool:
    return bool(keys_of(pd.Series(_tiffs(folder), dtype=str)).notna().any())


def _tiffs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
