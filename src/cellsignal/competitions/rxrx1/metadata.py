"""The three releases of RxRx1's metadata, read into one table of wells.

1. The Kaggle CSVs (train, test, train_controls, test_controls) with integer `sirna`.
2. A later release of the same files with text labels: `sirna_250`, and `UNTREATED` for the negative control.
3. rxrx.ai's `metadata.csv`, one row a site, which also holds the labels of the test treatments. Those are answers:
   `read_wells` drops them, `read_answers` alone gives them.

A text label becomes the number it ends in, so it is the same in every release; `UNTREATED` becomes the label the
negative control has in the integer release, one beyond the highest of the positive controls.
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.errors import InputError

log = logging.getLogger(__name__)

SITES = (1, 2)
CHANNELS = 6
UNTREATED = ("UNTREATED", "EMPTY")
KAGGLE_FILES = ("train.csv", "train_controls.csv", "test.csv", "test_controls.csv")
SITE_FILE = "metadata.csv"

_PLACE = ["id_code", "experiment", "plate", "well"]
_SITE_COLUMNS = ["well_id", "cell_type", "dataset", "experiment", "plate", "well", "site", "well_type", "sirna_id"]
_ADDRESS = r"[A-P](?:0[1-9]|1[0-9]|2[0-4])"  # 16 rows by 24 columns
_ROLES = ("treatment", "positive_control", "negative_control")
_PENDING = -1  # stands for UNTREATED until all files are read


def read_wells(root: Path | str) -> pd.DataFrame:
    """Every well under `root`, in the order train, train controls, test, test controls of its release.

    Returns:
        Columns id_code, experiment, plate (int), well, label (Int64; missing for test treatments), role, split.

    Raises:
        InputError: a file or column is missing, or a row is wrong; the message names the file and the row.
    """
    root = Path(root)
    if any((root / name).is_file() for name in KAGGLE_FILES):
        wells = _read_kaggle(root)
    elif (root / SITE_FILE).is_file():
        wells = _wells_of_sites(_read_site_file(root / SITE_FILE), root / SITE_FILE)
        wells.loc[(wells.split == "test") & (wells.role == "treatment"), "label"] = pd.NA
    else:
        raise InputError(f"{root}: no RxRx1 metadata here: neither {KAGGLE_FILES[0]} nor {SITE_FILE}")
    _check_labels(wells, root)
    return wells.astype({"role": object, "split": object})


def read_sites(root: Path | str) -> pd.DataFrame:
    """`read_wells` with one row a site and a column `site`: both sites of each well, or the rows that metadata.csv
    names."""
    root = Path(root)
    wells = read_wells(root)
    if any((root / name).is_file() for name in KAGGLE_FILES):
        sites = wells.loc[wells.index.repeat(len(SITES))].reset_index(drop=True)
        sites["site"] = np.tile(SITES, len(wells))
        return sites
    rows = _read_site_file(root / SITE_FILE)[["well_id", "site"]].rename(columns={"well_id": "id_code"})
    return wells.merge(rows, on="id_code", how="left").sort_values(
        ["id_code", "site"], kind="stable", ignore_index=True
    )


def read_answers(path: Path | str) -> pd.DataFrame:
    """The test treatments' labels from rxrx.ai's metadata.csv, or from a CSV of id_code and sirna: columns id_code,
    label (int)."""
    path = Path(path)
    if "site" in _read_csv(path, nrows=0).columns:
        wells = _wells_of_sites(_read_site_file(path), path)
        wells = wells[(wells.split == "test") & (wells.role == "treatment")]
        return wells[["id_code", "label"]].astype({"label": "int64"}).reset_index(drop=True)
    frame = _read_csv(path)
    _check_columns(frame, ["id_code", "sirna"], path)
    _check_unique(frame.id_code, path)
    return pd.DataFrame(
        {"id_code": frame.id_code.astype(object), "label": parse_labels(frame.sirna, path, frame.id_code)}
    )


def parse_labels(column: pd.Series, path: Path | str, ids: pd.Series) -> pd.Series:
    """Labels as int64: integers as they are, `sirna_250` as 250, untreated as -1.

    Raises:
        InputError: an empty label, or one without a number; names the file, the row and the id.
    """
    text = column.astype(object).where(column.notna(), "")
    if pd.api.types.is_numeric_dtype(column):
        wrong = column.isna() | (column < 0) | (column != column.round())
        numbers = column.where(~wrong, 0).astype("int64")
    else:
        text = text.map(str).str.strip()
        untreated = text.str.upper().isin(UNTREATED)
        found = text.str.extract(r"^(?:[A-Za-z]\w*?_)?(\d+)$", expand=False)
        wrong = found.isna() & ~untreated
        numbers = found.where(~untreated, str(_PENDING)).where(~wrong, "0").astype("int64")
    if wrong.any():
        at = _first(wrong)
        what = f"label {text.iloc[at]!r} is no siRNA" if text.iloc[at] != "" else "the label is empty"
        raise InputError(f"{path}: row {at + 2} ({ids.iloc[at]!r}): {what}")
    return numbers


def labels_are_text(root: Path | str) -> bool:
    """Whether a submission to this release names classes as `sirna_250`: as its sample submission does, or else its
    train.csv."""
    root = Path(root)
    for name in ("sample_submission.csv", "train.csv"):
        if (root / name).is_file():
            head = _read_csv(root / name, nrows=20)
            return "sirna" in head.columns and bool(head.sirna.astype(str).str.startswith("sirna_").any())
    return False


def _read_kaggle(root: Path) -> pd.DataFrame:
    for name in KAGGLE_FILES:
        if not (root / name).is_file():
            raise InputError(f"{root / name}: no such file; the Kaggle release has {', '.join(KAGGLE_FILES)}")
    parts, sources = [], []
    for name in KAGGLE_FILES:
        part = _read_kaggle_file(root / name)
        parts.append(part)
        sources += [name] * len(part)
    wells = pd.concat(parts, ignore_index=True)
    doubled = wells.id_code.duplicated()
    if doubled.any():
        at = _first(doubled)
        first = sources[_first(wells.id_code == wells.id_code[at])]
        raise InputError(f"{root / sources[at]}: id_code {wells.id_code[at]!r} also stands in {first}")
    pending = wells.label == _PENDING
    if pending.any():
        negative = wells.label[(wells.role == "negative_control") & ~pending]
        label = int(negative.mode()[0]) if len(negative) else int(wells.label.max()) + 1
        wells.loc[pending, "label"] = label
        log.info("%s: text labels read by their numbers; untreated wells have label %d", root, label)
    return wells


def _read_kaggle_file(path: Path) -> pd.DataFrame:
    split, controls = path.stem.split("_")[0], path.stem.endswith("_controls")
    frame = _read_csv(path)
    labelled = controls or split == "train"
    _check_columns(frame, _PLACE + ["sirna"] * labelled + ["well_type"] * controls, path)
    _check_place(frame, path)
    wells = frame[_PLACE].astype({"id_code": object, "experiment": object, "well": object, "plate": "int64"})
    wells["label"] = pd.array([pd.NA] * len(frame), dtype="Int64")
    if labelled:
        wells["label"] = parse_labels(frame.sirna, path, frame.id_code).astype("Int64")
    wells["role"] = frame.well_type.astype(object) if controls else "treatment"
    if labelled and not controls:
        wells.loc[wells.label == _PENDING, "role"] = "negative_control"
    _refuse(
        ~wells.role.isin(_ROLES[1:] if controls else _ROLES),
        wells.role,
        path,
        "well_type",
        "is no control",
        wells.id_code,
    )
    wells["split"] = split
    return wells


def _read_site_file(path: Path) -> pd.DataFrame:
    frame = _read_csv(path)
    _check_columns(frame, _SITE_COLUMNS, path)
    place = frame.rename(columns={"well_id": "id_code"})
    _check_place(place, path, unique=False)
    _refuse(
        ~frame.dataset.isin(["train", "test"]),
        frame.dataset,
        path,
        "dataset",
        "is neither train nor test",
        frame.well_id,
    )
    _refuse(~frame.well_type.isin(_ROLES), frame.well_type, path, "well_type", "is unknown", frame.well_id)
    site = pd.to_numeric(frame.site, errors="coerce")
    _refuse(~(site >= 1) | (site % 1 != 0), frame.site, path, "site", "is no site", frame.well_id)
    doubled = pd.DataFrame({"id": frame.well_id, "site": site}).duplicated()
    _refuse(doubled, frame.site, path, "site", "occurs twice for this well", frame.well_id)
    frame["site"] = site.astype("int64")
    frame["label"] = parse_labels(frame.sirna_id, path, frame.well_id)
    return frame


def _wells_of_sites(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    columns = ["well_id", "experiment", "plate", "well", "label", "well_type", "dataset"]
    wells = frame[columns].drop_duplicates()
    doubled = wells.well_id.duplicated()
    if doubled.any():
        at = doubled.idxmax()
        raise InputError(
            f"{path}: row {at + 2}: the sites of well {wells.well_id[at]!r} disagree on label, well_type or dataset"
        )
    wells = wells.rename(columns={"well_id": "id_code", "well_type": "role", "dataset": "split"})
    text = {name: object for name in ("id_code", "experiment", "well", "role", "split")}
    return wells.astype({**text, "plate": "int64", "label": "Int64"}).reset_index(drop=True)


def _check_labels(wells: pd.DataFrame, root: Path) -> None:
    """Treatments are labelled 0..K-1 without a gap, controls K and up."""
    train = wells[(wells.split == "train") & (wells.role == "treatment")]
    if not len(train):
        raise InputError(f"{root}: no training treatment in the metadata")
    classes = int(train.label.max()) + 1
    absent = np.setdiff1d(np.arange(classes), train.label.astype("int64").unique())
    if len(absent):
        raise InputError(
            f"{root}: training labels go up to {classes - 1} but {len(absent)} of them never occur, first {absent[0]}"
        )
    control = wells[(wells.role != "treatment") & (wells.label < classes)]
    if len(control):
        row = control.iloc[0]
        raise InputError(
            f"{root}: control well {row.id_code!r} has label {row.label}, which is a treatment's (0..{classes - 1})"
        )


def _read_csv(path: Path, nrows: int | None = None) -> pd.DataFrame:
    try:
        return pd.read_csv(path, nrows=nrows)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not a CSV file ({str(error).splitlines()[0]})") from None


def _check_columns(frame: pd.DataFrame, columns: list[str], path: Path) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")


def _check_unique(ids: pd.Series, path: Path) -> None:
    _refuse(ids.isna(), ids, path, "id_code", "is empty", ids)
    _refuse(ids.duplicated(), ids, path, "id_code", "occurs more than once", ids)


def _check_place(frame: pd.DataFrame, path: Path, unique: bool = True) -> None:
    ids = frame.id_code
    _refuse(ids.isna(), ids, path, "id_code", "is empty", ids)
    if unique:
        _check_unique(ids, path)
    text = {name: frame[name].astype(str) for name in ("experiment", "plate", "well")}
    _refuse(
        ~text["experiment"].str.fullmatch(r".+-\d+"),
        frame.experiment,
        path,
        "experiment",
        "is not <cell type>-<number>",
        ids,
    )
    _refuse(~text["plate"].str.fullmatch(r"[1-9]\d*"), frame.plate, path, "plate", "is no plate number", ids)
    _refuse(~text["well"].str.fullmatch(_ADDRESS), frame.well, path, "well", "is no address on a 384-well plate", ids)
    expected = text["experiment"] + "_" + text["plate"] + "_" + text["well"]
    _refuse(ids.astype(str) != expected, ids, path, "id_code", "disagrees with experiment_plate_well", expected)


def _refuse(wrong: pd.Series, values: pd.Series, path: Path, column: str, why: str, ids: pd.Series) -> None:
    """One line for the first wrong row, if there is one."""
    if wrong.any():
        at = _first(wrong)
        more = f" ({int(wrong.sum())} such rows)" if wrong.sum() > 1 else ""
        value = values.astype(object).iloc[at]
        shown = repr(value) if isinstance(value, str) else str(value)
        raise InputError(f"{path}: row {at + 2} ({ids.iloc[at]!r}): {column} {shown} {why}{more}")


def _first(mask: pd.Series) -> int:
    return int(np.flatnonzero(mask.to_numpy())[0])
