"""Join the sites of the images with what their wells got: the samples table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.pairing import NO_ROW
from cellsignal.competitions.plates.description import (
    FILE,
    MULTI_LABEL,
    Description,
    read_description,
)
from cellsignal.competitions.plates.labels import refuse_reserved
from cellsignal.competitions.plates.notes import NO_BATCH, note_wells
from cellsignal.competitions.plates.planes import Sites, join_sites, name_site
from cellsignal.competitions.plates.platemap import read_platemaps
from cellsignal.competitions.samples import check_samples


class Rows:
    """The sites of a root with what their wells got, and the names of the classes.

    Attributes:
        notes: lines on what may not be as the user thinks.
        planes: see `planes.Sites`.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        left_out: list[tuple[str, str]],
        description: Description,
        notes: list[str],
        planes: pd.DataFrame,
    ):
        self.frame, self.description, self.planes = frame, description, planes
        self.notes = (*notes, *note_wells(frame, description))
        treated = frame[(frame.role == "treatment") & (frame.split == "train")]
        self.is_multi_label = description.task == MULTI_LABEL
        names = treated["labels"].explode().dropna() if self.is_multi_label else treated.label_name
        present = set(names)
        columns = description.label_columns or ()
        left_out = left_out + [
            ("a label that no treated well has", name) for name in columns if name not in present
        ]
        self.left_out = tuple(left_out)
        self.classes = tuple(name for name in columns or sorted(present) if name in present)
        controls = frame[frame.role == "positive_control"]
        self.positive = tuple(sorted(controls.label_name.unique()))


def read_samples(root: Path) -> tuple[pd.DataFrame, tuple[tuple[str, str], ...]]:
    """Return the samples table of a root, and the (reason, name) of all that was left out.

    Raises:
        InputError: see `planes.join_sites` and `platemap.read_platemaps`; no well has both images
            and a place in the platemap.
    """
    root = Path(root)
    rows = read_rows(root)
    frame, number_of = rows.frame, {name: i for i, name in enumerate(rows.classes + rows.positive)}
    label = frame.label_name.map(number_of)
    label = label.where(frame.role != "negative_control", len(number_of))
    label = label.where(frame.role != "reference")
    is_hidden = (frame.split == "test") & (frame.role == "treatment")
    compound = frame.label_name if rows.description.compound is None else frame["compound"]
    dose = frame.concentration.where(frame.concentration == "", "@" + frame.concentration)
    samples = pd.DataFrame(
        {
            "sample_id": frame.well_id + "_s" + frame.site.astype(str),
            "target_id": frame.well_id,
            "well_id": frame.well_id,
            "experiment": frame.experiment,
            "plate": frame.plate,
            "well": frame.well,
            "site": frame.site,
            "cell_type": frame.cell_type.where(frame.cell_type != "", "cells"),
            "label": None if rows.is_multi_label else label.where(~is_hidden),
            "labels": _class_numbers(rows),
            "role": frame.role,
            "compound": compound.where(~is_hidden, None),
            "treatment": (compound + dose).where(~is_hidden & (compound != ""), None),
            "split": frame.split,
            "files": frame.files,
        }
    )
    return check_samples(samples, root), rows.left_out


def _class_numbers(rows: Rows) -> list[tuple[int, ...] | None]:
    """Return the class numbers of the treated wells, where they may be several; else None."""
    frame, number_of = rows.frame, {name: i for i, name in enumerate(rows.classes)}
    is_known = (frame.role == "treatment") & (frame.split == "train") & rows.is_multi_label
    return [
        tuple(sorted(number_of[name] for name in names)) if known else None
        for names, known in zip(frame["labels"], is_known, strict=True)
    ]


