"""The annotation table of idr0088: which well got what, in which reporter line, and what its
channels show.

One row a well (317,430 in the published table), 21 columns, as a CSV or as the first CSV of a zip,
which is read in place. A compound is its InChIKey. 1,176 names have 1,174 keys: aminophylline is
theophylline, and "Quinidine hydrochloride monohydrate" is quinidine. In both pairs one name has a
mechanism of action (MoA) and the other's cell is blank; the compound has it.
"""

import os
import re
import zipfile
import zlib
from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_wells, parse_numbers, read_table, refuse_rows

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
_TITLES = {name: title for title, name in COLUMNS.items() if name}
_FILLED = ("plate", "well", "reporter_line", "cell_line", "channels", "location", "name")
NEGATIVE_CONTROL = "Negative Control"
_INCHIKEY = r"[A-Z]{14}-[A-Z]{10}-[A-Z]"
_WELL = r"[A-P](0[1-9]|1\d|2[0-4])"
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
    """Read the annotation and hold it to its columns; kept in memory until the file changes: do not
    write into it.

    Returns:
        One row a well: plate, well, cell_line, reporter_line, compound_set, moa (raw), name,
        inchikey, channels, experiment (the folder of the plate's images: the run that took them) as
        categories of text, "" where the table is blank; concentration (float, uM, NaN in controls);
        control (bool).

    Raises:
        InputError: no such file, no readable zip or CSV, another set of columns, or a row that is
        short, lacks a cell, gives a
            well twice, or holds what cannot be (a well address, an InChIKey, a concentration, a
            control type).
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
# the tables read last: it takes seconds, and every step asks for it
_kept: dict[tuple[int, ...], pd.DataFrame] = {}


def plain_wells(column: pd.Series) -> pd.Series:
    """Wells as this data set names them in its ids and folders: L8, not L08."""
    wells = normalise_wells(column)
    return wells.map({well: re.sub(r"^([A-Z]+)0", r"\1", well) for well in wells.unique()}).astype(
        object
    )


def _read_checked(path: Path) -> pd.DataFrame:
    table = _read_file(path)
    control = table[_TITLES["control"]] == NEGATIVE_CONTROL
    unknown = ~control & (table[_TITLES["control"]] != "")
    refuse_rows(
        path, table, unknown, _TITLES["control"], f"is neither {NEGATIVE_CONTROL!r} nor empty"
    )
    wells = normalise_wells(table[_TITLES["well"]])
    refuse_rows(
        path, table, ~_matches(wells, _WELL), _TITLES["well"], "is no well of a 384-well plate"
    )
    keys = ~control & ~_matches(table[_TITLES["inchikey"]], _INCHIKEY)
    refuse_rows(path, table, keys, _TITLES["inchikey"], "is no InChIKey")
    doses = parse_numbers(path, table[~control], _TITLES["concentration"])
    refuse_rows(path, table[~control], doses <= 0, _TITLES["concentration"], "is not above 0")
    frame = table.rename(columns=COLUMNS).assign(well=plain_wells(wells))
    doubled = frame.duplicated(["plate", "well"])
    refuse_rows(path, table, doubled, _TITLES["well"], "has a second row on its plate")
    first = frame.groupby("plate").reporter_line.transform("first")
    two = frame.reporter_line != first
    refuse_rows(
        path, table, two, _TITLES["reporter_line"], "is not the one of the other rows of its plate"
    )
    frame["experiment"] = frame.location.str.partition("/")[0]
    frame = frame.drop(columns=["location", "control", "concentration"]).astype("category")
    order = [name for name in _TITLES if name in (*frame.columns, "control", "concentration")]
    frame = frame.assign(concentration=doses.reindex(frame.index), control=control)
    return frame[[*order, "experiment"]].reset_index(drop=True)


def _read_file(path: Path) -> pd.DataFrame:
    """The columns that are used, as text, under their titles."""
    try:
        content = None
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
                if not names:
                    raise InputError(f"{path}: the zip holds no CSV")
                content = archive.read(names[0])
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path}: not a readable zip ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    titles = list(COLUMNS)
    filled = [_TITLES[name] for name in _FILLED]
    frame = read_table(path, titles, filled=filled, delimiter=",", content=content, missing={""})
    unknown = [column for column in frame.columns if column not in COLUMNS]
    if unknown:
        raise InputError(
            f"{path}: unknown column {unknown[0]!r}; the annotation of idr0088 has {len(COLUMNS)} "
            "columns"
        )
    if frame.empty:
        raise InputError(f"{path}: has a header but no rows")
    return frame[list(_TITLES.values())]


def _matches(column: pd.Series, pattern: str) -> pd.Series:
    """Whether each cell is as the pattern says; asked once a value."""
    return column.isin([text for text in column.unique() if re.fullmatch(pattern, text)])


def compounds(annotation: pd.DataFrame) -> pd.DataFrame:
    """The compounds, joined by InChIKey and sorted by it; controls are none.

    Returns:
        Columns compound (InChIKey), name (all its names, "; " between them), raw (tuple of its
        distinct MoA strings, () where all are blank), n (wells).
    """
    treated = annotation[~annotation.control]
    pairs = treated.drop_duplicates(["inchikey", "name", "moa"])[
        ["inchikey", "name", "moa"]
    ].astype(object)
    grouped = pairs.groupby("inchikey", sort=True)
    names = grouped.name.agg(lambda found: "; ".join(sorted({name.strip() for name in found})))
    raw = grouped.moa.agg(lambda found: tuple(sorted(set(found) - {""})))
    wells = treated.inchikey.astype(object).value_counts()
    table = pd.DataFrame({"compound": names.index, "name": names.to_numpy(), "raw": raw.to_numpy()})
    return table.assign(n=wells.loc[table.compound].to_numpy())


def channel_meaning(annotation: pd.DataFrame) -> pd.DataFrame:
    """What each channel shows in each reporter line.

    Returns:
        Columns reporter_line, channel ("ch1", "ch2", "ch3"), shows ("Nuclei/Cytoplasm", "TUBA1B",
        ...); sorted.

    Raises:
        InputError: a line whose channels are told in two ways, or in one that cannot be read.
    """
    told = annotation.drop_duplicates(["reporter_line", "channels"])[
        ["reporter_line", "channels"]
    ].astype(object)
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
