"""RxRx1 as a competition: how its files become samples, submissions and answers.

The numbers of the published data (1,108 classes, 4 groups of 277 ...) are constants of this folder
only. A simulated copy has fewer classes and smaller images, so code that reads a root counts its
files instead.
"""

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import Competition, PlateGroups, register
from cellsignal.competitions.published import Protocol, Published
from cellsignal.competitions.rxrx1 import groups, splits
from cellsignal.competitions.rxrx1.download import download
from cellsignal.competitions.rxrx1.labels import parse_labels
from cellsignal.competitions.rxrx1.layouts import CHANNELS, KAGGLE, SITE_FILE, find_layout
from cellsignal.competitions.rxrx1.metadata import (
    image_files,
    labels_are_text,
    read_answers,
    read_placeholders,
    read_sites,
    read_wells,
)
from cellsignal.competitions.rxrx1.simulate import simulate_rxrx1
from cellsignal.competitions.samples import check_samples
from cellsignal.competitions.submissions import check_sample_ids
from cellsignal.config.options import read_choices
from cellsignal.images import read_png8

_FILE = re.compile(
    r"(?P<experiment>[^/]+)/Plate(?P<plate>\d+)/(?P<well>[A-P]\d\d)_s(?P<site>\d)"
    r"(_w(?P<channel>\d))?\.png$"
)
N_CLASSES = 1108
N_POSITIVE_CONTROLS = 30
N_CONTROLS = 31  # the positive ones and the untreated wells
N_GROUPS = 4
GROUP_SIZE = 277
PUBLISHED = {  # counts of wells, classes, experiments and sites in the original release
    "train treatments": 36_515,
    "train controls": 4_097,
    "test treatments": 19_897,
    "test controls": 2_246,
    "classes": N_CLASSES,
    "control classes": N_CONTROLS,
    "train experiments": 33,
    "test experiments": 18,
    "sites": 125_510,
}


