"""A folder of plates as a competition, by its `plates.yaml`."""

import functools
import logging
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_wells, read_table, refuse_rows
from cellsignal.competitions import calibration
from cellsignal.competitions.base import Competition, register
from cellsignal.competitions.plates.description import (
    FILE,
    FOLD_GROUPS,
    Description,
    read_description,
)
from cellsignal.competitions.plates.layouts import parse_path
from cellsignal.competitions.plates.pixels import VERSION, measure_plate, read_as_bytes
from cellsignal.competitions.plates.planes import join_sites, layout_of, parse_entry
from cellsignal.competitions.plates.platemap import read_platemaps
from cellsignal.competitions.samples import check_samples

log = logging.getLogger(__name__)


@register
class Plates(Competition):
    """Your own plates: images of any common microscope, and a platemap.

    Input: the channels that `plates.yaml` names, 8-bit or made so by percentiles of each plate.
    Label: a column of the platemap.
    Metadata: `plates.yaml` in the root; see docs/own_plates.md.
    Licence: that of your data.
    """

    id = "plates"
    title = "Your own plates, described by a plates.yaml"
    channels = ()
    image_shape = None
    id_column = "well_id"
    target_column = "label"
    fold_groups = FOLD_GROUPS
    metric = "accuracy"
    licence = "that of your data"
    citation = "your own plates"
    homepage = "https://github.com/cellsignal/cellsignal/blob/main/docs/own_plates.md"
    quick_simulation: ClassVar = {}
    tiny_simulation: ClassVar = {
        "classes": 3,
        "compounds": 2,
        "replicates": 1,
        "controls": 2,
        "hidden": 4,
        "plates": 3,
        "sites": 1,
        "size": 32,
    }

    def channels_of(self, root: Path) -> tuple[str, ...]:
        return read_description(root).channel_names

    def fold_group(self, root: Path) -> str:
        return read_description(root).fold_group

    def samples(self, root: Path) -> pd.DataFrame:
        """Return one row a site of every well that the platemap gives a label or a role.

        A log line counts what was left out; `left_out` lists it.
        """
        frame, left_out = read_samples(Path(root))
        for reason, count in Counter(reason for reason, _ in left_out).items():
            first = next(name for why, name in left_out if why == reason)
            log.warning("%s: left out %d: %s; first %s", root, count, reason, first)
        return frame

    def left_out(self, root: Path) -> tuple[tuple[str, str], ...]:
        return read_samples(Path(root))[1]

    def classes(self, root: Path) -> tuple[str, ...]:
        """Return the labels of the treated wells that are not hidden, sorted."""
        return _read_rows(Path(root)).classes

    def measure_plates(self, root: Path, folder: Path, workers: int) -> dict[str, str] | None:
        root = Path(root)
        images = read_description(root).images
        if images.bits == 8:
            return None
        samples = read_samples(root)[0]
        if images.window_wells == "controls":
            samples = samples[samples.role == "negative_control"]
            if samples.empty:
                raise InputError(
                    f"{root / FILE}: images.window_wells: controls, but no well is one; give "
                    "negative_controls"
                )
        jobs = {}
        keys = _plate_keys(samples)
        for plate, files in samples.groupby(keys).files:
            sites = tuple(files)
            names = [tuple(self.image_files(entries)) for entries in sites]
            made_from = {
                "version": VERSION,
                "images": images.model_dump(mode="json"),
                **(calibration.describe_planes(root, names) or {}),
            }
            measure = functools.partial(measure_plate, root, plate, sites, images)
            jobs[plate] = calibration.PlateJob(made_from, measure)
        return calibration.measure_changed(folder, jobs, workers)

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        root = Path(root)
        images = read_description(root).images
        measured = None
        if images.bits == 16:
            inside = Path(files[0]).relative_to(images.root).as_posix().partition("#")[0]
            facts = parse_path(layout_of(images), inside, (root / images.root).resolve().name)
            plate = f"{facts['batch']}_{facts['plate']}" if "batch" in facts else facts["plate"]
            measured = calibration.find_calibration(self.calibration, self.id, plate)
        return read_as_bytes(root, files, images, measured, shape)

    def image_files(self, files: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for entry in files for name in parse_entry(entry)[1])

    def sample_submission(self, root: Path) -> pd.DataFrame:
        samples, classes = self.samples(root), self.classes(root)
        hidden = samples.well_id[(samples.split == "test") & (samples.role == "treatment")]
        columns = {self.id_column: sorted(hidden.unique()), self.target_column: classes[0]}
        return pd.DataFrame(columns, dtype=object)

    def answers(self, path: Path) -> pd.DataFrame:
        """Read a CSV with well_id (`<plate>_<well>`) and label, and cell_type if known.

        Every row is `private`.
        """
        path = Path(path)
        table = read_table(path, (self.id_column, self.target_column), any_row=True)
        parts = table[self.id_column].str.rpartition("_")
        ids = parts[0] + parts[1] + normalise_wells(parts[2])
        refuse_rows(path, table, ids.duplicated(), self.id_column, "stands twice")
        answers = pd.DataFrame({self.id_column: ids, self.target_column: table.label})
        answers = answers.assign(leaderboard="private", plate=parts[0])
        if "cell_type" in table:
            answers["cell_type"] = table.cell_type
        return answers.reset_index(drop=True)

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        from cellsignal.competitions.plates.simulate import simulate_plates

        simulate_plates(Path(out), seed, **size)


