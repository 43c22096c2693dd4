"""The annotation table of idr0088: which well got what, in which reporter line, and what its channels show.

One row a well (317,430 in the published table), 21 columns, as a CSV or as the first CSV of a zip, which is read in place. A
compound is its InChIKey. 1,176 names have 1,174 keys: aminophylline is theophylline, and "Quinidine hydrochloride monohydrate"
is quinidine. In both pairs one name has a mechanism of action (MoA) and the other's cell is blank; the compound has it.
"""

import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import IO

import pandas as pd

from cellsignal.errors import InputError

FILE = "idr0088-screenA-annotation.csv.zip"
# the 21 columns, and the names that the rest of this folder knows them by ("" where it does not)
COLUMNS: dict[str, str] = {
    "Plate": "plate",
    "Well": "well",  # not padded: L8
    "Characteristics [Organism]": "",
    "Term Source 1 REF": "",
    "Term Source 1 Accession": "",
    "Characteristics [Cell Line]": "cell_line",
    "Term Source 2 REF": "",
    "Term Source 2 Accession": "",
    "Comment [Cell Line with Markers]": "reporter_line",
    "Compound Concentration (microMolar)": "concentration",
    "Compound Set": "compound_set",
    "Compound MoA": "moa",
    "Compound Name": "name",
    "Compound ID - Artificial": "",
    "Compound SMILES": "",
    "Compound InChIKey": "inchikey",
    "Compound PubChem CID": "",
    "Compound PubChem URL": "",
    "Control Type": "control",
    "Channels": "channels",
    "Plate Location": "location",
}
_AS_WRITTEN = ("plate", "concentration")  # read as text; pandas would make categories of numbers of them
_TITLES = {name: title for title, name in COLUMNS.items()}
NEGATIVE_CONTROL = "Negative Control"
_INCHIKEY = re.compile(r"[A-Z]{14}-[A-Z]{10}-[A-Z]")
_WELL = re.compile(r"[A-P]([1-9]|1\d|2[0-4])")
_CHANNEL = re.compile(r"Ch(\d) \([^)]*\): ([^,]+)")


def find_annotation(root: Path | str) -> Path:
    """The annotation under `root`: the zip by its published name, or the CSV that is in it.

    Raises:
        InputError: there is neither.
    """
    for name in (FILE, FILE.removesuffix(".zip")):
        if (Path(root) / name).is_file():
            return Path(root) / name
    raise InputError(f"{Path(root) / FILE}: no such file, nor the CSV in it")


def read_annotation(path: Path | str) -> pd.DataFrame:
    """Read the annotation and hold it to its columns; kept in memory until the file changes: do not write into it.

    Returns:
        One row a well: plate, well, cell_line, reporter_line, compound_set, moa (raw), name, inchikey, channels, experiment (the
        folder of the plate's images: the run that took them) as categories of text, "" where the table is blank; concentration
        (float, uM, NaN in controls); control (bool).

    Raises:
        InputError: no such file, no readable zip or CSV, another set of columns, or a row that is short, lacks a cell, gives a
            well twice, or holds what cannot be (a well address, an InChIKey, a concentration, a control type).
    """
    path = Path(path)
    try:
        status = os.stat(path)
    except OSError:
        raise InputError(f"{path}: no such file") from None
    file = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)  # by whatever name
    if file not in _kept:
        frame = _read_checked(path)
        while len(_kept) >= KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[file] = frame
    return _kept[file]


KEPT = 4
_kept: dict[tuple[int, ...], pd.DataFrame] = {}  # the tables read last: it takes seconds, and every step asks for it


def _read_checked(path: Path) -> pd.DataFrame:
    frame = _read_file(path).rename(columns=COLUMNS)
    control = frame.control == NEGATIVE_CONTROL
    concentration = pd.to_numeric(frame.concentration.astype(str), errors="coerce")
    wrong = {column: frame[column] == "" for column in ("plate", "reporter_line", "cell_line", "channels", "location", "name")}
    wrong |= {
        "control": ~(control | (frame.control == "")),
        "well": ~_matches(frame.well, _WELL),
        "inchikey": ~control & ~_matches(frame.inchikey, _INCHIKEY),
        "concentration": ~control & ~((concentration > 0) & (concentration < float("inf"))),
    }
    for column, rows in wrong.items():
        _refuse(path, frame, rows, f"{_TITLES[column]} is {{!r}}", column)
    _refuse(path, frame, frame.duplicated(["plate", "well"]), "a second row of this well", "well")
    lines = frame.groupby("plate", observed=True).reporter_line.nunique()
    if (lines > 1).any():
        raise InputError(f"{path}: plate {lines.idxmax()} holds {lines.max()} reporter lines, one expected")
    runs = frame.location.cat.categories.to_series().map(lambda place: place.split("/")[0])
    return frame.drop(columns="location").assign(
        concentration=concentration.where(~control), control=control, experiment=frame.location.map(runs).astype("category")
    )


