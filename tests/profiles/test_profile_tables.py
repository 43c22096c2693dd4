"""Tables of well profiles: which columns are features, whose wells, and what real ones score."""

import gzip
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsignal.cli import main
from cellsignal.common.errors import InputError
from cellsignal.profiles.profile_tables import read_profiles

WELLS = [f"{row}{column:02d}" for row in "AB" for column in range(1, 13)]


def data_set(plates=("00090001", "00090002")) -> pd.DataFrame:
    rows = [(plate, well) for plate in plates for well in WELLS]
    frame = pd.DataFrame(rows, columns=["plate", "well"])
    return frame.assign(well_id=frame.plate + "_" + frame.well, experiment="e", role="treatment")


def table(seed=0, wells=None) -> pd.DataFrame:
    wells = data_set() if wells is None else wells
    values = np.random.default_rng(seed).normal(size=(len(wells), 4))
    frame = pd.DataFrame(values, columns=["Cells_a", "Cytoplasm_b", "Nuclei_c", "Cells_d"])
    frame.insert(0, "Metadata_Plate", wells.plate.to_numpy())
    frame.insert(1, "Metadata_Well", wells.well.to_numpy())
    return frame


def write(frame, path, index=False):
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=index)
    else:
        frame.to_csv(path, index=index, sep="\t" if ".tsv" in path.suffixes else ",")
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.tsv.gz", "t.parquet"])
def test_identifiers_are_text_and_wells_are_written_in_one_way(tmp_path, name):
    """Leading zeros stay, blanks go, a1 and A01 are one well: in every kind of file, on both sides."""
    frame = table()
    spelt = frame.Metadata_Well.map(lambda well: f" {well[0].lower()}{int(well[1:])}")
    path = write(
        frame.assign(Metadata_Plate=frame.Metadata_Plate + " ", Metadata_Well=spelt),
        tmp_path / name,
    )
    wells = data_set()
    wells["well"] = [f"{well[0]}{int(well[1:])}" for well in wells.well]
    found = read_profiles([path], wells)
    assert list(found.wells.well_id) == list(wells.well_id)
    np.testing.assert_allclose(found.x, frame.iloc[:, 2:], rtol=1e-6)


def test_numbers_that_parquet_keeps_as_numbers(tmp_path):
    wells = data_set(("90001", "90002"))
    frame = table(wells=wells)
    for plates in (frame.Metadata_Plate.astype(int), frame.Metadata_Plate.astype(float)):
        found = read_profiles(
            [write(frame.assign(Metadata_Plate=plates), tmp_path / "t.parquet")], wells
        )
        assert list(found.wells.well_id) == list(wells.well_id)
    blank = frame.Metadata_Plate.astype(float).where(frame.index != 4)
    with pytest.raises(InputError, match=r"t\.parquet: row 6: Metadata_Plate is empty"):
        read_profiles([write(frame.assign(Metadata_Plate=blank), tmp_path / "t.parquet")], wells)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_only_measurements_are_features_and_the_others_are_counted_by_reason(tmp_path, name):
    frame = table()
    more = frame.assign(
        **{
            "Unnamed: 0": range(len(frame)),
            "ImageNumber": range(len(frame)),
            "TableNumber": 7,
            "Cells_Number_Object_Number": range(len(frame)),
            "Image_Count": 3.5,
            "Dose": 1.0,
            "Metadata_Count": 5,
            "Cells_gap": [np.nan, *range(1, len(frame))],
            "Cells_flat": 2.0,
            "Nuclei_inf": [np.inf, *range(1, len(frame))],
        }
    )
    found = read_profiles([write(more, tmp_path / name)], data_set())
    assert (
        found.features == ("Cells_a", "Cytoplasm_b", "Nuclei_c", "Cells_d") and found.compartments
    )
    for text in (
        "4 columns used as features",
        "3 Metadata_",
        "1 table index (Unnamed: 0)",
        "3 image, table or object number (ImageNumber, TableNumber, Cells_Number_Object_Number)",
        "1 Image_, not asked for (Image_Count)",
        "1 of no compartment (Dose)",
        "2 missing or infinite values (Cells_gap, Nuclei_inf)",
        "1 constant (Cells_flat)",
    ):
        assert text in found.notes[0], text


