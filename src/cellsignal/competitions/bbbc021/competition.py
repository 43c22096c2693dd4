"""The six-class subset of BBBC021 as a competition, in either of two layouts.

1. The course's tables: `train.csv` (image_id, plate_id, well_id, compound, concentration_uM, moa),
   `test.csv` (image_id, plate_id, well_id), `images/{image_id}.png`, `sample_submission.csv`
   (image_id, moa).
2. The lab's archive (`lab_archive.py`): a folder of PNGs for each mechanism, all of them labelled.
"""

import logging
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import describe_folder
from cellsignal.common.tables import normalise_wells, read_table, refuse_rows
from cellsignal.competitions.base import Competition, register
from cellsignal.competitions.bbbc021 import lab_archive
from cellsignal.competitions.bbbc021.lab_download import download_lab_archive
from cellsignal.competitions.bbbc021.simulate import simulate_bbbc021
from cellsignal.competitions.folds import make_folds
from cellsignal.competitions.published import Protocol, Published
from cellsignal.competitions.sample_files import origins
from cellsignal.competitions.samples import check_samples
from cellsignal.competitions.submissions import check_sample_ids
from cellsignal.config.options import read_choices
from cellsignal.images import read_png8

log = logging.getLogger(__name__)

COLUMNS = {
    "train.csv": ("image_id", "plate_id", "well_id", "compound", "concentration_uM", "moa"),
    "test.csv": ("image_id", "plate_id", "well_id"),
}
CELL_TYPE = "MCF7"
BY_IMAGE, LAB_FOLDS = "image", 4  # the lab's split: a quarter of the images validates
CITATION = (
    "Caie et al., Mol Cancer Ther 9:1913 (2010); Ljosa et al., Nat Methods 9:637 (2012); BBBC021v1"
)
HOMEPAGE = "https://bbbc.broadinstitute.org/BBBC021"


