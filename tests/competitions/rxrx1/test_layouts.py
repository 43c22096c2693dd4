"""RxRx1 from Kaggle, from rxrx.ai and from WILDS: recognised, read to the same samples, and no
label of the test told; half copies and mixed ones are one line.
"""

import shutil

import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal, error_line
from rxrx1_archives import SIDE, TEST, TRAIN, VALIDATION, write_archives

from cellsignal.common.errors import InputError
from cellsignal.competitions.rxrx1 import RxRx1
from cellsignal.competitions.rxrx1.layouts import find_layout

RXRX1 = RxRx1()
HOMES = {"kaggle": "", "rxrx_ai": "rxrx1", "wilds": "rxrx1_v1.0"}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    return folder, write_archives(folder)


@pytest.fixture
def copy(archives, tmp_path):
    """A function that copies one archive and returns the folder of its tables."""

    def make(name):
        shutil.copytree(archives[0] / name, tmp_path / name)
        return tmp_path / name / HOMES[name]

    return make


def table(root):
    return RXRX1.samples(root).sort_values("sample_id", ignore_index=True)


@pytest.mark.parametrize(
    "name, title, prefix",
    [("kaggle", "Kaggle", ""), ("rxrx_ai", "rxrx.ai", "rxrx1/"), ("wilds", "WILDS", "rxrx1_v1.0/")],
)
def test_an_archive_is_recognised_in_the_root_and_one_folder_below(archives, name, title, prefix):
    root = archives[0] / name
    assert (find_layout(root).name, find_layout(root).prefix) == (title, prefix)
    within = find_layout(root / HOMES[name])
    assert (within.name, within.prefix) == (title, "")


@pytest.mark.parametrize("name", ["rxrx_ai", "wilds"])
def test_the_archives_give_kaggles_samples_and_pixels(archives, name):
    kaggle, other = table(archives[0] / "kaggle"), table(archives[0] / name)
    columns = [column for column in kaggle if column != "files"]
    pd.testing.assert_frame_equal(kaggle[columns], other[columns])
    for row in range(0, len(kaggle), 17):
        expected = RXRX1.read(archives[0] / "kaggle", kaggle.files[row])
        image = RXRX1.read(archives[0] / name, other.files[row])
        channels = RXRX1.channels_of(archives[0] / name)
        assert image.shape == (len(channels), SIDE, SIDE)
        np.testing.assert_array_equal(image, expected[: len(channels)])


def test_the_files_lie_where_each_archive_has_them(archives):
    files = {name: table(archives[0] / name).files.iloc[0] for name in HOMES}
    assert files["kaggle"][1] == "train/HEPG2-01/Plate1/C03_s1_w2.png"
    assert files["rxrx_ai"][1] == "rxrx1/images/HEPG2-01/Plate1/C03_s1_w2.png"
    assert files["wilds"] == ("rxrx1_v1.0/images/HEPG2-01/Plate1/C03_s1.png",)
    wilds = archives[0] / "wilds"
    assert RXRX1.channels_of(wilds) == ("nuclei", "endoplasmic_reticulum", "actin")
    assert RXRX1.root_shape(wilds) == (SIDE, SIDE)


@pytest.mark.parametrize("name", ["rxrx_ai", "wilds"])
def test_no_label_of_a_test_treatment_reaches_the_samples(copy, name):
    """Other answers in the table change nothing that training can see, and all that scoring can."""
    folder = copy(name)
    samples, answers = table(folder), RXRX1.answers(folder / "metadata.csv")
    hidden = (samples.split == "test") & (samples.role == "treatment")
    assert hidden.sum() == 2 * len(answers) > 0
    assert samples[hidden][["label", "compound"]].isna().all(axis=None)
    rows = pd.read_csv(folder / "metadata.csv")
    test = (rows.dataset != "train") & (rows.well_type == "treatment")
    rows.loc[test, "sirna_id"] = (rows.sirna_id[test] + 1) % 8
    rows.loc[test, "sirna"] = "s1"
    rows.to_csv(folder / "metadata.csv", index=False)
    pd.testing.assert_frame_equal(samples, table(folder))
    assert (RXRX1.answers(folder / "metadata.csv").sirna != answers.sirna).all()


@pytest.mark.parametrize("name", ["rxrx_ai", "wilds"])
def test_the_archive_tells_the_answers(archives, name, tmp_path):
    root, truth = archives[0] / name, archives[1]
    out = tmp_path / "answers.csv"
    assert cellsignal("profiles", "answers", "rxrx1", "--root", root, "--out", out, cwd=".") == 0
    tested = truth[(truth.split == "test") & (truth.well_type == "treatment")]
    told = pd.read_csv(out).set_index("id_code").sirna
    assert told.to_dict() == tested.set_index("id_code").sirna.to_dict()
    public = RXRX1.answers(out).set_index("experiment").leaderboard
    assert set(public[list(VALIDATION)]) == {"public"}
    assert set(public.drop(list(VALIDATION))) == {"private"}
    with pytest.raises(InputError, match="Kaggle's tables tell no answers"):
        RXRX1.published_answers(archives[0] / "kaggle")


def test_wilds_parts_are_the_tables_own(copy):
    path = copy("wilds") / "metadata.csv"
    samples, rows = RXRX1.samples(path.parent), pd.read_csv(path)
    site_2 = (rows.dataset == "train") & (rows.site == 2)
    names = {"train": "train", "val": "ood_validation", "test": "ood_test"}
    rows["part"] = rows.dataset.map(names).where(~site_2, "id_test")
    expected = rows.assign(id=rows.well_id + "_s" + rows.site.astype(str)).set_index("id").part
    parts = pd.Series(RXRX1.protocol_parts("wilds", samples).to_numpy(), samples.sample_id)
    assert parts.to_dict() == expected.to_dict()
    assert set(expected) == {"train", "id_test", "ood_validation", "ood_test"}
    rows.loc[site_2, "dataset"] = "id_test"
    rows.drop(columns="part").to_csv(path, index=False)
    pd.testing.assert_frame_equal(samples, RXRX1.samples(path.parent))


