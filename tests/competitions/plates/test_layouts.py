"""What the paths of each microscope say, by names as their manuals and public data sets show them."""

import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions.plates.layouts import (
    get_layout,
    parse_path,
    parse_pattern,
    row_letters,
)
from cellsignal.competitions.plates.planes import recognise_layout

# layout, path, plate, well, site, channel, z, time
NAMES = [
    (
        "phenix",
        "BR1__2020-11-05T19_51_35-Measurement1/Images/r14c09f05p01-ch1sk1fk1fl1.tiff",
        "BR1",
        "N09",
        "05",
        "1",
        "01",
        "1",
    ),
    ("phenix", "r02c24f09p03-ch5sk2fk1fl1.tiff", "root", "B24", "09", "5", "03", "2"),
    (
        "imagexpress",
        "P7/TimePoint_1/screen_B02_s3_w2A1B2C3D4-0011-4F00-9D1C-AABBCCDDEEFF.TIF",
        "P7",
        "B02",
        "3",
        "2",
        "1",
        "1",
    ),
    (
        "imagexpress",
        "P7/B02_s3_w11A2B3C4D-0011-4F00-9D1C-AABBCCDDEEFF.tif",
        "P7",
        "B02",
        "3",
        "1",
        "1",
        "1",
    ),
    (
        "cellvoyager",
        "X/AssayPlate_A01_T0001F001L01A01Z02C04.tif",
        "X",
        "A01",
        "001",
        "04",
        "02",
        "0001",
    ),
    ("incell", "Q/B - 2(fld 1 wv DAPI - DAPI).tif", "Q", "B02", "1", "DAPI - DAPI", "1", "1"),
    (
        "incell",
        "Q/H - 12(fld 04 wv FITC - FITC z 3).tif",
        "Q",
        "H12",
        "04",
        "FITC - FITC",
        "3",
        "1",
    ),
    ("rxrx1", "train/HUVEC-01/Plate2/AF48_s2_w6.png", "2", "AF48", "2", "6", "1", "1"),
]


@pytest.mark.parametrize("case", NAMES, ids=lambda case: f"{case[0]}-{case[1][-30:]}")
def test_what_a_path_says(case):
    name, path, *expected = case
    facts = parse_path(get_layout(name), path, "root")
    assert [facts[key] for key in ("plate", "well", "site", "channel", "z", "time")] == expected
    layout, count = recognise_layout([path] * 3, "root")
    assert (layout.name, count) == (name, 3), "it is recognised among the others"


@pytest.mark.parametrize(
    ("path", "site"), [("P1/B02_s3.tif", "3"), ("P1/x_B02.ome.tif", "1"), ("P1/B02_4.png", "4")]
)
def test_files_that_hold_all_channels(path, site):
    layout, _ = recognise_layout([path], "root")
    facts = parse_path(layout, path, "root")
    assert layout.whole_channels
    assert (layout.name, facts["plate"], facts["well"], facts["site"]) == (
        "well_files",
        "P1",
        "B02",
        site,
    )


def test_one_folder_a_class_is_the_last_guess():
    names = ["Actin/img1.png", "Actin/img2.png", "DMSO/a.png"]
    assert recognise_layout(names, "root")[0].name == "class_folders"
    facts = parse_path(get_layout("class_folders"), names[0], "root")
    assert (facts["label"], facts["well"]) == ("Actin", "img1")
    with pytest.raises(InputError, match=r"no layout is recognised.*give --pattern"):
        recognise_layout(["img1.png", "img2.png"], "root")


def test_thumbnails_are_no_images():
    assert parse_path(get_layout("imagexpress"), "P/x_B02_s1_w1_thumb1A.tif", "root") is None


def test_a_pattern_of_the_users_own():
    layout = parse_pattern("{plate}/{row}{column}/field{site}_{channel}_{*}.tif")
    facts = parse_path(layout, "raw/day1/PX/C07/field12_GFP_a.b-c.tif", "root")
    expected = {"plate": "PX", "well": "C07", "site": "12", "channel": "GFP", "z": "1", "time": "1"}
    assert facts == expected
    assert parse_path(layout, "PX/C07/field12_GFP_a.png", "root") is None


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("{plate}/{wel}_{site}.tif", r"\{wel\} is none of"),
        ("{well}/{well}.tif", r"names \{well\} twice"),
        ("{plate}/{site}.tif", r"has no \{well\}"),
    ],
)
def test_a_wrong_pattern_is_one_line(pattern, why):
    with pytest.raises(InputError, match=why):
        parse_pattern(pattern)


def test_rows_of_1536_wells():
    assert [row_letters(number) for number in (1, 16, 26, 27, 32)] == ["A", "P", "Z", "AA", "AF"]
