"""One surprising image among the others: `verify` lists it and goes on, packing leaves it out and goes on."""

import functools
import shutil

import cv2
import numpy as np
import pytest
import tifffile
from helpers import SMALL

from cellsignal.competitions import get_competition
from cellsignal.data.pack import pack
from cellsignal.data.verify import verify


def surprise(path) -> None:
    """Another image of the same format and size in its place: a stack's, with alpha, or gray."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image.dtype == np.uint16:
        tifffile.imwrite(path, np.stack([image, image]), imagej=True, truncate=True)
    elif path.suffix == ".jpg":
        cv2.imwrite(str(path), image[:, :, 0])
    else:
        alpha = np.full(image.shape[:2], 128, np.uint8)
        colours = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        cv2.imwrite(str(path), np.dstack([colours, alpha]))


@pytest.mark.parametrize("name", SMALL)
def test_one_surprising_image_ends_nothing(simulated, tmp_path, name):
    competition, root = get_competition(name), tmp_path / "root"
    shutil.copytree(simulated(name), root)
    samples = competition.samples(root)
    bad = competition.image_files(samples.files.iloc[1])[-1].partition("#")[0]
    surprise(root / bad)
    named = samples.files.map(competition.image_files).map(
        lambda files: any(file.partition("#")[0] == bad for file in files)
    )
    problems = [problem for problem in verify(competition, root) if problem.is_error]
    assert {(p.path.partition("#")[0], p.kind) for p in problems} == {(bad, "wrong_channels")}
    assert {problem.sample_id for problem in problems} == set(samples.sample_id[named])

    subset = samples[named | (np.arange(len(samples)) < 6)].reset_index(drop=True)
    shape = competition.root_shape(root)
    competition = competition.calibrate(root, tmp_path / "calibration")
    read = functools.partial(competition.read, root, shape=shape)
    options = {"channels": competition.channels, "shape": shape, "source": {}}
    report = pack(subset, read, tmp_path / "store", **options)
    bad_ids = set(samples.sample_id[named])
    assert {sample_id for sample_id, _ in report.skipped} == bad_ids
    assert all(bad in message for _, message in report.skipped)
    assert report.n_packed == len(subset) - len(bad_ids)
