"""The bootcamp project's folder: pictures by image id, groups by drug, and what cannot be known."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from bootcamp_folder import DRUGS, EACH, FIRST, write_bootcamp_folder
from helpers import cellsignal, error_line

from cellsignal.common.errors import InputError
from cellsignal.competitions.idr0088 import Idr0088Gpcr, Idr0088Moa
from cellsignal.data.pack import prepare
from cellsignal.data.store import Store

GPCR, MOA = Idr0088Gpcr(), Idr0088Moa()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("bootcamp") / "folder"
    write_bootcamp_folder(root)
    return root


@pytest.fixture
def copy(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_an_image_is_a_row_and_its_drug_the_compound(folder):
    samples = GPCR.samples(folder)
    assert len(samples) == EACH * len(DRUGS)
    first = samples[samples.sample_id == str(FIRST)].iloc[0]
    assert (first.target_id, first.well_id, first.compound) == (str(FIRST), str(FIRST), "agonist 0")
    assert first.files == (f"raw_images/{FIRST}.png",) and first.role == "treatment"
    drugs = samples.groupby("compound").size()
    known = {drug for drug, group in DRUGS.items() if group}
    assert drugs.to_dict() == dict.fromkeys(known | {"DMSO"}, EACH)


def test_unknown_drugs_are_the_test_and_never_negatives(folder):
    samples = GPCR.samples(folder)
    names = [drug for drug in DRUGS for _ in range(EACH)]
    unknown = np.array([not DRUGS[name] and name != "DMSO" for name in names])
    control = np.array([name == "DMSO" for name in names])
    assert ((samples.split == "test") == unknown).all()
    assert ((samples.role == "negative_control") == control).all()
    assert samples["labels"][unknown | control].isna().all()
    assert samples[unknown][["compound", "treatment"]].isna().all(axis=None)
    asked = [int(DRUGS[name] == "GPCR agonist") for name in names]
    labelled = ~unknown & ~control
    assert samples["labels"][labelled].map(len).tolist() == [
        n for n, kept in zip(asked, labelled, strict=True) if kept
    ]
    assert set(GPCR.sample_submission(folder).well_id) == set(samples.target_id[unknown])


def test_classes_are_groups_of_three_drugs_with_misspelt_twins_joined(folder):
    assert GPCR.classes(folder) == ("GPCR agonist",)
    assert MOA.classes(folder) == ("Channel blocker", "GPCR agonist", "Kinase inhibitor")
    samples = MOA.samples(folder).set_index("compound")["labels"]
    assert samples["blocker 1"].tolist() == [(0,)] * EACH
    assert samples["rare 1"].tolist() == [()] * EACH, "known, and of no class"


def test_a_drug_with_two_groups_has_two_rows_an_image(copy):
    table = pd.read_csv(copy / "df_image_MoA.csv", index_col=0)
    more = table[table.Drug == "kinase 0"].assign(**{"Compound MoA": "GPCR agonist"})
    pd.concat([table, more]).to_csv(copy / "df_image_MoA.csv")
    samples = MOA.samples(copy)
    assert len(samples) == EACH * len(DRUGS)
    assert samples.set_index("compound")["labels"]["kinase 0"].tolist() == [(1, 2)] * EACH


def test_jpegs_and_pngs_are_read_with_blue_first(copy):
    files = GPCR.samples(copy).files
    picture = cv2.imread(str(copy / files[0][0]), cv2.IMREAD_COLOR)  # blue, green, red
    image = GPCR.read(copy, files[0])
    assert image.shape == (3, 24, 24) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - picture.transpose(2, 0, 1)).max() <= 2
    (copy / files[1][0]).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    np.testing.assert_array_equal(GPCR.read(copy, files[1]), picture.transpose(2, 0, 1))


def test_the_way_to_a_store_and_folds_by_drug(folder, tmp_path):
    prepare(GPCR, folder, tmp_path / "store")
    assert Store.open(tmp_path / "store").shape == (3, 24, 24)
    folds = GPCR.named_folds("compound", GPCR.samples(folder))
    assert sorted(folds["compound"]) == sorted(drug for drug, group in DRUGS.items() if group)
    assert folds.n.eq(EACH).all() and set(folds.fold) == set(range(5))
    agonists = folds[folds.label == "0"]
    assert sorted(agonists.fold) == list(range(5)), "one of each fold"
    named = GPCR.treatments(folder).set_index("treatment").moa.dropna()
    assert named["blocker 1"] == "Channel blocker" and len(named) == len(folds)


@pytest.mark.slow
def test_a_whole_folder_is_sound_and_what_lacks_the_other_is_counted(copy, capsys):
    assert cellsignal("verify", "idr0088_gpcr", "--root", copy, cwd=copy) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    (copy / f"raw_images/{FIRST}.png").rename(copy / "raw_images/99.png")
    assert cellsignal("samples", "idr0088_gpcr", "--root", copy, cwd=copy) == 0
    shown = capsys.readouterr().out
    assert "1: image without a row; first raw_images/99.png" in shown
    assert f"rows without images: 1; first {FIRST}" in shown
    assert cellsignal("verify", "idr0088_gpcr", "--root", copy, cwd=copy) == 2
    assert "error row_without_images: 1" in capsys.readouterr().out


def put(column, row, value):
    def change(root):
        table = pd.read_csv(root / "df_image_MoA.csv", index_col=0, dtype=object)
        table.loc[row, column] = value
        table.to_csv(root / "df_image_MoA.csv")

    return change


def drop(column):
    def change(root):
        table = pd.read_csv(root / "df_image_MoA.csv", index_col=0)
        table.drop(columns=column).to_csv(root / "df_image_MoA.csv")

    return change


FAULTS = [
    (lambda root: (root / "df_image_MoA.csv").unlink(), r"nor df_image_MoA\.csv"),
    (lambda root: shutil.rmtree(root / "raw_images"), r"raw_images: no such folder; df_image_MoA"),
    (drop("Image"), r"df_image_MoA\.csv: no column 'Image'"),
    (drop("Drug"), r"df_image_MoA\.csv: no column 'Drug'"),
    (drop("Compound MoA"), r"df_image_MoA\.csv: no column 'Compound MoA'"),
    (put("Image", 4, "x7"), r"row 6: Image 'x7' is not a whole number from 1"),
    (put("Image", 4, str(FIRST)), r"row 6: Drug 'agonist 1' is another than that image has"),
    (put("Drug", 4, ""), r"row 6: Drug is empty"),
    (put("Compound MoA", 4, "Microbicide"), r"row 6: Compound MoA 'Microbicide' differs in other"),
    (put("Compound MoA", 4, ""), r"row 6: Compound MoA '' differs in other rows of its drug"),
    (
        put("Compound MoA", 48, "Microbicide"),
        r"row 50: Compound MoA 'Microbicide' is given for the control",
    ),
]


@pytest.mark.parametrize("harm, message", FAULTS)
def test_a_bad_or_half_copy_is_one_line(copy, harm, message, capsys):
    harm(copy)
    with pytest.raises(InputError, match=message):
        GPCR.samples(copy)
    assert str(copy) in error_line(capsys, "verify", "idr0088_gpcr", "--root", copy, cwd=copy)


def test_without_a_positive_drug_there_is_no_class(copy):
    table = pd.read_csv(copy / "df_image_MoA.csv", index_col=0)
    table["Compound MoA"] = table["Compound MoA"].replace("GPCR agonist", "Microbicide")
    table.to_csv(copy / "df_image_MoA.csv")
    with pytest.raises(InputError, match="no drug with Compound MoA 'GPCR agonist'"):
        GPCR.classes(copy)