def test_an_index_that_pandas_wrote_changes_nothing(tmp_path):
    plain = read_profiles([write(table(), tmp_path / "a.csv")], data_set())
    indexed = read_profiles([write(table(), tmp_path / "b.csv", index=True)], data_set())
    np.testing.assert_array_equal(plain.x, indexed.x)


@settings(max_examples=25, deadline=None)
@given(
    st.sets(
        st.sampled_from(
            [
                "Unnamed: 0",
                "ImageNumber",
                "TableNumber",
                "Image_Number",
                "ObjectNumber",
                "x",
                "Count_Cells",
            ]
        )
    )
)
def test_no_column_beside_the_features_changes_a_profile(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("t")
    noise = {name: np.random.default_rng(1).normal(size=len(WELLS) * 2) for name in sorted(names)}
    found = read_profiles([write(table().assign(**noise), folder / "t.csv")], data_set())
    np.testing.assert_allclose(found.x, table().iloc[:, 2:], rtol=1e-6)
    assert all(name in found.notes[0] for name in sorted(names)[:1])


def test_features_by_prefix_and_by_a_file_of_names(tmp_path):
    frame = table().rename(
        columns={
            "Cells_a": "efficientnet_0",
            "Nuclei_c": "efficientnet_1",
            "Cytoplasm_b": "emb0",
            "Cells_d": "feature_1",
        }
    )
    path = write(frame.assign(efficientnet_ImageNumber=1.5), tmp_path / "t.csv")
    with pytest.raises(
        InputError,
        match=r"t\.csv: no column starts with Cells_, Cytoplasm_, Nuclei_; name the features with --features",
    ) as told:
        read_profiles([path], data_set())
    assert "\n" not in str(told.value)
    assert read_profiles([path], data_set(), ["efficientnet_"]).features == (
        "efficientnet_0",
        "efficientnet_1",
    )
    assert read_profiles([path], data_set(), ["emb", "feature_"]).features == ("emb0", "feature_1")
    (tmp_path / "names.txt").write_text("feature_1\n\nefficientnet_0\n")
    found = read_profiles([path], data_set(), [str(tmp_path / "names.txt")])
    assert (
        found.features == ("efficientnet_0", "feature_1")
        and "not asked for" in found.notes[0]
        and not found.compartments
    )
    (tmp_path / "names.txt").write_text("feature_1\nnone\n")
    with pytest.raises(
        InputError, match=r"lacks 1 of the 2 features of .*names\.txt, first 'none'"
    ):
        read_profiles([path], data_set(), [str(tmp_path / "names.txt")])
    with pytest.raises(InputError, match="no column starts with 'resnet'"):
        read_profiles([path], data_set(), ["resnet"])


def test_rows_of_unknown_wells_are_counted_and_beyond_a_share_refused(tmp_path):
    extra = data_set(("00090001", "00090002")).iloc[:2].assign(well=["H01", "H02"])
    wells = pd.concat([data_set(), extra], ignore_index=True)
    path = write(table(wells=wells), tmp_path / "t.csv")
    found = read_profiles([path], data_set())  # 2 of 50
    assert (
        "2 rows of wells that the data set has not (00090001 H01, 00090001 H02) left out"
        in found.notes[1]
    )
    with pytest.raises(
        InputError,
        match=r"t\.csv: 2 of 50 rows are of wells that the data set has not, first 00090001 H01, 00090001 H02",
    ):
        read_profiles([path], data_set(), unmatched=0.03)
    half = write(table(), tmp_path / "half.csv")
    with pytest.raises(InputError, match=r"24 of 48 rows .*at most 5% may be"):
        read_profiles([half], data_set(("00090001",)))
    with pytest.raises(
        InputError,
        match=r"none of its plates and wells .*the data set writes plate '90001': keep barcodes as text",
    ):
        read_profiles([half], data_set(("90001", "90002")))


def test_wells_without_a_row_are_counted(tmp_path):
    found = read_profiles([write(table().iloc[:-3], tmp_path / "t.csv")], data_set())
    assert "45 rows of 45 wells; 3 wells of its plates have no profile" in found.notes[1]


def test_an_empty_well_is_left_out_and_does_not_cost_the_features(tmp_path):
    frame = table()
    frame.iloc[5, 2:] = np.nan
    found = read_profiles([write(frame, tmp_path / "t.csv")], data_set())
    assert found.x.shape == (47, 4) and "1 rows left out that lack more than half" in found.notes[2]
    with pytest.raises(InputError, match="every row lacks more than half of the 4 features"):
        read_profiles(
            [
                write(
                    frame.assign(**{name: np.nan for name in frame.columns[2:]}), tmp_path / "t.csv"
                )
            ],
            data_set(),
        )


def test_several_tables_are_one(tmp_path):
    frame = table().assign(Cells_only=1.5)
    first = write(frame.iloc[:24], tmp_path / "a.csv")
    second = write(frame.iloc[24:].drop(columns="Cells_only"), tmp_path / "b.parquet")
    found = read_profiles([first, second], data_set())
    np.testing.assert_allclose(found.x, table().iloc[:, 2:], rtol=1e-6)
    assert "1 not in every table (Cells_only)" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BR1_normalized_feature_select_negcon.csv.gz", "normalized"),
        ("BBBC021_feature_selected_mad_robustize.csv", "mad_robustize"),
        ("x_normalised.csv", "normalised"),
        ("x_spherized.csv", "spherized"),
        ("unnormalized.csv", ""),
        ("not_normalised.csv", ""),
        ("augmented.csv", ""),
    ],
)
def test_a_name_that_says_normalised(tmp_path, name, words):
    assert read_profiles([write(table(), tmp_path / name)], data_set()).named_normalised == words