def read_rows(root: Path) -> Rows:
    """Return the sites with what their wells got; see `read_samples`."""
    description = read_description(root)
    sites = join_sites(root, description)
    rows, left_out, notes = sites.rows, list(sites.left_out), []
    if rows.empty:
        raise InputError(f"{root}: no site has all channels; {left_out[0][1]}: {left_out[0][0]}")
    if description.platemap is None:
        frame = _by_folder(root, rows, description)
    else:
        frame = _join_platemap(root, sites, description, left_out, notes)
    frame["role"] = "treatment"
    frame.loc[frame.is_positive_controls, "role"] = "positive_control"
    frame.loc[frame.is_negative_controls, "role"] = "negative_control"
    frame["split"] = np.where(frame.is_hidden & (frame.role == "treatment"), "test", "train")
    is_unlabelled = (frame.label_name == "") & (frame.role != "negative_control")
    is_unlabelled &= frame.split == "train"
    wells = frame.well_id[is_unlabelled].drop_duplicates()
    left_out += [("a well without a label", name) for name in wells]
    frame = frame[~is_unlabelled].sort_values(["well_id", "site"], ignore_index=True)
    if frame.empty:
        raise InputError(f"{root}: no well of the platemap has a label and images")
    frame = _take_from_folds(root, frame, description, notes)
    rows = Rows(frame, left_out, description, notes, sites.planes)
    if rows.is_multi_label:
        refuse_reserved(root, rows.classes, "well_id")
    return rows


