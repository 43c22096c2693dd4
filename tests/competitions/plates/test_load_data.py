"""`load_data.csv` as the Cell Painting Gallery has it: folders, columns and paths of the gallery."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers import cellsignal, error_line

from cellsignal.competitions.plates.competition import Plates
from cellsignal.competitions.plates.description import read_description
from cellsignal.competitions.plates.init import look_into

WELLS = ("B02", "B03", "C02", "C03")
PLATES = {"BR01": "BR01__2021-05-02T16_02_51-Measurement1", "BR02": "BR02__2021-05-03T09_00_00-M1"}
CLOUD = "s3://cellpainting-gallery/cpg0000/broad/images/2021_Batch1/images"
CHANNELS = ("OrigDNA", "OrigER")
HEAD = "Metadata_Plate,Metadata_Well,Metadata_Site"


def plane(row, column, channel):
    return f"r{row:02d}c{column:02d}f01p01-ch{channel}sk1fk1fl1.tiff"


def make(folder, urls=False):
    """Write two plates whose file names are alike; return {(plate, well, channel): array}."""
    rng, arrays, batch = np.random.default_rng(0), {}, "2021_Batch1"
    for plate, measured in PLATES.items():
        lines = []
        names = [f"URL_{c}" if urls else f"FileName_{c},PathName_{c}" for c in CHANNELS]
        names += ["FileName_IllumDNA"]
        for well in WELLS:
            cells = [plate, well, "1"]
            # the table numbers channels against the file names: only it is to be believed
            for channel, number in zip(CHANNELS, (2, 1), strict=True):
                path = folder / "images" / batch / "images" / measured / "Images"
                path.mkdir(parents=True, exist_ok=True)
                name = plane(ord(well[0]) - 64, int(well[1:]), number)
                arrays[plate, well, channel] = rng.integers(0, 999, (16, 16)).astype(np.uint16)
                tifffile.imwrite(path / name, arrays[plate, well, channel])
                where = f"{CLOUD}/{measured}/Images"
                cells += [f"{where}/{name}"] if urls else [name, f"{where}/"]
            lines.append(",".join([*cells, f"{plate}_IllumDNA.npy"]))
        table = folder / "workspace/load_data_csv" / batch / plate / "load_data.csv"
        table.parent.mkdir(parents=True)
        table.write_text("\n".join([f"{HEAD},{','.join(names)}", *lines]) + "\n")
        shutil.copy(table, table.with_name("load_data_with_illum.csv"))
    maps = folder / "workspace/metadata/platemaps" / batch
    (maps / "platemap").mkdir(parents=True)
    barcodes = "Assay_Plate_Barcode,Plate_Map_Name\nBR01,map_1\nBR02,map_2\n"
    (maps / "barcode_platemap.csv").write_text(barcodes)
    for number, order in (("1", WELLS), ("2", WELLS[::-1])):
        rows = [f"map_{number}\t{well}\t{'ab'[i % 2]}" for i, well in enumerate(order)]
        text = "\n".join(["plate_map_name\twell_position\tbroad_sample", *rows]) + "\n"
        (maps / "platemap" / f"map_{number}.txt").write_text(text)
    return arrays


@pytest.mark.parametrize("urls", [False, True])
def test_init_reads_the_gallerys_tables(urls, tmp_path):
    root = tmp_path / "raw"
    arrays = make(root, urls)
    assert cellsignal("init", root, cwd=tmp_path) == 0
    description = read_description(root)
    assert (root / "plates.yaml").read_text().count("\n") <= 25
    assert description.images.layout == "load_data"
    assert description.images.channels == {"DNA": "OrigDNA", "ER": "OrigER"}
    assert (description.well, description.label) == ("well_position", "broad_sample")
    samples = Plates().samples(root)
    assert len(samples) == 8 and Plates().left_out(root) == ()
    for row in samples.itertuples():
        for name, channel in zip(row.files, CHANNELS, strict=True):
            assert np.array_equal(
                tifffile.imread(root / name), arrays[row.plate, row.well, channel]
            )
    # map_2 has the wells the other way round
    labels = samples.set_index("well_id").label.map(Plates().classes(root).__getitem__)
    assert labels["BR01_B02"] == "a" and labels["BR02_B02"] == "b"
    words = ("verify", "plates", "--root", root, "--workers", 0)
    assert cellsignal(*words, cwd=tmp_path) == 0


def test_16_bit_sites_are_read_by_the_window_of_their_plate(tmp_path):
    arrays = make(tmp_path / "raw")
    assert cellsignal("init", tmp_path / "raw", cwd=tmp_path) == 0
    reader = Plates().calibrate(tmp_path / "raw", tmp_path / "calibration")
    samples = Plates().samples(tmp_path / "raw").set_index("well_id")
    image = reader.read(tmp_path / "raw", samples.files["BR02_C02"])
    raw = np.stack([arrays["BR02", well, "OrigER"] for well in WELLS])
    low, high = np.percentile(raw, (0.1, 99.9))
    expected = np.clip((arrays["BR02", "C02", "OrigER"] - low) / (high - low) * 255, 0, 255)
    assert np.abs(image[1] - expected).max() <= 0.51


def test_a_plate_that_was_not_fetched_takes_no_file_of_another(tmp_path):
    root = tmp_path / "raw"
    make(root)
    shutil.rmtree(root / "images/2021_Batch1/images" / PLATES["BR02"])
    assert cellsignal("init", root, cwd=tmp_path) == 0
    assert set(Plates().samples(root).plate) == {"BR01"}
    reasons = [reason for reason, _ in Plates().left_out(root)]
    assert reasons == ["a site of load_data.csv whose files are not there"] * 4


def test_what_the_tables_do_not_fit_is_counted(tmp_path):
    root = tmp_path / "raw"
    make(root)
    assert cellsignal("init", root, cwd=tmp_path) == 0
    images = root / "images/2021_Batch1/images" / PLATES["BR01"] / "Images"
    (images / plane(2, 2, 1)).unlink()
    shutil.copy(images / plane(2, 2, 2), images / plane(9, 9, 2))
    left_out = dict(Plates().left_out(root))
    assert left_out == {
        "an image that no load_data.csv names": (images / plane(9, 9, 2))
        .relative_to(root)
        .as_posix(),
        "no file of channel OrigER": "plate BR01 well B02 site 1",
    }


FAULTS = {
    "well": (("BR01,B02,1", "BR01,B0Z,1"), "row 2: Metadata_Well 'B0Z' is not a well"),
    "site": (("BR01,B03,1", "BR01,B03,one"), "row 3: Metadata_Site 'one' is not a number"),
    "column": (("Metadata_Well", "Well"), "Metadata_Well"),
    "files": (("FileName_Orig", "File_Orig"), "has no column FileName_OrigDNA"),
    "twice": (("BR01,B03,1", "BR01,B02,1"), "two files for channel OrigDNA of site 1, well B02"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_table_is_one_line(fault, tmp_path, capsys):
    root = tmp_path / "raw"
    make(root)
    Path(root / "plates.yaml").write_text(look_into(root, None, None).text)
    (old, new), why = FAULTS[fault]
    table = root / "workspace/load_data_csv/2021_Batch1/BR01/load_data.csv"
    table.write_text(table.read_text().replace(old, new))
    assert why in error_line(capsys, "samples", "plates", "--root", root, cwd=tmp_path)


def test_a_platemap_of_a_barcode_that_is_not_there(tmp_path, capsys):
    root = tmp_path / "raw"
    make(root)
    assert cellsignal("init", root, cwd=tmp_path) == 0
    next(root.rglob("map_2.txt")).unlink()
    line = error_line(capsys, "samples", "plates", "--root", root, cwd=tmp_path)
    assert "barcode_platemap.csv: row 3: there is no " in line and "map_2.txt" in line