@register
class RxRx1(Competition):
    """Name the siRNA that a well of cells was given.

    Input: six fluorescent channels of a site, 512x512 8-bit PNGs; two sites a well. Label: one of
    1,108 siRNAs; 31 more are controls, on every plate and not scored. Metadata: experiment
    (batch), plate, well, cell type; 51 experiments of four 384-well plates, each of one of four
    cell types. Test experiments are new. Licence: CC BY-NC-SA 4.0. Paper: Sypetkowski et al., CVPR
    Workshops 2023, arXiv:2301.05768; Kaggle 2019, "Recursion Cellular Image Classification".
    """

    id = "rxrx1"
    title = "RxRx1: Recursion Cellular Image Classification (CellSignal)"
    channels = ("nuclei", "endoplasmic_reticulum", "actin", "nucleoli", "mitochondria", "golgi")
    image_shape = (512, 512)
    published = Published(
        train=2 * PUBLISHED["train treatments"],
        test=2 * PUBLISHED["test treatments"],
        train_controls=2 * PUBLISHED["train controls"],
        test_controls=2 * PUBLISHED["test controls"],
        unlabelled=2 * (PUBLISHED["train treatments"] + PUBLISHED["train controls"]),
        classes=N_CLASSES,
        control_classes=N_CONTROLS,
        compounds=N_CLASSES,
        cell_types=4,
        sites=(1, 2),
        source="the rows of the original release's tables, two sites a well",
    )
    id_column = "id_code"
    target_column = "sirna"
    fold_groups = ("experiment", "well_id")
    metric = "accuracy"
    licence = "CC BY-NC-SA 4.0"
    citation = (
        "Sypetkowski et al., RxRx1: A Dataset for Evaluating Experimental Batch Correction "
        "Methods, CVPR Workshops 2023, arXiv:2301.05768"
    )
    homepage = "https://www.kaggle.com/competitions/recursion-cellular-image-classification"
    tiny_simulation: ClassVar = {
        "classes": 8,
        "controls": 2,
        "size": 32,
        "train_experiments": 2,
        "test_experiments": 1,
    }

    def channels_of(self, root: Path) -> tuple[str, ...]:
        """Return all six; the first three of WILDS' folder, whose images have no more."""
        return self.channels[: find_layout(root).channels]

    def samples(self, root: Path) -> pd.DataFrame:
        sites = read_sites(root)
        known = (sites.split == "train") & (sites.role == "treatment")
        frame = pd.DataFrame(
            {
                "sample_id": sites.id_code + "_s" + sites.site.astype(str),
                "target_id": sites.id_code,
                "well_id": sites.id_code,
                "experiment": sites.experiment,
                "plate": sites.plate.astype(str),
                "well": sites.well,
                "site": sites.site,
                "cell_type": splits.cell_types(sites.experiment),
                "label": sites.label,
                "role": sites.role,
                "compound": sites.label.astype(object).where(known, None),
                "split": sites.split,
                "files": image_files(root, sites),
            }
        )
        return check_samples(frame, root)

    def classes(self, root: Path) -> tuple[str, ...]:
        wells = read_wells(root)
        number = int(wells.label[(wells.split == "train") & (wells.role == "treatment")].max()) + 1
        prefix = "sirna_" if labels_are_text(root) else ""
        return tuple(f"{prefix}{label}" for label in range(number))

    def stated(self, name: str) -> dict[str, str]:
        """Parse a name such as `HUVEC-01/Plate1/B03_s1_w2.png`, or WILDS' `.../B03_s1.png`."""
        match = _FILE.search(name)
        if match is None:
            return {}
        if match["channel"] is None:
            return {key: value for key, value in match.groupdict().items() if key != "channel"}
        number = int(match["channel"])
        channel = self.channels[number - 1] if 1 <= number <= CHANNELS else f"w{number}"
        return match.groupdict() | {"channel": channel}

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        if len(files) == 1:  # WILDS' RGB
            image = read_png8(Path(root) / files[0], shape, channels=3)
            return np.ascontiguousarray(image.transpose(2, 0, 1))
        first = read_png8(Path(root) / files[0], shape)
        rest = [read_png8(Path(root) / file, first.shape) for file in files[1:]]
        return np.stack([first, *rest])

    def sample_submission(self, root: Path) -> pd.DataFrame:
        wells = read_wells(root)
        test = wells.id_code[(wells.split == "test") & (wells.role == "treatment")]
        test = test.reset_index(drop=True)
        path = find_layout(root).folder / "sample_submission.csv"
        if not path.is_file():
            placeholder = "sirna_0" if labels_are_text(root) else 0
            return pd.DataFrame({self.id_column: test, self.target_column: placeholder})
        sample = read_placeholders(path)
        check_sample_ids(path, sample, test, self.id_column)
        return sample.reset_index(drop=True)

    def answers(self, path: Path) -> pd.DataFrame:
        """Read the true labels from rxrx.ai's metadata.csv or a CSV of id_code and sirna.

        `leaderboard` follows Kaggle's split (`splits.public_experiments`). If no cell type has more
        than one test experiment, every well is private.
        """
        truth = read_answers(path)
        if truth.empty:
            raise InputError(f"{path}: has no test well")
        parts = truth.id_code.str.rsplit("_", n=2, expand=True)
        if parts.shape[1] != 3 or parts.isna().any(axis=None):
            raise InputError(
                f"{path}: id_code {truth.id_code.iloc[0]!r} is not experiment_plate_well"
            )
        frame = pd.DataFrame(
            {
                self.id_column: truth.id_code,
                self.target_column: truth.label.astype(str),
                "experiment": parts[0],
                "plate": parts[1],
                "cell_type": splits.cell_types(parts[0]),
            },
            dtype=object,
        )
        public = frame.experiment.isin(splits.public_experiments(frame.experiment))
        return frame.assign(leaderboard=np.where(public, "public", "private"))

    def published_answers(self, root: Path) -> pd.DataFrame:
        """Return the test treatments' labels of rxrx.ai's or WILDS' metadata.csv.

        Columns id_code and sirna.
        """
        layout = find_layout(root)
        if layout.name == KAGGLE:
            raise InputError(
                f"{layout.folder}: Kaggle's tables tell no answers; rxrx.ai's {SITE_FILE} does"
            )
        truth = read_answers(layout.folder / SITE_FILE)
        return truth.rename(columns={"id_code": self.id_column, "label": self.target_column})

    def comparable(self, frame: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write targets as digits, such as "250", whichever release they come from."""
        if self.target_column not in frame.columns or self.id_column not in frame.columns:
            raise InputError(
                f"{name}: needs the columns {self.id_column}, {self.target_column}; it has "
                f"{list(frame.columns)}"
            )
        labels = parse_labels(frame[self.target_column], name, frame[self.id_column])
        return frame.assign(**{self.target_column: labels.astype(str)})

    def named_folds(self, name: str, samples: pd.DataFrame) -> pd.DataFrame:
        """Make `first_place`, the six folds of the competition's winner."""
        if name != "first_place":
            raise InputError(
                f"{self.id}: has no fold table called {name!r}; the only one is 'first_place'"
            )
        return splits.first_place_folds(samples, self.plate_groups(samples))

    def plate_groups(self, samples: pd.DataFrame) -> PlateGroups:
        return groups.plate_groups(samples)

    def protocols(self) -> tuple[Protocol, ...]:
        return splits.KAGGLE, splits.RANDOM_WELLS, splits.WILDS

    def protocol_parts(self, protocol_id: str, samples: pd.DataFrame) -> pd.Series:
        if protocol_id != splits.WILDS.id:
            return super().protocol_parts(protocol_id, samples)
        return splits.wilds_parts(samples)

    def download(self, out: Path, **choices: str) -> None:
        read_choices(self.id, choices, {})
        download(Path(out))

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        simulate_rxrx1(Path(out), seed, **size)


def published_counts(root: Path | str) -> dict[str, tuple[int, int]]:
    """Compare the release under `root` with `PUBLISHED`: name -> (published, counted)."""
    wells = read_wells(root)
    treatment = wells.role == "treatment"
    train = wells.split == "train"
    counts = {
        "train treatments": (train & treatment).sum(),
        "train controls": (train & ~treatment).sum(),
        "test treatments": (~train & treatment).sum(),
        "test controls": (~train & ~treatment).sum(),
        "classes": wells.label[train & treatment].nunique(),
        "control classes": wells.label[~treatment].nunique(),
        "train experiments": wells.experiment[train].nunique(),
        "test experiments": wells.experiment[~train].nunique(),
        "sites": len(read_sites(root)),
    }
    return {name: (number, int(counts[name])) for name, number in PUBLISHED.items()}
