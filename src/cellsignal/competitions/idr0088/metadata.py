"""Read idr0088's annotation: the treatment and the reporter line of each well.

It has one row a well (317,430 in the published table) and 21 columns, as a CSV or as
the first CSV of a zip, which is read in place. A compound is its InChIKey. 1,176 names have 1,174
keys: aminophylline is theophylline, and "Quinidine hydrochloride monohydrate" is quinidine. In both
pairs one name has a mechanism of action (MoA) and the other's cell is blank; the compound has it.
"""

import functools
import logging
import os
import re
import zipfile
import zlib
from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import describe_folder, sha256
from cellsignal.common.tables import normalise_wells, parse_numbers, read_table, refuse_rows

log = logging.getLogger(__name__)

FILE = "idr0088-screenA-annotation.csv.zip"
# of the version that this was written with
ANNOTATION_SHA256 = "fd8583e297c16895934f9a2e16e62d3cc6bc90360171aff5679aeaa691f2ff26"
# the 21 columns, and the names that the rest of this folder knows them by ("" if it does not)
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
NEGATIVE_CONTROL = "Negative Control"
_TITLES = {name: title for title, name in COLUMNS.items() if name}
_FILLED = ("plate", "well", "reporter_line", "cell_line", "channels", "location", "name")
_INCHIKEY = r"[A-Z]{14}-[A-Z]{10}-[A-Z]"
_WELL = r"[A-P](0[1-9]|1\d|2[0-4])"
_CHANNEL = re.compile(r"Ch(\d) \([^)]*\): ([^,]+)")


def find_annotation(root: Path | str) -> Path:
    """Return the annotation under `root`: the published zip, or the CSV that is in it.

    Raises:
        InputError: neither is there.
    """
    for name in (FILE, FILE.removesuffix(".zip")):
        if (Path(root) / name).is_file():
            return Path(root) / name
    raise InputError(
        f"{Path(root) / FILE}: no such file, nor the CSV in it, nor df_image_MoA.csv; "
        f"{describe_folder(root)}"
    )


