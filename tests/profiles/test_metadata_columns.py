"""Tables that say themselves what a well is: columns by usual names, by options, and planted faults."""

import numpy as np
import pandas as pd
import pytest

from cellsignal.cli import main
from cellsignal.common.errors import InputError
from cellsignal.profiles.sources import load_tables


def table(**changes) -> pd.DataFrame:
    """Two plates of a 6-well corner: two compounds at two doses, and DMSO."""
    rng, rows = np.random.default_rng(0), []
    for plate in ("Week1_p1", "Week2_p2"):
        for place, (name, dose, moa) in enumerate(
            [("a", 1, "actin"), ("a", 3, "actin"), ("b", 1, "tubulin"), ("b", 3, "tubulin")]
            + 4 * [("DMSO", 0, "")]
        ):
            rows.append((plate, f"{'ab'[place // 4]}{place % 4 + 1}", name, dose, moa))
    names = ["Metadata_Plate", "Metadata_Well", "Metadata_Compound", "Metadata_Concentration"]
    frame = pd.DataFrame(rows, columns=[*names, "Metadata_moa"])
    frame["Metadata_Object_Count"] = np.arange(len(frame)) + 50
    frame["Metadata_gene"] = frame.Metadata_Compound.map({"a": "ACTB|ACTA1", "b": "NA", "DMSO": ""})
    for number in range(5):
        frame[f"Cells_f{number}"] = rng.normal(size=len(frame))
    return frame.assign(**changes)


def write(frame, path):
    frame.to_csv(path, index=False)
    return path


def test_usual_names_say_what_a_well_is(tmp_path):
    profiles = load_tables([write(table(), tmp_path / "t.csv")])
    wells = profiles.wells
    assert list(wells.well[:5]) == ["A01", "A02", "A03", "A04", "B01"]
    assert list(wells.treatment[:4]) == ["a@1", "a@3", "b@1", "b@3"]
    assert list(wells.role == "negative_control") == list(table().Metadata_Compound == "DMSO")
    assert list(wells["compound"]) == list(table().Metadata_Compound)
    assert list(wells.moa[:4]) == ["actin", "actin", "tubulin", "tubulin"]
    assert wells.moa[4:8].isna().all()
    assert wells.targets[0] == ("ACTA1", "ACTB") and wells.targets[2] == ()
    assert list(wells["count"].astype(int)) == list(range(50, 66))
    assert set(wells.experiment) == {"one batch"}
    np.testing.assert_allclose(profiles.x, table().filter(like="Cells_"), rtol=1e-6)


def test_names_are_found_in_any_case_and_options_come_first(tmp_path):
    frame = table().rename(
        columns={"Metadata_Plate": "Metadata_PLATE", "Metadata_Compound": "Metadata_substance"}
    )
    frame["Metadata_kind"] = np.where(frame.Metadata_substance == "b", "neg", "x")
    path = write(frame, tmp_path / "t.csv")
    options = {"columns": {"treatment": "substance"}, "controls": {"kind": "neg"}}
    wells = load_tables([path], **options, batch_pattern="Week[0-9]+").wells
    assert set(wells.experiment) == {"Week1", "Week2"}
    assert set(wells["compound"][wells.role == "negative_control"]) == {"b"}


@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
def test_plain_names_say_the_same_in_any_case(tmp_path, case):
    names = {name: case(name.removeprefix("Metadata_")) for name in table() if "Metadata_" in name}
    plain = load_tables([write(table().rename(columns=names), tmp_path / "plain.csv")])
    usual = load_tables([write(table(), tmp_path / "usual.csv")])
    pd.testing.assert_frame_equal(plain.wells, usual.wells)
    np.testing.assert_array_equal(plain.x, usual.x)
    assert plain.features == usual.features


def test_a_name_after_metadata_comes_before_a_plain_one(tmp_path):
    frame = table(plate="x", Compound="y", Barcode="z")
    wells = load_tables([write(frame, tmp_path / "t.csv")]).wells
    assert set(wells.plate) == {"Week1_p1", "Week2_p2"} and set(wells["compound"]) == {
        *table().Metadata_Compound
    }


def test_plain_numbers_of_parquet_are_written_as_a_person_would(tmp_path):
    pytest.importorskip("pyarrow")
    names = {name: name.removeprefix("Metadata_").lower() for name in table() if "Meta" in name}
    frame = table().rename(columns=names)
    frame["concentration"] = (frame.concentration / 10).astype(np.float32)
    frame.to_parquet(tmp_path / "t.parquet")
    assert list(load_tables([tmp_path / "t.parquet"]).wells.treatment[:2]) == ["a@0.1", "a@0.3"]


def test_a_header_alone_is_said(tmp_path):
    with pytest.raises(InputError, match=r"t.csv: has a header but no rows$"):
        load_tables([write(table().head(0), tmp_path / "t.csv")])


def test_control_types_are_roles(tmp_path):
    kinds = {"a": "poscon_cp", "b": "", "DMSO": "negcon"}
    frame = table(Metadata_control_type=table().Metadata_Compound.map(kinds))
    wells = load_tables([write(frame, tmp_path / "t.csv.gz")]).wells
    roles = {"a": "positive_control", "b": "treatment", "DMSO": "negative_control"}
    assert list(wells.role) == list(wells["compound"].map(roles))


