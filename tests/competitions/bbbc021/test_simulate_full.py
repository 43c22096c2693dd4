"""The simulated full BBBC021: the published layout, replicates on a week's plates, and what the
tables may not tell.
"""

import hashlib
import io

import numpy as np
import pandas as pd
import pytest
import tifffile

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.bbbc021.simulate import TWELVE
from cellsignal.competitions.bbbc021.simulate_full import simulate_bbbc021_full

SMALL = {
    "classes": 4,
    "compounds_per_class": 2,
    "doses": 2,
    "replicates": 3,
    "sites": 1,
    "weeks": 2,
    "controls": 2,
    "size": 32,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulated") / "full"
    simulate_bbbc021_full(root, 3, **SMALL)
    return root


@pytest.fixture(scope="module")
def wells(root):
    image = pd.read_csv(root / "BBBC021_v1_image.csv")
    moa = pd.read_csv(root / "BBBC021_v1_moa.csv")
    image.columns = [
        name.removeprefix("Image_Metadata_").removesuffix("_DAPI").lower() for name in image.columns
    ]
    return image.merge(moa, on=["compound", "concentration"], how="left")


def test_files_are_as_published(root):
    image = pd.read_csv(root / "BBBC021_v1_image.csv")
    for channel, number in (("DAPI", 1), ("Tubulin", 2), ("Actin", 4)):
        name = rf"[B-G](0[2-9]|1[01])_s1_w{number}[0-9A-F]{{8}}(-[0-9A-F]{{4}}){{3}}-[0-9A-F]{{12}}\.tif"
        assert image[f"Image_FileName_{channel}"].str.fullmatch(name).all()
        assert image[f"Image_PathName_{channel}"].str.fullmatch(r"Week\d+/Week\d+_\d{5}").all()
    named = {
        f"{row[f'Image_PathName_{c}']}/{row[f'Image_FileName_{c}']}"
        for _, row in image.iterrows()
        for c in ("DAPI", "Tubulin", "Actin")
    }
    assert named == {str(path.relative_to(root)) for path in root.rglob("*.tif")} and len(
        named
    ) == 3 * len(image)
    with tifffile.TiffFile(root / sorted(named)[0]) as file:
        page = file.pages[0]
        assert (len(file.pages), page.shape, page.dtype, page.compression.name) == (
            1,
            (32, 40),
            np.uint16,
            "NONE",
        )
        assert page.asarray().max() > 255


def test_tables_have_the_real_headers(root, real_data):
    for name in ("BBBC021_v1_image.csv", "BBBC021_v1_moa.csv"):
        assert (root / name).read_text().splitlines()[0] == (
            real_data / "bbbc021" / name
        ).read_text().splitlines()[0]
    assert set(TWELVE) == set(pd.read_csv(real_data / "bbbc021" / "BBBC021_v1_moa.csv").moa) - {
        "DMSO"
    }


def test_a_compound_stands_on_every_plate_of_its_week(wells):
    assert wells.plate.nunique() == 6 and wells.groupby("plate").well.nunique().nunique() <= 2
    treated = wells[wells.compound != "DMSO"]
    weeks = (
        treated.assign(week=treated.plate.str.split("_").str[0]).groupby("compound").week.nunique()
    )
    assert sorted(weeks) == [1] * 11 + [2], "one compound in both weeks"
    assert (treated.groupby(["compound", "concentration"]).plate.nunique() >= 3).all()
    assert (wells[wells.compound == "DMSO"].groupby("plate").size() == 2).all()
    per_week = (
        wells.assign(week=wells.plate.str.split("_").str[0])
        .groupby(["week", "compound", "concentration"])
        .replicate.agg(set)
    )
    assert per_week.map({1, 2, 3}.issubset).all()


def test_some_doses_have_no_moa_and_test_compounds_none_at_all(root, wells):
    answers = pd.read_csv(answers_path(root))
    unknown = wells[wells.moa.isna()]
    hidden = (unknown.plate + "_" + unknown.well).isin(set(answers.well_id))
    test, weak = unknown[hidden], unknown[~hidden]
    assert (
        len(answers) == 4 * 2 * 3
        and set(test.compound) == set(answers["compound"])
        and answers.moa.nunique() == 4
    )
    annotated = set(wells.compound[wells.moa.notna()])
    assert not annotated & set(test.compound) and set(weak.compound) <= annotated and len(weak) >= 3
    samples = get_competition("bbbc021_full").samples(root)
    assert set(samples.well_id[samples.split == "test"]) == set(answers.well_id)
    assert not set(weak.plate + "_" + weak.well) & set(samples.well_id)
    assert not any("answers" in path.name for path in root.rglob("*"))


def test_bytes_depend_on_the_seed_alone(root, tmp_path):
    simulate_bbbc021_full(tmp_path / "full", 3, **SMALL, workers=2)
    for path in sorted(p for p in root.rglob("*.*") if p.is_file()):
        other = tmp_path / "full" / path.relative_to(root)
        assert (
            hashlib.sha256(path.read_bytes()).digest()
            == hashlib.sha256(other.read_bytes()).digest()
        ), path.name
    assert answers_path(root).read_bytes() == answers_path(tmp_path / "full").read_bytes()


def test_light_falls_off_on_every_plate_in_its_own_way(root):
    """There is something for the illumination correction to do: the plates' mean planes are uneven,
    alike in no two weeks.
    """
    image, means = pd.read_csv(root / "BBBC021_v1_image.csv"), {}
    for plate, rows in image.groupby("Image_Metadata_Plate_DAPI"):
        files = rows.Image_PathName_Actin + "/" + rows.Image_FileName_Actin
        planes = np.stack(
            [tifffile.imread(io.BytesIO((root / name).read_bytes())) for name in files]
        ).astype(float)
        quarters = planes.mean(0).reshape(2, 16, 2, 20).mean((1, 3))
        means[plate] = quarters / quarters.mean()
    assert max(quarters.max() / quarters.min() for quarters in means.values()) > 1.1


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"doses": 0}, "doses is 0, at least 1"),
        ({"classes": 13}, "there are 12 mechanisms"),
        ({"size": 36}, "not divisible by 8"),
        ({"compounds_per_class": 40}, "there are 60"),
    ],
)
def test_refusals(tmp_path, wrong, message):
    with pytest.raises(InputError, match=message):
        simulate_bbbc021_full(tmp_path / "x", 0, **SMALL | wrong)
