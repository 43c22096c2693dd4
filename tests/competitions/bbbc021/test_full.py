"""BBBC021 in full: the real tables and what is counted in them, copies of them, the folds, and
pixels against numpy alone.
"""

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from cellsignal.common.errors import ImageError, InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition
from cellsignal.competitions.bbbc021 import planes
from cellsignal.competitions.bbbc021.metadata import (
    CHANNELS,
    IMAGE_CSV,
    MOA_CSV,
    read_annotated,
    read_fields,
)
from cellsignal.competitions.calibration import calibration_file
from cellsignal.config import load_config
from cellsignal.data.folds import read_folds

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[3]
COMPETITION = get_competition("bbbc021_full")
SMALL = {
    "classes": 3,
    "compounds_per_class": 2,
    "sites": 2,
    "replicates": 1,
    "weeks": 2,
    "controls": 2,
    "size": 64,
}


@pytest.fixture(scope="module")
def real(real_data) -> Path:
    return real_data / "bbbc021"


@pytest.fixture(scope="module")
def real_samples(real):
    return COMPETITION.samples(real)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("full") / "data"
    COMPETITION.simulate(root, 4, **SMALL)
    COMPETITION.calibrate(root, root.with_name("calibration"))
    return root


def calibrated(root: Path, folder: Path | None = None) -> Competition:
    """The competition as it reads after `calibrate`; measured beside the root, where nothing else
    is asked for.
    """
    return COMPETITION.calibrate(root, folder or root.with_name("calibration"))


def copy_of(root: Path, to: Path) -> Path:
    """The same files under another root, as links; tables and calibration are copies."""
    for path in root.rglob("*"):
        new = to / path.relative_to(root)
        if path.is_dir():
            new.mkdir(parents=True)
        elif path.suffix == ".tif":
            new.symlink_to(path)
        else:
            new.write_bytes(path.read_bytes())
    return to


# the real tables
# --------------------------------------------------------------------------------------------------


def test_what_is_published_is_counted(real, real_samples):
    fields, moa = read_annotated(real)
    assert (
        len(fields),
        fields.plate.nunique(),
        fields.experiment.nunique(),
        fields.compound.nunique(),
    ) == (13_200, 55, 10, 113)
    assert (
        fields.groupby("well_id").field.max().eq(4).all()
        and (fields.field == fields.dna.str.extract(r"_s(\d)_w1")[0].astype(int)).all()
    )
    assert (
        len(moa),
        moa.compound.nunique(),
        moa.moa.nunique(),
        len(COMPETITION.classes(real)),
    ) == (103, 38, 12, 12)
    assert (~moa.moa.isin(["Kinase inhibitors", "Cholesterol-lowering"])).sum() == 92
    weeks = fields[fields.moa.notna()].groupby("moa").experiment.nunique()
    assert set(weeks.index[weeks == 1]) == {"Kinase inhibitors", "Cholesterol-lowering"}
    train = real_samples[(real_samples.split == "train") & (real_samples.role == "treatment")]
    assert (
        train.treatment.nunique() == 103
        and train.compound.nunique() == 38
        and len(train) == 2_528 * 4
    )
    assert (real_samples.role == "negative_control").sum() == 55 * 24 * 4


def test_labels_are_the_tables_by_another_way(real, real_samples):
    """The wells' MoA by a merge of the raw numbers, as pandas reads them."""
    image, moa = pd.read_csv(real / IMAGE_CSV), pd.read_csv(real / MOA_CSV)
    keys = ["Image_Metadata_Compound", "Image_Metadata_Concentration"]
    merged = image.merge(moa, left_on=keys, right_on=["compound", "concentration"]).query(
        "moa != 'DMSO'"
    )
    expected = dict(
        zip(
            merged.Image_Metadata_Plate_DAPI + "_" + merged.Image_Metadata_Well_DAPI,
            merged.moa,
            strict=True,
        )
    )
    known = real_samples[real_samples.label.notna()].drop_duplicates("well_id")
    names = COMPETITION.classes(real)
    assert {
        well: names[label] for well, label in zip(known.well_id, known.label, strict=True)
    } == expected


