"""CPJUMP1 on the real platemaps and metadata, the join of rows and files by key, and what a plane
becomes.
"""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tifffile import imread, imwrite

from cellsignal.common.errors import ImageError, InputError
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.calibration import calibration_file
from cellsignal.competitions.cpjump1 import Cpjump1
from cellsignal.competitions.cpjump1.images import (
    WINDOW,
    join_fields,
    measure_plates,
    read_field,
)
from cellsignal.competitions.cpjump1.metadata import (
    CHANNEL_NUMBERS,
    CHANNELS,
    read_perturbations,
)
from cellsignal.competitions.folds import make_folds
from cellsignal.data.folds import read_folds
from cellsignal.images.intensity import anscombe, illumination, to_uint8

COMPETITION, BATCH = Cpjump1(), "2020_11_04_CPJUMP1"
PLATES = {"BR00116991": "compound", "BR00117000": "crispr", "BR00117020": "orf"}
SMALL = {
    "genes": 4,
    "compounds_per_gene": 2,
    "controls": 2,
    "plates": 2,
    "crispr_plates": 2,
    "test_plates": 1,
    "cell_types": 1,
    "sites": 1,
    "size": 32,
}


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def name_of(well: str, site: int, channel: str) -> str:
    return f"r{'ABCDEFGHIJKLMNOP'.index(well[0]) + 1:02d}c{well[1:]}f{site:02d}p01-ch{CHANNEL_NUMBERS[channel]}sk1fk1fl1.tiff"


def link(old: str, new: str) -> None:
    """Images are linked, tables copied: tests change tables and remove images, they never write
    into one.
    """
    (os.link if old.endswith(".tiff") else shutil.copy)(old, new)


def write_plate(root: Path, plate: str, wells: list[str]) -> None:
    """load_data.csv and files (empty: only their names matter) of one site a well."""
    folder = (
        root / "images" / BATCH / "images" / f"{plate}__2020-11-05T19_51_35-Measurement1" / "Images"
    )
    folder.mkdir(parents=True)
    rows = [
        {f"FileName_Orig{c}": name_of(w, 1, c) for c in CHANNELS}
        | {"Metadata_Plate": plate, "Metadata_Well": w, "Metadata_Site": 1}
        for w in wells
    ]
    for row in rows:
        for channel in CHANNELS:
            (folder / row[f"FileName_Orig{channel}"]).touch()
    path = root / "workspace/load_data_csv" / BATCH / plate / "load_data.csv"
    path.parent.mkdir(parents=True)
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_csv(path, index=False)  # in no order


@pytest.fixture(scope="module")
def real_root(real_data, tmp_path_factory) -> Path:
    """Three plates with the real platemaps and metadata, one site a well."""
    root, source = tmp_path_factory.mktemp("real") / "cpjump1", real_data / "jump_target"
    maps = root / "workspace/metadata/platemaps" / BATCH
    external = root / "workspace/metadata/external_metadata"
    (maps / "platemap").mkdir(parents=True)
    external.mkdir(parents=True)
    for modality in PLATES.values():
        shutil.copy(
            source / f"JUMP-Target-1_{modality}_platemap.tsv",
            maps / "platemap" / f"JUMP-Target-1_{modality}_platemap.txt",
        )
        shutil.copy(source / f"JUMP-Target-1_{modality}_metadata.tsv", external)
    for plate, modality in PLATES.items():
        write_plate(
            root,
            plate,
            [
                row["well_position"]
                for row in rows_of(source / f"JUMP-Target-1_{modality}_platemap.tsv")
            ],
        )
    names = [(plate, f"JUMP-Target-1_{modality}_platemap") for plate, modality in PLATES.items()]
    pd.DataFrame(names, columns=["Assay_Plate_Barcode", "Plate_Map_Name"]).to_csv(
        maps / "barcode_platemap.csv", index=False
    )
    table = [(BATCH, plate, modality, "A549", "48") for plate, modality in PLATES.items()]
    columns = ["Batch", "Assay_Plate_Barcode", "Perturbation", "Cell_type", "Time"]
    pd.DataFrame(table, columns=columns).to_csv(
        root / "experiment-metadata.tsv", sep="\t", index=False
    )
    return root


@pytest.fixture(scope="module")
def real_samples(real_root) -> pd.DataFrame:
    return COMPETITION.samples(real_root)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cpjump1") / "root"
    COMPETITION.simulate(root, 5, **SMALL)
    return root


@pytest.fixture(scope="module")
def calibrated(root) -> Cpjump1:
    return COMPETITION.calibrate(root, root.with_name("calibration"))