@pytest.mark.parametrize("cell", ["", "nan", "NA"])
def test_a_blank_plate_is_named_by_its_row(tmp_path, cell):
    frame = table()
    frame.loc[4, "Metadata_Plate"] = cell
    with pytest.raises(InputError, match=r"t\.csv: row 6: Metadata_Plate is empty"):
        read_profiles([write(frame, tmp_path / "t.csv")], data_set())


def test_a_damaged_archive_is_one_line(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"Metadata_Plate,Metadata_Well\n")[:-4])
    with pytest.raises(InputError, match="damaged or cut short"):
        read_profiles([path], data_set())


def config_of(folder, competition):
    path = folder / "config.yaml"
    path.write_text(
        f"name: x\ncompetition: {competition}\ndata: {{root: raw, store: store}}\nfolds: {{file: "
        f"folds.csv}}\n"
        "model: {backbone: test_resnet}\nstages: [{name: train, epochs: 1, batch_size: 16}]\n"
    )
    return path


@pytest.fixture
def cpjump1(real_data, tmp_path, monkeypatch):
    """A root of CPJUMP1's tables alone, without an image, and the profiles of four real plates."""
    root = tmp_path / "raw"
    batch, name = "2020_11_04_CPJUMP1", "JUMP-Target-1_compound"
    maps = root / "workspace/metadata/platemaps" / batch
    external = root / "workspace/metadata/external_metadata"
    (maps / "platemap").mkdir(parents=True)
    external.mkdir()
    shutil.copy(real_data / "cpjump1_profiles/experiment-metadata.tsv", root)
    barcodes = "".join(f"BR0011701{number},{name}_platemap\n" for number in range(4))
    (maps / "barcode_platemap.csv").write_text(f"Assay_Plate_Barcode,Plate_Map_Name\n{barcodes}")
    shutil.copy(real_data / f"jump_target/{name}_platemap.tsv", maps / "platemap")
    shutil.copy(real_data / f"jump_target/{name}_metadata.tsv", external)
    monkeypatch.chdir(tmp_path)
    return config_of(tmp_path, "cpjump1"), sorted((real_data / "cpjump1_profiles").glob("*.csv.gz"))


def retrieve(capsys, *arguments) -> tuple[str, dict[str, list[str]]]:
    """First line, and the cells of each row of replicates by its profiles: groups, mAP, random,
    gain, retrieved, of groups.
    """
    assert main(["-q", "profiles", "retrieve", *map(str, arguments), "--tasks", "replicates"]) == 0
    text = capsys.readouterr()
    rows = [
        line.split("  replicates  ")[1]
        for line in text.out.splitlines()
        if "  replicates  " in line
    ]
    assert "copairs" not in text.err, "copairs' own log lines"
    return text.out.splitlines()[0], {row[:20].strip(): row[20:].split() for row in rows}