@register
class Bbbc021(Competition):
    """Name the mechanism of action (MoA) of compounds that training never met.

    Input: fields of MCF7 cells, three stains (actin, tubulin, DNA), 256x256 8-bit RGB PNG. Label:
    one of six MoAs. Metadata: plate, well, and in training compound and concentration. Licence:
    CC BY 3.0. Paper: Ljosa, Sokolnicki & Carpenter, Nature Methods 9:637 (2012), Broad Bioimage
    Benchmark Collection BBBC021v1 (Caie et al., Mol Cancer Ther 9:1913, 2010).
    """

    id = "bbbc021"
    title = "BBBC021: mechanism of action of unseen compounds, six classes"
    channels = ("actin", "tubulin", "dna")
    image_shape = (256, 256)
    published = Published(
        train=420,
        test=240,
        unlabelled=420,
        classes=6,
        compounds=11,
        sites=(1, 2, 3, 4),
        source="the course's tables",
    )
    id_column = "image_id"
    target_column = "moa"
    fold_groups = ("compound", "well_id")
    metric = "accuracy"
    licence = "CC BY 3.0"
    citation = CITATION
    homepage = HOMEPAGE
    tiny_simulation: ClassVar = {
        "compounds_per_class": 2,
        "test_compounds_per_class": 1,
        "doses": 1,
        "replicates": 1,
        "size": 32,
    }

    def fold_group(self, root: Path) -> str:
        """Return `compound`; of the lab's archive, which does not name compounds, `well_id`."""
        return super().fold_group(root) if find_lab_folder(root) is None else "well_id"

    def samples(self, root: Path) -> pd.DataFrame:
        folder = find_lab_folder(root)
        if folder is not None:
            return self._lab_samples(root, folder)
        train = _read_images(root, "train.csv").assign(split="train")
        test = _read_images(root, "test.csv").assign(split="test")
        images = pd.concat([train, test], ignore_index=True)
        label_of = {name: label for label, name in enumerate(self.classes(root))}
        frame = pd.DataFrame(
            {
                "sample_id": images.image_id,
                "target_id": images.image_id,
                "well_id": images.plate_id + "_" + images.well_id,
                "experiment": images.plate_id,
                "plate": images.plate_id,
                "well": images.well_id,
                "site": images.groupby(["plate_id", "well_id"]).cumcount() + 1,
                "cell_type": CELL_TYPE,
                "label": images.moa.map(label_of),
                "role": "treatment",
                "compound": images.compound,
                "split": images.split,
                "files": [(f"images/{image_id}.png",) for image_id in images.image_id],
                "origin": images.origin,
            }
        )
        return check_samples(frame, root, self.channels, self.stated)

    def _lab_samples(self, root: Path, folder: Path) -> pd.DataFrame:
        images, _ = lab_archive.read_archive(root, folder)
        label_of = {name: label for label, name in enumerate(self.classes(root))}
        frame = pd.DataFrame(
            {
                "sample_id": images.image_id,
                "target_id": images.image_id,
                "well_id": images.well_id,
                "experiment": lab_archive.FOLDER,
                "plate": lab_archive.FOLDER,
                "well": images.well_id,
                "site": images.site,
                "cell_type": CELL_TYPE,
                "label": images.moa.map(label_of),
                "role": "treatment",
                "compound": None,
                "split": "train",
                "files": images.files,
                "origin": images.origin,
            }
        )
        return check_samples(frame, root, self.channels, self.stated)

    def left_out(self, root: Path) -> tuple[tuple[str, str], ...]:
        folder = find_lab_folder(root)
        if folder is None:
            return super().left_out(root)
        return lab_archive.read_archive(root, folder)[1]

    def classes(self, root: Path) -> tuple[str, ...]:
        if find_lab_folder(root) is not None:
            return tuple(sorted(moa for moa, _ in lab_archive.MECHANISMS.values()))
        return tuple(sorted(_read_images(root, "train.csv").moa.unique()))

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        image = read_png8(Path(root) / files[0], shape, channels=3)
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    def root_shape(self, root: Path) -> tuple[int, int]:
        """Return the published 256x256; for a simulated copy, the size of most images."""
        if (Path(root) / "simulation.json").is_file():
            return super().root_shape(root)
        return self.image_shape

    def sample_submission(self, root: Path) -> pd.DataFrame:
        """Return the release's, or else the ids of `test.csv` with the first class.

        The lab's archive has no test images, so it is empty there.
        """
        if find_lab_folder(root) is not None:
            return pd.DataFrame(columns=[self.id_column, self.target_column], dtype=object)
        path = Path(root) / "sample_submission.csv"
        columns = [self.id_column, self.target_column]
        test = _read_images(root, "test.csv").image_id
        if path.is_file():
            sample = read_table(path, columns, unique=self.id_column)[columns]
            check_sample_ids(path, sample, test, self.id_column)
            return sample.reset_index(drop=True)
        values = {self.id_column: test, self.target_column: self.require_classes(root)[0]}
        return pd.DataFrame(values, dtype=object).reset_index(drop=True)

    def answers(self, path: Path) -> pd.DataFrame:
        """Read a CSV with image_id and moa, and plate_id if known; every row is `private`."""
        frame = read_table(path, (self.id_column, self.target_column), unique=self.id_column)
        answers = frame[[self.id_column, self.target_column]].assign(leaderboard="private")
        if "plate_id" in frame:
            refuse_rows(path, frame, frame.plate_id == "", "plate_id", "is empty")
            answers = answers.assign(experiment=frame.plate_id, plate=frame.plate_id)
        return answers.reset_index(drop=True)

    def protocols(self) -> tuple[Protocol, ...]:
        return (
            Protocol(
                "compound",
                "compound held out",
                "compound",
                "A class with one compound cannot be held out; it stays in training.",
            ),
            Protocol(
                "well",
                "well held out",
                "well_id",
                "Sites of a well stay together; compounds are shared, so it is optimistic.",
            ),
            Protocol(
                BY_IMAGE,
                "images dealt at random (the lab, 2019)",
                "sample_id",
                "A quarter of the images validates, as in the lab: sites of one well are in both "
                "parts, so it is optimistic. "
                f"`cellsignal folds {self.id} --named {BY_IMAGE}` makes the four folds.",
                by_site=True,
            ),
        )

    def named_folds(self, name: str, samples: pd.DataFrame) -> pd.DataFrame:
        """Make `image`: the images dealt to four folds, whichever well they are of."""
        if name != BY_IMAGE:
            return super().named_folds(name, samples)
        return make_folds(samples, "sample_id", LAB_FOLDS)

    def download(self, out: Path, **choices: str) -> None:
        """Fetch the lab's archive, 660 labelled images; the course's tables are not published."""
        read_choices(self.id, choices, {})
        if (Path(out) / "train.csv").is_file():
            log.info("%s: has the course's train.csv; nothing is fetched", out)
            return
        download_lab_archive(Path(out))

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        simulate_bbbc021(out, seed, **size)


def find_lab_folder(root: Path) -> Path | None:
    """Return the lab's folder under the root; None if the course's tables are there.

    Raises:
        InputError: the root has neither.
    """
    root = Path(root)
    if any((root / name).is_file() for name in COLUMNS):
        return None
    folder = lab_archive.find_archive(root)
    if folder is None:
        raise InputError(
            f"{root}: neither train.csv nor a folder {lab_archive.FOLDER}; {describe_folder(root)}"
        )
    return folder


def _read_images(root: Path, name: str) -> pd.DataFrame:
    """Read one of the two tables, with a column `origin` (file and row)."""
    path = Path(root) / name
    frame = read_table(path, COLUMNS[name], unique="image_id", any_row=name == "train.csv")
    return frame.assign(well_id=normalise_wells(frame.well_id), origin=origins(name, frame))
