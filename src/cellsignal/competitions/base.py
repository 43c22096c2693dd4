"""Define `Competition`, which every data set implements; all downstream knows only this.

A competition is a folder in `competitions/` with a class registered by `@register`. Its numbers
(how many classes, which wells are controls) stand in that folder and nowhere else; code elsewhere
counts what the samples table holds.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.calibration import Calibrates
from cellsignal.competitions.pairing import Pairs
from cellsignal.competitions.published import Protocol, Published
from cellsignal.competitions.sample_files import path_of
from cellsignal.competitions.shapes import most_common_shape
from cellsignal.competitions.single_label import SingleLabel
from cellsignal.competitions.task import Task
from cellsignal.images import image_size


@dataclass(frozen=True)
class PlateGroups:
    """Groups of classes; each plate holds the classes of one group, each once.

    Attributes:
        class_group: (K,) int, the group of each class.
        plate_group: (experiment, plate) -> group, where training labels tell it.
    """

    class_group: np.ndarray
    plate_group: dict[tuple[str, str], int]

    @property
    def n_groups(self) -> int:
        return int(self.class_group.max()) + 1


class Competition(Calibrates, Pairs, ABC):
    """Base class of a data set: its facts are class attributes, its files are read by methods."""

    id: ClassVar[str]
    title: ClassVar[str]
    # empty where the data's own description names them; see `channels_of`
    channels: ClassVar[tuple[str, ...]]
    # of a clip: its planes are stored channel by channel, each with all its frames in order
    frames: ClassVar[int] = 1
    # raise it when `read` makes other pixels of the same files: stores are then packed anew
    reading: ClassVar[int] = 1
    # (height, width) of the published images; a simulated copy may be smaller
    image_shape: ClassVar[tuple[int, int] | None]
    published: ClassVar[Published | None] = None  # how many images the real data set has
    id_column: ClassVar[str]
    target_column: ClassVar[str]
    # samples columns that folds may group by; the first is the default
    fold_groups: ClassVar[tuple[str, ...]]
    # what users call a fold group that is not called as its column
    group_words: ClassVar[Mapping[str, str]] = {}
    # the table of `named_folds` that is made where no other is asked for
    default_folds: ClassVar[str | None] = None
    metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    # what is asked of an id: one class, several, or a ranking
    task_class: ClassVar[type[Task]] = SingleLabel
    licence: ClassVar[str]
    citation: ClassVar[str]
    homepage: ClassVar[str]
    # the next step of a user who has data and no config
    config_help: ClassVar[str] = "write a config (docs/config.md)"
    # parameters of `simulate`: for the folder's quick config, and for the smallest useful copy
    quick_simulation: ClassVar[Mapping[str, int]] = {}
    tiny_simulation: ClassVar[Mapping[str, int]]

    @property
    def task(self) -> Task:
        """What the competition asks of an id; see `task.Task`."""
        return self.task_class(self)

    def channels_of(self, root: Path) -> tuple[str, ...]:
        """Return the names of the channels of the data under `root`, in order."""
        return self.channels

    def fold_group(self, root: Path) -> str:
        """Return the samples column that folds of the data under `root` group by by default."""
        return self.fold_groups[0]

    @abstractmethod
    def samples(self, root: Path) -> pd.DataFrame:
        """Return the samples table of all under `root`, checked by `check_samples`."""

    @abstractmethod
    def classes(self, root: Path) -> tuple[str, ...]:
        """Return the K classes a submission may name, in label order, as it writes them."""

    def require_classes(self, root: Path) -> tuple[str, ...]:
        """Return `classes`; raise if there are none, as with a table that has only a header."""
        classes = tuple(self.classes(root))
        if not classes:
            raise InputError(
                f"{root}: no training sample has a label; do all metadata tables have rows?"
            )
        return classes

    @abstractmethod
    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Read one sample's image: (C, H, W) uint8, C = len(self.channels).

        A competition that measures plates reads only when `calibrate` has given it back.

        Args:
            shape: (height, width) that every file must have; None takes the first file's.

        Raises:
            ImageError: a file is missing, damaged, or of another size or depth.
        """

    def image_files(self, files: tuple[str, ...]) -> tuple[str, ...]:
        """Return every image file of a sample, in order.

        They are more than its `files` where these stand for others (a first frame for a clip).
        """
        return files

    def stated(self, name: str) -> dict[str, str]:
        """Parse a file name into what it says about the image, for `samples.refuse_misstated`.

        Returns:
            As text: `channel` (of `channels`, or another word if it is none of them), `experiment`,
            `plate`, `well`, `site`; other keys in which the files of a sample must agree. What the
            name does not say is left out.
        """
        return {}

    def root_shape(self, root: Path) -> tuple[int, int]:
        """Return the (height, width) that most images have, from a few samples.

        Raises:
            InputError: there is no readable image.
        """
        files = self.samples(root).files.to_list()
        return most_common_shape(Path(root), files, self.image_shape_of)

    def image_shape_of(self, root: Path, files: tuple[str, ...]) -> tuple[int, int]:
        """Return the (height, width) of a sample's first file."""
        return image_size(self.images_folder(root) / path_of(files[0]))

    @abstractmethod
    def sample_submission(self, root: Path) -> pd.DataFrame:
        """Return the ids in submission order with placeholder targets."""

    @abstractmethod
    def answers(self, path: Path) -> pd.DataFrame:
        """Read the true targets of the test ids, for scoring alone.

        Returns:
            Columns `id_column`, `target_column`, `leaderboard` ("public" or "private"), and any of
            `experiment`, `plate`, `cell_type` that are known.
        """

    def published_answers(self, root: Path) -> pd.DataFrame:
        """Return answers that the release itself contains, in the columns that `answers` reads.

        Raises:
            InputError: it tells none, or is not there.
        """
        raise InputError(f"{self.id}: its release tells no answers; see {self.homepage}")

    def compound_answers(self, path: Path) -> dict[str, str]:
        """Read {compound: true mechanism} of unseen compounds, if the answers file has them."""
        return {}

    def comparable(self, frame: pd.DataFrame, name: str) -> pd.DataFrame:
        """Return a submission or answers with targets in one spelling for all releases.

        Args:
            name: what the frame is, for the error.
        """
        return frame

    def named_folds(self, name: str, samples: pd.DataFrame) -> pd.DataFrame:
        """Make a published fold table, in the columns of `folds.make_folds`.

        Raises:
            InputError: there is not one of that name.
        """
        raise InputError(f"{self.id}: has no fold table called {name!r}")

    def pretraining(self, samples: pd.DataFrame) -> np.ndarray:
        """Mark the unlabelled samples that a stage without labels may train on, (N,) bool."""
        return (samples.split == "train").to_numpy()

    def treatments(self, root: Path) -> pd.DataFrame | None:
        """Return a table of the treatments, for comparing profiles; it is not used in training.

        Returns:
            One row a treatment: the columns `treatment` (as in the samples table), `compound`,
            `role` and, where known, `moa` (text), `targets` (tuple of gene symbols), `modality`
            ("compound", "crispr" or "orf"). None where there is no such table.
        """
        return None

    def profile_wells(self, root: Path) -> pd.DataFrame:
        """Return the wells whose profiles a table may hold, one row each; some have no image."""
        return self.samples(root).drop_duplicates("well_id").reset_index(drop=True)

    def plate_groups(self, samples: pd.DataFrame) -> PlateGroups | None:
        """Return the class groups of the plates, from training labels alone; None without any."""
        return None

    def protocols(self) -> tuple[Protocol, ...]:
        """Return the ways the field measures itself on this data set."""
        return ()

    def protocol(self, protocol_id: str) -> Protocol:
        """Return a protocol by its id.

        Raises:
            InputError: there is none.
        """
        known = {protocol.id: protocol for protocol in self.protocols()}
        if protocol_id not in known:
            names = ", ".join(known) or "none"
            raise InputError(f"protocol: {self.id} has {names}, not {protocol_id!r}")
        return known[protocol_id]

    def protocol_parts(self, protocol_id: str, samples: pd.DataFrame) -> pd.Series:
        """Return the part of a protocol that each row of a whole samples table belongs to.

        Returns:
            Text, with the index of `samples`: a name of `Protocol.parts`, of which "train" trains;
            "" is used for nothing.

        Raises:
            InputError: no such protocol, or one that has no parts.
        """
        self.protocol(protocol_id)
        raise InputError(
            f"protocol: {protocol_id!r} of {self.id} has no parts; folds and the submission "
            "measure it"
        )

    def download(self, out: Path, **choices: str) -> None:
        """Fetch the data into `out`, resuming where an earlier call stopped.

        Args:
            choices: what of it, as text from the command line (`--set plates=BR1,BR2`).

        Raises:
            InputError: no such choice, no connection, a damaged file, a full disk.
        """
        raise InputError(f"{self.id}: has no automatic download; see {self.homepage}")

    @abstractmethod
    def simulate(self, out: Path, seed: int, **size: int) -> None:
        """Write a simulated copy to `out`, and its answers to `answers_path(out)`."""


def answers_path(root: Path) -> Path:
    """Return the path of a simulated copy's answers: beside the root, not inside it."""
    return root.with_name(root.name + ".answers.csv")


_registry: dict[str, type[Competition]] = {}


def register(cls: type[Competition]) -> type[Competition]:
    """Register a competition class under its id; a class decorator."""
    assert cls.id not in _registry, f"two competitions are called {cls.id!r}"
    _registry[cls.id] = cls
    return cls


def registered() -> dict[str, type[Competition]]:
    """All registered competition classes, by id."""
    return dict(_registry)
