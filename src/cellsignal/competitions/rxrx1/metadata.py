"""Read the releases of RxRx1's metadata into one table of wells.

1. The Kaggle CSVs (train, test, train_controls, test_controls) with integer `sirna`.
2. A later release of the same files with text labels: `sirna_250`, and `UNTREATED` for the negative
   control.
3. rxrx.ai's `metadata.csv`, one row a site, which also holds the labels of the test treatments.
   Those are answers: `read_wells` drops them, only `read_answers` returns them.
4. WILDS' `metadata.csv`: the same columns; `dataset` is `val` or `test` in the test experiments.

A text label becomes the number at its end, so labels are the same in every release. `UNTREATED`
becomes the negative control's label of the integer release: the highest positive control's plus 1.
"""

import functools
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256
from cellsignal.common.tables import (
    matches,
    normalise_wells,
    parse_integers,
    read_table,
    refuse_rows,
)
from cellsignal.competitions.rxrx1.labels import PENDING, parse_labels
from cellsignal.competitions.rxrx1.layouts import KAGGLE, KAGGLE_FILES, SITE_FILE, find_layout
from cellsignal.competitions.rxrx1.splits import public_experiments

log = logging.getLogger(__name__)

SITES = (1, 2)

_PLACE = ["id_code", "experiment", "plate", "well"]
_SITE_COLUMNS = [
    "well_id",
    "cell_type",
    "dataset",
    "experiment",
    "plate",
    "well",
    "site",
    "well_type",
    "sirna_id",
]
_ADDRESS = r"[A-P](?:0[1-9]|1[0-9]|2[0-4])"  # 16 rows by 24 columns
_ROLES = ("treatment", "positive_control", "negative_control")
# a metadata.csv's `dataset` -> the split; `val` and `id_test` are WILDS'
_SPLITS = {"train": "train", "id_test": "train", "val": "test", "test": "test"}
_ID_TEST_SITE = 2


def read_wells(root: Path | str) -> pd.DataFrame:
    """Read every well under `root`: train, train controls, test, test controls.

    Returns:
        Columns id_code, experiment, plate (int), well, label (Int64; missing for test treatments),
        role, split.

    Raises:
        InputError: a file or column is missing, or a row is wrong; the message names the file and
        the row.
    """
    layout = find_layout(root)
    names = KAGGLE_FILES if layout.name == KAGGLE else (SITE_FILE,)
    paths = [layout.folder / name for name in names]
    contents = tuple(sha256(path) for path in paths if path.is_file())
    return _read_wells(layout.name, layout.folder, contents).copy()


@functools.lru_cache(maxsize=2)  # a command asks for it several times
def _read_wells(layout: str, folder: Path, contents: tuple[str, ...]) -> pd.DataFrame:
    """Read the wells as `read_wells` does; `contents` are the hashes of the tables."""
    if layout == KAGGLE:
        wells = _read_kaggle(folder)
    else:
        path = folder / SITE_FILE
        wells = _wells_of_sites(_read_site_file(path), path)
        wells.loc[(wells.split == "test") & (wells.role == "treatment"), "label"] = pd.NA
    _check_labels(wells, folder)
    return wells.astype({"role": object, "split": object})


def read_sites(root: Path | str) -> pd.DataFrame:
    """Read the wells with one row a site and a column `site`.

    Kaggle's CSVs list wells only, so every well gets both sites; metadata.csv lists the sites.
    """
    layout = find_layout(root)
    wells = read_wells(root)
    if layout.name == KAGGLE:
        sites = wells.loc[wells.index.repeat(len(SITES))].reset_index(drop=True)
        sites["site"] = np.tile(SITES, len(wells))
        return sites
    rows = _read_site_file(layout.folder / SITE_FILE)[["well_id", "site"]].rename(
        columns={"well_id": "id_code"}
    )
    return wells.merge(rows, on="id_code", how="left").sort_values(
        ["id_code", "site"], kind="stable", ignore_index=True
    )


