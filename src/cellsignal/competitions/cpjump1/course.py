"""The course project on one CPJUMP1 plate: which of 50 compounds did a well get?"""

import logging
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.competitions.base import Competition, register
from cellsignal.competitions.calibration import find_calibration
from cellsignal.competitions.cpjump1.course_folder import read_images, state_names
from cellsignal.competitions.cpjump1.images import measure_plates, read_field
from cellsignal.competitions.cpjump1.metadata import read_answers
from cellsignal.competitions.published import Protocol, Published
from cellsignal.competitions.samples import check_samples
from cellsignal.config.options import read_choices, texts

log = logging.getLogger(__name__)

N_CLASSES = 50
_CALIBRATION = "plate"


@register
class Cpjump1Course(Competition):
    """The 50 most frequent names of plate BR00116991, by their RNA channel.

    Input: RNA planes, 16-bit TIFF, 1080x1080, up to nine a well, A549 cells after 24 h.
    Label: `Metadata_pert_iname`. DMSO (64 wells) is a class, as in the course, and so a treatment.
    Metadata: `metadata.csv` (FileName_OrigRNA in any case, Metadata_pert_iname, Metadata_Well,
    Metadata_Plate) and, if labels are hidden, `test.csv` with the same columns but the name. The
    images are `images/r##c##f##*.tiff`; rows and files are joined by that key in their names. Other
    places that are found: see `course_folder`.
    Licence: CC0 1.0.
    Paper: as `Cpjump1`.

    284 of the plate's 303 names have one well. Such a class can be learnt and never be tested by
    well (fold -1), and its label is the well's position.
    """

    id = "cpjump1_course"
    title = "CPJUMP1, the course project: 50 compounds of one plate by their RNA channel"
    channels = ("rna",)
    image_shape = (1080, 1080)
    published = Published(
        train=131 * 9,
        unlabelled=131 * 9,
        classes=N_CLASSES,
        compounds=N_CLASSES,
        sites=tuple(range(1, 10)),
        source=(
            "plate BR00116991: 64 wells of DMSO, 36 of the 18 other names with several wells, 31 "
            "of names with one; nine fields each"
        ),
    )
    id_column = "well_id"
    target_column = "pert_iname"
    fold_groups = ("well_id",)
    metric = "accuracy"
    licence = "CC0 1.0"
    citation = (
        "Chandrasekaran et al., Three million images and morphological profiles of cells, "
        "Nature Methods 21:1114 (2024); plate BR00116991"
    )
    homepage = "https://github.com/jump-cellpainting/2024_Chandrasekaran_NatureMethods"
    tiny_simulation: ClassVar = {
        "compounds": 8,
        "wells": 3,
        "singles": 1,
        "controls": 4,
        "sites": 2,
        "size": 32,
    }

    def samples(self, root: Path) -> pd.DataFrame:
        """Return one row an image of a class.

        Rows without a file, files without a row and rows of other classes are left out; a log line
        counts the first two, and `left_out` lists all.
        """
        root = Path(root)
        table, left_out = read_images(root)
        for reason, count in Counter(reason for reason, _ in left_out).items():
            first = next(name for why, name in left_out if why == reason)
            log.warning("%s: left out %d: %s, first %s", root, count, reason, first)
        label_of = {name: label for label, name in enumerate(_class_names(table))}
        table = table[(table.split == "test") | table.name.isin(label_of)].reset_index(drop=True)
        name = table.name.where(table.split == "train", None)
        well_id = table.plate + "_" + table.well
        frame = pd.DataFrame(
            {
                "sample_id": well_id + "_s" + table.site.astype(str),
                "target_id": well_id,
                "well_id": well_id,
                "experiment": table.plate,
                "plate": table.plate,
                "well": table.well,
                "site": table.site,
                "cell_type": "A549",
                "label": name.map(label_of),
                "role": "treatment",
                "compound": name,
                "treatment": name,
                "split": table.split,
                "files": table.files,
                "origin": table.origin,
            }
        )
        return check_samples(frame, root, self.channels, self.stated)

    def left_out(self, root: Path) -> tuple[tuple[str, str], ...]:
        table, left_out = read_images(Path(root))
        others = table[(table.split == "train") & ~table.name.isin(_class_names(table))]
        reason = f"name is none of the {N_CLASSES} most frequent"
        return (*left_out, *((reason, name) for (name,) in others.files))

    def classes(self, root: Path) -> tuple[str, ...]:
        """Return the 50 names with most images, or all if there are fewer, sorted.

        Of names with equally many images the first in the alphabet is taken.
        """
        return _class_names(read_images(Path(root))[0])

    def measure_plates(self, root: Path, folder: Path, workers: int) -> dict[str, str]:
        rows, _ = read_images(Path(root))
        hashes = measure_plates(root, folder, {_CALIBRATION: rows.files.to_list()}, workers)
        return dict.fromkeys(rows.plate.unique(), hashes[_CALIBRATION])

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        return read_field(
            root, files, find_calibration(self.calibration, self.id, _CALIBRATION), shape
        )

    def stated(self, name: str) -> dict[str, str]:
        return state_names(name)

    def sample_submission(self, root: Path) -> pd.DataFrame:
        samples, classes = self.samples(root), self.classes(root)
        ids = sorted(samples.well_id[samples.split == "test"].unique())
        columns = {self.id_column: ids, self.target_column: classes[0]}
        return pd.DataFrame(columns, dtype=object)

    def answers(self, path: Path) -> pd.DataFrame:
        """Read a CSV with well_id (`<plate>_<well>`) and pert_iname. Every row is `private`."""
        return read_answers(Path(path), self.id_column, self.target_column)

    def protocols(self) -> tuple[Protocol, ...]:
        note = (
            "Fields of a well stay together. A class with one well is never held out; the others "
            "share the plate, and their positions tell something. "
            "The course's own split is by image, after oversampling: `cellsignal study "
            "oversampling CONFIG` shows what that does."
        )
        return (Protocol("well", "wells held out", "well_id", note),)

    def download(self, out: Path, **choices: str) -> None:
        """Fetch the RNA planes of plate BR00116991 (3,456, up to 8.1 GB) and its metadata.csv.

        Other choices: plate, wells, batch.
        """
        from cellsignal.competitions.cpjump1.download import download_course

        kinds = {"plate": str, "wells": texts, "batch": str}
        download_course(Path(out), **read_choices(self.id, choices, kinds))

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        from cellsignal.competitions.cpjump1.simulate import simulate_course

        simulate_course(Path(out), seed, **size)


def _class_names(table: pd.DataFrame) -> tuple[str, ...]:
    counts = table.name[table.split == "train"].value_counts()
    most_frequent = sorted(counts.index, key=lambda name: (-counts[name], name))
    return tuple(sorted(most_frequent[:N_CLASSES]))
