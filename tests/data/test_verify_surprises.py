"""One surprising image among the others: `verify` lists it and goes on, packing leaves it out and
goes on.
"""

import functools
import shutil

import cv2
import numpy as np
import pytest
import tifffile

from cellsignal.competitions import competition_ids, get_competition
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


@pytest.mark.parametrize("name", competition_ids())
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


@pytest.mark.parametrize("name", competition_ids())
def test_an_exception_that_read_was_not_made_for_ends_nothing(
    simulated, tmp_path, name, monkeypatch, caplog
):
    competition, root = get_competition(name), simulated(name)
    samples = competition.samples(root).iloc[:6].reset_index(drop=True)
    bad = samples.files[1]
    read = type(competition).read

    def read_or_fail(self, folder, files, shape=None):
        if bad[0] in files:
            raise ZeroDivisionError("no such\nthing")
        return read(self, folder, files, shape)

    monkeypatch.setattr(type(competition), "read", read_or_fail)
    problems = [problem for problem in verify(competition, root) if problem.is_error]
    mine = [(problem.kind, problem.detail) for problem in problems if problem.path == bad[0]]
    assert mine == [("corrupt", "cannot be read (ZeroDivisionError: no such thing)")]
    assert {problem.sample_id for problem in problems} == {samples.sample_id[1]}
    assert f"{bad[0]}: reading ended in an unexpected ZeroDivisionError" in caplog.text

    competition = competition.calibrate(root, tmp_path / "calibration")
    shape = competition.root_shape(root)
    options = {"channels": competition.channels, "shape": shape, "source": {}}
    report = pack(
        samples,
        functools.partial(competition.read, root, shape=shape),
        tmp_path / "store",
        **options,
    )
    left_out = dict(report.skipped)
    assert left_out[samples.sample_id[1]].endswith(
        "cannot be read (ZeroDivisionError: no such thing)"
    )
    assert report.n_packed + len(left_out) == len(samples) and report.n_packed


@pytest.mark.parametrize("name", ["bbbc021_full", "cpjump1"])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_plate_of_surprises_alone_ends_nothing(simulated, tmp_path, name, workers):
    """None of a plate's planes can be read, so it cannot be measured: its own files are listed, the
    others go on.
    """
    competition, root = get_competition(name), tmp_path / "root"
    shutil.copytree(simulated(name), root)
    samples = competition.samples(root)
    mine = samples.plate == samples.plate.iloc[0]
    assert 0 < mine.sum() < len(samples)
    images = samples.files[mine].map(competition.image_files)
    bad = {file.partition("#")[0] for files in images for file in files}
    for file in bad:
        surprise(root / file)
    problems = [problem for problem in verify(competition, root, workers) if problem.is_error]
    assert {problem.path.partition("#")[0] for problem in problems} == bad
    assert {problem.kind for problem in problems} == {"wrong_channels"}
    assert {problem.sample_id for problem in problems} == set(samples.sample_id[mine])

    calibrated = competition.calibrate(root, tmp_path / "calibration", workers)
    read = functools.partial(calibrated.read, root, shape=calibrated.root_shape(root))
    options = {"channels": competition.channels, "shape": calibrated.root_shape(root), "source": {}}
    report = pack(samples, read, tmp_path / "store", **options)
    skipped = {sample_id for sample_id, _ in report.skipped}
    assert skipped >= set(samples.sample_id[mine])
    sound = {sample_id for sample_id, why in report.skipped if "shows no cells" in why}
    assert skipped - sound == set(samples.sample_id[mine])
