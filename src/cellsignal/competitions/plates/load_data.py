"""Read `load_data.csv`: the Cell Painting Gallery's tables of which file shows which channel.

A row is a site; `FileName_OrigDNA` and `PathName_OrigDNA` (or `URL_OrigDNA`) say where its plane of
the channel OrigDNA once lay. Here it is the file whose path ends the same way.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import is_well, normalise_wells, read_table

NAME = "load_data"
_TABLES = ("load_data.csv", "load_data.csv.gz")
_TABLES += ("load_data_with_illum.csv", "load_data_with_illum.csv.gz")
_WELL, _SITE, _PLATE, _BATCH = "Metadata_Well", "Metadata_Site", "Metadata_Plate", "Metadata_Batch"
_NUMBERS = {"site": _SITE, "z": "Metadata_PlaneID", "time": "Metadata_TimepointID"}
_TAIL = 4  # folders and name at the end of a path that are compared


def find_tables(folder: Path) -> list[Path]:
    """Return the tables under a folder, one of each folder that holds any."""
    tables = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        tables += [Path(parent) / name for name in _TABLES if name in files][:1]
    return sorted(tables)


def channel_name(column: str) -> str:
    """Return a short name of a channel: OrigDNA is DNA."""
    return column.removeprefix("Orig") or column


def read_planes(
    folder: Path, names: Sequence[str]
) -> tuple[list[dict[str, str]], list[tuple[str, str]]]:
    """Return a row a plane that the tables name and the folder holds, and what was left out.

    Args:
        names: paths of the images, relative to `folder`.

    Returns:
        Rows with file, plate, well, site, channel, z, time, and batch where the tables say it; and
        (reason, name) of sites without any file, and of images that no table names.

    Raises:
        InputError: a table lacks a column, or a well or a site is none; names the table and row.
    """
    folder = Path(folder)
    tables = {path: _read(path) for path in find_tables(folder)}
    plates = {plate for table in tables.values() for plate in table.plate}
    lookup = _Lookup(names, any_folder=len(plates) == 1)
    rows, left_out = [], []
    for path, table in tables.items():
        for place, facts, planes in _sites(path, table):
            files = {
                channel: lookup.find(parts, facts["plate"]) for channel, parts in planes.items()
            }
            rows += [
                {"file": file, "channel": channel, **facts}
                for channel, file in files.items()
                if file is not None
            ]
            if not any(files.values()):
                left_out.append((f"a site of {path.name} whose files are not there", place))
    named = {row["file"] for row in rows}
    left_out += [("an image that no load_data.csv names", name) for name in set(names) - named]
    return rows, sorted(left_out)


def _read(path: Path) -> pd.DataFrame:
    """Return a table with the columns plate, well, site, z, time, and batch if it has one."""
    table = read_table(path, (_WELL, _SITE), any_row=True)
    wells = normalise_wells(table[_WELL])
    wrong = ~wells.map(is_well).astype(bool)
    if wrong.any():
        row = table.index[wrong][0]
        raise InputError(f"{path}: row {row}: {_WELL} {wells[row]!r} is not a well")
    table = table.assign(well=wells, plate=table.get(_PLATE, path.parent.name))
    for key, column in _NUMBERS.items():
        numbers = table[column] if column in table else pd.Series("1", index=table.index)
        wrong = ~numbers.str.fullmatch(r"\d+").astype(bool)
        if wrong.any():
            row = table.index[wrong][0]
            raise InputError(f"{path}: row {row}: {column} {numbers[row]!r} is not a number")
        table[key] = numbers
    return table.assign(batch=table[_BATCH]) if _BATCH in table else table


def _sites(
    path: Path, table: pd.DataFrame
) -> Iterator[tuple[str, dict[str, str], dict[str, tuple[str, ...]]]]:
    """Yield the place, the facts, and the path (in parts) of each channel, row by row."""
    columns = {}
    for column in table.columns:
        kind, _, channel = column.partition("_")
        if kind in ("FileName", "URL") and not channel.startswith("Illum"):
            columns.setdefault(channel, column)
    if not columns:
        raise InputError(f"{path}: has no column FileName_OrigDNA or URL_OrigDNA, of any channel")
    keys = [key for key in ("batch", "plate", "well", "site", "z", "time") if key in table]
    for number, row in zip(table.index, table.to_dict("records"), strict=True):
        planes = {}
        for channel, column in columns.items():
            text = row[column]
            if column.startswith("FileName"):
                text = f"{row.get(f'PathName_{channel}', '')}/{text}" if text else ""
            text = unquote(text) if column.startswith("URL") else text
            if text:
                planes[channel] = tuple(part for part in re.split(r"[/\\]", text) if part)
        yield f"{path}: row {number}", {key: row[key] for key in keys}, planes


class _Lookup:
    """Finds files by the end of the path that a table gives."""

    def __init__(self, names: Sequence[str], any_folder: bool):
        self.any_folder = any_folder
        self.by_tail = defaultdict(list)
        for name in names:
            parts = tuple(name.split("/"))
            for count in range(1, min(_TAIL, len(parts)) + 1):
                self.by_tail[parts[-count:]].append(name)

    def find(self, parts: tuple[str, ...], plate: str) -> str | None:
        """Return the only file whose path ends most alike; None if there is none.

        A file in a folder of another plate is none, where the table's path names the plate.
        """
        is_folder = re.compile(re.escape(plate) + r"(?![A-Za-z0-9]).*").fullmatch
        is_strict = not self.any_folder and any(map(is_folder, parts[:-1]))
        for count in range(min(_TAIL, len(parts)), 0, -1):
            names = [
                name
                for name in self.by_tail.get(parts[-count:], ())
                if not is_strict or any(map(is_folder, name.split("/")[:-1]))
            ]
            if names:
                return names[0] if len(names) == 1 else None
        return None