def test_test_wells_hold_new_compounds_and_inactive_doses_are_nowhere(real, real_samples):
    fields, moa = read_annotated(real)
    test = set(real_samples.well_id[real_samples.split == "test"])
    compounds = fields[fields.well_id.isin(test)].compound
    assert (
        not set(compounds) & {*moa.compound, "DMSO", "UNKNOWN"}
        and compounds.nunique() == 113 - 38 - 2
    )
    left = fields[~fields.well_id.isin(set(real_samples.well_id))]
    assert (
        left.moa.isna().all()
        and set(left.compound) <= {*moa.compound, "UNKNOWN"}
        and len(left) == 2_312 + 64
    )
    hidden = real_samples[real_samples.split == "test"]
    assert hidden[["compound", "treatment", "label"]].isna().all(axis=None)
    assert set(COMPETITION.sample_submission(real).well_id) == test


def test_thirty_eight_folds_of_one_compound_each(real, real_samples):
    made = COMPETITION.named_folds("leave_one_compound_out", real_samples)
    committed = REPOSITORY / "folds" / "bbbc021_full.csv"
    pd.testing.assert_frame_equal(
        pd.read_csv(committed), made.astype(pd.read_csv(committed).dtypes)
    )
    table = read_folds(committed, real_samples)
    assert table.group == "compound" and table.folds == tuple(range(38))
    assert all(len(table.held_out(fold)) == 1 for fold in table.folds) and made.compound.is_unique
    for fold in (0, 37):
        train = table.training(real_samples, fold)
        assert real_samples.label[train].nunique() == 12 and not set(
            real_samples.compound[train]
        ) & table.held_out(fold)
    with pytest.raises(InputError, match="no fold table called 'kensert'"):
        COMPETITION.named_folds("kensert", real_samples)


def test_treatments_are_named_as_in_the_samples(real, real_samples):
    found = COMPETITION.treatments(real).set_index("treatment")
    assert (
        len(found) == 104
        and found.index.is_unique
        and found.loc["DMSO@0"].tolist() == ["DMSO", "negative_control", None, "compound"]
    )
    seen = (
        real_samples.dropna(subset=["treatment"])
        .drop_duplicates("treatment")
        .set_index("treatment")
    )
    assert (
        set(seen.index) == set(found.index)
        and seen.compound.eq(found.compound.reindex(seen.index)).all()
    )
    assert (
        found.moa["taxol@0.3"] == "Microtubule stabilizers" and found.moa["PP-2@3"] == "Epithelial"
    )


# copies
# --------------------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    return (
        "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines())
        + "\n"
    )