@pytest.mark.slow
def test_the_published_fraction_retrieved_of_four_real_plates(cpjump1, capsys):
    """Published for U2OS, 48 h: mAP .578, 203 of 306 retrieved. By copairs' null 187. By position
    alone everything.

    The limit of a large null is 202: one compound has q = .0502, and 203 comes of the default draws
    (8 of 10 seeds).
    """
    config, sources = cpjump1
    head, rows = retrieve(capsys, config, "--source", *sources, "--null", "published")
    assert (
        head.startswith("cpjump1: 1,536 wells, 904 features")
        and "no normalisation: the profiles say they are normalised" in head
    )
    assert (
        rows["cellprofiler"][1] == "0.578"
        and rows["cellprofiler"][5] == "203/306"
        and rows["cellprofiler"][4] == "0.663"
    )
    assert rows["position only"][1] == "0.979" and rows["position only"][5] == "306/306"
    head, rows = retrieve(capsys, config, "--source", *sources)
    assert rows["cellprofiler"][1] == "0.578" and rows["cellprofiler"][5] == "187/306"
    assert rows["position only"][5] == "306/306"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one vector", "two vectors", "one feature"])
def test_real_wells_with_profiles_that_say_nothing_score_a_random_order(
    cpjump1, capsys, tmp_path, kind
):
    config, sources = cpjump1
    keys = pd.concat(
        [pd.read_csv(path, usecols=["Metadata_Plate", "Metadata_Well"]) for path in sources],
        ignore_index=True,
    )
    rng = np.random.default_rng(0)
    x = {
        "one vector": np.ones((len(keys), 1)) * rng.normal(size=5),
        "two vectors": rng.normal(size=(2, 5))[rng.integers(0, 2, len(keys))],
        "one feature": rng.normal(size=(len(keys), 1)),
    }[kind]
    frame = pd.concat(
        [keys, pd.DataFrame(x, columns=[f"Cells_{n}" for n in range(x.shape[1])])], axis=1
    )
    frame.to_csv(tmp_path / "wells.csv", index=False)
    _, rows = retrieve(
        capsys, config, "--source", tmp_path / "wells.csv", "--normalise", "--null-size", 2000
    )
    figures = rows["cellprofiler"]
    assert (
        float(figures[1]) == pytest.approx(float(figures[2]), abs=0.01)
        and int(figures[5].split("/")[0]) <= 3
    )