def explain_images(rows: Rows, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return for each image without a sample the well or plate it is of, and why; see `Pairs`."""
    reason_of: dict[str, str] = {name: reason for reason, name in reversed(rows.left_out)}
    planes = rows.planes.drop_duplicates("file").set_index("file")
    plates_with_samples = set(rows.frame.plate)
    explained = []
    for name in names:
        if name in reason_of or name not in planes.index:
            explained.append(("", reason_of.get(name, NO_ROW)))
            continue
        plane = planes.loc[name]
        well = f"{plane.plate}_{plane.well}"
        batch = f"{plane.batch}_" if plane.batch else ""
        keys = (name_site(plane.plate, plane.well, plane.site), well, batch + well)
        group, reason = next(((key, reason_of[key]) for key in keys if key in reason_of), ("", ""))
        if group != keys[0] and plane.plate not in plates_with_samples:
            group = f"plate {plane.plate}"
        elif group and group != keys[0]:
            group = f"well {well}"
        explained.append((group, reason or NO_ROW))
    return explained


def _take_from_folds(
    root: Path, frame: pd.DataFrame, description: Description, notes: list[str]
) -> pd.DataFrame:
    """Take the label from treated wells of which nobody knows what a fold must not part them from.

    They stay in the table, and with it in the store, as `reference`: whichever key `folds` names.
    """
    key = description.folds
    column = getattr(description, key, None)
    if key not in ("compound", "batch") or column is None:
        return frame
    is_unknown = frame["compound"] == "" if key == "compound" else frame.experiment == NO_BATCH
    is_unknown &= (frame.role == "treatment") & (frame.split == "train")
    wells = frame.well_id[is_unknown].drop_duplicates()
    if wells.empty:
        return frame
    frame.loc[is_unknown, "role"] = "reference"
    if not ((frame.role == "treatment") & (frame.split == "train")).any():
        raise InputError(
            f"{root / FILE}: folds: {key}: no labelled well has a {key} in column {column!r}"
        )
    notes.append(
        f"{len(wells)} labelled wells have no {key} (column {column!r} is empty there), so with "
        f"folds: {key} they are neither trained on nor validated; first {wells.iloc[0]}"
    )
    return frame


def _by_folder(root: Path, rows: pd.DataFrame, description: Description) -> pd.DataFrame:
    """Take the label from the image's folder, where there is no platemap."""
    if rows.label.isna().any():
        naming = description.images.layout or "the pattern"
        raise InputError(
            f"{root / FILE}: platemap: is not given, and {naming} says no label of an image"
        )
    empty = dict.fromkeys(("compound", "concentration", "cell_type"), "")
    flags = dict.fromkeys(("is_negative_controls", "is_positive_controls", "is_hidden"), False)
    if description.task == MULTI_LABEL:
        raise InputError(f"{root / FILE}: task: {MULTI_LABEL} needs a platemap")
    keys = ("negative_controls", "positive_controls", "hidden")
    for key in (*keys, "compound", "concentration", "batch", "cell_type"):
        if getattr(description, key):
            raise InputError(f"{root / FILE}: {key}: needs a platemap")
    frame = rows.rename(columns={"label": "label_name"}).assign(**empty, **flags, labels=None)
    return _named(frame.assign(platemap_batch=""), "batch1")


def _join_platemap(
    root: Path,
    sites: Sites,
    description: Description,
    left_out: list[tuple[str, str]],
    notes: list[str],
) -> pd.DataFrame:
    """Add what each well got; list wells that only the images or only the platemap know."""
    rows = sites.rows
    plates = sorted(rows.plate.unique())
    table = read_platemaps(root, description, plates)
    table = table.rename(columns={"label": "label_name", "batch": "platemap_batch"})
    frame = rows.drop(columns="label").merge(table, on=["plate", "well"], how="left")
    unknown = frame.label_name.isna()
    notes += _note_plates(frame, table, description)
    names = (frame.plate + "_" + frame.well)[unknown].drop_duplicates()
    left_out += [("a well with images that no platemap has", name) for name in names]
    listed, imaged = table.plate + "_" + table.well, sites.imaged()
    left_out += [
        ("a well of the platemap without images", name) for name in listed if name not in imaged
    ]
    if unknown.all():
        raise InputError(
            f"{root}: no well with images is in the platemap; first image of plate "
            f"{rows.plate.iloc[0]}, well {rows.well.iloc[0]}"
        )
    default = "batch1" if description.batch is None else NO_BATCH
    return _named(frame[~unknown].reset_index(drop=True), default)


def _note_plates(frame: pd.DataFrame, table: pd.DataFrame, description: Description) -> list[str]:
    """Return a line for each plate that only the images or only the platemap know."""
    source, imaged = description.platemap, frame.drop_duplicates(["plate", "well"]).groupby("plate")
    listed = dict(table.groupby("plate").well.nunique())
    name = FILE if isinstance(source, dict) else Path(source).name
    counts = imaged.well.nunique()
    absent = [plate for plate in counts.index if plate not in listed]
    known = ", ".join(sorted(plate for plate in listed if plate))
    lines = [
        f"plate {plate} ({counts[plate]} wells) is in no row of {name}; the file has {known}"
        for plate in absent
    ]
    if "" in listed:
        lines.append(f"{listed.pop('')} wells of {name} have no plate")
    there = ", ".join(counts.index)
    return lines + [
        f"plate {plate} of {name} ({wells} wells) has no images; there are {there}"
        for plate, wells in sorted(listed.items())
        if plate not in counts
    ]


def _named(frame: pd.DataFrame, default: str) -> pd.DataFrame:
    """Add experiment and well_id.

    Args:
        default: the batch of wells for which neither the platemap nor the path says one.
    """
    batch = frame.platemap_batch.where(frame.platemap_batch != "", frame.batch)
    frame["experiment"] = batch.where(batch != "", default)
    frame["well_id"] = plate_keys(frame, batch_column="batch") + "_" + frame.well
    return frame.astype(
        {key: bool for key in ("is_negative_controls", "is_positive_controls", "is_hidden")}
    )


def plate_keys(frame: pd.DataFrame, batch_column: str | None = None) -> pd.Series:
    """Return what names a plate among all: its name, after the batch that its path says, if any."""
    if batch_column is None:
        return frame.well_id.str.rpartition("_")[0]
    batch = frame[batch_column]
    return (batch + "_").where(batch != "", "") + frame.plate
