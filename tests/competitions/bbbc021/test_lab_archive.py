"""The lab's archive as it lies: what becomes of its folders and numbers, folds by well, the lab's
split by image, and each fault in one line.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal, error_line, write_config
from lab_folder import FOLDERS, PUBLISHED, write_lab_folder

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.bbbc021.lab_archive import MECHANISMS, read_archive
from cellsignal.competitions.folds import make_folds
from cellsignal.data.folds import make_folds_file, read_folds
from cellsignal.data.verify import verify

COMPETITION = get_competition("bbbc021")


@pytest.fixture
def root(tmp_path) -> Path:
    write_lab_folder(tmp_path / "data")
    return tmp_path / "data"


def test_the_folders_are_the_published_ones():
    assert {name: count for name, (_, count) in MECHANISMS.items()} == PUBLISHED
    assert {name: moa for name, (moa, _) in MECHANISMS.items()} == FOLDERS


def test_every_image_is_a_labelled_sample_and_four_in_a_row_are_a_well(root):
    samples, classes = COMPETITION.samples(root), COMPETITION.classes(root)
    assert len(samples) == 6 * 2 * 4 and set(samples.split) == {"train"}
    assert classes == tuple(sorted(FOLDERS.values())) and samples.compound.isna().all()
    for row in samples.itertuples():
        top, name, file = row.files[0].split("/")
        number = int(file.removeprefix("bbbc021v1_").removesuffix(".png"))
        assert top == "bbbc021v1_subset" and classes[row.label] == FOLDERS[name]
        assert row.site == number % 4 + 1 and row.sample_id == f"{name}_{number}"
    numbers = samples.sample_id.str.rpartition("_")[2].astype(int) // 4
    assert (numbers.groupby(samples.well_id).nunique() == 1).all()
    assert samples.well_id.nunique() == 12 and COMPETITION.sample_submission(root).empty


def test_numbers_are_read_as_numbers_and_a_whole_well_may_be_missing(tmp_path):
    """8 to 11 and 100 to 103 are wells; as text 10 and 100 would stand side by side."""
    folder = write_lab_folder(tmp_path, wells=3)
    chosen = folder / "DNA_damage"
    for path in sorted(chosen.iterdir()):
        path.unlink()
    picture = np.zeros((256, 256, 3), np.uint8)
    for number in (8, 9, 10, 11, 100, 101, 102, 103):
        cv2.imwrite(str(chosen / f"bbbc021v1_{number}.png"), picture)
    images, left_out = read_archive(tmp_path, folder)
    found = images[images.image_id.str.startswith("DNA_damage")]
    wells = found.groupby("well_id").image_id.agg(list)
    assert wells.to_list() == [
        [f"DNA_damage_{n}" for n in (8, 9, 10, 11)],
        [f"DNA_damage_{n}" for n in (100, 101, 102, 103)],
    ]
    assert left_out == ()


@pytest.mark.parametrize("place", ["inside", "one folder below", "itself"])
def test_the_archive_is_found_where_it_lies(place, tmp_path):
    below = tmp_path / "StatPred_2019-HEAD" if place == "one folder below" else tmp_path
    folder = write_lab_folder(below)
    root = folder if place == "itself" else tmp_path
    samples = COMPETITION.samples(root)
    image = COMPETITION.read(root, samples.files[7], COMPETITION.root_shape(root))
    expected = cv2.imread(str(root / samples.files[7][0]))[..., ::-1].transpose(2, 0, 1)
    assert np.array_equal(image, expected)
    assert not [problem for problem in verify(COMPETITION, root) if problem.is_error]


def test_the_course_tables_come_first(simulated, tmp_path):
    write_lab_folder(tmp_path)
    for path in simulated("bbbc021").iterdir():
        (tmp_path / path.name).symlink_to(path)
    expected = COMPETITION.samples(simulated("bbbc021"))
    pd.testing.assert_frame_equal(COMPETITION.samples(tmp_path), expected)
    assert COMPETITION.fold_group(tmp_path) == "compound"


def test_folds_are_by_well_unless_the_labs_split_is_named(root, tmp_path):
    samples = COMPETITION.samples(root)
    make_folds_file("bbbc021", root, tmp_path / "well.csv", splits=2)
    by_well = read_folds(tmp_path / "well.csv", samples)
    assert by_well.group == "well_id"
    for fold in by_well.folds:
        train, valid = by_well.training(samples, fold), by_well.validation(samples, fold)
        assert valid.any() and not set(samples.well_id[train]) & set(samples.well_id[valid])
    make_folds_file("bbbc021", root, tmp_path / "image.csv", named="image")
    by_image = read_folds(tmp_path / "image.csv", samples)
    assert by_image.group == "sample_id" and by_image.folds == (0, 1, 2, 3)
    for fold in by_image.folds:
        train, valid = by_image.training(samples, fold), by_image.validation(samples, fold)
        assert valid.sum() == len(samples) / 4
        assert set(samples.well_id[train]) & set(samples.well_id[valid]), "it splits wells"
    assert "optimistic" in COMPETITION.protocol("image").note


def test_other_files_are_left_out_and_named(root):
    other = root / "bbbc021v1_subset" / "DNA_damage" / "readme.txt"
    other.write_text("?")
    (other.parent / ".DS_Store").write_text("?")
    assert COMPETITION.left_out(root) == (("not bbbc021v1_<number>.png", str(other)),)
    assert len(COMPETITION.samples(root)) == 48


def remove_one(folder):
    (folder / "DNA_damage" / "bbbc021v1_10.png").unlink()


def double_one(folder):
    source = folder / "DNA_damage" / "bbbc021v1_10.png"
    os.link(source, source.with_name("bbbc021v1_010.png"))


def empty_one(folder):
    for path in (folder / "Eg5_inhibitors").iterdir():
        path.unlink()


def rename_one(folder):
    (folder / "DNA_damage").rename(folder / "DNA_dammage")


FAULTS = {
    remove_one: "DNA_damage: images 8 to 9 are 2 in a row",
    double_one: "bbbc021v1_010.png and bbbc021v1_10.png are one number",
    empty_one: "Eg5_inhibitors: no bbbc021v1_<number>.png; it is empty",
    rename_one: "no folder DNA_damage; there is Cholesterol_lowering, DNA_dammage",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_one_line(fault, root, tmp_path, capsys):
    fault(root / "bbbc021v1_subset")
    assert FAULTS[fault] in error_line(capsys, "samples", "bbbc021", "--root", root, cwd=tmp_path)


@pytest.mark.slow
def test_a_run_ends_with_its_out_of_fold_score(root, tmp_path, capsys):
    """The steps of `make real` with a network of random weights: chance for images of noise."""
    stages = [{"name": "head", "epochs": 1, "batch_size": 16}]
    model = {"backbone": "test_resnet", "frozen": True, "layers": [1, 2]}
    work = tmp_path / "work"
    write_config(
        work,
        "bbbc021",
        root,
        model=model,
        stages=stages,
        folds={"file": "folds.csv"},
        predict={"tta": 1},
        submit={"pool": "well"},
    )
    assert cellsignal("run", "config.yaml", cwd=work) == 0
    out = capsys.readouterr().out
    assert "no test samples: no submission" in out and not list(work.glob("submissions/tiny.csv"))
    assert "tiny" in (work / "submissions" / "leaderboard.csv").read_text()
    words = ("--method", "linear", "--normalise", "none")
    assert cellsignal("profiles", "classify", "config.yaml", *words, cwd=work) == 0
    out = capsys.readouterr().out
    assert "/48" in out and "/12" in out and "chance" in out
    assert (work / "runs" / "tiny" / "seed0" / "report" / "confusion_linear.png").is_file()


def test_an_unknown_layout_says_what_was_looked_for_and_what_was_there(tmp_path):
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        COMPETITION.samples(tmp_path / "data")
    assert str(caught.value) == (
        f"{tmp_path / 'data'}: neither train.csv nor a folder bbbc021v1_subset; there is pictures"
    )


def test_two_archives_are_refused(tmp_path):
    for name in ("a", "b"):
        write_lab_folder(tmp_path / name, wells=1)
    with pytest.raises(InputError, match="are two archives; keep one"):
        COMPETITION.samples(tmp_path)


def test_the_real_labelled_images_in_the_labs_folders(real_data, tmp_path):
    """The 420 with answers under the lab's names: wells in fours, as the course's table has them."""
    subset = real_data / "bbbc021" / "subset"
    raw = pd.read_csv(subset / "train.csv").sort_values(["moa", "plate_id", "well_id"])
    folder_of = {moa: name for name, moa in FOLDERS.items()}
    well_of = {}
    for number, row in enumerate(raw.itertuples()):
        file = tmp_path / "bbbc021v1_subset" / folder_of[row.moa] / f"bbbc021v1_{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(subset / "images" / f"{row.image_id}.png")
        well_of[f"{folder_of[row.moa]}_{number}"] = row.plate_id + row.well_id
    samples = COMPETITION.samples(tmp_path)
    assert len(samples) == 420 and samples.well_id.nunique() == 105
    pairs = {
        (well, well_of[name]) for name, well in zip(samples.sample_id, samples.well_id, strict=True)
    }
    assert len(pairs) == 105, "each well of ours is one of the table's"
    folds = make_folds(samples, COMPETITION.fold_group(tmp_path), 5)
    assert folds.n.sum() == 420
    image = COMPETITION.read(tmp_path, samples.files[0], COMPETITION.root_shape(tmp_path))
    assert image.shape == (3, 256, 256)
