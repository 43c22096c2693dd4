"""A tiny competition of noise, of which the data tests make stores."""

import json
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pandas as pd
import pytest

from cellsignal.competitions.base import Competition
from cellsignal.competitions.samples import COLUMNS, check_samples
from cellsignal.data import codec, pack
from cellsignal.data.codec import layout_of
from cellsignal.data.store_files import parse_samples, samples_text
from cellsignal.images import read_png8

CHANNELS = ("nuclei", "er", "actin")


class TinyCompetition(Competition):
    """Three gray PNGs of 20x16 pixels a site, two sites a well; all metadata in `samples.csv`."""

    id: ClassVar[str] = "tiny"
    title: ClassVar[str] = "Tiny"
    channels: ClassVar[tuple[str, ...]] = CHANNELS
    image_shape: ClassVar[tuple[int, int]] = (16, 20)

    def root_shape(self, root):
        return self.image_shape

    def samples(self, root):
        return parse_samples((Path(root) / "samples.csv").read_text(), root)

    def read(self, root, files, shape=None):
        images = []
        for name in files:
            images.append(read_png8(Path(root) / name, shape))
            shape = images[0].shape
        return np.stack(images)

    def classes(self, root):
        return ("0", "1")

    def sample_submission(self, root):
        samples = self.samples(root)
        return samples.target_id[samples.split == "test"].drop_duplicates().to_frame()

    def answers(self, path):
        raise NotImplementedError

    simulate = answers


def tiny_samples(wells: int = 6) -> pd.DataFrame:
    """Two sites a well; two experiments of two plates. Well 1 is a test well, wells 0 and 5 are
    controls.
    """
    rows = []
    for number in range(2 * wells):
        well, site = divmod(number, 2)
        well_id = f"exp-{well % 2}_{well % 4 // 2}_W{well:02}"
        row = {
            "sample_id": f"{well_id}_s{site + 1}",
            "target_id": well_id,
            "well_id": well_id,
            "experiment": f"exp-{well % 2}",
            "plate": str(well % 4 // 2),
            "well": f"W{well:02}",
            "site": site + 1,
            "cell_type": "NA",
            "label": None if well == 1 else well,
            "role": "negative_control" if well in (0, 5) else "treatment",
            "compound": None if well == 1 else 'x, "y"',
            "split": "test" if well == 1 else "train",
            "files": tuple(f"images/{well_id}_s{site + 1}_{channel}.png" for channel in CHANNELS),
        }
        rows.append(row)
    return check_samples(pd.DataFrame(rows, columns=list(COLUMNS)), "tiny")


def write_root(
    root: Path, wells: int = 6, shape: tuple[int, int] = (16, 20), seed: int = 0
) -> np.ndarray:
    """Write a tiny data set of noise; returns its images (N, C, H, W) uint8."""
    samples = tiny_samples(wells)
    images = np.random.default_rng(seed).integers(
        0, 256, (len(samples), len(CHANNELS), *shape), dtype=np.uint8
    )
    (root / "images").mkdir(parents=True)
    for files, image in zip(samples.files, images, strict=True):
        for name, channel in zip(files, image, strict=True):
            cv2.imwrite(str(root / name), channel)
    (root / "samples.csv").write_text(samples_text(samples))
    return images


def prepare_as_before(root: Path, out: Path) -> None:
    """Make a zstd store as it was when a frame held one channel and `store.json` did not say so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "layout_of", lambda kind, shape, _: layout_of(kind, shape, False))
        pack.prepare(TinyCompetition(), root, out, codec="zstd")
    info = json.loads((out / "store.json").read_text())
    assert info.pop("joined") is False
    (out / "store.json").write_text(json.dumps(info | {"format": 3}))


def set_band(patch: pytest.MonkeyPatch, rows: int) -> None:
    """Let frames hold `rows` rows of tiny images, be it of a channel or of all."""
    patch.setattr(codec, "BLOCK", rows * TinyCompetition.image_shape[1])
    patch.setattr(codec, "JOINED_BLOCK", codec.BLOCK * len(CHANNELS))
