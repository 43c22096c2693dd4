"""`cellsignal init` on folders as microscopes write them, and on real Opera Phenix planes."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from helpers import cellsignal, error_line

from cellsignal.competitions.plates.competition import Plates
from cellsignal.competitions.plates.description import read_description
from cellsignal.prediction.embeddings import load_embeddings

WELLS = ["B02", "B03", "C02", "C03"]
GUID = "0A1B2C3D-0011-4F00-9D1C-AABBCCDDEEFF"
NAMES = {
    "phenix": lambda p, w, s, c: (
        f"{p}__2024-01-01T10_00_00-Measurement 1/Images/"
        f"r{ord(w[0]) - 64:02d}c{w[1:]}f{s:02d}p01-ch{c}sk1fk1fl1.tiff"
    ),
    "imagexpress": lambda p, w, s, c: f"{p}/TimePoint_1/scr_{w}_s{s}_w{c}{GUID}.TIF",
    "cellvoyager": lambda p, w, s, c: f"{p}/ap_{w}_T0001F{s:03d}L01A01Z01C{c:02d}.tif",
    "incell": lambda p, w, s, c: f"{p}/{w[0]} - {int(w[1:])}(fld {s} wv DYE{c} - DYE{c}).tif",
    "rxrx1": lambda p, w, s, c: f"HUVEC-01/Plate{p[1:]}/{w}_s{s}_w{c}.png",
}


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        assert cv2.imwrite(str(path), image.astype(np.uint8))
    else:
        tifffile.imwrite(path, image.astype(np.uint16))


def make(folder, name):
    rng = np.random.default_rng(0)
    for plate in ("P1", "P2"):
        for well in WELLS:
            for site in (1, 2):
                for channel in (1, 2):
                    path = folder / NAMES[name](plate, well, site, channel)
                    write(path, rng.integers(0, 255, (16, 16)))
    rows = [f"{well},{'drug' if well[0] == 'B' else 'other'}" for well in WELLS]
    (folder / "map.csv").write_text("well,compound\n" + "\n".join(rows) + "\n")


@pytest.mark.parametrize("name", NAMES)
def test_each_layout_becomes_a_samples_table(name, tmp_path, capsys):
    make(tmp_path / "raw", name)
    assert cellsignal("init", tmp_path / "raw", cwd=tmp_path) == 0
    text = (tmp_path / "raw/plates.yaml").read_text()
    assert text.count("\n") <= 25 and text in capsys.readouterr().out
    description = read_description(tmp_path / "raw")
    assert description.images.layout == name and description.label == "compound"
    samples = Plates().samples(tmp_path / "raw")
    assert len(samples) == 16 and samples.well_id.nunique() == 8
    assert sorted(set(samples.well)) == WELLS and set(samples.site) == {1, 2}
    assert Plates().classes(tmp_path / "raw") == ("drug", "other")
    assert samples.files.map(len).eq(2).all()
    assert Plates().left_out(tmp_path / "raw") == ()
    words = ("verify", "plates", "--root", tmp_path / "raw", "--workers", 0)
    assert cellsignal(*words, cwd=tmp_path) == 0


@pytest.mark.parametrize("axes", ["CYX", "ZCYX", "CZYX"])
def test_files_of_several_pages(axes, tmp_path):
    """OME-TIFFs say their axes; stacks become their maximum."""
    sizes = {"C": 3, "Z": 2, "Y": 16, "X": 16}
    rng, raw = np.random.default_rng(0), tmp_path / "raw" / "P1"
    raw.mkdir(parents=True)
    stacks = {}
    for well in WELLS:
        stacks[well] = rng.integers(0, 999, [sizes[axis] for axis in axes]).astype(np.uint16)
        tifffile.imwrite(raw / f"{well}.ome.tif", stacks[well], metadata={"axes": axes})
    (tmp_path / "raw/map.csv").write_text("well,moa\nB02,a\nB03,b\nC02,a\nC03,b\n")
    assert cellsignal("init", tmp_path / "raw", cwd=tmp_path) == 0
    images = read_description(tmp_path / "raw").images
    assert images.channels == {"ch1": "1", "ch2": "2", "ch3": "3"} and images.bits == 16
    from cellsignal.competitions.plates.pixels import read_site

    stack = stacks["C02"]
    expected = stack.max(axes.index("Z")) if "Z" in axes else stack
    assert np.array_equal(read_site(tmp_path / "raw", ("P1/C02.ome.tif",), images), expected)


@pytest.mark.parametrize("kind", ["OME-TIFF", "pages", "RGB"])
def test_verify_reads_files_of_all_channels(kind, tmp_path, capsys):
    """Three channels a file: axes by OME, pages without metadata, colours of a PNG."""
    rng, raw = np.random.default_rng(0), tmp_path / "raw" / "P1"
    raw.mkdir(parents=True)
    images = {}
    for well in WELLS:
        images[well] = rng.integers(0, 255, (3, 16, 16)).astype(np.uint8)
        if kind == "RGB":
            assert cv2.imwrite(str(raw / f"{well}_s1.png"), images[well].transpose(1, 2, 0))
        elif kind == "pages":
            with tifffile.TiffWriter(raw / f"{well}_s1.tif") as file:
                for page in images[well]:
                    file.write(page, photometric="minisblack", metadata=None)
        else:
            tifffile.imwrite(raw / f"{well}.ome.tif", images[well], metadata={"axes": "CYX"})
    (tmp_path / "raw/map.csv").write_text("well,moa\nB02,a\nB03,b\nC02,a\nC03,b\n")
    assert cellsignal("init", tmp_path / "raw", cwd=tmp_path) == 0
    samples = Plates().samples(tmp_path / "raw").set_index("well")
    read = Plates().read(tmp_path / "raw", samples.files["C02"])
    # OpenCV writes blue first
    expected = images["C02"][::-1] if kind == "RGB" else images["C02"]
    assert np.array_equal(read, expected)
    capsys.readouterr()
    words = ("verify", "plates", "--root", tmp_path / "raw", "--workers", 0)
    assert cellsignal(*words, cwd=tmp_path) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out


def test_a_pattern_of_the_users_own(tmp_path, capsys):
    root = tmp_path / "raw"
    rng = np.random.default_rng(0)
    for plate in ("P1", "P2"):
        for well in WELLS:
            for channel in ("dapi", "gfp"):
                name = f"day1/{plate}-scan/{well}/f3_{channel}.tif"
                write(root / name, rng.integers(0, 999, (16, 16)))
    rows = [f"{well},{'ab'[i % 2]}" for i, well in enumerate(WELLS)]
    (root / "map.csv").write_text("well,moa\n" + "\n".join(rows) + "\n")
    pattern = "{plate}-scan/{well}/f{site}_{channel}.tif"
    assert cellsignal("init", root, "--pattern", pattern, cwd=tmp_path) == 0
    images = read_description(root).images
    assert (images.layout, images.pattern) == (None, pattern)
    assert images.channels == {"dapi": "dapi", "gfp": "gfp"}
    samples = Plates().samples(root)
    assert len(samples) == 8 and set(samples.plate) == {"P1", "P2"} and set(samples.site) == {3}
    words = ("verify", "plates", "--root", root, "--workers", 0)
    assert cellsignal(*words, cwd=tmp_path) == 0
    words = ("init", root, "--force", "--pattern", "{plate}/{well}_{channel}.png")
    line = error_line(capsys, *words, cwd=tmp_path)
    assert (
        "no image fits '{plate}/{well}_{channel}.png'; first day1/P1-scan/B02/f3_dapi.tif" in line
    )


def test_one_folder_a_class_of_rgb(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("actin", "dmso"):
        for number in range(3):
            path = tmp_path / "raw" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    assert cellsignal("init", tmp_path / "raw", cwd=tmp_path) == 0
    samples = Plates().samples(tmp_path / "raw")
    assert Plates().classes(tmp_path / "raw") == ("actin", "dmso")
    assert samples.well_id.nunique() == 6 and samples.plate.nunique() == 1
    image = Plates().read(tmp_path / "raw", samples.files.iloc[0])
    direct = cv2.imread(str(tmp_path / "raw" / samples.files.iloc[0][0]))
    assert np.array_equal(image, direct[:, :, ::-1].transpose(2, 0, 1))


def test_the_first_look(tmp_path, capsys):
    """A picture of wells far from each other, and what lacks, without any platemap."""
    from cellsignal.competitions.plates.first_look import look_at_sites

    root = tmp_path / "raw"
    make(root, "phenix")
    (root / "map.csv").unlink()
    path = next(root.glob("P2__*/Images/r03c03f01*ch2*"))
    path.unlink()
    assert cellsignal("init", root, cwd=tmp_path) == 0
    out = capsys.readouterr().out
    assert "31 files understood, 0 not" in out and "runs/raw.init.png" in out
    assert "1: no file of channel 2; first plate P2 well C03 site 1" in out
    assert cv2.imread(str(tmp_path / "runs/raw.init.png")).std() > 10
    images = look_at_sites(root).images
    # evenly over the 8 wells; of C03 the site that is whole
    assert list(images) == ["P1_B02_s1", "P1_C02_s1", "P2_B03_s1", "P2_C03_s2"]
    assert {image.shape for image in images.values()} == {(2, 16, 16)}
    low, high = images["P1_B02_s1"].min(), images["P1_B02_s1"].max()
    assert (low, high) == (0, 255), "the window of the plate's shown sites"
    assert cellsignal("init", ".", "--force", cwd=root) == 0  # not among the images
    assert (tmp_path / "raw.init.png").is_file() and not list(root.rglob("*.png"))


def test_no_picture_says_why(tmp_path, capsys):
    root = tmp_path / "raw"
    make(root, "imagexpress")
    for path in root.glob("P2/*/*_w2*"):
        path.unlink()
    assert cellsignal("init", root, cwd=tmp_path) == 0
    out = capsys.readouterr().out
    assert "no picture: " in out and "plate P2 has no file of channel '2'" in out
    assert not (tmp_path / "runs").exists() and (root / "plates.yaml").is_file()


def test_channel_names_of_the_phenix_index(simulated, tmp_path):
    root = shutil.copytree(simulated("plates"), tmp_path / "raw")
    assert "already exists; --force" in refused(tmp_path, root)
    assert cellsignal("init", root, "--force", cwd=tmp_path) == 0
    assert read_description(root).channel_names == ("DNA", "ER", "Actin")
    tree = yaml.safe_load((root / "plates.yaml").read_text())
    assert (tree["platemap"], tree["label"], tree["folds"]) == ("platemaps.csv", "moa", "plate")


def refused(cwd, *words):
    from cellsignal.competitions.plates.init import look_into, write_description

    with pytest.raises(Exception) as caught:
        write_description(words[0], look_into(words[0], None, None).text, False)
    return str(caught.value)


def test_a_folder_without_images_is_one_line(tmp_path, capsys):
    assert "holds no image" in error_line(capsys, "init", tmp_path, cwd=tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    assert "no layout is recognised" in error_line(capsys, "init", tmp_path, cwd=tmp_path)
    assert "no such folder" in error_line(capsys, "init", tmp_path / "none", cwd=tmp_path)


@pytest.mark.real_data
@pytest.mark.slow
def test_real_opera_phenix_planes(real_data, tmp_path):
    root = tmp_path / "raw"
    shutil.copytree(real_data / "cpjump1_images", root)
    rows = "AMG900,N9,AMG900\nDMSO,D14,DMSO\nFK-866,L9,FK-866\n"
    (root / "map.csv").write_text("plate,well,compound\n" + rows)
    assert cellsignal("init", root, cwd=tmp_path) == 0
    samples = Plates().samples(root)
    assert samples.well.to_list() == ["N09", "D14", "L09"] and set(samples.site) == {5}
    reader = Plates().calibrate(root, tmp_path / "calibration")
    image = reader.read(root, samples.files.iloc[0])
    assert image.shape == (5, 1080, 1080)
    # a tenth of a percent of the pixels lies at or below the window, as much at or above it
    assert (image == 255).mean(axis=(1, 2)) == pytest.approx(0.001, abs=0.0015)


@pytest.mark.slow
@pytest.mark.real_data
def test_three_real_wells_go_as_far_as_embeddings(real_data, tmp_path, capsys):
    """`init`, `samples`, `verify`, `prepare`, `folds`, `train` and `embed` of one real plate."""
    root = tmp_path / "raw"
    (root / "BR00116991").mkdir(parents=True)
    for path in sorted((real_data / "cpjump1_images").glob("*/*.tiff")):
        shutil.copy(path, root / "BR00116991")
    (root / "map.csv").write_text("well,compound\nN9,drug\nD14,DMSO\nL9,drug\n")
    assert cellsignal("init", root, cwd=tmp_path) == 0
    picture = cv2.imread(str(tmp_path / "runs/raw.init.png"))
    assert picture.shape[0] > 800 and picture.std() > 20, "three rows of cells"
    first = {"name": "all", "epochs": 1, "batch_size": 3}
    config = {
        "name": "wells",
        "competition": "plates",
        "data": {"root": str(root), "store": "store", "size": 64, "workers": 0},
        "folds": {"file": "folds.csv", "use": [], "full": True},
        "normalization": {"by": "image"},
        "model": {"backbone": "test_resnet", "layers": [1, 2], "frozen": True},
        "stages": [first],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for words in (
        ("samples", "plates", "--root", root, "--picture", "wells.png"),
        ("verify", "plates", "--root", root, "--workers", 0),
        ("prepare", "config.yaml"),
        ("folds", "plates", "--root", root, "--splits", 2, "--out", "folds.csv"),
        ("train", "config.yaml"),
        ("embed", "config.yaml"),
    ):
        assert cellsignal(*words, cwd=tmp_path) == 0, words
    out = capsys.readouterr().out
    assert "3 sites of 3 wells on 1 plates" in out and "0 errors, 0 warnings" in out
    assert cv2.imread(str(tmp_path / "wells.png")).std() > 20
    (path,) = (tmp_path / "runs/wells/seed0/embeddings").glob("*.npz")
    embeddings = load_embeddings(path)
    assert sorted(embeddings.samples.well_id) == [f"BR00116991_{w}" for w in ("D14", "L09", "N09")]
    assert np.isfinite(embeddings.values).all() and len(np.unique(embeddings.values, axis=0)) == 3


def test_a_platemap_may_be_a_workbook(simulated, tmp_path):
    root = shutil.copytree(simulated("plates"), tmp_path / "raw")
    before = Plates().samples(root)
    table = pd.read_csv(root / "platemaps.csv", dtype=str, keep_default_na=False)
    table.to_excel(root / "platemaps.xlsx", index=False)
    (root / "platemaps.csv").unlink()
    text = (root / "plates.yaml").read_text()
    (root / "plates.yaml").write_text(text.replace("platemaps.csv", "platemaps.xlsx"))
    pd.testing.assert_frame_equal(Plates().samples(root), before)


def test_one_platemap_file_a_plate(simulated, tmp_path):
    root = shutil.copytree(simulated("plates"), tmp_path / "raw")
    before = Plates().samples(root)
    table = pd.read_csv(root / "platemaps.csv", dtype=str, keep_default_na=False)
    for plate, part in table.groupby("plate"):
        part.drop(columns="plate").to_csv(root / f"{plate}.tsv", index=False, sep="\t")
    names = ", ".join(f"{plate}: {plate}.tsv" for plate in table.plate.unique())
    text = (root / "plates.yaml").read_text()
    (root / "plates.yaml").write_text(text.replace("platemaps.csv", f"{{{names}}}"))
    pd.testing.assert_frame_equal(Plates().samples(root), before)
