"""Small sets of plates with one leak each, and clean ones: what the audit is tried on."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import yaml

from cellsignal.competitions.folds import make_folds
from cellsignal.data.pack import pack

CHANNELS = ("nuclei", "actin")
SIDE = 32
NAMES = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
NAMES += ["lambda", "omicron"]


@dataclass
class PlateSet:
    """One set, before it is packed.

    Attributes:
        samples: a samples table; `files` name the images by their row.
        images: (N, 2, 32, 32) uint8.
        folds: the fold table.
        config: keys that are added to the config.
        tables: file name -> table that is written beside it (a split, answers, compounds).
        words: further words of the command line.
    """

    competition: str
    group: str
    samples: pd.DataFrame
    images: np.ndarray
    folds: pd.DataFrame
    config: dict = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    after: list[Callable[[Path], None]] = field(default_factory=list)

    def write(self, folder: Path) -> list[str]:
        """Pack and write all; return the words of `cellsignal audit`, run in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        images = {
            files[0]: image for files, image in zip(self.samples.files, self.images, strict=True)
        }
        source = {"competition": self.competition, "root": "raw", "classes": NAMES}
        pack(
            self.samples,
            lambda files: images[files[0]],
            folder / "store",
            channels=CHANNELS,
            source=source,
        )
        self.folds.to_csv(folder / "folds.csv", index=False)
        for name, table in self.tables.items():
            table.to_csv(folder / name, index=False)
        tree = {
            "name": "planted",
            "competition": self.competition,
            "data": {"root": "raw", "store": "store"},
            "folds": {"file": "folds.csv"},
            "stages": [{"name": "all", "epochs": 3}],
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(tree | self.config))
        for write in self.after:
            write(folder)
        return ["audit", "config.yaml", *self.words, "--out", "findings.json"]

    def rows(self, **where: str) -> np.ndarray:
        """Positions of the samples with these values."""
        mask = np.logical_and.reduce([self.samples[k] == v for k, v in where.items()])
        return np.flatnonzero(mask)

    def held(self, fold: int = 0) -> np.ndarray:
        """Positions of the samples that a fold holds out."""
        names = set(self.folds[self.folds.columns[1]][self.folds.fold == fold])
        train = self.samples.split == "train"
        return np.flatnonzero(train & self.samples[self.group].isin(names))

    def others(self, fold: int = 0) -> np.ndarray:
        """Positions of the training samples that a fold does not hold out."""
        train = np.flatnonzero(self.samples.split == "train")
        return np.setdiff1d(train, self.held(fold))