def test_annotations_are_joined_by_the_compound(tmp_path):
    notes = pd.DataFrame({"Compound": ["b", "c"], "target_list": ["TUBB|TUBA1A", "X"]})
    path = write(table(), tmp_path / "t.csv")
    wells = load_tables([path], annotations=write(notes, tmp_path / "n.csv")).wells
    assert wells.targets[2] == ("TUBA1A", "TUBB") and wells.targets[0] == ()
    doubled = write(pd.concat([notes, notes]), tmp_path / "d.csv")
    with pytest.raises(InputError, match=r"d.csv: row 4: Compound occurs more than once"):
        load_tables([path], annotations=doubled)
    other = write(notes.rename(columns={"Compound": "Compund"}), tmp_path / "o.csv")
    with pytest.raises(InputError, match=r"o.csv: no column Metadata_Compound .* Compund"):
        load_tables([path], annotations=other)


def test_sites_of_a_well_are_averaged(tmp_path):
    twice = pd.concat([table(), table(Cells_f0=0.0)])
    profiles = load_tables([write(twice, tmp_path / "t.csv")])
    assert len(profiles.wells) == 16
    np.testing.assert_allclose(profiles.x[:, 0], table().Cells_f0 / 2, rtol=1e-6)


FAULTS = {
    "no plate": (lambda f: f.drop(columns="Metadata_Plate"), (), "no column of the plate"),
    "nearest": (
        lambda f: f.rename(columns={"Metadata_Well": "Metadata_Wel"}),
        (),
        "no column of the well, such as Metadata_Well; name it by --columns well=NAME; the nearest "
        "are Metadata_Wel",
    ),
    "named": (
        lambda f: f,
        ("--columns", "moa=Metadata_mo"),
        "no column 'Metadata_mo' (--columns moa=Metadata_mo); the nearest are Metadata_moa",
    ),
    "meaning": (lambda f: f, ("--columns", "mao=x"), "--columns mao: is not one of plate, well"),
    "empty": (
        lambda f: f.assign(Metadata_Well=["", *f.Metadata_Well[1:]]),
        (),
        "row 2: Metadata_Well is empty",
    ),
    "count": (
        lambda f: f.assign(Metadata_Object_Count=["many", *[5] * 15]),
        (),
        "row 2: count 'many' is not a number of cells",
    ),
    "controls": (lambda f: f, ("--controls", "Compound=DMS"), "Compound=DMS: matches no row"),
    "batch": (lambda f: f, ("--batch-pattern", "Day"), "row 2: plate 'Week1_p1' does not match"),
    "pattern": (lambda f: f, ("--batch-pattern", "("), "--batch-pattern '(': not a pattern"),
    "well": (
        lambda f: pd.concat([f, f.tail(1).assign(Metadata_Compound="z")]),
        (),
        "row 18: well Week2_p2 B04 has another",
    ),
    "number": (
        lambda f: f.filter(regex="Metadata").assign(Cells_a="high"),
        (),
        "row 2: Cells_a is 'high'",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_one_line(tmp_path, capsys, name):
    change, options, text = FAULTS[name]
    path = write(change(table()), tmp_path / "t.csv")
    assert main(["-q", "profiles", "match", "--table", str(path), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert text in error and len(error.splitlines()) == 1
    if not text.startswith("--"):
        assert "t.csv" in error


def test_a_config_and_a_table_are_not_given_together(tmp_path, capsys):
    path = write(table(), tmp_path / "t.csv")
    for words, text in (
        (["c.yaml", "--table", str(path)], "give a config or --table, not both"),
        ([], "give a config, or --table"),
        (["c.yaml", "--controls", "a=b"], "--controls: is an option of --table"),
        (["--table", str(tmp_path / "none.csv")], "none.csv: no such file"),
    ):
        for verb in ("match", "retrieve", "classify"):
            assert main(["-q", "profiles", verb, *words]) == 2
            error = capsys.readouterr().err.strip()
            assert text in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["match", "--batch-pattern", "Week[0-9]"],
        ["retrieve", "--null-size", "50"],
        ["classify", "--method", "knn", "--k", "1", "--held-out", "plate", "--label", "treatment"],
    ],
)
def test_a_table_alone_gives_text_a_csv_and_a_picture(tmp_path, capsys, words):
    path, out = write(table(), tmp_path / "t.csv"), tmp_path / "out.csv"
    steps = ["--steps", "standardize", "well_position", "--out", str(out)]
    assert main(["-q", "profiles", *words, "--table", str(path), *steps]) == 0
    text = capsys.readouterr().out
    for name in ("position only", "cell count only", "shuffled labels"):
        assert name in text
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG") and len(pd.read_csv(out))


@pytest.mark.real_data
def test_a_table_alone_gives_what_the_data_set_gives(real_data, capsys):
    """BBBC021's counts, as with the config of the data set (test_profile_tables)."""
    source = next((real_data / "bbbc021_profiles").glob("*.csv"))
    words = ["profiles", "match", "--table", str(source), "--batch-pattern", "Week[0-9]+"]
    assert main(["-q", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = [line.split()[1] for line in lines if line.startswith(("NSC ", "NSCB "))]
    assert counts[:2] == ["94/103", "68/92"]
