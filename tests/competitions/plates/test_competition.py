"""A user's own plates: what the table says, and faults planted one by one, each named in a line."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from helpers import cellsignal, error_line, tiny_config

from cellsignal.common.errors import InputError
from cellsignal.competitions.plates.competition import Plates
from cellsignal.competitions.plates.planes import parse_entry

PLATES = Plates()


@pytest.fixture
def root(simulated, tmp_path):
    return shutil.copytree(simulated("plates"), tmp_path / "plates")


def change(root, **keys):
    path = root / "plates.yaml"
    tree = yaml.safe_load(path.read_text())
    images = tree["images"] | keys.pop("images", {})
    path.write_text(yaml.safe_dump(tree | {"images": images} | keys, sort_keys=False))


def change_map(root, change_table):
    table = pd.read_csv(root / "platemaps.csv", dtype=str, keep_default_na=False)
    change_table(table).to_csv(root / "platemaps.csv", index=False)


def first_file(root, plate="P001", pattern="*ch2*"):
    return sorted(root.glob(f"{plate}__*/Images/{pattern}.tiff"))[0]


def test_the_table_is_the_platemap(root):
    samples = PLATES.samples(root)
    table = pd.read_csv(root / "platemaps.csv", dtype=str, keep_default_na=False)
    table.index = table.plate + "_" + table.well
    assert set(samples.well_id) == set(table.index)
    for row in samples.itertuples():
        entry = table.loc[row.well_id]
        assert (row.plate, row.well, row.experiment) == (entry.plate, entry.well, entry.week)
        if entry.role == "treatment":
            assert (
                PLATES.classes(root)[row.label] == entry.moa and row.compound == entry["compound"]
            )
        elif entry.role == "dmso":
            assert row.role == "negative_control" and row.label == len(PLATES.classes(root))
        else:
            assert row.split == "test" and pd.isna(row.label)
        channels = [name.split("-ch")[-1][0] for name in row.files]
        assert (
            channels == ["1", "2", "3"] and len({name.split("-ch")[0] for name in row.files}) == 1
        )


def test_bytes_are_percentiles_of_the_plate(root, tmp_path):
    """numpy's percentiles of all pixels of a plate and channel become 0 and 255."""
    reader = PLATES.calibrate(root, tmp_path / "calibration")
    samples = PLATES.samples(root)
    plate = samples[samples.plate == "P002"]
    raw = np.stack([[tifffile.imread(root / name) for name in files] for files in plate.files])
    low, high = np.percentile(raw.transpose(1, 0, 2, 3).reshape(3, -1), (0.1, 99.9), axis=1)
    image = reader.read(root, plate.files.iloc[0])
    expected = (raw[0] - low[:, None, None]) / (high - low)[:, None, None] * 255
    assert np.abs(image - np.clip(expected, 0, 255)).max() <= 0.51


def test_stacks_are_projected(root, tmp_path):
    """A second plane, brighter by 7 in one pixel and darker elsewhere."""
    for path in sorted(root.rglob("*p01-*.tiff")):
        plane = tifffile.imread(path)
        other = np.maximum(plane, 9) - 9
        other[3, 4] = plane[3, 4] + 7
        tifffile.imwrite(str(path).replace("p01-", "p02-"), other)
    files = PLATES.samples(root).files.iloc[0]
    assert len(PLATES.image_files(files)) == 6
    one = tifffile.imread(root / parse_entry(files[0])[1][0])
    two = tifffile.imread(root / parse_entry(files[0])[1][1])
    from cellsignal.competitions.plates.description import read_description
    from cellsignal.competitions.plates.pixels import read_site

    assert np.array_equal(
        read_site(root, files, read_description(root).images)[0], np.maximum(one, two)
    )
    change(root, images={"z": "mean"})
    files = PLATES.samples(root).files.iloc[0]
    mean = np.rint((one.astype(float) + two) / 2)
    assert np.array_equal(read_site(root, files, read_description(root).images)[0], mean)
    change(root, images={"z": 2})
    files = PLATES.samples(root).files.iloc[0]
    assert np.array_equal(read_site(root, files, read_description(root).images)[0], two)


def test_without_hidden_wells_there_is_no_test(root):
    change(root, hidden=None)
    change_map(root, lambda table: table[table.role != "test"])
    samples = PLATES.samples(root)
    assert set(samples.split) == {"train"} and PLATES.sample_submission(root).empty
    reasons = {reason for reason, _ in PLATES.left_out(root)}
    assert reasons == {"a well with images that no platemap has"}


# faults
# --------------------------------------------------------------------------------------------------


def plane_missing(root):
    first_file(root).unlink()
    return "no file of channel 2"


def well_not_in_the_platemap(root):
    change_map(root, lambda table: table.iloc[1:])
    return "a well with images that no platemap has"


def well_without_images(root):
    extra = {"plate": "P001", "well": "P24", "moa": "moa 1", "compound": "x", "role": "treatment"}
    change_map(root, lambda table: pd.concat([table, pd.DataFrame([extra])]))
    return "a well of the platemap without images"


def well_without_label(root):
    change_map(root, lambda table: table.assign(moa=table.moa.where(table.index != 0, "")))
    return "a well without a label"


def depth_that_differs(root):
    """All sites get a second z plane, but one channel of one site does not."""
    paths = sorted(root.rglob("*p01-*.tiff"))
    for path in paths[1:]:
        shutil.copy(path, str(path).replace("p01-", "p02-"))
    return "not the 2 z planes that most sites have"


def name_not_understood(root):
    shutil.copy(first_file(root), root / "snapshot.tiff")
    return "file name not understood"


