"""RxRx1 as a competition: its names and numbers, and how its files become samples, submissions and
scores.

The numbers of the published data stand here and nowhere else; a simulated copy has fewer classes
and smaller images, so what a root holds is always counted from its files.
"""

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import Competition, PlateGroups, Protocol, register
from cellsignal.competitions.choices import read_choices
from cellsignal.competitions.published import Published
from cellsignal.competitions.rxrx1 import groups as class_groups
from cellsignal.competitions.rxrx1 import wilds
from cellsignal.competitions.rxrx1.metadata import (
    CHANNELS,
    labels_are_text,
    parse_labels,
    read_answers,
    read_placeholders,
    read_sites,
    read_wells,
)
from cellsignal.competitions.samples import check_samples
from cellsignal.competitions.submissions import check_sample_ids
from cellsignal.images import read_png8

_FILE = re.compile(
    r"(?P<experiment>[^/]+)/Plate(?P<plate>\d+)/(?P<well>[A-P]\d\d)_s(?P<site>\d)_w(?P<channel>\d)\.png$"
)
N_CLASSES = 1108
N_POSITIVE_CONTROLS = 30
N_CONTROLS = 31  # the positive ones and the untreated wells
N_GROUPS = 4
GROUP_SIZE = 277
PUBLISHED = {  # of the original release
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
    """One question of every well: which siRNA was it given?

    Input: six fluorescent channels of a site, 512x512 8-bit; two sites a well. Label: one of 1,108
    siRNAs; 31 more are controls, on every plate and never asked for. Domains: four cell types;
    batches: 51 experiments of four 384-well plates. Test experiments are new.
    """

    id: ClassVar[str] = "rxrx1"
    title: ClassVar[str] = "RxRx1: Recursion Cellular Image Classification (CellSignal)"
    channels: ClassVar[tuple[str, ...]] = (
        "nuclei",
        "endoplasmic_reticulum",
        "actin",
        "nucleoli",
        "mitochondria",
        "golgi",
    )
    image_shape: ClassVar[tuple[int, int] | None] = (512, 512)
    published: ClassVar[Published] = Published(
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
    id_column: ClassVar[str] = "id_code"
    target_column: ClassVar[str] = "sirna"
    fold_groups: ClassVar[tuple[str, ...]] = ("experiment", "well_id")
    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    licence: ClassVar[str] = "CC BY-NC-SA 4.0"
    citation: ClassVar[str] = (
        "Sypetkowski et al., RxRx1: A Dataset for Evaluating Experimental Batch Correction "
        "Methods, "
        "CVPR Workshops 2023, arXiv:2301.05768"
    )
    homepage: ClassVar[str] = (
        "https://www.kaggle.com/competitions/recursion-cellular-image-classification"
    )
    tiny_simulation: ClassVar = {
        "classes": 8,
        "controls": 2,
        "size": 32,
        "train_experiments": 2,
        "test_experiments": 1,
    }

    def samples(self, root: Path) -> pd.DataFrame:
        root = Path(root)
        sites = read_sites(root)
        known = (sites.split == "train") & (sites.role == "treatment")
        site = sites.site.astype(str).astype(object)
        frame = pd.DataFrame(
            {
                "sample_id": sites.id_code + "_s" + site,
                "target_id": sites.id_code,
                "well_id": sites.id_code,
                "experiment": sites.experiment,
                "plate": sites.plate.astype(str).astype(object),
                "well": sites.well,
                "site": sites.site,
                "cell_type": _cell_type(sites.experiment),
                "label": sites.label,
                "role": sites.role,
                "compound": sites.label.astype(object).where(known, None),
                "split": sites.split,
            }
        )
        # rxrx.ai's archive keeps train and test together
        folder = "images" if (root / "images").is_dir() else None
        start = (
            (folder if folder else frame.split)
            + "/"
            + frame.experiment
            + "/Plate"
            + frame.plate
            + "/"
            + frame.well
            + "_s"
            + site
            + "_w"
        )
        frame["files"] = [
            tuple(f"{prefix}{channel}.png" for channel in range(1, CHANNELS + 1))
            for prefix in start
        ]
        return check_samples(frame, root)

    def classes(self, root: Path) -> tuple[str, ...]:
        wells = read_wells(root)
        number = int(wells.label[(wells.split == "train") & (wells.role == "treatment")].max()) + 1
        prefix = "sirna_" if labels_are_text(root) else ""
        return tuple(f"{prefix}{label}" for label in range(number))

    def stated(self, name: str) -> dict[str, str]:
        """By `HUVEC-01/Plate1/B03_s1_w2.png`."""
        match = _FILE.search(name)
        return {} if match is None else match.groupdict() | {"channel": _channel(match["channel"])}

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        first = read_png8(Path(root) / files[0], shape)
        rest = [read_png8(Path(root) / file, first.shape) for file in files[1:]]
        return np.stack([first, *rest])

    def sample_submission(self, root: Path) -> pd.DataFrame:
        root = Path(root)
        wells = read_wells(root)
        test = wells.id_code[(wells.split == "test") & (wells.role == "treatment")].reset_index(
            drop=True
        )
        path = root / "sample_submission.csv"
        if not path.is_file():
            placeholder = "sirna_0" if labels_are_text(root) else 0
            return pd.DataFrame({self.id_column: test, self.target_column: placeholder})
        sample = read_placeholders(path)
        check_sample_ids(path, sample, test, self.id_column)
        return sample.reset_index(drop=True)

    def answers(self, path: Path) -> pd.DataFrame:
        """The true labels of the test wells, from rxrx.ai's metadata.csv or a CSV of id_code and
        sirna.

        `leaderboard` is as Kaggle split it: public is the first test experiment of each cell type,
        private the others. Where no cell type has more than one test experiment there is nothing to
        split, and all is private.
        """
        truth = read_answers(path)
        if truth.empty:
            raise InputError(f"{path}: has no test well")
        place = truth.id_code.str.rsplit("_", n=2, expand=True)
        if place.shape[1] != 3 or place.isna().any(axis=None):
            raise InputError(
                f"{path}: id_code {truth.id_code.iloc[0]!r} is not experiment_plate_well"
            )
        frame = pd.DataFrame(
            {
                self.id_column: truth.id_code,
                self.target_column: truth.label.astype(str).astype(object),
                "experiment": place[0].astype(object),
                "plate": place[1].astype(object),
                "cell_type": _cell_type(place[0]).astype(object),
            }
        )
        public = public_experiments(frame.experiment)
        frame["leaderboard"] = np.where(frame.experiment.isin(public), "public", "private").astype(
            object
        )
        return frame

    def score(self, submission: pd.DataFrame, answers: pd.DataFrame) -> float:
        """Multiclass accuracy; `sirna_250` and 250 are the same class."""
        return super().score(
            self.comparable(submission, "submission"), self.comparable(answers, "answers")
        )

    def comparable(self, frame: pd.DataFrame, name: str) -> pd.DataFrame:
        """`frame` with its targets as the numbers in text, whichever release's spelling it uses;
        `name` is for messages.
        """
        if self.target_column not in frame.columns or self.id_column not in frame.columns:
            raise InputError(
                f"{name}: columns {self.id_column}, {self.target_column} wanted; it has "
                f"{list(frame.columns)}"
            )
        return frame.assign(
            **{
                self.target_column: parse_labels(
                    frame[self.target_column], name, frame[self.id_column]
                ).astype(str)
            }
        )

    def named_folds(self, name: str, samples: pd.DataFrame) -> pd.DataFrame:
        """`first_place`: the winner's six folds."""
        from cellsignal.competitions.rxrx1.folds_table import first_place_folds

        if name != "first_place":
            raise InputError(f"{self.id}: has the fold table 'first_place', not {name!r}")
        return first_place_folds(samples, self.plate_groups(samples))

    def plate_groups(self, samples: pd.DataFrame) -> PlateGroups:
        return class_groups.plate_groups(samples)

    def protocols(self) -> tuple[Protocol, ...]:
        return (
            Protocol(
                "kaggle",
                "Kaggle 2019",
                "experiment",
                "Test: the treatments of the 18 test experiments; public leaderboard: the first "
                "of each cell type.",
                assignment=True,
            ),
            Protocol(
                "wells",
                "random wells",
                "well_id",
                "Wells held out at random: their batches are in training, so it flatters. Kept to "
                "measure by how much.",
                assignment=True,
            ),
            wilds.PROTOCOL,
        )

    def protocol_parts(self, protocol_id: str, samples: pd.DataFrame) -> pd.Series:
        if protocol_id != wilds.PROTOCOL.id:
            return super().protocol_parts(protocol_id, samples)
        return wilds.parts(samples, public_experiments(samples.experiment[samples.split == "test"]))

    def download(self, out: Path, **choices: str) -> None:
        from cellsignal.competitions.rxrx1.download import download

        read_choices(self.id, choices, {})
        download(Path(out))

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        from cellsignal.competitions.rxrx1.simulate import simulate_rxrx1

        simulate_rxrx1(Path(out), seed, **size)


def _channel(number: str) -> str:
    return RxRx1.channels[int(number) - 1] if 1 <= int(number) <= CHANNELS else f"w{number}"


def _cell_type(experiment: pd.Series) -> pd.Series:
    return experiment.str.rsplit("-", n=1).str[0]


def public_experiments(experiments: pd.Series) -> set[str]:
    """The test experiments of the public leaderboard: the first of each cell type; none if no cell
    type has two.
    """
    names = pd.Series(
        sorted(
            experiments.unique(),
            key=lambda name: (name.rsplit("-", 1)[0], int(name.rsplit("-", 1)[1])),
        ),
        dtype=object,
    )
    first = names.groupby(_cell_type(names)).first()
    return set(first) if len(first) < len(names) else set()


def published_counts(root: Path | str) -> dict[str, tuple[int, int]]:
    """What the release under `root` holds beside what was published: name -> (published, found)."""
    wells = read_wells(root)
    treatment = wells.role == "treatment"
    train = wells.split == "train"
    found = {
        "train treatments": int((train & treatment).sum()),
        "train controls": int((train & ~treatment).sum()),
        "test treatments": int((~train & treatment).sum()),
        "test controls": int((~train & ~treatment).sum()),
        "classes": int(wells.label[train & treatment].nunique()),
        "control classes": int(wells.label[~treatment].nunique()),
        "train experiments": int(wells.experiment[train].nunique()),
        "test experiments": int(wells.experiment[~train].nunique()),
        "sites": len(read_sites(root)),
    }
    return {name: (number, found[name]) for name, number in PUBLISHED.items()}
