"""Read BBBC021's two tables: images with their wells, and mechanisms of treatments.

Copies in the wild differ in quotes, in line ends (CR alone, too), in a byte order mark and in how a
dose is written (3.0, 3.000000). So cells are read as text and trimmed, and the tables are joined by
compound and dose as a number, never by position.
"""

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_wells, parse_numbers, read_table, refuse_rows
from cellsignal.competitions.sample_files import Places, origins, refuse_misstated

IMAGE_CSV, MOA_CSV = "BBBC021_v1_image.csv", "BBBC021_v1_moa.csv"
CONTROL = "DMSO"
UNKNOWN = "UNKNOWN"  # 16 wells of two plates: whatever stood in them, it need not be a new compound
# ours -> as the columns are called
CHANNELS = {"actin": "Actin", "tubulin": "Tubulin", "dna": "DAPI"}
_SHOWN = {"1": "dna", "2": "tubulin", "4": "actin"}  # the number behind _w in a file's name
_FILE = re.compile(r"(?:^|[/_])(?P<well>[A-P]\d\d)_s(?P<field>\d)_w(?P<channel>\d)[^/]*$")
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
    """Read the fields of `BBBC021_v1_image.csv`, sorted by plate, well and file name.

    Returns:
        One row a field: actin, tubulin, dna (paths relative to the root), experiment (week), plate,
        well, replicate, compound, dose (micromolar), treatment ("compound@dose"), well_id
        ("plate_well"), field (1.. within its well), origin (of its row, for `check_samples`).

    Raises:
        InputError: a file or column is missing; a cell is empty; a dose is not a number; a path is
            not Week/plate; a file is listed twice, or its name has another channel or well; a well
            has two treatments. The message names the file and the row.
    """
    path = Path(root) / IMAGE_CSV
    cells = read_table(path, IMAGE_COLUMNS, any_row=True)
    frame = pd.DataFrame(
        {ours: _plane_paths(path, cells, theirs) for ours, theirs in CHANNELS.items()}
    )
    frame["experiment"] = [PurePosixPath(name).parts[0] for name in frame.dna]
    for ours, theirs in _NAMED.items():
        frame[ours] = cells[theirs]
    frame["well"] = normalise_wells(frame.well)
    frame["dose"] = parse_numbers(path, cells, _DOSE, low=0)
    frame["treatment"] = treatment_names(frame.compound, frame.dose)
    frame["well_id"] = frame.plate + "_" + frame.well
    frame["origin"] = origins(IMAGE_CSV, frame)
    files = zip(*(frame[name] for name in CHANNELS), strict=True)
    refuse_misstated(frame.assign(files=list(files)), Places(root, frame), tuple(CHANNELS), stated)
    other = frame.groupby("well_id").treatment.transform("first") != frame.treatment
    refuse_rows(path, frame, other, "treatment", "stands in a well that holds something else")
    frame = frame.sort_values(["experiment", "plate", "well", "dna"], ignore_index=True)
    return frame.assign(field=frame.groupby("well_id").cumcount() + 1)


def stated(name: str) -> dict[str, str]:
    """Read `Week4/Week4_27481/G10_s1_w1BEDC2073-....tif`; see `Competition.stated`."""
    match = _FILE.search(name)
    if match is None:
        return {}
    facts = match.groupdict() | {"channel": _SHOWN.get(match["channel"], f"w{match['channel']}")}
    folders = name.split("/")[:-1]
    if len(folders) > 1:
        facts["experiment"], facts["plate"] = folders[-2:]
    return facts


def read_moa(root: Path) -> pd.DataFrame:
    """Read the annotated treatments of `BBBC021_v1_moa.csv`, without the solvent.

    Returns:
        One row a treatment, sorted: treatment ("compound@dose"), compound, dose (micromolar), moa.

    Raises:
        InputError: a file or column is missing; a cell is empty; a dose is not a number; a
            treatment is listed twice.
    """
    path = Path(root) / MOA_CSV
    cells = read_table(path, MOA_COLUMNS, any_row=True)
    frame = cells[["compound", "moa"]].assign(
        dose=parse_numbers(path, cells, "concentration", low=0)
    )
    frame["treatment"] = treatment_names(frame.compound, frame.dose)
    refuse_rows(path, frame, frame.treatment.duplicated(), "treatment", "stands here twice")
    columns = ["treatment", "compound", "dose", "moa"]
    return frame.loc[frame.compound != CONTROL, columns].sort_values(
        ["compound", "dose"], ignore_index=True
    )


def read_annotated(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the fields with `moa` (None if unknown), and the annotated treatments.

    Raises:
        InputError: as `read_fields` and `read_moa`, or an annotated treatment that no field shows.
    """
    fields, moa = read_fields(root), read_moa(root)
    unseen = moa.treatment[~moa.treatment.isin(set(fields.treatment))]
    if len(unseen):
        raise InputError(
            f"{Path(root) / MOA_CSV}: {unseen.iloc[0]!r} is not a treatment of {IMAGE_CSV} "
            f"({len(unseen)} such rows)"
        )
    known = fields.treatment.map(moa.set_index("treatment").moa).astype(object)
    return fields.assign(moa=known.where(known.notna(), None)), moa


def treatment_names(compound: pd.Series, dose: pd.Series) -> pd.Series:
    """Return compound@dose with six significant digits, by which the two tables are joined."""
    return compound + "@" + dose.map("{:g}".format)


def _plane_paths(path: Path, cells: pd.DataFrame, channel: str) -> pd.Series:
    """Return one channel's files relative to the root; they must lie in <week>/<plate>/."""
    folder, name = cells[f"Image_PathName_{channel}"], cells[f"Image_FileName_{channel}"]
    expected = folder.str.split("/").str[0] + "/" + cells[_NAMED["plate"]]
    odd = (
        (folder != expected)
        | ~folder.str.fullmatch(r"Week\d+/\w[\w.-]*")
        | ~name.str.fullmatch(r"\w[^/\\#:]*")
    )
    if odd.any():
        row = odd.idxmax()
        raise InputError(
            f"{path}: row {row}: {folder[row]!r} / {name[row]!r} is not WeekN/<plate> / <file name>"
        )
    files = folder + "/" + name
    title = f"{channel} file"
    refuse_rows(path, files.to_frame(title), files.duplicated(), title, "stands here twice")
    return files