@pytest.mark.slow
def test_nscb_of_real_cellprofiler_profiles(real_data, tmp_path, monkeypatch, capsys):
    """BBBC021's profiles are normalised: left alone they name 68 of 92 treatments; normalised again
    65.
    """
    (tmp_path / "raw").mkdir()
    for name in ("BBBC021_v1_image.csv", "BBBC021_v1_moa.csv"):
        shutil.copy(real_data / "bbbc021" / name, tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    config = config_of(tmp_path, "bbbc021_full")
    source = next((real_data / "bbbc021_profiles").glob("*.csv"))
    assert main(["-q", "profiles", "match", str(config), "--source", str(source)]) == 0
    text = capsys.readouterr().out
    assert (
        "no normalisation: the profiles say they are normalised (a file's name says 'mad_robustize'"
        in text.splitlines()[0]
    )
    assert [
        line.split()[1] for line in text.splitlines() if line.startswith("NSC") and "/" in line
    ][:2] == ["94/103", "68/92"]
    assert "DeepProfiler's notebook has another rule for taxol" in text
    assert (
        main(
            ["-q", "profiles", "match", str(config), "--source", str(source), "--normalise", "tvn"]
        )
        == 0
    )
    again = capsys.readouterr().out
    assert (
        "tvn (by plate, on negative_controls), though the profiles say they are normalised"
        in again.splitlines()[0]
    )
    assert "65/92" in again


@pytest.mark.parametrize("name", ["t.csv", "t.tsv.gz", "t.parquet"])
def test_a_well_without_cells_costs_no_feature(tmp_path, name):
    """One well's row holds a count and nothing else: the row goes, and the others keep all their
    features.
    """
    frame = table()
    frame.loc[5, ["Cells_a", "Cytoplasm_b", "Nuclei_c"]] = np.nan
    found = read_profiles([write(frame, tmp_path / name)], data_set())
    assert found.features == ("Cells_a", "Cytoplasm_b", "Nuclei_c", "Cells_d")
    np.testing.assert_allclose(found.x, frame.drop(index=5).iloc[:, 2:], rtol=1e-6)
    note = "1 rows left out that lack more than half of the features (00090001 A06)"
    assert any(note in line for line in found.notes)


def test_parquet_may_keep_plate_and_well_as_its_index_or_as_bytes(tmp_path):
    frame, path = table(), tmp_path / "t.parquet"
    expected = read_profiles([write(frame, tmp_path / "plain.parquet")], data_set())
    indexed = frame.set_index(["Metadata_Plate", "Metadata_Well"])
    for written in (
        indexed,
        frame.set_index("Metadata_Well"),
        frame.assign(Metadata_Plate=frame.Metadata_Plate.map(str.encode)),
        frame.assign(Metadata_Well=frame.Metadata_Well.astype("category")),
    ):
        found = read_profiles([write(written, path, index=None)], data_set())
        assert list(found.wells.well_id) == list(expected.wells.well_id)
        np.testing.assert_array_equal(found.x, expected.x)


def test_parquet_says_what_is_missing(tmp_path):
    frame = table()
    frame["Metadata_Plate"] = frame.Metadata_Plate.astype("string").where(frame.index != 4)
    with pytest.raises(InputError, match=r"t\.parquet: row 6: Metadata_Plate is empty"):
        read_profiles([write(frame, tmp_path / "t.parquet")], data_set())
    with pytest.raises(InputError, match=r"none\.parquet: no such file"):
        read_profiles([tmp_path / "none.parquet"], data_set())


def test_dates_are_no_feature(tmp_path):
    dates = pd.date_range("2020-01-01", periods=len(WELLS) * 2)
    path = write(table().assign(Cells_date=dates), tmp_path / "t.parquet")
    found = read_profiles([path], data_set())
    assert "Cells_date" not in found.features and "1 not numbers (Cells_date)" in found.notes[0]


def test_numbers_of_objects_and_indices_saved_twice_are_no_features(tmp_path):
    frame = table()
    odd = ("Cells_ImageNumber.1", "cells_objectnumber", "Cells_Number_Object_Number.2")
    path = write(
        frame.assign(**dict.fromkeys(odd, range(len(frame)))), tmp_path / "once.csv", index=True
    )
    twice = tmp_path / "t.csv"
    # ",Unnamed: 0,Metadata_Plate,..."
    pd.read_csv(path, dtype={"Metadata_Plate": str}).to_csv(twice)
    found = read_profiles([twice], data_set())
    np.testing.assert_allclose(found.x, frame.iloc[:, 2:], rtol=1e-6)
    assert "2 table index (Unnamed: 0.1, Unnamed: 0)" in found.notes[0]
    assert "Number" not in " ".join(
        read_profiles([twice], data_set(), ["Cells_", "Nuclei_"]).features
    )


def test_a_feature_named_in_full_is_that_one(tmp_path):
    frame = table().rename(columns={"Nuclei_c": "Cells_a2"})
    path = write(frame, tmp_path / "t.csv")
    assert read_profiles([path], data_set(), ["Cells_a"]).features == ("Cells_a",)
    assert read_profiles([path], data_set(), ["Cells_"]).features == (
        "Cells_a",
        "Cells_a2",
        "Cells_d",
    )


def test_wrong_names_of_features_are_one_line(tmp_path):
    path, names = write(table(), tmp_path / "t.csv"), tmp_path / "names"
    names.write_bytes(b"Cells_a\n\xff\xfe")
    for item, message in (
        ("", "--features: an empty name"),
        (str(names), "names: is not a text file"),
    ):
        with pytest.raises(InputError, match=message):
            read_profiles([path], data_set(), [item])


def test_a_table_without_any_number_is_named_with_its_first_cell(tmp_path):
    frame = table().astype(object)
    frame.iloc[:, 2:] = "1,5"
    with pytest.raises(
        InputError,
        match=r"t\.csv: none of the 4 features is a column of numbers; row 2: Cells_a is '1,5'",
    ):
        read_profiles([write(frame, tmp_path / "t.csv")], data_set())
