"""What a look at data needs: its samples table, some of its images, the store if there is one."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from cellsignal.common.errors import ImageError, InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition
from cellsignal.competitions.sample_files import path_of
from cellsignal.config import Config
from cellsignal.data.store import Store, has_store

SEED = 0  # of the choice of images


@dataclass
class Look:
    """A data set under its root.

    Attributes:
        competition, root: which data.
        config: whose store and augmentations are used, if given.
        most: images that are read at most to measure intensities.
    """

    competition: Competition
    root: Path
    config: Config | None = None
    most: int = 400

    @classmethod
    def open(cls, competition_id: str, root: Path, config: Config | None, most: int) -> "Look":
        """Open a data set.

        Raises:
            InputError: no such competition, or a config of another one.
        """
        competition = get_competition(competition_id)
        if config is not None and config.competition != competition_id:
            raise InputError(
                f"--config: {config.name} is for {config.competition}, not {competition_id}"
            )
        return cls(competition, root, config, most)

    @cached_property
    def samples(self) -> pd.DataFrame:
        return self.competition.samples(self.root)

    @cached_property
    def wells(self) -> pd.DataFrame:
        """One row a well."""
        return self.samples.drop_duplicates("well_id").reset_index(drop=True)

    @cached_property
    def present(self) -> pd.DataFrame:
        """The rows of the samples table whose first image file is there; all if none is."""
        first = [self.competition.image_files(files)[0] for files in self.samples.files]
        there = np.array([(self.root / path_of(name)).exists() for name in first], bool)
        return self.samples[there].reset_index(drop=True) if there.any() else self.samples

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.competition.classes(self.root))

    @cached_property
    def channels(self) -> tuple[str, ...]:
        return tuple(self.competition.channels_of(self.root))

    @cached_property
    def store(self) -> Store | None:
        """The config's store, where it is complete and of this root's samples."""
        if self.config is None or not has_store(self.config.data.store):
            return None
        store = Store.open(self.config.data.store)
        known = set(self.samples.sample_id)
        return store if set(store.samples.sample_id) <= known else None

    def images(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        """Read the images of some rows of the samples table: sample_id -> (C, H, W) uint8.

        A row whose image is missing or damaged is left out.

        Raises:
            ImageError: none of them can be read.
        """
        images, failure = {}, None
        with TemporaryDirectory(prefix="cellsignal-") as folder:
            competition = self.competition.calibrate(self.root, Path(folder))
            for row in rows.itertuples():
                try:
                    images[row.sample_id] = competition.read(self.root, row.files)
                except ImageError as error:
                    failure = error
        if not images and failure is not None:
            raise failure
        return images

    @cached_property
    def intensities(self) -> pd.DataFrame:
        """The mean and SD of each channel of some images, or of all where the store knows them.

        Columns experiment, plate, cell_type, role, mean<c> and sd<c> for channel c from 0. Clips
        are averaged over their frames.

        Raises:
            ImageError: no image can be read.
        """
        if self.store is not None:
            samples = self.store.samples
            rows = samples.row.to_numpy()
            mean, sd = self.store.mean[rows], self.store.sd[rows]
        else:
            samples = self._drawn()
            images = self.images(samples)
            samples = samples[samples.sample_id.isin(images)].reset_index(drop=True)
            pixels = [images[name].reshape(len(images[name]), -1) for name in samples.sample_id]
            mean = np.array([image.mean(axis=1) for image in pixels])
            sd = np.array([image.std(axis=1) for image in pixels])
        frames, table = self.competition.frames, samples[list(_FACTS)].reset_index(drop=True)
        for name, values in (("mean", mean), ("sd", sd)):
            by_channel = values.reshape(len(values), -1, frames).mean(axis=2)
            for channel in range(by_channel.shape[1]):
                table[f"{name}{channel}"] = by_channel[:, channel]
        return table

    def _drawn(self) -> pd.DataFrame:
        """Draw up to `most` images, as many of each plate."""
        plates = self.present.groupby(["experiment", "plate"], sort=True)
        each = max(1, self.most // plates.ngroups)
        drawn = plates.sample(frac=1, random_state=SEED).groupby(["experiment", "plate"])
        rows = drawn.head(each)
        if len(rows) > self.most:
            rows = rows.sample(self.most, random_state=SEED)
        return rows.sort_values("sample_id").reset_index(drop=True)


_FACTS = ("experiment", "plate", "cell_type", "role")