def clean_set(
    seed: int = 0,
    competition: str = "rxrx1",
    group: str = "experiment",
    experiments: int = 6,
    sites: int = 2,
    wells: int = 12,
) -> PlateSet:
    """Make plates of random layouts; the last third of the experiments is the test.

    A class has two compounds, each on every plate, so that folds by compound are possible. Every
    plate has a brightness of its own.
    """
    rng, rows, images = np.random.default_rng(seed), [], []
    for number in range(experiments):
        test = number >= experiments - experiments // 3
        for plate in ("1", "2"):
            gain = rng.uniform(0.8, 1.2, 2)
            columns = range(1, wells // 4 + 2)
            addresses = rng.permutation([f"{r}{c:02}" for r in "ABCD" for c in columns])
            for compound in range(wells):
                well_id = f"EXP-{number:02}_{plate}_{addresses[compound]}"
                for site in range(1, sites + 1):
                    rows.append(
                        {
                            "sample_id": f"{well_id}_s{site}",
                            "target_id": well_id,
                            "well_id": well_id,
                            "experiment": f"EXP-{number:02}",
                            "plate": plate,
                            "well": addresses[compound],
                            "site": site,
                            "cell_type": "U2OS",
                            "label": None if test else compound // 2,
                            "role": "treatment",
                            "compound": None if test else _name(compound),
                            "split": "test" if test else "train",
                            "files": (f"{well_id}_s{site}.png",),
                        }
                    )
                    images.append(_draw(rng, compound % 12 // 2, gain))
    samples = pd.DataFrame(rows).astype({"label": "Int64"})
    folds = make_folds(samples, group, 2, seed)
    return PlateSet(competition, group, samples, np.stack(images), folds)


def _name(number: int) -> str:
    """Name a compound; no two are alike in spelling."""
    names = [first + second for second in ("", "mycin", "stat", "nib") for first in NAMES]
    return names[number]


def _draw(rng: np.random.Generator, label: int, gain: np.ndarray) -> np.ndarray:
    """Draw cells on noise; the class shows in the second channel's brightness."""
    image = rng.normal(30, 4, (2, SIDE, SIDE))
    grid = np.mgrid[:SIDE, :SIDE]
    for plane, strength in zip(image, (1.0, 0.4 + 0.12 * label), strict=True):
        for _ in range(12):
            y, x = rng.uniform(0, SIDE, 2)
            square = (grid[0] - y) ** 2 + (grid[1] - x) ** 2
            plane += 120 * strength * np.exp(-square / rng.uniform(4, 15))
    return np.clip(image * gain[:, None, None], 0, 255).astype(np.uint8)


# the leaks: each changes a clean set
# --------------------------------------------------------------------------------------------------


def identical_image(s: PlateSet) -> None:
    s.images[s.held()[3]] = s.images[s.others()[7]]


def identical_image_of_the_test(s: PlateSet) -> None:
    s.images[s.rows(split="test")[0]] = s.images[s.rows(split="train")[5]]


def brightened_copy(s: PlateSet) -> None:
    copy = s.images[s.others()[7]].astype(float) * 0.8 + 12
    s.images[s.held()[3]] = np.clip(copy, 0, 255).astype(np.uint8)


def turned_blurred_noisy_copy(s: PlateSet) -> None:
    """The weakest copy: turned, flipped, blurred, darker and with noise."""
    copy = np.rot90(s.images[s.others()[9]], 1, axes=(1, 2))[:, :, ::-1].astype(np.float32)
    copy = np.stack([cv2.GaussianBlur(plane, (0, 0), 0.8) for plane in copy])
    copy = copy * 0.7 + np.random.default_rng(1).normal(0, 3, copy.shape)
    s.images[s.held()[3]] = np.clip(copy, 0, 255).astype(np.uint8)


def _fold_by(s: PlateSet, column: str, names: np.ndarray) -> None:
    """Deal the values of a column at random to two folds."""
    number = np.random.default_rng(3).permutation(len(names)) % 2
    s.group, s.folds = column, pd.DataFrame({"fold": number, column: names})


def shared_wells(s: PlateSet) -> None:
    train = s.samples[s.samples.split == "train"]
    _fold_by(s, "sample_id", train.sample_id.to_numpy())


def shared_wells_that_look_alike(s: PlateSet) -> None:
    """As in real wells, whose sites share density and staining."""
    shared_wells(s)
    rng = np.random.default_rng(2)
    for rows in s.samples.groupby("well_id").indices.values():
        s.images[rows] = np.clip(s.images[rows] * rng.uniform(0.3, 1.7, (2, 1, 1)), 0, 255)


def one_shared_well(s: PlateSet) -> None:
    """A single well: its second site is in the other fold."""
    train = s.samples[s.samples.split == "train"]
    number = (train.experiment == "EXP-00").to_numpy().astype(int)
    number[1] = 1 - number[1]
    s.group = "sample_id"
    s.folds = pd.DataFrame({"fold": number, "sample_id": train.sample_id})


def shared_plates(s: PlateSet) -> None:
    train = s.samples[s.samples.split == "train"]
    _fold_by(s, "well_id", train.well_id.unique())


def shared_experiments(s: PlateSet) -> None:
    """Folds by the name of the plate, which every experiment has: "1" and "2"."""
    _fold_by(s, "plate", np.array(["1", "2"]))


def shared_compounds(s: PlateSet) -> None:
    train = s.samples[s.samples.split == "train"]
    _fold_by(s, "well_id", train.well_id.unique())


def _rename_held(s: PlateSet, name: str, other: str) -> None:
    """Name a held-out compound after a training one."""
    held, train = (s.samples["compound"].iloc[rows].iloc[0] for rows in (s.held(), s.others()))
    for old, new in ((held, name), (train, other)):
        s.samples["compound"] = s.samples["compound"].replace(old, new)
        s.folds["compound"] = s.folds["compound"].replace(old, new)


def stereoisomers(s: PlateSet) -> None:
    _rename_held(s, "AELCINSCMGFISI-BDAKNGLRSA-N", "AELCINSCMGFISI-DTWKUNHWSA-N")


def same_inchikey(s: PlateSet) -> None:
    """Two names of one substance, which only a table of keys knows."""
    _rename_held(s, "Tylenol", "paracetamol")
    key = "RZVAJINKPMORJF-UHFFFAOYSA-N"
    s.tables["keys.csv"] = pd.DataFrame({"compound": ["Tylenol", "paracetamol"], "inchikey": key})
    s.words += ["--compounds", "keys.csv"]


def spelling(s: PlateSet) -> None:
    _rename_held(s, "(S)-Propranolol hydrochloride", "propranolol")


def two_names_of_an_experiment(s: PlateSet) -> None:
    """Plate 2 of the held-out experiment is called otherwise, and lies in the other fold."""
    name = s.samples.experiment.iloc[s.held()[0]]
    rows = s.rows(experiment=name, plate="2")
    s.samples.loc[rows, "experiment"] = name.replace("EXP-0", "exp 0")
    new = {"fold": 1, "experiment": name.replace("EXP-0", "exp 0")}
    s.folds = pd.concat([s.folds, pd.DataFrame([new])], ignore_index=True)


def oversampled_first(s: PlateSet) -> None:
    train = s.samples[s.samples.split == "train"]
    rng = np.random.default_rng(0)
    ids = np.concatenate([train.sample_id, rng.choice(train.sample_id, 60)])
    ids = rng.permutation(ids)
    part = np.where(np.arange(len(ids)) < 0.8 * len(ids), "train", "valid")
    s.tables["split.csv"] = pd.DataFrame({"sample_id": ids, "part": part})
    s.words += ["--split", "split.csv"]


def oversampled_into_the_test(s: PlateSet) -> None:
    """A split table without validation rows."""
    oversampled_first(s)
    s.tables["split.csv"] = s.tables["split.csv"].replace({"part": {"valid": "test"}})


def selected_on_the_test(s: PlateSet) -> None:
    train = s.samples[s.samples.split == "train"]
    names = sorted(train.experiment.unique())
    first = train[train.experiment.isin(names[:2])].sample_id
    second, third = (train[train.experiment == name].sample_id for name in names[2:4])
    rows = [(i, "train") for i in first] + [(i, "valid") for i in second]
    rows += [(i, "test") for i in [*third, second.iloc[0]]]
    s.tables["split.csv"] = pd.DataFrame(rows, columns=["sample_id", "part"])
    s.words += ["--split", "split.csv"]


def _pseudo_labels(s: PlateSet, targets: list[str], fold: str | None) -> None:
    def write(folder: Path) -> None:
        place = folder / "runs/planted/seed0/fold0/all/all/pseudo_labels"
        place.mkdir(parents=True)
        columns = {"target_id": targets, "experiment": "E", "plate": "1"}
        frame = pd.DataFrame(columns | {"label": range(len(targets)), "confidence": 1.0})
        frame.to_csv(place / "epoch_001.csv", index=False)
        (place / "epoch_001.json").write_text(json.dumps({"fold": fold}))

    s.after.append(write)


def pseudo_labels_of_validation(s: PlateSet) -> None:
    tests = s.samples.target_id.iloc[s.rows(split="test")].unique()[:3]
    _pseudo_labels(s, [*tests, s.samples.target_id.iloc[s.held()[0]]], "fold0")


def pseudo_labels_of_another_fold(s: PlateSet) -> None:
    tests = s.samples.target_id.iloc[s.rows(split="test")].unique()[:3]
    _pseudo_labels(s, list(tests), "fold1")


def pseudo_labels_without_a_record(s: PlateSet) -> None:
    tests = s.samples.target_id.iloc[s.rows(split="test")].unique()[:3]
    _pseudo_labels(s, list(tests), None)


def best_epoch(s: PlateSet) -> None:
    s.config["predict"] = {"checkpoint": "best"}


def early_stopping(s: PlateSet) -> None:
    s.config["stages"] = [{"name": "all", "epochs": 3, "early_stopping": 1}]


def statistics_of_held_out_wells(s: PlateSet) -> None:
    """Pixels are standardised by the plate, and wells of a plate lie on both sides."""
    shared_plates(s)
    s.config["normalization"] = {"by": "plate", "wells": "all"}


def labels_of_the_test(s: PlateSet) -> None:
    rows = s.rows(split="test")
    s.samples.loc[rows, "label"] = np.arange(len(rows)) // 2 % 6


def repeated_layout(s: PlateSet) -> None:
    """One held-out plate has the wells of a training plate."""
    _repeat(s, 24)


def half_a_repeated_layout(s: PlateSet) -> None:
    """The weakest repeat: half of the wells of one plate agree, the others are moved."""
    _repeat(s, 12)


def _repeat(s: PlateSet, wells: int) -> None:
    theirs, ours = (s.samples.iloc[rows].iloc[0] for rows in (s.others(), s.held()))
    source = s.rows(experiment=theirs.experiment, plate=theirs.plate)[::2]
    target = s.rows(experiment=ours.experiment, plate=ours.plate)[::2]
    address = dict(zip(s.samples.compound.iloc[source], s.samples.well.iloc[source], strict=True))
    keep = s.samples.compound.iloc[target].to_list()[:wells]
    free = [w for w in address.values() if w not in {address[name] for name in keep}]
    rest = s.samples.compound.iloc[target].to_list()[wells:]
    moved = dict(zip(rest, np.roll(free, 3), strict=True))
    for row in s.rows(experiment=ours.experiment, plate=ours.plate):
        name = s.samples.compound.iloc[row]
        s.samples.loc[row, "well"] = moved.get(name, address[name])


def brighter_test(s: PlateSet) -> None:
    rows = s.rows(split="test")
    s.images[rows] = np.clip(s.images[rows] * 1.5, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Leak:
    """A planted leak, and the check that must find it."""

    plant: Callable[[PlateSet], None]
    check: str
    severity: str
    competition: str = "rxrx1"
    group: str = "experiment"
    size: dict = field(default_factory=dict)


LARGER = {"wells": 24, "experiments": 5, "sites": 2}
LEAKS = (
    Leak(identical_image, "identical images", "fail"),
    Leak(identical_image_of_the_test, "identical images", "fail"),
    Leak(brightened_copy, "near-duplicate images", "fail"),
    Leak(turned_blurred_noisy_copy, "near-duplicate images", "fail"),
    Leak(shared_wells, "shared wells", "fail"),
    Leak(shared_wells_that_look_alike, "control: shuffled labels", "fail"),
    Leak(one_shared_well, "shared wells", "fail"),
    Leak(shared_plates, "shared plates", "warn", "cpjump1", "plate"),
    Leak(shared_experiments, "shared experiments", "warn"),
    Leak(shared_compounds, "shared compounds", "warn", "bbbc021", "compound"),
    Leak(stereoisomers, "stereoisomers", "fail", "bbbc021", "compound"),
    Leak(same_inchikey, "same substance", "fail", "bbbc021", "compound"),
    Leak(spelling, "spelling of compounds", "warn", "bbbc021", "compound"),
    Leak(two_names_of_an_experiment, "spelling of units", "warn"),
    Leak(oversampled_first, "oversampling before the split", "fail"),
    Leak(oversampled_first, "control: noise images", "fail"),
    Leak(oversampled_into_the_test, "oversampling before the split", "fail"),
    Leak(oversampled_into_the_test, "control: noise images", "fail"),
    Leak(selected_on_the_test, "selection and test on the same rows", "fail"),
    Leak(pseudo_labels_of_validation, "pseudo-labels", "fail"),
    Leak(pseudo_labels_of_another_fold, "pseudo-labels", "fail"),
    Leak(pseudo_labels_without_a_record, "pseudo-labels", "warn"),
    Leak(best_epoch, "selection on the scored rows", "warn"),
    Leak(early_stopping, "selection on the scored rows", "warn"),
    Leak(statistics_of_held_out_wells, "statistics over held-out wells", "warn"),
    Leak(labels_of_the_test, "labels of the test", "warn"),
    Leak(repeated_layout, "repeated layouts", "warn", size=LARGER),
    Leak(half_a_repeated_layout, "repeated layouts", "warn", size=LARGER),
    Leak(brighter_test, "adversarial validation", "warn", size={"experiments": 15, "sites": 1}),
)