# from the folder to the samples table
# --------------------------------------------------------------------------------------------------


class _Rows:
    """The sites of a root with what their wells got, and the names of the classes."""

    def __init__(self, frame: pd.DataFrame, left_out: list[tuple[str, str]]):
        self.frame = frame
        self.left_out = tuple(left_out)
        treated = frame[(frame.role == "treatment") & (frame.split == "train")]
        self.classes = tuple(sorted(treated.label_name.unique()))
        controls = frame[frame.role == "positive_control"]
        self.positive = tuple(sorted(controls.label_name.unique()))


def read_samples(root: Path) -> tuple[pd.DataFrame, tuple[tuple[str, str], ...]]:
    """Return the samples table of a root, and the (reason, name) of all that was left out.

    Raises:
        InputError: see `planes.join_sites` and `platemap.read_platemaps`; no well has both images
            and a place in the platemap.
    """
    root = Path(root)
    rows = _read_rows(root)
    frame, number_of = rows.frame, {name: i for i, name in enumerate(rows.classes + rows.positive)}
    label = frame.label_name.map(number_of)
    label = label.where(frame.role != "negative_control", len(number_of))
    is_hidden = (frame.split == "test") & (frame.role == "treatment")
    compound = frame["compound"].where(frame["compound"] != "", frame.label_name)
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
            "label": label.where(~is_hidden),
            "role": frame.role,
            "compound": compound.where(~is_hidden, None),
            "treatment": (compound + dose).where(~is_hidden, None),
            "split": frame.split,
            "files": frame.files,
        }
    )
    return check_samples(samples, root), rows.left_out


def _read_rows(root: Path) -> _Rows:
    description = read_description(root)
    sites = join_sites(root, description)
    rows, left_out = sites.rows, list(sites.left_out)
    if rows.empty:
        raise InputError(f"{root}: no site has all channels; {left_out[0][1]}: {left_out[0][0]}")
    if description.platemap is None:
        frame = _by_folder(root, rows, description)
    else:
        frame = _join_platemap(root, rows, description, left_out)
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
    _warn_of_single_wells(root, frame)
    return _Rows(frame, left_out)


def _by_folder(root: Path, rows: pd.DataFrame, description: Description) -> pd.DataFrame:
    """Take the label from the image's folder, where there is no platemap."""
    if rows.label.isna().any():
        naming = description.images.layout or "the pattern"
        raise InputError(
            f"{root / FILE}: platemap: is not given, and {naming} says no label of an image"
        )
    empty = dict.fromkeys(("compound", "concentration", "cell_type"), "")
    flags = dict.fromkeys(("is_negative_controls", "is_positive_controls", "is_hidden"), False)
    for key in ("negative_controls", "positive_controls", "hidden"):
        if getattr(description, key):
            raise InputError(f"{root / FILE}: {key}: needs a platemap")
    frame = rows.rename(columns={"label": "label_name"}).assign(**empty, **flags)
    return _named(frame.assign(platemap_batch=""))


def _join_platemap(
    root: Path, rows: pd.DataFrame, description: Description, left_out: list[tuple[str, str]]
) -> pd.DataFrame:
    """Add what each well got; list wells that only the images or only the platemap know."""
    plates = sorted(rows.plate.unique())
    table = read_platemaps(root, description, plates)
    table = table.rename(columns={"label": "label_name", "batch": "platemap_batch"})
    frame = rows.drop(columns="label").merge(table, on=["plate", "well"], how="left")
    unknown = frame.label_name.isna()
    names = (frame.plate + "_" + frame.well)[unknown].drop_duplicates()
    left_out += [("a well with images that no platemap has", name) for name in names]
    imaged = set(rows.plate + "_" + rows.well)
    listed = table.plate + "_" + table.well
    left_out += [
        ("a well of the platemap without images", name) for name in listed if name not in imaged
    ]
    if unknown.all():
        raise InputError(
            f"{root}: no well with images is in the platemap; first image of plate "
            f"{rows.plate.iloc[0]}, well {rows.well.iloc[0]}"
        )
    return _named(frame[~unknown].reset_index(drop=True))


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """Add experiment and well_id."""
    batch = frame.platemap_batch.where(frame.platemap_batch != "", frame.batch)
    frame["experiment"] = batch.where(batch != "", "batch1")
    frame["well_id"] = _plate_keys(frame, batch_column="batch") + "_" + frame.well
    return frame.astype(
        {key: bool for key in ("is_negative_controls", "is_positive_controls", "is_hidden")}
    )


def _plate_keys(frame: pd.DataFrame, batch_column: str | None = None) -> pd.Series:
    """Return what names a plate among all: its name, after the batch that its path says, if any."""
    if batch_column is None:
        return frame.well_id.str.rpartition("_")[0]
    batch = frame[batch_column]
    return (batch + "_").where(batch != "", "") + frame.plate


def _warn_of_single_wells(root: Path, frame: pd.DataFrame) -> None:
    treated = frame[(frame.role == "treatment") & (frame.split == "train")]
    counts = treated.groupby("label_name").well_id.nunique()
    single = counts.index[counts == 1]
    if len(single):
        log.warning(
            "%s: %d of %d labels have one well and can't be validated, first %s",
            root,
            len(single),
            len(counts),
            single[0],
        )