def image_files(root: Path | str, sites: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return the PNGs of each site of `read_sites`, relative to the root: six, or WILDS' one."""
    layout = find_layout(root)
    folder = sites.split.tolist() if layout.name == KAGGLE else ["images"] * len(sites)
    parts = (folder, sites.experiment.tolist(), sites.plate.tolist(), sites.well.tolist())
    return [
        layout.image_names(f"{layout.prefix}{folder}/{experiment}/Plate{plate}/{well}_s{site}")
        for folder, experiment, plate, well, site in zip(*parts, sites.site.tolist(), strict=True)
    ]


def read_answers(path: Path | str) -> pd.DataFrame:
    """Read the test treatments' labels: columns id_code, label (int).

    Args:
        path: rxrx.ai's metadata.csv, or a CSV of id_code and sirna.
    """
    path = Path(path)
    if "site" in read_table(path, rows=0).columns:
        wells = _wells_of_sites(_read_site_file(path), path)
        wells = wells[(wells.split == "test") & (wells.role == "treatment")]
        return wells[["id_code", "label"]].astype({"label": "int64"}).reset_index(drop=True)
    frame = read_table(path, ("id_code", "sirna"), unique="id_code")
    labels = parse_labels(frame.sirna, path, frame.id_code)
    return pd.DataFrame({"id_code": frame.id_code, "label": labels}).reset_index(drop=True)


def labels_are_text(root: Path | str) -> bool:
    """Return whether labels are text such as `sirna_250`, from the first table that exists."""
    folder = find_layout(root).folder
    for name in ("sample_submission.csv", "train.csv"):
        if (folder / name).is_file():
            head = read_table(folder / name, rows=20)
            return "sirna" in head.columns and bool(head.sirna.str.startswith("sirna_").any())
    return False


def read_placeholders(path: Path) -> pd.DataFrame:
    """Read a sample submission: columns id_code, sirna (int64 if all are numbers).

    Raises:
        InputError: the file is not a table, lacks a column, or has an empty or repeated id; the
        message names the file and the row.
    """
    columns = ["id_code", "sirna"]
    sample = read_table(path, columns, filled=("id_code",), unique="id_code")[columns]
    if sample.sirna.str.fullmatch(r"\d{1,18}").all():
        sample["sirna"] = sample.sirna.astype("int64")
    return sample


def _read_kaggle(root: Path) -> pd.DataFrame:
    for name in KAGGLE_FILES:
        if not (root / name).is_file():
            raise InputError(
                f"{root / name}: no such file; the Kaggle release has {', '.join(KAGGLE_FILES)}"
            )
    parts: dict[str, pd.DataFrame] = {}
    for name in KAGGLE_FILES:
        part = _read_kaggle_file(root / name)
        for earlier, other in parts.items():
            doubled = part.id_code.isin(set(other.id_code))
            refuse_rows(root / name, part, doubled, "id_code", f"is also in {earlier}")
        parts[name] = part
    wells = pd.concat(list(parts.values()), ignore_index=True)
    pending = wells.label == PENDING
    if pending.any():
        negative = wells.label[(wells.role == "negative_control") & ~pending]
        label = int(negative.mode()[0]) if len(negative) else int(wells.label.max()) + 1
        wells.loc[pending, "label"] = label
        log.info(
            "%s: text labels read by their numbers; untreated wells have label %d", root, label
        )
    return wells


def _read_kaggle_file(path: Path) -> pd.DataFrame:
    split, controls = path.stem.split("_")[0], path.stem.endswith("_controls")
    labelled = controls or split == "train"
    columns = _PLACE + ["sirna"] * labelled + ["well_type"] * controls
    frame = _check_place(
        path,
        read_table(path, columns, unique="id_code", any_row=path.name == "train.csv"),
        "id_code",
    )
    wells = frame[_PLACE].copy()
    wells["label"] = pd.array([pd.NA] * len(frame), dtype="Int64")
    if labelled:
        wells["label"] = parse_labels(frame.sirna, path, frame.id_code).astype("Int64")
    if controls:
        refuse_rows(path, frame, ~frame.well_type.isin(_ROLES[1:]), "well_type", "is not a control")
    wells["role"] = frame.well_type if controls else "treatment"
    if labelled and not controls:
        wells.loc[wells.label == PENDING, "role"] = "negative_control"
    wells["split"] = split
    return wells


def _read_site_file(path: Path) -> pd.DataFrame:
    frame = _check_place(path, read_table(path, _SITE_COLUMNS, any_row=True), "well_id")
    unknown = ~frame.dataset.isin(list(_SPLITS))
    refuse_rows(path, frame, unknown, "dataset", f"is none of {', '.join(_SPLITS)}")
    refuse_rows(path, frame, ~frame.well_type.isin(_ROLES), "well_type", "is unknown")
    site = parse_integers(path, frame, "site", low=1)
    doubled = frame.assign(site=site).duplicated(["well_id", "site"])
    refuse_rows(path, frame, doubled, "site", "occurs twice for its well")
    other_site = (frame.dataset == "id_test") & (site != _ID_TEST_SITE)
    refuse_rows(path, frame, other_site, "dataset", f"is WILDS' name for sites {_ID_TEST_SITE}")
    _check_validation(path, frame)
    frame["site"], frame["split"] = site, frame.dataset.map(_SPLITS)
    frame["label"] = parse_labels(frame.sirna_id, path, frame.well_id)
    return frame


def _check_validation(path: Path, frame: pd.DataFrame) -> None:
    """Refuse a `val` that is not the experiments by which `splits.wilds_parts` deals the parts."""
    test = frame.experiment[frame.dataset.isin(["val", "test"])]
    validation = set(frame.experiment[frame.dataset == "val"])
    first = public_experiments(test)
    if validation and validation != first:
        name = min(validation ^ first)
        raise InputError(
            f"{path}: {name} is {'not ' * (name in first)}'val'; WILDS' are the first of each cell "
            f"type's test experiments, here {', '.join(sorted(first)) or 'none'}"
        )


def _wells_of_sites(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    columns = ["well_id", "experiment", "plate", "well", "label", "well_type", "split"]
    wells = frame[columns].drop_duplicates()
    disagree = wells.well_id.duplicated()
    refuse_rows(
        path, wells, disagree, "well_id", "has sites that disagree on label, well_type or dataset"
    )
    wells = wells.rename(columns={"well_id": "id_code", "well_type": "role"})
    return wells.astype({"label": "Int64"}).reset_index(drop=True)


def _check_labels(wells: pd.DataFrame, root: Path) -> None:
    """Raise if the treatments' labels are not 0..K-1 without a gap, or a control's is below K."""
    train = wells[(wells.split == "train") & (wells.role == "treatment")]
    if not len(train):
        raise InputError(f"{root}: no training treatment in the metadata")
    classes = int(train.label.max()) + 1
    absent = np.setdiff1d(np.arange(classes), train.label.astype("int64").unique())
    if len(absent):
        raise InputError(
            f"{root}: training labels go up to {classes - 1} but {len(absent)} of them never "
            f"occur, first {absent[0]}"
        )
    control = wells[(wells.role != "treatment") & (wells.label < classes)]
    if len(control):
        row = control.iloc[0]
        raise InputError(
            f"{root}: control well {row.id_code!r} has label {row.label}, which is a treatment's "
            f"(0..{classes - 1})"
        )


def _check_place(path: Path, frame: pd.DataFrame, ids: str) -> pd.DataFrame:
    """Normalise `plate` to int64 and `well` to A01; raise if an id disagrees with its columns."""
    frame = frame.assign(well=normalise_wells(frame.well))
    odd = ~matches(frame.experiment, r".+-\d+")
    refuse_rows(path, frame, odd, "experiment", "is not <cell type>-<number>")
    frame["plate"] = parse_integers(path, frame, "plate", low=1)
    odd = ~matches(frame.well, _ADDRESS)
    refuse_rows(path, frame, odd, "well", "is not a well of a 384-well plate")
    places = zip(frame.experiment, frame.plate.tolist(), frame.well, strict=True)
    expected = np.array([f"{name}_{plate}_{well}" for name, plate, well in places], object)
    wrong = frame[ids].to_numpy(object) != expected
    if wrong.any():
        first = expected[wrong][0]
        why = f"disagrees with its experiment, plate and well, {first!r}"
        refuse_rows(path, frame, wrong, ids, why)
    return frame
