"""The course's folder as people have it: another table name, another image folder, files that lack
a row and the reverse.
"""

import shutil

import pandas as pd
import pytest
from helpers import cellsignal, error_line

from cellsignal.common.errors import InputError
from cellsignal.competitions.cpjump1 import Cpjump1Course

COMPETITION = Cpjump1Course()
SMALL = {"compounds": 3, "wells": 3, "singles": 1, "controls": 3, "sites": 2, "size": 32}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    root = tmp_path_factory.mktemp("course") / "plain"
    COMPETITION.simulate(root, 3, **SMALL)
    return root


@pytest.fixture
def course(plain, tmp_path):
    """The plate under the names of a published table: more columns, capitals, another ending."""
    root = tmp_path / "course"
    shutil.copytree(plain / "images", root / "rna_planes")
    (root / "pictures").mkdir()
    (root / "notes.txt").touch()
    for path in (root / "rna_planes").iterdir():
        path.rename(path.with_name(f"{path.name[:9]}_median_aggregated.tiff"))
    table = pd.read_csv(plain / "metadata.csv", keep_default_na=False)
    key = table.FileName_OrigRNA.str[:9].str.upper()
    table["FileName_OrigRNA"] = key + "_median_aggregated.tiff"
    table.insert(0, "ImageNumber", range(len(table)))
    table["Metadata_cell_line"] = "A549"
    table.to_csv(root / "metadata_BR00116991_filtered.csv", index=False)
    test = pd.read_csv(plain / "test.csv")
    test["FileName_OrigRNA"] = test.FileName_OrigRNA.str[:9] + "_median_aggregated.tiff"
    test.to_csv(root / "test.csv", index=False)
    return root


def test_other_names_give_the_same_samples(plain, course):
    expected, samples = COMPETITION.samples(plain), COMPETITION.samples(course)
    columns = [column for column in expected if column != "files"]
    pd.testing.assert_frame_equal(expected[columns], samples[columns])
    for (before,), (after,) in zip(expected.files, samples.files, strict=True):
        key = before.removeprefix("images/")[:9]
        assert after == f"rna_planes/{key}_median_aggregated.tiff"
        assert (plain / before).read_bytes() == (course / after).read_bytes()
    assert COMPETITION.classes(plain) == COMPETITION.classes(course)
    assert COMPETITION.left_out(course) == ()


def test_planes_beside_the_table_are_found(course):
    expected = COMPETITION.samples(course)
    for path in (course / "rna_planes").iterdir():
        path.rename(course / path.name)
    files = COMPETITION.samples(course).files
    assert [f"rna_planes/{name}" for (name,) in files] == [name for (name,) in expected.files]


def test_what_was_left_out_is_counted(course, monkeypatch, capsys):
    monkeypatch.setattr("cellsignal.competitions.cpjump1.course.N_CLASSES", 4)
    train = COMPETITION.samples(course)
    train = train[train.split == "train"]
    planes = [course / name for (name,) in train.files]
    rare = set(pd.read_csv(course / "metadata_BR00116991_filtered.csv").Metadata_pert_iname)
    rare -= set(COMPETITION.classes(course))
    assert len(rare) == 1
    planes[0].rename(course / "rna_planes" / "r16c24f09.tiff")
    shutil.copy(planes[1], course / "rna_planes" / "thumbnail.tif")
    assert cellsignal("samples", "cpjump1_course", "--root", course, cwd=course) == 0
    shown = capsys.readouterr().out
    assert f"  1: row without a file; first {planes[0].name[:9]}" in shown
    assert "  1: file without a row; first rna_planes/r16c24f09.tiff" in shown
    assert "  1: file without a key r##c##f##; first rna_planes/thumbnail.tif" in shown
    assert "  2: name is none of the 4 most frequent; first rna_planes/r" in shown
    kept = COMPETITION.samples(course)
    assert set(train.sample_id) - set(kept.sample_id) == {train.sample_id.iloc[0]}


def _second_folder(root):
    shutil.copytree(root / "rna_planes", root / "more")


FAULTS = [
    (
        lambda root: (root / "metadata_BR00116991_filtered.csv").unlink(),
        r"metadata\.csv: no such file, nor metadata\*\.csv; there is notes\.txt",
    ),
    (
        lambda root: shutil.copy(root / "test.csv", root / "metadata_other.csv"),
        r"metadata_BR00116991_filtered\.csv and metadata_other\.csv: keep one",
    ),
    (lambda root: shutil.rmtree(root / "rna_planes"), r"images: no such folder, and no other has"),
    (_second_folder, r"both .*more and .*rna_planes hold planes"),
    (
        lambda root: (root / "pictures").rename(root / "images"),
        r"none of the rows of metadata_BR00116991_filtered\.csv has a file in .*images",
    ),
]


@pytest.mark.parametrize("harm, message", FAULTS)
def test_a_half_copy_is_one_line(course, harm, message, capsys):
    harm(course)
    with pytest.raises(InputError, match=message):
        COMPETITION.samples(course)
    assert str(course) in error_line(
        capsys, "verify", "cpjump1_course", "--root", course, cwd=course
    )


@pytest.mark.parametrize(
    "column", ["FileName_OrigRNA", "Metadata_pert_iname", "Metadata_Well", "Metadata_Plate"]
)
def test_a_missing_column_is_one_line(course, column):
    path = course / "metadata_BR00116991_filtered.csv"
    pd.read_csv(path).drop(columns=column).to_csv(path, index=False)
    with pytest.raises(InputError, match=rf"{path.name}: no column '{column}'"):
        COMPETITION.samples(course)
