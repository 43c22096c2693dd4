"""Images outside the folder of plates.yaml, and what is said of images that no sample names."""

import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from helpers import cellsignal, contents, tiny_config

from cellsignal.common.errors import InputError
from cellsignal.competitions.plates import init
from cellsignal.competitions.plates.competition import Plates
from cellsignal.data.store import Store
from cellsignal.data.verify import format_problems, verify

pytestmark = pytest.mark.slow

PLATES = Plates()


@pytest.fixture
def share(simulated, tmp_path):
    """Images on a share, and a folder of one's own that describes them."""
    share = shutil.copytree(simulated("plates"), tmp_path / "share/export")
    own = tmp_path / "own"
    own.mkdir()
    tree = yaml.safe_load((share / "plates.yaml").read_text())
    for name in ("plates.yaml", "platemaps.csv"):
        (share / name).rename(own / name)
    tree["images"]["root"] = str(share)
    (own / "plates.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return share


def first_file(share, pattern="*ch2*"):
    return sorted(share.glob(f"P001__*/Images/{pattern}.tiff"))[0]


@pytest.mark.parametrize("root", ["absolute", "../share/export"])
def test_images_elsewhere_are_packed_as_those_inside(share, simulated, root, tmp_path):
    own = tmp_path / "own"
    if root != "absolute":
        text = (own / "plates.yaml").read_text().replace(str(share), root)
        (own / "plates.yaml").write_text(text)
    before = contents(share)
    inside = PLATES.samples(simulated("plates"))
    pd.testing.assert_frame_equal(PLATES.samples(own), inside)
    for number, folder in enumerate((own, simulated("plates"))):
        config = tiny_config("plates", folder)
        config["data"]["store"] = f"store{number}"
        (tmp_path / f"config{number}.yaml").write_text(yaml.safe_dump(config))
        assert cellsignal("prepare", f"config{number}.yaml", cwd=tmp_path) == 0
    stores = [Store.open(tmp_path / f"store{number}") for number in (0, 1)]
    assert np.array_equal(stores[0].images[:], stores[1].images[:])
    assert cellsignal("verify", "plates", "--root", own, "--workers", 0, cwd=tmp_path) == 0
    assert contents(share) == before


def test_a_changed_image_elsewhere_is_packed_anew(share, tmp_path, caplog):
    own = tmp_path / "own"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tiny_config("plates", own)))
    assert cellsignal("prepare", "config.yaml", cwd=tmp_path) == 0
    path = first_file(share)
    before = Store.open(tmp_path / "store").images[:]
    tifffile.imwrite(path, np.flipud(tifffile.imread(path)))
    assert cellsignal("prepare", "config.yaml", cwd=tmp_path) == 0
    changed = (Store.open(tmp_path / "store").images[:] != before).any(axis=(1, 2, 3))
    assert changed.sum() == 1, "its window is that of the plate, which is the same"


def test_init_writes_beside_a_share(share, tmp_path, capsys):
    own = tmp_path / "new/own"
    platemap = tmp_path / "own/platemaps.csv"
    words = ("init", share, "--platemap", platemap, "--out", own)
    before = contents(share)
    assert cellsignal(*words, cwd=tmp_path) == 0
    assert contents(share) == before
    tree = yaml.safe_load((own / "plates.yaml").read_text())
    assert (tree["images"]["root"], tree["platemap"]) == (str(share), str(platemap))
    samples = PLATES.samples(own)
    assert len(samples) and all((share / name).is_file() for name in samples.files.explode())


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"plates.yaml: .*; --out FOLDER writes it elsewhere"):
        init.write_description(tmp_path / "file", "", False)


# why an image is in no sample
# --------------------------------------------------------------------------------------------------


def warnings_of(root):
    problems = verify(PLATES, root)
    assert all(problem.kind == "image_without_row" for problem in problems)
    return [problem.detail for problem in problems]


def test_verify_says_why_images_are_in_no_sample(share, tmp_path):
    own = tmp_path / "own"
    path = first_file(share)
    site = path.name.split("-ch")[0]
    path.unlink()
    shutil.copy(first_file(share, "*ch1*"), share / "snapshot.tiff")
    table = pd.read_csv(own / "platemaps.csv", dtype=str, keep_default_na=False)
    row = next(i for i in table.index if table.plate[i] == "P002" and table.role[i] == "treatment")
    table.loc[row, "moa"] = ""
    text = (own / "plates.yaml").read_text()  # the hidden wells are those of P003
    (own / "plates.yaml").write_text(text.replace("hidden: role = test\n", ""))
    table = table[table.plate != "P003"]
    table.to_csv(own / "platemaps.csv", index=False)
    of_plate = len(list(share.glob("P003__*/Images/*.tiff")))
    well = f"{chr(64 + int(site[1:3]))}{site[4:6]}"
    assert sorted(warnings_of(own)) == sorted(
        [
            f"2 images of plate P001 well {well} site 1: no file of channel 2",
            f"3 images of well P002_{table.well[row]}: a well without a label",
            f"{of_plate} images of plate P003: a well with images that no platemap has",
            "file name not understood",
        ]
    )


def test_a_truncated_image_is_told_of_once(share, tmp_path, caplog, capsys):
    """verify says what prepare will do; prepare does it, lists it and counts it."""
    own, path = tmp_path / "own", first_file(share)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (problem,) = verify(PLATES, own)
    advice = f"{problem.detail}; prepare will leave its site out: export or download it again ["
    assert problem.kind == "truncated" and advice in format_problems([problem])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tiny_config("plates", own)))
    caplog.clear()
    caplog.set_level("INFO")
    assert cellsignal("prepare", "config.yaml", cwd=tmp_path) == 0
    assert caplog.text.count(path.name) == 1
    assert (
        "left out: 1 sites whose images cannot be used (1 truncated), 0 other files" in caplog.text
    )
    kept = pd.read_csv(tmp_path / "store/left_out.csv.gz")
    assert kept.name.to_list() == [problem.sample_id]
    assert "truncated" in kept.reason[0] and path.name in kept.message[0]