# the real tables
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modality", "wells", "treatments"),
    # by hand from the tables: wells of treatments, positive and negative controls; distinct
    # treatments of each role
    [
        ("compound", (260, 60, 64), (260, 46, 1)),
        ("crispr", (260, 60, 64), (247, 58, 31)),
        ("orf", (260, 60, 64), (130, 30, 16)),
    ],
)
def test_real_wells_and_treatments(real_root, real_samples, modality, wells, treatments):
    samples, table = real_samples, COMPETITION.treatments(real_root)
    plate = samples[samples.plate == {m: p for p, m in PLATES.items()}[modality]]
    assert len(plate) == plate.well_id.nunique() == 384
    roles = ["treatment", "positive_control", "negative_control"]
    assert tuple(plate.role.value_counts()[roles]) == wells
    table = table[table.modality == modality]
    assert tuple(table.role.value_counts()[roles]) == treatments and table.treatment.is_unique
    assert set(plate.treatment) == set(table.treatment), "all of the metadata stand on the plate"


def test_real_wells_hold_what_the_platemap_says(real_root, real_samples, real_data):
    samples = real_samples.set_index("well_id")
    names = COMPETITION.classes(real_root)
    for plate, modality in PLATES.items():
        source = real_data / "jump_target" / f"JUMP-Target-1_{modality}"
        about = {
            row["broad_sample"]: row
            for row in rows_of(source.with_name(f"{source.name}_metadata.tsv"))
        }
        for row in rows_of(source.with_name(f"{source.name}_platemap.tsv")):
            sample = samples.loc[f"{plate}_{row['well_position']}"]
            if row["broad_sample"]:
                found = about[row["broad_sample"]]
                name = found["pert_iname"] if modality == "compound" else found["gene"]
                assert (
                    sample.treatment == row["broad_sample"]
                    and (sample["compound"] if name else "") == name
                )
                assert pd.notna(sample["compound"]) == bool(name)
                assert (sample.role == "treatment") == (found["pert_type"] == "trt")
            else:
                assert sample.role == "negative_control" and sample.treatment == (
                    "DMSO" if modality == "compound" else "untreated"
                )
            if sample.role == "treatment":
                assert names[sample.label] == (
                    name if modality == "compound" else f"{name} ({modality})"
                )
    controls = samples[samples.role != "treatment"]
    assert (controls.label >= len(names)).all() and (
        samples.label[samples.role == "treatment"] < len(names)
    ).all()
    assert controls.label[controls.role == "negative_control"].nunique() == 1


def test_real_targets(real_root):
    table = COMPETITION.treatments(real_root).set_index("treatment")
    assert table.targets["BRD-A01078468-001-14-8"] == ("AKR1C1", "ESR1", "ESR2")  # hexestrol
    assert (
        table.targets["DMSO"] == ()
        and table.targets["BRDN0001480888"] == ("HIF1A",)
        and table.targets["ccsbBroad304_00900"] == ("KCNN1",)
    )
    treated = table[table.role != "negative_control"]
    assert (
        treated.targets.map(len).min() >= 1
        and not table.targets[table.role == "negative_control"].map(len).any()
    )
    genes = {
        m: {gene for targets in treated.targets[treated.modality == m] for gene in targets}
        for m in ("compound", "crispr", "orf")
    }
    assert genes["crispr"] == genes["orf"] and len(genes["crispr"]) == 160
    assert genes["crispr"] <= genes["compound"], (
        "every gene is a compound's target; two of them by a former symbol in the table"
    )
    assert table.targets[table["compound"] == "YC-1"].iloc[0] == (
        "GUCY1A2",
        "GUCY1A3",
        "GUCY1B1",
        "HIF1A",
    )


def test_the_second_platemap_lists_samples_twice(real_data):
    table = read_perturbations(
        real_data / "jump_target" / "JUMP-Target-2_compound_metadata.tsv", "compound"
    )
    assert len(table) == 307 and table.treatment.is_unique  # 315 rows


# the join
# --------------------------------------------------------------------------------------------------


def test_rows_and_files_join_by_key_in_any_order_and_case(root, tmp_path):
    """Every sample's file names its well and site, and the image is that of the file."""
    again = tmp_path / "again"
    shutil.copytree(root, again, copy_function=link)
    for path in sorted(again.glob("workspace/load_data_csv/*/*/load_data.csv")):
        frame = pd.read_csv(path, dtype=str).sample(frac=1, random_state=1)
        frame["FileName_OrigRNA"] = frame.FileName_OrigRNA.str.upper()
        frame.to_csv(path, index=False)
    before, after = (
        COMPETITION.samples(r).set_index("sample_id").sort_index() for r in (root, again)
    )
    assert before.files.tolist() == after.files.tolist() and before.label.equals(after.label)
    for sample in before.itertuples():
        assert [Path(file).name for file in sample.files] == [
            name_of(sample.well, sample.site, channel) for channel in CHANNELS
        ]
        assert all(sample.plate in file for file in sample.files)