def test_a_site_file_without_images_is_known_by_its_splits(copy):
    for name, title in (("rxrx_ai", "rxrx.ai"), ("wilds", "WILDS")):
        folder = copy(name)
        shutil.rmtree(folder / "images")
        assert find_layout(folder).name == title


@pytest.mark.parametrize("name", list(HOMES))
@pytest.mark.slow
def test_whole_archives_are_sound(archives, name, tmp_path, capsys):
    root = archives[0] / name
    assert cellsignal("verify", "rxrx1", "--root", root, cwd=tmp_path) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    assert cellsignal("samples", "rxrx1", "--root", root, cwd=tmp_path) == 0
    shown = capsys.readouterr().out
    assert "left out: nothing" in shown and "rows without images" not in shown
    wells = 7 * 2 * len(TRAIN + TEST)
    assert f"{2 * wells} sites of {wells} wells on {2 * len(TRAIN + TEST)} plates" in shown


@pytest.mark.parametrize("name", list(HOMES))
def test_what_lacks_the_other_is_counted(copy, name, tmp_path, capsys):
    folder = copy(name)
    sites = sorted(folder.glob("*/RPE-01/Plate2/C04_s1*.png"))
    assert len(sites) == (1 if name == "wilds" else 6)
    for path in sites:
        path.rename(path.with_name(path.name.replace("C04", "P24")))
    assert cellsignal("samples", "rxrx1", "--root", folder, cwd=tmp_path) == 0
    shown = capsys.readouterr().out
    assert f"  {len(sites)}: image without a row; first " in shown
    assert "rows without images: 1; first RPE-01_2_C04_s1" in shown
    assert cellsignal("verify", "rxrx1", "--root", folder, cwd=tmp_path) == 2
    listed = capsys.readouterr().out
    assert "row_without_images: 1" in listed and f"image_without_row: {len(sites)}" in listed


def drop_column(path, column):
    pd.read_csv(path).drop(columns=column).to_csv(path, index=False)


def put_dataset(path, chosen, value):
    rows = pd.read_csv(path)
    rows.loc[chosen(rows), "dataset"] = value
    rows.to_csv(path, index=False)


FAULTS = [
    ("kaggle", lambda f: (f / "test.csv").unlink(), r"test\.csv: no such file; the Kaggle release"),
    ("kaggle", lambda f: drop_column(f / "train.csv", "sirna"), r"train\.csv: no column 'sirna'"),
    (
        "kaggle",
        lambda f: [(f / "train").rename(f / "images"), shutil.rmtree(f / "test")],
        r"train\.csv: its images lie in train/ and test/, which are not there; images/ belongs",
    ),
    ("rxrx_ai", lambda f: (f / "metadata.csv").unlink(), r"neither train\.csv nor metadata\.csv"),
    (
        "rxrx_ai",
        lambda f: drop_column(f / "metadata.csv", "sirna_id"),
        r"metadata\.csv: no column 'sirna_id'",
    ),
    (
        "rxrx_ai",
        lambda f: (f / "images").rename(f / "train"),
        r"metadata\.csv: its images lie in images/, which are not there; train/ belongs",
    ),
    (
        "rxrx_ai",
        lambda f: shutil.copytree(f, f.parent / "rxrx1_v1.0"),
        r"rxrx1 and rxrx1_v1\.0 are two archives",
    ),
    (
        "wilds",
        lambda f: drop_column(f / "metadata.csv", "dataset"),
        r"metadata\.csv: no column 'dataset'",
    ),
    (
        "wilds",
        lambda f: put_dataset(f / "metadata.csv", lambda r: r.index == 3, "valid"),
        r"metadata\.csv: row 5: dataset 'valid' is none of train, id_test, val, test",
    ),
    (
        "wilds",
        lambda f: put_dataset(f / "metadata.csv", lambda r: r.experiment == "RPE-03", "val"),
        r"metadata\.csv: RPE-03 is 'val'; WILDS' are the first of each",
    ),
    (
        "wilds",
        lambda f: put_dataset(f / "metadata.csv", lambda r: r.experiment == "RPE-02", "test"),
        r"metadata\.csv: RPE-02 is not 'val'; WILDS' are the first of each",
    ),
    (
        "wilds",
        lambda f: put_dataset(
            f / "metadata.csv", lambda r: r.site_id == "RPE-01_1_C03_1", "id_test"
        ),
        r"dataset 'id_test' is WILDS' name for sites 2; its site_id is 'RPE-01_1_C03_1'",
    ),
]


@pytest.mark.parametrize("name, harm, message", FAULTS)
def test_a_half_or_mixed_copy_is_one_line(copy, name, harm, message, tmp_path, capsys):
    harm(copy(name))
    with pytest.raises(InputError, match=message):
        RXRX1.samples(tmp_path / name)
    line = error_line(capsys, "verify", "rxrx1", "--root", tmp_path / name, cwd=tmp_path)
    assert name in line


def test_a_gray_image_among_wilds_rgb_is_an_error(archives, copy, tmp_path, capsys):
    folder = copy("wilds")
    gray = archives[0] / "kaggle" / "train" / "RPE-01" / "Plate1" / "C03_s1_w1.png"
    shutil.copy(gray, folder / "images" / "RPE-01" / "Plate1" / "C03_s1.png")
    assert cellsignal("verify", "rxrx1", "--root", folder, cwd=tmp_path) == 2
    assert "error wrong_channels: 1" in capsys.readouterr().out
