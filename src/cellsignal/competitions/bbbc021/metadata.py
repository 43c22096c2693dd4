"""BBBC021's two tables, whatever their quoting and line ends: which field shows what, and which treatment does what.

Copies in the wild differ in quotes, in line ends (CR alone, too), in a byte order mark and in how a dose is written (3.0, 3.000000). So cells
are read as text and trimmed, and the tables are joined by compound and dose as a number, never by position.
"""

from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from cellsignal.errors import InputError

IMAGE_CSV, MOA_CSV = "BBBC021_v1_image.csv", "BBBC021_v1_moa.csv"
CONTROL = "DMSO"
UNKNOWN = "UNKNOWN"  # 16 wells of two plates: whatever stood in them, it need not be a new compound
CHANNELS = {"actin": "Actin", "tubulin": "Tubulin", "dna": "DAPI"}  # ours -> as the columns are called
_NAMED = {
    "plate": "Image_Metadata_Plate_DAPI",
    "well": "Image_Metadata_Well_DAPI",
    "replicate": "Replicate",
    "compound": "Image_Metadata_Compound",
}
_DOSE = "Image_Metadata_Concentration"
IMAGE_COLUMNS = (
    *(f"Image_{kind}Name_{name}" for kind in ("File", "Path") for name in CHANNELS.values()),
    *_NAMED.values(),
    _DOSE,
)
MOA_COLUMNS = ("compound", "concentration", "moa")


def read_fields(root: Path) -> pd.DataFrame:
    """The fields of `BBBC021_v1_image.csv`, sorted by plate, well and file name.

    Returns:
        One row a field: actin, tubulin, dna (paths relative to the root), experiment (week), plate, well, replicate, compound, dose
        (micromolar), treatment ("compound@dose"), well_id ("plate_well"), field (1.. within its well).

    Raises:
        InputError: no such file or column, an empty cell, a dose that is no number, a path that is not Week/plate, a file twice, or a well
            with two treatments. The message names the file and the row.
    """
    path = Path(root) / IMAGE_CSV
    cells = read_cells(path, IMAGE_COLUMNS)
    frame = pd.DataFrame({ours: _plane_paths(path, cells, theirs) for ours, theirs in CHANNELS.items()})
    frame["experiment"] = [PurePosixPath(name).parts[0] for name in frame.dna]
    for ours, theirs in _NAMED.items():
        frame[ours] = cells[theirs]
    frame["dose"] = _numbers(path, cells, _DOSE)
    frame["treatment"] = treatment_names(frame.compound, frame.dose)
    frame["well_id"] = frame.plate + "_" + frame.well
    other = frame.groupby("well_id").treatment.transform("first") != frame.treatment
    if other.any():
        row = int(other.idxmax())
        raise InputError(f"{path}: row {row + 2}: well {frame.well_id[row]!r} holds {frame.treatment[row]!r} and something else")
    frame = frame.sort_values(["experiment", "plate", "well", "dna"], ignore_index=True)
    return frame.assign(field=frame.groupby("well_id").cumcount() + 1)


def read_moa(root: Path) -> pd.DataFrame:
    """The annotated treatments of `BBBC021_v1_moa.csv`, without the solvent.

    Returns:
        One row a treatment, sorted: treatment ("compound@dose"), compound, dose (micromolar), moa.

    Raises:
        InputError: no such file or column, an empty cell, a dose that is no number, or a treatment twice.
    """
    path = Path(root) / MOA_CSV
    cells = read_cells(path, MOA_COLUMNS)
    frame = cells[["compound", "moa"]].assign(dose=_numbers(path, cells, "concentration"))
    frame["treatment"] = treatment_names(frame.compound, frame.dose)
    doubled = frame.treatment.duplicated()
    if doubled.any():
        row = int(doubled.idxmax())
        raise InputError(f"{path}: row {row + 2}: treatment {frame.treatment[row]!r} stands here twice")
    columns = ["treatment", "compound", "dose", "moa"]
    return frame.loc[frame.compound != CONTROL, columns].sort_values(["compound", "dose"], ignore_index=True)


def read_annotated(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The fields with their `moa` (None where the treatment has none), and the annotated treatments.

    Raises:
        InputError: as `read_fields` and `read_moa`, or an annotated treatment that no field shows.
    """
    fields, moa = read_fields(root), read_moa(root)
    unseen = moa.treatment[~moa.treatment.isin(set(fields.treatment))]
    if len(unseen):
        raise InputError(f"{Path(root) / MOA_CSV}: {unseen.iloc[0]!r} is no treatment of {IMAGE_CSV} ({len(unseen)} such rows)")
    known = fields.treatment.map(moa.set_index("treatment").moa).astype(object)
    return fields.assign(moa=known.where(known.notna(), None)), moa


def treatment_names(compound: pd.Series, dose: pd.Series) -> pd.Series:
    """compound@dose, with six significant digits: what the two tables are joined by."""
    return compound + "@" + dose.map("{:g}".format)


def read_cells(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """The named columns of a CSV as trimmed text, whatever its quotes and line ends.

    Raises:
        InputError: no such file or column, not a CSV, or an empty cell; names the file and the row.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True, encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable CSV ({' '.join(str(error).split())})") from None
    frame = frame.rename(columns=str.strip)
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; it has {list(frame.columns)}")
    frame = frame.apply(lambda cells: cells.str.strip())
    for column in columns:
        empty = frame[column].isin(["", "nan", "NaN", "NA", "NULL"])
        if empty.any():
            raise InputError(f"{path}: row {int(empty.idxmax()) + 2}: {column} is empty")
    return frame


def _plane_paths(path: Path, cells: pd.DataFrame, channel: str) -> pd.Series:
    """One channel's files relative to the root. They must lie in <week>/<plate>/, where they were published."""
    folder, name = cells[f"Image_PathName_{channel}"], cells[f"Image_FileName_{channel}"]
    expected = folder.str.split("/").str[0] + "/" + cells[_NAMED["plate"]]
    odd = (folder != expected) | ~folder.str.fullmatch(r"Week\d+/\w[\w.-]*") | ~name.str.fullmatch(r"\w[^/\\#:]*")
    if odd.any():
        row = int(odd.idxmax())
        raise InputError(f"{path}: row {row + 2}: {folder[row]!r} / {name[row]!r} is not WeekN/<plate> / <file name>")
    files = folder + "/" + name
    if files.duplicated().any():
        row = int(files.duplicated().idxmax())
        raise InputError(f"{path}: row {row + 2}: {files[row]!r} stands here twice")
    return files


def _numbers(path: Path, cells: pd.DataFrame, column: str) -> pd.Series:
    found = pd.to_numeric(cells[column], errors="coerce")
    wrong = ~np.isfinite(found) | (found < 0)
    if wrong.any():
        row = int(wrong.idxmax())
        raise InputError(f"{path}: row {row + 2}: {column} {cells[column][row]!r} is no dose")
    return found.astype(float)
