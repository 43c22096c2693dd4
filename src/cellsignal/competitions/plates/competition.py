"""A folder of plates as a competition, by its `plates.yaml`."""

import functools
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_wells, read_table, refuse_rows
from cellsignal.competitions import calibration
from cellsignal.competitions.base import Competition, register
from cellsignal.competitions.plates.description import FILE, FOLD_GROUPS, read_description
from cellsignal.competitions.plates.pixels import VERSION, measure_plate, read_as_bytes
from cellsignal.competitions.plates.planes import parse_entry, plate_of
from cellsignal.competitions.plates.wells import plate_keys, read_rows, read_samples, warn_once


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
            warn_once(f"{root}: left out {count}: {reason}; first {first}")
        return frame

    def left_out(self, root: Path) -> tuple[tuple[str, str], ...]:
        return read_samples(Path(root))[1]

    def classes(self, root: Path) -> tuple[str, ...]:
        """Return the labels of the treated wells that are not hidden, sorted."""
        return read_rows(Path(root)).classes

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
        keys = plate_keys(samples)
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
            plate = plate_of(root, images, files[0])
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
        refuse_rows(path, table, ids.duplicated(), self.id_column, "occurs twice")
        answers = pd.DataFrame({self.id_column: ids, self.target_column: table.label})
        answers = answers.assign(leaderboard="private", plate=parts[0])
        if "cell_type" in table:
            answers["cell_type"] = table.cell_type
        return answers.reset_index(drop=True)

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        from cellsignal.competitions.plates.simulate import simulate_plates

        simulate_plates(Path(out), seed, **size)