def read_annotation(path: Path | str) -> pd.DataFrame:
    """Read and check the annotation. It is kept in memory: do not write into it.

    Returns:
        One row a well. Categories of text, "" if the cell is blank: plate, well, cell_line,
        reporter_line, compound_set, moa (raw), name, inchikey, channels, experiment (the folder of
        the plate's images: the run that took them). concentration (float, uM, NaN in controls);
        control (bool).

    Raises:
        InputError: no such file, no readable zip or CSV, another set of columns, or a row that is
            short, lacks a cell, gives a well twice, or has a wrong well address, InChIKey,
            concentration or control type.
    """
    try:
        status = os.stat(path)
    except OSError:
        raise InputError(f"{path}: no such file") from None
    return _read_checked(Path(path), (status.st_ino, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=4)  # it takes seconds, and every step asks for it
def _read_checked(path: Path, state: tuple[int, ...]) -> pd.DataFrame:
    table = _read_file(path)

    def refuse(wrong: pd.Series, name: str, why: str) -> None:
        refuse_rows(path, table, wrong, _TITLES[name], why)

    control = table[_TITLES["control"]]
    is_control = control == NEGATIVE_CONTROL
    is_unknown = ~is_control & (control != "")
    refuse(is_unknown, "control", f"is neither {NEGATIVE_CONTROL!r} nor empty")
    wells = normalise_wells(table[_TITLES["well"]])
    refuse(~_matches(wells, _WELL), "well", "is not a well of a 384-well plate")
    no_key = ~is_control & ~_matches(table[_TITLES["inchikey"]], _INCHIKEY)
    refuse(no_key, "inchikey", "is not an InChIKey")
    treated = table[~is_control]
    doses = parse_numbers(path, treated, _TITLES["concentration"])
    refuse_rows(path, treated, doses <= 0, _TITLES["concentration"], "is not above 0")
    frame = table.rename(columns=COLUMNS).assign(well=plain_wells(wells))
    refuse(frame.duplicated(["plate", "well"]), "well", "has a second row on its plate")
    first_line = frame.groupby("plate").reporter_line.transform("first")
    other_line = frame.reporter_line != first_line
    refuse(other_line, "reporter_line", "is not the one of the other rows of its plate")
    frame["experiment"] = frame.location.str.partition("/")[0]
    columns = [name for name in _TITLES if name != "location"] + ["experiment"]
    texts = [name for name in columns if name not in ("concentration", "control")]
    frame[texts] = frame[texts].astype("category")
    frame = frame.assign(concentration=doses.reindex(frame.index), control=is_control)
    return frame[columns].reset_index(drop=True)


def _read_file(path: Path) -> pd.DataFrame:
    """Return the columns that are used, as text, under their titles."""
    content = None
    try:
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
    filled = [_TITLES[name] for name in _FILLED]
    frame = read_table(
        path, list(COLUMNS), filled=filled, delimiter=",", content=content, missing={""}
    )
    unknown = [column for column in frame.columns if column not in COLUMNS]
    if unknown:
        columns = f"the annotation of idr0088 has {len(COLUMNS)} columns"
        raise InputError(f"{path}: unknown column {unknown[0]!r}; {columns}")
    if frame.empty:
        raise InputError(f"{path}: has a header but no rows")
    return frame[list(_TITLES.values())]


def _matches(column: pd.Series, pattern: str) -> pd.Series:
    return column.isin([text for text in column.unique() if re.fullmatch(pattern, text)])


def plain_wells(column: pd.Series) -> pd.Series:
    """Write wells as this data set names them in its ids and folders: L8, not L08."""
    wells = normalise_wells(column)
    plain = {well: re.sub(r"^([A-Z]+)0", r"\1", well) for well in wells.unique()}
    return wells.map(plain).astype(object)


def compounds(annotation: pd.DataFrame) -> pd.DataFrame:
    """Return the compounds without the controls, joined and sorted by InChIKey.

    Returns:
        Columns compound (InChIKey), name (all its names, "; " between them), raw (tuple of its
        distinct MoA strings, () if all are blank), n (wells).
    """
    treated = annotation[~annotation.control]
    columns = ["inchikey", "name", "moa"]
    groups = treated[columns].drop_duplicates().astype(object).groupby("inchikey", sort=True)
    names = groups.name.agg(lambda cells: "; ".join(sorted({name.strip() for name in cells})))
    raw = groups.moa.agg(lambda cells: tuple(sorted(set(cells) - {""})))
    n = treated.inchikey.astype(object).value_counts()
    table = pd.DataFrame({"name": names, "raw": raw, "n": n.reindex(names.index)})
    return table.rename_axis("compound").reset_index()


def read_reporter_lines(annotation: Path) -> dict[str, str]:
    """Return plate -> reporter line; log a warning if the table is another version."""
    if sha256(annotation) != ANNOTATION_SHA256:
        log.warning(
            "%s: is another version of the table than the one this was written with", annotation
        )
    table = read_annotation(annotation).drop_duplicates("plate")
    return dict(zip(table.plate.astype(str), table.reporter_line.astype(str), strict=True))


def channel_meaning(annotation: pd.DataFrame) -> pd.DataFrame:
    """Return what each channel shows in each reporter line.

    Returns:
        Columns reporter_line, channel ("ch1", "ch2", "ch3"), shows ("Nuclei/Cytoplasm", "TUBA1B",
        ...); sorted.

    Raises:
        InputError: a line whose channels have two meanings, or one that cannot be read.
    """
    lines = annotation[["reporter_line", "channels"]].drop_duplicates().astype(object)
    doubled = lines.reporter_line[lines.reporter_line.duplicated()]
    if len(doubled):
        raise InputError(f"Channels: reporter line {doubled.iloc[0]!r} has more than one meaning")
    rows = []
    for line, text in lines.sort_values("reporter_line").itertuples(index=False):
        meanings = _CHANNEL.findall(text)
        if [number for number, _ in meanings] != ["1", "2", "3"]:
            raise InputError(f"Channels: {text!r} of {line!r} does not tell Ch1, Ch2 and Ch3")
        rows += [(line, f"ch{number}", shows.strip()) for number, shows in meanings]
    return pd.DataFrame(rows, columns=["reporter_line", "channel", "shows"])
