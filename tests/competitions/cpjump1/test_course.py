"""The course project's plate: join by key in any case, the 50 most frequent names, and what can be
held out by well.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tifffile import imread

from cellsignal.common.errors import ImageError, InputError
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.cpjump1 import Cpjump1Course
from cellsignal.competitions.folds import make_folds

COMPETITION, PLATE = Cpjump1Course(), "BR00116991"
SMALL = {"compounds": 4, "wells": 3, "singles": 2, "controls": 4, "sites": 2, "size": 32}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("course") / "root"
    COMPETITION.simulate(root, 2, **SMALL)
    return root


@pytest.fixture
def copy(root, tmp_path) -> Path:
    shutil.copytree(root, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def real_plate(real_data, tmp_path_factory) -> Path:
    """The real plate's layout: 384 wells of three fields, no test wells; empty files, for only
    their names matter.
    """
    root, source = tmp_path_factory.mktemp("real") / "course", real_data / "jump_target"
    (root / "images").mkdir(parents=True)
    wells = pd.read_csv(source / "JUMP-Target-1_compound_platemap.tsv", sep="\t", dtype=str)
    names = pd.read_csv(source / "JUMP-Target-1_compound_metadata.tsv", sep="\t", dtype=str)
    table = wells.merge(
        names[["broad_sample", "pert_iname"]].dropna(), on="broad_sample", how="left"
    ).merge(pd.DataFrame({"site": [1, 2, 9]}), how="cross")
    row = table.well_position.str[0].map(lambda letter: f"{ord(letter) - 64:02d}")
    files = (
        "r"
        + row
        + "c"
        + table.well_position.str[1:]
        + "f0"
        + table.site.astype(str)
        + "p01-ch3sk1fk1fl1.tiff"
    )
    for name in files:
        (root / "images" / name).touch()
    cells = {
        "FileName_OrigRNA": files.str.upper(),
        "Metadata_pert_iname": table.pert_iname,
        "Metadata_Well": table.well_position,
        "Metadata_Plate": PLATE,
    }
    pd.DataFrame(cells).sample(frac=1, random_state=0).to_csv(root / "metadata.csv", index=False)
    return root


def test_the_real_plate(real_plate):
    """384 wells hold 303 names: DMSO 64 wells, 18 names two, 284 one. The top 50 are DMSO, the 18,
    and the first 31 of the 284.
    """
    samples, classes = COMPETITION.samples(real_plate), COMPETITION.classes(real_plate)
    wells = (
        pd.read_csv(real_plate / "metadata.csv")
        .fillna("DMSO")
        .drop_duplicates("Metadata_Well")
        .Metadata_pert_iname.value_counts()
    )
    assert (
        len(wells) == 303
        and wells["DMSO"] == 64
        and wells.value_counts().to_dict() == {1: 284, 2: 18, 64: 1}
    )
    held = samples.drop_duplicates("well_id").label.value_counts()
    assert (
        len(classes) == 50
        and sorted(held) == [1] * 31 + [2] * 18 + [64]
        and len(samples) == 3 * (31 + 36 + 64)
    )
    single = sorted(wells.index[wells == 1])
    assert {name for name in classes if wells[name] == 1} == set(single[:31]) and held[
        classes.index("DMSO")
    ] == 64
    assert (
        set(samples.split) == {"train"}
        and set(samples.role) == {"treatment"}
        and COMPETITION.sample_submission(real_plate).empty
    )


def test_a_class_with_one_well_is_never_held_out(root):
    samples, classes = COMPETITION.samples(root), COMPETITION.classes(root)
    folds = make_folds(samples, "well_id", 2)
    never = samples[samples.well_id.isin(folds.well_id[folds.fold == -1])]
    assert {classes[label] for label in never.label} == {
        "single-00",
        "single-01",
    } and never.well_id.nunique() == 2


def test_images_and_labels_are_joined_by_key(root, copy):
    frame = pd.read_csv(copy / "metadata.csv").sample(frac=1, random_state=3)
    frame.to_csv(copy / "metadata.csv", index=False)
    samples, classes = COMPETITION.samples(copy), COMPETITION.classes(copy)
    pd.testing.assert_frame_equal(samples, COMPETITION.samples(root))
    name = {
        f"{row.FileName_OrigRNA.lower()}": row.Metadata_pert_iname for row in frame.itertuples()
    }
    train = samples[samples.split == "train"]
    assert [classes[label] for label in train.label] == [
        name[Path(file).name] for (file,) in train.files
    ]
    shown = {
        well: f"r{'ABCDEFGHIJKLMNOP'.index(well[0]) + 1:02d}c{well[1:]}" for well in samples.well
    }
    assert all(
        Path(file).name.startswith(f"{shown[row.well]}f{row.site:02d}")
        for row in samples.itertuples()
        for file in row.files
    )


def test_hidden_wells_are_answered(root):
    samples, answers = COMPETITION.samples(root), COMPETITION.answers(answers_path(root))
    hidden = samples[samples.split == "test"]
    assert (
        set(hidden.well_id) == set(answers.well_id)
        and len(answers) == 4 + 1
        and set(answers.pert_iname) <= set(COMPETITION.classes(root))
    )
    assert hidden[["label", "compound", "treatment"]].isna().all(axis=None)


def test_rows_and_files_that_lack_each_other_are_named(copy, caplog):
    gone = COMPETITION.samples(copy).iloc[5]
    (copy / gone.files[0]).rename(copy / "images" / "r16c24f09p01-ch3sk1fk1fl1.tiff")
    with caplog.at_level("WARNING"):
        samples = COMPETITION.samples(copy)
    assert (
        gone.sample_id not in set(samples.sample_id)
        and Path(gone.files[0]).name[:9] in caplog.text
        and "r16c24f09p01" in caplog.text
    )


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("FileName_OrigRNA", "plane7.tiff", "holds no key"),
        ("Metadata_Well", "P24", "by its name it is of well"),
        ("Metadata_Plate", "other", "this competition has one plate"),
        ("Metadata_Plate", "", "row 4: Metadata_Plate is empty"),
    ],
)
def test_wrong_rows_are_refused(copy, column, value, words):
    frame = pd.read_csv(copy / "metadata.csv", dtype=str)
    frame.loc[2, column] = value
    frame.to_csv(copy / "metadata.csv", index=False)
    with pytest.raises(InputError, match=words):
        COMPETITION.samples(copy)


def test_two_files_of_a_key_are_refused(copy):
    first = sorted((copy / "images").iterdir())[0]
    shutil.copy(first, first.with_name(first.name.replace("ch3", "ch2")))
    with pytest.raises(InputError, match="have the same key"):
        COMPETITION.samples(copy)


def test_an_unreadable_image_is_an_error_and_never_black(copy):
    files = COMPETITION.samples(copy).files.iloc[0]
    competition = COMPETITION.calibrate(copy, copy.with_name("calibration"))
    image = competition.read(copy, files, (32, 32))
    assert image.shape == (1, 32, 32) and image.std() > 0
    plane = imread(copy / files[0]).astype(float)
    assert np.corrcoef(plane.ravel(), image[0].ravel())[0, 1] > 0.9
    (copy / files[0]).write_bytes((copy / files[0]).read_bytes()[:-300])
    with pytest.raises(ImageError, match=Path(files[0]).name):
        competition.read(copy, files, (32, 32))