def _read_file(path: Path) -> pd.DataFrame:
    """The columns that are used, as categories of text."""
    try:
        if not zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                return _parse(path, file)
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
            if not names:
                raise InputError(f"{path}: the zip holds no CSV")
            with archive.open(names[0]) as file:
                return _parse(path, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path}: not a readable zip ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _parse(path: Path, file: IO[bytes]) -> pd.DataFrame:
    try:
        _check_columns(path, list(pd.read_csv(file, nrows=0, encoding="utf-8-sig").columns))
        file.seek(0)
        types = {title: "str" if name in _AS_WRITTEN else "category" for title, name in COLUMNS.items()}
        frame = pd.read_csv(file, dtype=types, keep_default_na=False, encoding="utf-8-sig", index_col=False)  # all columns: long rows show
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable CSV ({str(error).strip().splitlines()[-1]})") from None
    if frame.empty:
        raise InputError(f"{path}: has a header but no rows")
    return frame[[title for title, name in COLUMNS.items() if name]].astype("category")


def _check_columns(path: Path, found: list[str]) -> None:
    lacking = [column for column in COLUMNS if column not in found]
    unknown = [column for column in found if column not in COLUMNS]
    if lacking or unknown:
        what = f"no column {lacking[0]!r}" if lacking else f"unknown column {unknown[0]!r}"
        raise InputError(f"{path}: {what}; the annotation of idr0088 has {len(COLUMNS)} columns, this {len(found)}")


def _matches(column: pd.Series, pattern: re.Pattern[str]) -> pd.Series:
    """Whether each cell is as the pattern says; asked once a category."""
    right = [text for text in column.cat.categories if isinstance(text, str) and pattern.fullmatch(text)]
    return column.isin(right)


def _refuse(path: Path, frame: pd.DataFrame, wrong: pd.Series, why: str, column: str) -> None:
    """One line for the first wrong row, if there is one."""
    if wrong.any():
        at = int(wrong.idxmax())
        row = frame.loc[at]
        more = f" ({int(wrong.sum())} such rows)" if wrong.sum() > 1 else ""
        raise InputError(f"{path}: row {at + 2} (plate {row.plate}, well {row.well}): {why.format(row[column])}{more}")


def compounds(annotation: pd.DataFrame) -> pd.DataFrame:
    """The compounds, joined by InChIKey and sorted by it; controls are none.

    Returns:
        Columns compound (InChIKey), name (all its names, "; " between them), raw (tuple of its distinct MoA strings, () where all
        are blank), n (wells).
    """
    treated = annotation[~annotation.control]
    pairs = treated.drop_duplicates(["inchikey", "name", "moa"])[["inchikey", "name", "moa"]].astype(object)
    grouped = pairs.groupby("inchikey", sort=True)
    names = grouped.name.agg(lambda found: "; ".join(sorted({name.strip() for name in found})))
    raw = grouped.moa.agg(lambda found: tuple(sorted(set(found) - {""})))
    wells = treated.inchikey.astype(object).value_counts()
    table = pd.DataFrame({"compound": names.index, "name": names.to_numpy(), "raw": raw.to_numpy()})
    return table.assign(n=wells.loc[table.compound].to_numpy())


def channel_meaning(annotation: pd.DataFrame) -> pd.DataFrame:
    """What each channel shows in each reporter line.

    Returns:
        Columns reporter_line, channel ("ch1", "ch2", "ch3"), shows ("Nuclei/Cytoplasm", "TUBA1B", ...); sorted.

    Raises:
        InputError: a line whose channels are told in two ways, or in one that cannot be read.
    """
    told = annotation.drop_duplicates(["reporter_line", "channels"])[["reporter_line", "channels"]].astype(object)
    twice = told.reporter_line[told.reporter_line.duplicated()]
    if len(twice):
        raise InputError(f"Channels: reporter line {twice.iloc[0]!r} has more than one meaning")
    rows = []
    for line, text in told.sort_values("reporter_line").itertuples(index=False):
        found = _CHANNEL.findall(text)
        if [number for number, _ in found] != ["1", "2", "3"]:
            raise InputError(f"Channels: {text!r} of {line!r} does not tell Ch1, Ch2 and Ch3")
        rows += [(line, f"ch{number}", shows.strip()) for number, shows in found]
    return pd.DataFrame(rows, columns=["reporter_line", "channel", "shows"])