def test_a_row_without_files_and_a_file_without_row_are_named(root, tmp_path, caplog):
    again = tmp_path / "again"
    shutil.copytree(root, again, copy_function=link)
    gone, partly = COMPETITION.samples(root).iloc[[3, 7]].itertuples()
    for file in (*gone.files, partly.files[2]):
        (again / file).unlink()
    stray = (again / gone.files[0]).with_name("r16c24f09p01-ch1sk1fk1fl1.tiff")
    shutil.copy(root / gone.files[0], stray)
    fields = join_fields(again)
    assert fields.without_file == (
        f"{gone.plate} {gone.well} {gone.site}",
    ) and fields.without_row == (stray.relative_to(again).as_posix(),)
    with caplog.at_level("WARNING"):
        samples = COMPETITION.samples(again)
    assert fields.without_file[0] in caplog.text and stray.name in caplog.text
    assert set(COMPETITION.samples(root).sample_id) - set(samples.sample_id) == {gone.sample_id}, (
        "a field with one file missing stays, for verify to name"
    )


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (
            "FileName_OrigER",
            "r01c01f01p01-ch4sk1fk1fl1.tiff",
            "not a file of the row's well and site",
        ),
        ("FileName_OrigER", "plane.tiff", "not a file of the row's well and site"),
        ("Metadata_Plate", "BR1", "is not the plate"),
        ("Metadata_Well", "Q99", "not a well of a 384-well plate"),
        ("Metadata_Site", "x", "not a site number"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(root, tmp_path, column, value, words):
    again = tmp_path / "again"
    shutil.copytree(root, again, copy_function=link)
    path = next(iter(sorted(again.glob("workspace/load_data_csv/*/*/load_data.csv"))))
    frame = pd.read_csv(path, dtype=str)
    frame.loc[4, column] = value
    frame.to_csv(path, index=False)
    with pytest.raises(InputError, match=rf"load_data.csv: row 6: {column} '{value}' .*{words}"):
        COMPETITION.samples(again)


def test_unknown_samples_and_plates_are_refused(root, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(root, again, copy_function=link)
    path = again / "workspace/metadata/external_metadata/JUMP-Target-1_crispr_metadata.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(
        InputError,
        match=r"broad_sample 'BRDN\d+' is not in the metadata of JUMP-Target-1_crispr_platemap",
    ):
        COMPETITION.samples(again)
    shutil.copy(root / path.relative_to(again), path)
    (again / "experiment-metadata.tsv").write_text(
        (root / "experiment-metadata.tsv").read_text().replace("crispr\t", "prime\t")
    )
    with pytest.raises(
        InputError, match="Perturbation 'prime' is not one of compound, crispr, orf"
    ):
        COMPETITION.samples(again)


# splits
# --------------------------------------------------------------------------------------------------


def test_hidden_wells_are_the_test_split(root):
    samples, answers = COMPETITION.samples(root), COMPETITION.answers(answers_path(root))
    hidden = samples[samples.split == "test"]
    assert (
        hidden.plate.nunique() == 1
        and set(hidden.well_id) == set(answers.well_id)
        and hidden.role.eq("treatment").all()
    )
    beside = samples[samples.plate.isin(hidden.plate) & (samples.split == "train")]
    assert set(beside.role) == {"positive_control", "negative_control"}, (
        "a test plate's controls are known"
    )
    assert hidden[["compound", "treatment", "label"]].isna().all(axis=None)


def test_a_plate_without_platemap_is_hidden_whole(root, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(root, again, copy_function=link)
    path = next(again.glob("workspace/metadata/platemaps/*/barcode_platemap.csv"))
    frame = pd.read_csv(path)
    frame[frame.Assay_Plate_Barcode != "BR90000002"].to_csv(path, index=False)
    samples = COMPETITION.samples(again)
    assert set(samples.split[samples.plate == "BR90000002"]) == {"test"} and COMPETITION.classes(
        again
    ) == COMPETITION.classes(root)


def test_replicates_are_held_out_one_of_each_experiment(root, tmp_path):
    samples = COMPETITION.samples(root)
    COMPETITION.named_folds("replicates", samples).to_csv(tmp_path / "folds.csv", index=False)
    table = read_folds(tmp_path / "folds.csv", samples)
    for fold in table.folds:
        train, valid = table.training(samples, fold), table.validation(samples, fold)
        assert not set(samples.plate[train]) & set(samples.plate[valid])
        assert set(samples.experiment[valid]) == set(samples.experiment[train]) and set(
            samples.label[valid]
        ) <= set(samples.label[train])
    assert len(table.folds) == 2 and set(make_folds(samples, "plate", 2).plate) == set(
        table.rows.plate
    )
    with pytest.raises(InputError, match="'replicates', not 'x'"):
        COMPETITION.named_folds("x", samples)


# planes
# --------------------------------------------------------------------------------------------------


def test_a_plane_is_lit_evenly_and_windowed_by_its_plate(root, calibrated):
    """Against numpy on all fields of the plate (fewer than are ever drawn, so the sample is the
    whole).
    """
    samples = COMPETITION.samples(root)
    plate = samples[samples.plate == "BR90000003"]
    planes = np.stack([[imread(root / file) for file in files] for files in plate.files]).astype(
        float
    )
    found = calibrated.read(root, plate.files.iloc[4], (32, 32))
    for channel in range(5):
        light = illumination(planes[:, channel].mean(axis=0), 3)
        even = anscombe(planes[:, channel] / light)
        low, high = np.percentile(even, WINDOW)
        assert np.abs(found[channel].astype(int) - to_uint8(even[4], low, high)).max() <= 1
    assert not np.array_equal(found, calibrated.read(root, plate.files.iloc[5], (32, 32)))


def test_calibration_is_measured_once_and_asked_for(root, calibrated, tmp_path):
    folder = tmp_path / "calibration"
    shutil.copytree(calibrated.calibration.folder, folder)
    files = COMPETITION.samples(root).files.iloc[0]
    path, other = calibration_file(folder, "BR90000001"), calibration_file(folder, "BR90000002")
    before, made = path.stat().st_mtime_ns, other.read_bytes()
    other.unlink()
    again = COMPETITION.calibrate(root, folder)
    assert path.stat().st_mtime_ns == before and other.read_bytes() == made
    assert again.calibration.hashes == calibrated.calibration.hashes
    path.write_bytes(made[:100])
    with pytest.raises(InputError, match=f"{path}: is damaged"):
        again.read(root, files)
    path.unlink()
    with pytest.raises(InputError, match="`cellsignal prepare`"):
        again.read(root, files)
    with pytest.raises(InputError, match="`cellsignal prepare`"):
        COMPETITION.read(root, files)


def test_damaged_planes_are_errors_and_spoil_no_calibration(tmp_path):
    rng = np.random.default_rng(0)
    fields = []
    for field in range(4):
        files = tuple(f"{field}{channel}.tiff" for channel in "ab")
        for file in files:
            imwrite(
                tmp_path / file, rng.integers(100, 4000, (16, 16), dtype=np.uint16), metadata=None
            )
        fields.append(files)
    (tmp_path / "0a.tiff").write_bytes((tmp_path / "0a.tiff").read_bytes()[:200])
    imwrite(tmp_path / "1b.tiff", np.ones((8, 8), np.uint16), metadata=None)
    imwrite(tmp_path / "2b.tiff", np.ones((16, 16), np.uint8), metadata=None)
    measure_plates(tmp_path, tmp_path / "to", {"rest": fields, "alone": fields[3:]})
    a, b = (np.load(calibration_file(tmp_path / "to", name))["low"] for name in ("rest", "alone"))
    assert np.array_equal(a, b), "only the sound field counted"
    for files, kind in zip(fields, ("truncated", "wrong_size", "wrong_depth"), strict=False):
        with pytest.raises(ImageError) as error:
            read_field(tmp_path, files, tmp_path / "to" / "rest.npz", None)
        assert error.value.kind == kind
    with pytest.raises(InputError, match="no readable field"):
        measure_plates(tmp_path, tmp_path / "to", {"bad": fields[:1]})


def test_eight_bits_on_anscombes_scale_add_little_to_the_shot_noise():
    """SD of Poisson counts after 8 bits and back, beside the SD before, in a window of 40 to 6,400
    counts.

    Measured: 1.005 to 1.024 at any brightness. 8 bits linear in counts: 1.28 at 100 counts, 1.12 at
    200.
    """
    rng = np.random.default_rng(0)
    low, high = (float(anscombe(np.array(bound))) for bound in (40.0, 6400.0))
    for mean in (100, 200, 300, 1000, 3000, 6000):
        counts = rng.poisson(mean, 200_000)
        values = anscombe(counts).astype(float)
        back = to_uint8(values, low, high) * (high - low) / 255 + low
        assert 1.0 <= back.std() / values.std() < 1.03
        if mean <= 200:
            linear = to_uint8(counts, 40, 6400) * (6360 / 255) + 40
            assert linear.std() / counts.std() > 1.1