@pytest.mark.parametrize(
    "plant",
    [
        plane_missing,
        well_not_in_the_platemap,
        well_without_images,
        well_without_label,
        depth_that_differs,
        name_not_understood,
    ],
)
def test_what_is_left_out_is_counted(root, plant, tmp_path, capsys):
    whole = len(PLATES.samples(root))
    if plant is well_without_label:
        change_map(root, lambda t: t.sort_values("role", ascending=False, ignore_index=True))
        change_map(root, lambda t: t.sort_values("moa", ascending=False, ignore_index=True))
    reason = plant(root)
    assert [why for why, _ in PLATES.left_out(root)] == [reason]
    assert whole - len(PLATES.samples(root)) == (
        plant not in (well_without_images, name_not_understood)
    )
    capsys.readouterr()
    words = ("samples", "plates", "--root", root, "--out", tmp_path / "table.csv")
    assert cellsignal(*words, cwd=tmp_path) == 0
    assert f"1: {reason}; first " in capsys.readouterr().out
    kept = pd.read_csv(tmp_path / "table.left_out.csv")
    assert kept.reason.to_list() == [reason]


def two_files_for_one_plane(root):
    path = first_file(root)
    shutil.copy(path, path.with_name(path.name.replace("fl1", "fl2")))
    return r"two files for channel 2 of site 1, well \w\d\d, plate P001; move one away$"


def channel_absent_on_one_plate(root):
    for path in root.glob("P002__*/Images/*ch3*"):
        path.unlink()
    return r"images.channels.Actin: plate P002 has no file of channel '3'; its files show 1, 2"


def unknown_column(root):
    change(root, label="mao")
    return r"has no column 'mao', which plates.yaml gives as label; did you mean 'moa'\?"


def control_that_matches_nothing(root):
    change(root, negative_controls="role = DMSO")
    return r"negative_controls: no well of the platemap has 'role = DMSO'"


def doubled_well(root):
    change_map(root, lambda table: pd.concat([table, table.head(1)]))
    return r"well \w\d\d of plate P001 occurs twice"


def no_well(root):
    change_map(root, lambda table: table.assign(well=table.well.where(table.index != 4, "Z99Q")))
    return r"platemaps.csv: row 6: well 'Z99Q' is not a well"


def unknown_key(root):
    change(root, lable="moa")
    return r"plates.yaml: lable: unknown key; did you mean 'label'\?"


def condition_without_equals(root):
    change(root, hidden="role test")
    return r"plates.yaml: hidden: 'role test' is not \"COLUMN = VALUE\""


def other_plates(root):
    change_map(root, lambda table: table.assign(plate="Q" + table.plate))
    return r"names the plates QP001, QP002, QP003; the images are of P001, P002, P003"


def no_description(root):
    (root / "plates.yaml").unlink()
    return r"plates.yaml: no such file; `cellsignal init .*` writes it"


@pytest.mark.parametrize(
    "plant",
    [
        two_files_for_one_plane,
        channel_absent_on_one_plate,
        unknown_column,
        control_that_matches_nothing,
        doubled_well,
        no_well,
        unknown_key,
        condition_without_equals,
        other_plates,
        no_description,
    ],
)
def test_a_planted_fault_is_named_in_one_line(root, plant, tmp_path, capsys):
    why = plant(root)
    with pytest.raises(InputError, match=why):
        PLATES.samples(root)
    line = error_line(capsys, "samples", "plates", "--root", root, cwd=tmp_path)
    assert str(root) in line and re.search(why, line)
    if plant is not no_description:  # every verb says it, before it writes anything
        words = ("folds", "plates", "--root", root, "--out", tmp_path / "folds.csv")
        assert error_line(capsys, *words, cwd=tmp_path) == line
        assert not (tmp_path / "folds.csv").exists()


def test_a_label_with_one_well_is_named(root, tmp_path, capsys):
    """It trains and is never validated: it is counted, and stays a class."""
    table = pd.read_csv(root / "platemaps.csv", dtype=str, keep_default_na=False)
    row = table.index[table.role == "treatment"][0]
    change_map(root, lambda table: table.assign(moa=table.moa.where(table.index != row, "rare")))
    capsys.readouterr()
    assert cellsignal("samples", "plates", "--root", root, cwd=tmp_path) == 0
    named = "1 of 4 labels have one well and can't be validated, first rare"
    assert capsys.readouterr().out.count(named) == 1
    assert PLATES.classes(root) == ("moa 1", "moa 2", "moa 3", "rare")


def test_what_was_left_out_is_kept_with_the_store(root, tmp_path, caplog):
    path = first_file(root)
    content = path.read_bytes()
    plane_missing(root)
    config = tiny_config("plates", root)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert cellsignal("prepare", "config.yaml", cwd=tmp_path) == 0
    kept = pd.read_csv(tmp_path / "store/left_out.csv.gz")
    rows = list(kept[["reason", "name"]].itertuples(index=False, name=None))
    assert rows == list(PLATES.left_out(root)) and kept.message.isna().all()
    assert len(kept) == 1 and caplog.text.count("left out 1: no file of channel 2") == 1
    path.write_bytes(content)  # and it is empty when nothing is left out any more
    assert cellsignal("prepare", "config.yaml", cwd=tmp_path) == 0
    assert pd.read_csv(tmp_path / "store/left_out.csv.gz").empty


@pytest.mark.parametrize("damage", ["truncated", "another size", "another depth"])
def test_verify_names_a_damaged_plane(root, damage, tmp_path, capsys):
    path = first_file(root)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "another size":
        tifffile.imwrite(path, np.zeros((40, 40), np.uint16))
    else:
        tifffile.imwrite(path, np.zeros((32, 32), np.uint8))
    capsys.readouterr()
    assert cellsignal("verify", "plates", "--root", root, "--workers", 0, cwd=tmp_path) == 2
    assert path.name in capsys.readouterr().out
