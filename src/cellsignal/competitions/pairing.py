"""Pair the rows of a samples table with the image files under its root: what lacks the other?"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from cellsignal.competitions.sample_files import path_of

# what verify says of an image that no sample names, where nobody knows why
NO_ROW = "no row of the metadata names it"
IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")


class Pairs:
    """The part of a competition that pairs rows with files, and says what it paired with none."""

    def images_folder(self, root: Path) -> Path:
        """Return the folder that the samples' `files` are relative to."""
        return Path(root)

    def left_out(self, root: Path) -> tuple[tuple[str, str], ...]:
        """Return (reason, name) of the files and wells that are not in the samples table.

        By default these are the image files under `root` that no sample names.
        """
        names = images_without_row(self.images_folder(root), self.samples(root), self.image_files)
        return tuple(("image without a row", name) for name in names)

    def explain_images(self, root: Path, names: Sequence[str]) -> list[tuple[str, str]]:
        """Return for each image that no sample names what it belongs to, and why that is left out.

        Images of one plate or well that are left out for one reason have one group, such as
        "well P001_B02"; "" is a group of its own for each image.

        Args:
            names: as `images_without_row` returns them.
        """
        return [("", NO_ROW) for _ in names]

    def notes(self, root: Path) -> tuple[str, ...]:
        """Return lines on what of the data under `root` may not be as its owner thinks."""
        return ()


def images_without_row(
    root: Path | str,
    samples: pd.DataFrame,
    image_files: Callable[[tuple[str, ...]], tuple[str, ...]],
) -> list[str]:
    """Return the image files under `root`, relative to it, that no sample names.

    Args:
        image_files: `Competition.image_files`.
    """
    named = {_normalised(name) for files in samples.files for name in image_files(files)}
    return [name for name in images_under(root) if name not in named]


def rows_without_images(
    root: Path | str,
    samples: pd.DataFrame,
    image_files: Callable[[tuple[str, ...]], tuple[str, ...]],
) -> list[str]:
    """Return the sample_id of each sample of which no file is there. No image is opened.

    A file need not be called as an image is: a chunk of an array has no suffix.
    """
    there = set(images_under(root))

    def is_there(name: str) -> bool:
        return name in there or os.path.isfile(os.path.join(root, name))

    return [
        sample_id
        for sample_id, files in zip(samples.sample_id, samples.files, strict=True)
        if not any(is_there(_normalised(name)) for name in image_files(files))
    ]


def images_under(root: Path | str) -> list[str]:
    """Return every image file under `root`, relative to it; hidden folders are left out."""
    images = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = os.path.relpath(folder, root)
        images += [
            os.path.normpath(os.path.join(relative, name))
            for name in names
            if name.lower().endswith(IMAGE_SUFFIXES)
        ]
    return images


def _normalised(name: str) -> str:
    return os.path.normpath(path_of(name))
