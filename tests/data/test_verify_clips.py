"""`verify` on clips, whose frames are files that the samples table does not name one by one."""

import shutil

import cv2
import numpy as np
import pytest

from cellsignal.competitions import get_competition
from cellsignal.data.verify import verify

COMPETITION = get_competition("mitoreid")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "mitoreid"
    COMPETITION.simulate(
        root,
        0,
        moas=2,
        drugs_per_moa=1,
        libraries=1,
        train=2,
        controls=1,
        novel_drugs=1,
        natural=1,
        size=16,
    )
    return root


@pytest.fixture
def root(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


def found(root, workers=0):
    return {
        (problem.kind, problem.path, problem.sample_id)
        for problem in verify(COMPETITION, root, workers)
    }


def test_every_frame_of_a_sound_clip_is_named(root):
    assert found(root) == set()


@pytest.mark.parametrize("workers", [0, 2])
def test_each_fault_is_named_by_its_frame(root, workers):
    a, b, c = (root / "l1" / part for part in ("train/1/1_0", "train/1/1_1", "gallery/2/2_0"))
    (a / "1.jpg").unlink()
    (a / "9.jpg").unlink()
    (b / "7.jpg").write_bytes((b / "7.jpg").read_bytes()[:-40])
    for frame in c.iterdir():
        frame.unlink()
    # a frame of another track
    shutil.copy(root / "novel/3/3_0/5.jpg", root / "l1/query/1/1_0/12.jpg")
    (root / "novel" / "stray.JPG").write_bytes(b"anything")
    (root / "l1/train/2/2_0/notes.jpeg").write_bytes(b"anything")
    problems = found(root, workers)
    identical = [(path, name) for kind, path, name in problems if kind == "identical"]
    assert identical in (
        [("l1/query/1/1_0/12.jpg", "l1_query_1_1_0")],
        [("novel/3/3_0/5.jpg", "novel_3_3_0")],
    )
    assert {problem for problem in problems if problem[0] != "identical"} == {
        ("missing", "l1/train/1/1_0/1.jpg", "l1_train_1_1_0"),
        ("missing", "l1/train/1/1_0/9.jpg", "l1_train_1_1_0"),
        ("truncated", "l1/train/1/1_1/7.jpg", "l1_train_1_1_1"),
        ("row_without_images", "l1/gallery/2/2_0/1.jpg", "l1_gallery_2_2_0"),
        ("wrong_channels", "l1/train/2/2_0/notes.jpeg", "l1_train_2_2_0"),
        ("image_without_row", "l1/train/2/2_0/notes.jpeg", None),
        ("image_without_row", "novel/stray.JPG", None),
    }


def test_a_cell_may_stand_still_but_not_for_the_whole_clip(root):
    track = root / "l1" / "train" / "1" / "1_0"
    for t in (4, 5):
        shutil.copy(track / "3.jpg", track / f"{t}.jpg")
    assert found(root) == set()
    for t in range(2, 17):
        shutil.copy(track / "1.jpg", track / f"{t}.jpg")
    (problem,) = verify(COMPETITION, root)
    assert (problem.kind, problem.path, problem.detail) == (
        "identical",
        "l1/train/1/1_0/1.jpg",
        "all 16 frames have the same bytes",
    ) and not problem.is_error


def test_a_black_frame_is_named(root):
    path = root / "l1" / "train" / "1" / "1_0" / "6.jpg"
    cv2.imwrite(str(path), np.zeros_like(cv2.imread(str(path))))
    problems = verify(COMPETITION, root)
    assert {(problem.kind, problem.path) for problem in problems} == {
        ("flat", "l1/train/1/1_0/6.jpg")
    }
    assert [problem.detail for problem in problems] == [
        f"every pixel of channel {stain} t06 is 0" for stain in ("w1", "w2", "w3")
    ]