COPIES = {
    "CR alone": lambda image, moa: (image.replace("\n", "\r"), moa.replace("\n", "\r")),
    "CRLF": lambda image, moa: (image.replace("\n", "\r\n"), moa.replace("\n", "\r\n")),
    "all quoted, byte order mark": lambda image, moa: ("\ufeff" + quoted(image), "\ufeff" + moa),
    "nothing quoted": lambda image, moa: (image, moa.replace('"', "")),
    "short doses, spaces": lambda image, moa: (
        image.replace(",", ", "),
        moa.replace("000000", "0").replace("00000,", ","),
    ),
    "rows reversed, columns too": lambda image, moa: (
        "\n".join(
            ",".join(line.split(",")[::-1])
            for line in (image.splitlines()[:1] + image.splitlines()[:0:-1])
        )
        + "\n",
        "\n".join(moa.splitlines()[:1] + moa.splitlines()[:0:-1]) + "\n",
    ),
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_with_other_quotes_line_ends_and_order_give_the_same_table(how, root, tmp_path):
    image, moa = COPIES[how]((root / IMAGE_CSV).read_text(), (root / MOA_CSV).read_text())
    assert (image, moa) != ((root / IMAGE_CSV).read_text(), (root / MOA_CSV).read_text())
    (tmp_path / IMAGE_CSV).write_bytes(image.encode())
    (tmp_path / MOA_CSV).write_bytes(moa.encode())
    pd.testing.assert_frame_equal(COMPETITION.samples(tmp_path), COMPETITION.samples(root))
    pd.testing.assert_frame_equal(COMPETITION.treatments(tmp_path), COMPETITION.treatments(root))


def test_a_real_copy_with_bare_cr_is_the_same(real, real_samples, tmp_path):
    frame = pd.read_csv(real / IMAGE_CSV, dtype=str)
    assert frame.Image_Metadata_Compound.str.contains(",").any(), "commas within quotes"
    frame.to_csv(tmp_path / IMAGE_CSV, index=False, quoting=csv.QUOTE_ALL, lineterminator="\r")
    (tmp_path / MOA_CSV).write_bytes(
        (real / MOA_CSV).read_bytes().replace(b'"', b"").replace(b"\n", b"\r")
    )
    pd.testing.assert_frame_equal(COMPETITION.samples(tmp_path), real_samples)


DAMAGE = {
    "no column": (
        IMAGE_CSV,
        lambda t: t.replace("Image_Metadata_Well_DAPI", "Well"),
        "no column 'Image_Metadata_Well_DAPI'",
    ),
    "empty": (IMAGE_CSV, lambda t: _cell(t, 5, 11, " "), "row 5: Image_Metadata_Compound is empty"),
    "dose": (
        IMAGE_CSV,
        lambda t: _cell(t, 7, 12, "high"),
        "row 7: Image_Metadata_Concentration 'high' is not a number from 0",
    ),
    "negative": (
        IMAGE_CSV,
        lambda t: _cell(t, 7, 12, "-1"),
        "row 7: Image_Metadata_Concentration '-1' is not a number from 0",
    ),
    "other well": (
        IMAGE_CSV,
        lambda t: _cell(t, 3, 12, "77"),
        "row 3: treatment '.*@77' stands in a well that holds something else",
    ),
    "path": (
        IMAGE_CSV,
        lambda t: _cell(t, 4, 3, "../../etc"),
        "row 4: '../../etc' / .* is not WeekN",
    ),
    "name": (IMAGE_CSV, lambda t: _cell(t, 4, 4, "a/b.tif"), "row 4: .* / 'a/b.tif' is not WeekN"),
    "twice": (IMAGE_CSV, lambda t: t + t.splitlines()[1] + "\n", "stands here twice"),
    "moa twice": (
        MOA_CSV,
        lambda t: t + t.splitlines()[-1] + "\n",
        "treatment '.*' stands here twice",
    ),
    "unseen": (
        MOA_CSV,
        lambda t: t + '"ghost",1.0,"Epithelial"\n',
        "'ghost@1' is not a treatment of",
    ),
    "no csv": (MOA_CSV, lambda t: "", "is empty"),
}


def _cell(text: str, row: int, column: int, value: str) -> str:
    lines = [line.split(",") for line in text.splitlines()]
    lines[row - 1][column] = value
    return "\n".join(map(",".join, lines)) + "\n"


@pytest.mark.parametrize("what", DAMAGE)
def test_bad_tables_are_one_line_that_names_file_and_row(what, root, tmp_path):
    name, damage, message = DAMAGE[what]
    for table in (IMAGE_CSV, MOA_CSV):
        text = (root / table).read_text()
        (tmp_path / table).write_text(damage(text) if table == name else text)
    with pytest.raises(InputError, match=message) as caught:
        COMPETITION.samples(tmp_path)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


# pixels
# --------------------------------------------------------------------------------------------------


def corrected(root: Path, names: tuple[str, ...], light: np.ndarray) -> np.ndarray:
    """By numpy alone: 2 sqrt(count / light + 3/8)."""
    return 2 * np.sqrt(np.stack([tifffile.imread(root / name) for name in names]) / light + 0.375)


def test_a_crop_is_what_numpy_makes_of_the_planes(root):
    fields, samples = read_fields(root), COMPETITION.samples(root)
    row = fields[(fields.compound != "DMSO") & fields.well_id.isin(set(samples.well_id))].iloc[3]
    plate = planes.load_calibration(calibration_file(root.with_name("calibration"), row.plate))
    solvent = fields[(fields.plate == row.plate) & (fields.compound == "DMSO")]
    dmso = np.stack(
        [
            corrected(root, tuple(names), plate.illumination)
            for names in solvent[list(CHANNELS)].to_numpy()
        ]
    )
    values = corrected(root, tuple(row[list(CHANNELS)]), plate.illumination)
    values = (values - dmso.mean(axis=(0, 2, 3))[:, None, None]) / dmso.std(axis=(0, 2, 3))[
        :, None, None
    ]
    scaled = (values - values.min()) / (values.max() - values.min()) * 255
    here = samples[
        (samples.well_id == row.well_id) & samples.sample_id.str.contains(f"_s{row.field}_")
    ]
    read = [calibrated(root).read(root, files) for files in here.files]
    assert len(read) == 4 and read[0].shape == (3, 32, 40) == (3, *COMPETITION.root_shape(root))
    whole = np.concatenate(
        [np.concatenate(read[:2], axis=2), np.concatenate(read[2:], axis=2)], axis=1
    ).astype(float)
    assert np.abs(whole - scaled).max() < 0.51 and whole.min() == 0 and whole.max() == 255


def test_dmso_pixels_have_mean_0_and_sd_1_in_every_channel_of_every_plate(root):
    fields = read_fields(root)
    for plate, rows in fields[fields.compound == "DMSO"].groupby("plate"):
        known = planes.load_calibration(calibration_file(root.with_name("calibration"), plate))
        names = rows[list(CHANNELS)].to_numpy()
        values = np.stack(
            [
                planes.standardised(planes.read_planes(tuple(str(root / n) for n in row)), known)
                for row in names
            ]
        )
        assert (
            np.abs(values.mean(axis=(0, 2, 3))).max() < 1e-3
            and np.abs(values.std(axis=(0, 2, 3)) - 1).max() < 1e-3
        )


def test_illumination_correction_evens_out_the_light(tmp_path):
    """Noise under light that falls to half at one side: corrected planes are even, raw ones are
    not.
    """
    rng, falls = np.random.default_rng(0), np.linspace(1, 0.5, 80)[None, :]
    names = []
    for number in range(12):
        names.append(tuple(f"Week1/Week1_1/{number}_{channel}.tif" for channel in CHANNELS))
        for name in names[-1]:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(
                tmp_path / name, rng.poisson(2000 * falls * np.ones((64, 1))).astype(np.uint16)
            )
    found = planes.measure_plate(tmp_path, "Week1_1", names, [True] * 12, (64, 80))
    raw = planes.read_planes(tuple(str(tmp_path / name) for name in names[0]))
    even = raw / found.illumination
    assert raw[..., :20].mean() / raw[..., 60:].mean() > 1.5
    assert even[..., :20].mean() / even[..., 60:].mean() == pytest.approx(1, abs=0.05)
    assert found.illumination.min() == 1 and found.illumination[:, :, 10].mean() == pytest.approx(
        falls[0, 10] / 0.5, rel=0.08
    )


def test_a_field_is_read_once_for_its_four_crops_and_again_when_it_changed(
    root, tmp_path, monkeypatch
):
    copy, asked = copy_of(root, tmp_path / "copy"), []
    competition = calibrated(copy)
    reader = planes.read_gray16
    monkeypatch.setattr(
        planes, "read_gray16", lambda path, shape=None: asked.append(path) or reader(path, shape)
    )
    files = COMPETITION.samples(copy).files[:4]
    before = [competition.read(copy, names) for names in files]
    assert len(asked) == 3
    plane = copy / files[0][0].partition("#")[0]
    changed = tifffile.imread(plane)
    plane.unlink()
    tifffile.imwrite(plane, np.flipud(changed))
    assert not np.array_equal(competition.read(copy, files[0]), before[0]) and len(asked) == 6


def test_an_empty_crop_and_one_of_another_size_are_named(root, tmp_path):
    copy = copy_of(root, tmp_path / "copy")
    competition = calibrated(copy)
    files = COMPETITION.samples(copy).files[:4].to_list()
    for name in files[0]:
        plane = copy / name.partition("#")[0]
        image = tifffile.imread(plane)
        image[32:, 40:] = image.min()
        plane.unlink()
        tifffile.imwrite(plane, image)
    for names in files[:3]:
        assert competition.read(copy, names, (32, 40)).max() > planes.EMPTY_LEVEL
    with pytest.raises(ImageError, match=r"tif#4: shows no cells") as caught:
        competition.read(copy, files[3])
    assert caught.value.kind == "empty"
    with pytest.raises(ImageError, match=r"tif#1: crop of 40x32 pixels, 40x33 expected"):
        competition.read(copy, files[0], (33, 40))
    plane = copy / files[0][1].partition("#")[0]
    plane.unlink()
    with pytest.raises(ImageError, match="no such image"):
        competition.read(copy, files[0])
    cv2.imwrite(str(plane), np.zeros((64, 80), np.uint8))
    with pytest.raises(ImageError, match=r"8-bit|uint8"):
        competition.read(copy, files[0])


@pytest.mark.parametrize("bright, empty", [(2, True), (3, False)])  # of 1,280 pixels: .16 %, .23 %
def test_what_counts_as_empty_is_a_share_of_pixels(root, tmp_path, bright, empty):
    copy = copy_of(root, tmp_path / "copy")
    competition = calibrated(copy)
    files = COMPETITION.samples(copy).files.iloc[0]
    for channel, name in enumerate(files):
        plane = copy / name.partition("#")[0]
        image = np.full((64, 80), 200, np.uint16)
        image[10, 10 : 10 + bright] = 9000 if channel == 1 else 200
        image[50, 50] = 9000  # another crop's
        plane.unlink()
        tifffile.imwrite(plane, image)
    plate = calibration_file(tmp_path / "calibration", Path(files[0]).parent.name)
    np.savez(
        plate,
        illumination=np.ones((3, 64, 80), np.float32),
        mean=np.full(3, 20, np.float32),
        sd=np.ones(3, np.float32),
    )
    if empty:
        with pytest.raises(ImageError, match="shows no cells"):
            competition.read(copy, files)
    else:
        assert (competition.read(copy, files) > 50).sum() == bright


# calibration
# --------------------------------------------------------------------------------------------------


def test_calibration_resumes_and_is_the_same_in_processes(root, tmp_path):
    folder, copy = root.with_name("calibration"), tmp_path / "calibration"
    shutil.copytree(folder, copy)
    files = sorted(copy.iterdir())
    assert len(files) == 2
    files[0].unlink()
    files[1].write_bytes(b"torn")
    hashes = COMPETITION.calibrate(root, copy, workers=2).calibration.hashes
    assert sorted(hashes) == [path.stem for path in files]
    for path in files:
        assert path.read_bytes() == (folder / path.name).read_bytes()
    again = {path: path.stat().st_mtime_ns for path in files}
    assert calibrated(root, copy).calibration.hashes == hashes
    assert again == {path: path.stat().st_mtime_ns for path in files}


def test_reading_before_calibration_says_what_to_run(root):
    with pytest.raises(InputError, match="not calibrated yet; `cellsignal prepare`") as caught:
        COMPETITION.read(root, COMPETITION.samples(root).files.iloc[0])
    assert not isinstance(caught.value, ImageError), "it is not a fault of one image"


def test_a_damaged_plane_is_left_out_and_an_absent_plate_passed_over(root, tmp_path, caplog):
    copy = copy_of(root, tmp_path / "copy")
    fields = read_fields(copy)
    first, last = fields.plate.iloc[0], fields.plate.iloc[-1]
    for name in fields[fields.plate == last][list(CHANNELS)].to_numpy().ravel():
        (copy / name).unlink()
    broken = copy / fields[fields.compound != "DMSO"].dna.iloc[0]
    broken.unlink()
    broken.write_bytes(b"II*\0")
    assert list(calibrated(copy).calibration.hashes) == [first]
    assert str(broken) in caplog.text and f"{last}: none of its" in caplog.text


def test_a_plate_without_readable_dmso_is_left_out_and_the_others_go_on(root, tmp_path, caplog):
    copy = copy_of(root, tmp_path / "copy")
    fields = read_fields(copy)
    plate, other = fields.plate.iloc[0], fields.plate.iloc[-1]
    assert calibration_file(tmp_path / "to", plate).parent.is_dir() is False
    COMPETITION.calibrate(copy, tmp_path / "to")
    assert calibration_file(tmp_path / "to", plate).is_file()
    for name in fields[(fields.plate == plate) & (fields.compound == "DMSO")].actin:
        (copy / name).unlink()
    found = COMPETITION.calibrate(copy, tmp_path / "to")
    assert plate not in found.calibration.hashes and other in found.calibration.hashes
    assert f"plate {plate}: none of its 4 DMSO fields" in caplog.text
    assert not calibration_file(tmp_path / "to", plate).is_file(), (
        "what was measured before is no longer true"
    )
    samples = found.samples(copy)
    treated = samples[samples.role == "treatment"]
    with pytest.raises(ImageError, match="its plate could not be calibrated") as caught:
        found.read(copy, treated.files[treated.plate == plate].iloc[0])
    assert caught.value.kind == "not_calibrated"
    assert found.read(copy, treated.files[treated.plate == other].iloc[0]).dtype == np.uint8

    for name in fields[fields.compound == "DMSO"].actin:
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match=f"plate {plate}: none of its 4 DMSO fields"):
        calibrated(copy)


def test_kenserts_recipe_is_as_published():
    config = load_config(REPOSITORY / "configs" / "bbbc021_full" / "kensert_resnet50.yaml")
    (stage,) = config.stages
    assert (config.model.backbone, config.model.pretrained, config.data.size, config.folds.use) == (
        "resnet50",
        True,
        224,
        None,
    )
    assert (stage.epochs, stage.batch_size, stage.class_weights) == (10, 8, "balanced")
    assert (stage.optimizer.name, stage.optimizer.lr, stage.optimizer.momentum) == (
        "sgd",
        1e-4,
        0.9,
    )
