"""A folder of plates as a competition, by its `plates.yaml`."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_wells, read_table, refuse_rows
from cellsignal.competitions import calibration
from cellsignal.competitions.base import Competition, register
from cellsignal.competitions.multi_label import MultiLabel
from cellsignal.competitions.plates.answers import answers_of_platemap, require_answers_table
from cellsignal.competitions.plates.description import (
    FILE,
    FOLD_GROUPS,
    GROUP_WORDS,
    MULTI_LABEL,
    SINGLE_LABEL,
    Description,
    read_description,
)
from cellsignal.competitions.plates.pixels import VERSION, measure_plate, read_as_bytes, read_site
from cellsignal.competitions.plates.planes import images_base, parse_entry, plate_of
from cellsignal.competitions.plates.wells import (
    explain_images,
    plate_keys,
    read_rows,
    read_samples,
)


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
    group_words: ClassVar = GROUP_WORDS
    metric = "accuracy"
    licence = "that of your data"
    citation = "Images: yours"
    homepage = "https://github.com/cellsignal/cellsignal/blob/main/docs/own_plates.md"
    config_help: ClassVar = "write a config (docs/own_plates.md, section 3)"
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

    described_task: ClassVar = SINGLE_LABEL

    def description(self, root: Path) -> Description:
        """Return what `plates.yaml` says.

        Raises:
            InputError: see `read_description`; its task is that of another competition.
        """
        description = read_description(root)
        if description.task != self.described_task:
            other = "plates" if description.task == SINGLE_LABEL else "plates_multi_label"
            raise InputError(
                f"{Path(root) / FILE}: task: {description.task} is that of the competition "
                f"{other}; write {other} in place of {self.id}"
            )
        return description

    def channels_of(self, root: Path) -> tuple[str, ...]:
        return self.description(root).channel_names

    def images_folder(self, root: Path) -> Path:
        return images_base(Path(root), self.description(root).images)[0]

    def fold_group(self, root: Path) -> str:
        return self.description(root).fold_group

    def samples(self, root: Path) -> pd.DataFrame:
        """Return one row a site of every well that the platemap gives a label or a role.

        `left_out` lists the others, `notes` says what looks odd.
        """
        self.description(root)
        return read_samples(Path(root))[0]

    def left_out(self, root: Path) -> tuple[tuple[str, str], ...]:
        self.description(root)
        return read_samples(Path(root))[1]

    def explain_images(self, root: Path, names: Sequence[str]) -> list[tuple[str, str]]:
        self.description(root)
        return explain_images(read_rows(Path(root)), names)

    def notes(self, root: Path) -> tuple[str, ...]:
        self.description(root)
        return read_rows(Path(root)).notes

    def classes(self, root: Path) -> tuple[str, ...]:
        """Return the labels of the treated wells that are not hidden, sorted."""
        self.description(root)
        return read_rows(Path(root)).classes

    def measure_plates(self, root: Path, folder: Path, workers: int) -> dict[str, str] | None:
        root = Path(root)
        images = self.description(root).images
        if images.bits == 8:
            return None
        samples = self.samples(root)
        if images.window_wells == "controls":
            samples = samples[samples.role == "negative_control"]
            if samples.empty:
                raise InputError(
                    f"{root / FILE}: images.window_wells: controls, but no well is one; give "
                    "negative_controls"
                )
        jobs, base = {}, self.images_folder(root)
        keys = plate_keys(samples)
        for plate, files in samples.groupby(keys).files:
            sites = tuple(files)
            names = [tuple(self.image_files(entries)) for entries in sites]
            made_from = {
                "version": VERSION,
                "images": images.model_dump(mode="json"),
                **(calibration.describe_planes(base, names) or {}),
            }
            measure = functools.partial(measure_plate, base, plate, sites, images)
            jobs[plate] = calibration.PlateJob(made_from, measure)
        return calibration.measure_changed(folder, jobs, workers)

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        root = Path(root)
        images = self.description(root).images
        measured = None
        if images.bits == 16:
            plate = plate_of(root, images, files[0])
            measured = calibration.find_calibration(self.calibration, self.id, plate)
        return read_as_bytes(self.images_folder(root), files, images, measured, shape)

    def image_shape_of(self, root: Path, files: tuple[str, ...]) -> tuple[int, int]:
        folder, images = self.images_folder(root), self.description(root).images
        return read_site(folder, files[:1], images).shape[1:]

    def image_files(self, files: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for entry in files for name in parse_entry(entry)[1])

    def sample_submission(self, root: Path) -> pd.DataFrame:
        columns = {self.id_column: self._hidden(root), self.target_column: self.classes(root)[0]}
        return pd.DataFrame(columns, dtype=object)

    def _hidden(self, root: Path) -> list[str]:
        samples = self.samples(root)
        is_hidden = (samples.split == "test") & (samples.role == "treatment")
        return sorted(samples.well_id[is_hidden].unique())

    def answers(self, path: Path) -> pd.DataFrame:
        """Read a CSV with well_id (`<plate>_<well>`) and label, and cell_type if known.

        Every row is `private`.
        """
        path = Path(path)
        require_answers_table(path, self.id_column, self.target_column, self.target_column)
        table = read_table(path, (self.id_column, self.target_column), any_row=True)
        answers = self._with_plate(path, table[[self.id_column, self.target_column]])
        answers = answers.assign(leaderboard="private")
        if "cell_type" in table:
            answers["cell_type"] = table.cell_type
        return answers.reset_index(drop=True)

    def published_answers(self, root: Path) -> pd.DataFrame:
        """Return the labels that the platemap gives hidden wells; see `answers_of_platemap`."""
        self.description(root)
        return answers_of_platemap(Path(root))

    def _with_plate(self, path: Path, table: pd.DataFrame) -> pd.DataFrame:
        """Write the wells of answers as A01, and add their plate."""
        parts = table[self.id_column].str.rpartition("_")
        ids = parts[0] + parts[1] + normalise_wells(parts[2])
        refuse_rows(path, table, ids.duplicated(), self.id_column, "occurs twice")
        return table.assign(**{self.id_column: ids, "plate": parts[0]})

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        from cellsignal.competitions.plates.simulate import simulate_plates

        simulate_plates(Path(out), seed, **size)


@register
class PlatesMultiLabel(Plates):
    """Your own plates, whose wells have any number of labels: `task: multi_label`.

    Label: a column of the platemap whose cells hold several, or a column of 0 and 1 for each.
    """

    id = "plates_multi_label"
    title = "Your own plates, any number of labels a well"
    target_column = "labels"
    metric = "macro average precision"
    task_class = MultiLabel
    described_task: ClassVar = MULTI_LABEL

    def sample_submission(self, root: Path) -> pd.DataFrame:
        return self.task.placeholders(self._hidden(root), self.classes(root))

    def answers(self, path: Path) -> pd.DataFrame:
        """Read a CSV with well_id (`<plate>_<well>`) and a column of 0 and 1 for each label.

        Every row is `private` where the file has no column `leaderboard`. There is no `plate` where
        all wells are of one: intervals then resample wells.
        """
        require_answers_table(Path(path), self.id_column, "", "one of 0 and 1 for each label")
        answers = self.task.read_answers(Path(path)).drop(columns="plate", errors="ignore")
        answers = self._with_plate(Path(path), answers)
        return answers if answers.plate.nunique() > 1 else answers.drop(columns="plate")

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        size = {"labels": 2, **size}
        if size["labels"] < 2:
            raise InputError(f"simulate {self.id}: labels: 2 or 3, got {size['labels']}")
        super().simulate(out, seed, **size)
