"""A lab's own sheet: foreign columns, empty cells, plates and values that are not as expected."""

import re

import pandas as pd
import pytest
import yaml
from helpers import cellsignal, error_line, tiny_config

from cellsignal.common.errors import InputError
from cellsignal.competitions.plates.competition import Plates
from cellsignal.competitions.plates.notes import find_resembling
from cellsignal.data.folds import read_folds

PLATES = Plates()
KEYS = {
    "platemap": "layout.xlsx",
    "well": "Well position",
    "plate": "Plate ID",
    "label": "Mechanism",
    "compound": "Drug",
    "batch": "Run",
    "negative_controls": "Content type = dmso",
    "hidden": None,
}


@pytest.fixture
def sheet(simulated, tmp_path):
    """A root whose platemap is an XLSX with a lab's column names; images are linked."""
    source, root = simulated("plates"), tmp_path / "screen"
    root.mkdir()
    for folder in source.glob("P0*"):
        (root / folder.name).symlink_to(folder)
    table = pd.read_csv(source / "platemaps.csv", dtype=str, keep_default_na=False)
    columns = {"plate": "Plate ID", "well": "Well position", "compound": "Drug"}
    columns |= {"moa": "Mechanism", "role": "Content type", "week": "Run"}
    table = table.rename(columns=columns)[list(columns.values())]
    table = table[table["Content type"] != "test"].reset_index(drop=True)
    tree = yaml.safe_load((source / "plates.yaml").read_text())
    tree = {"images": tree["images"], "folds": "plate"} | KEYS
    return Sheet(root, table, tree)


class Sheet:
    """A root, its platemap and its description; `write` brings the files up to date."""

    def __init__(self, root, table, tree):
        self.root, self.table, self.tree = root, table, tree
        self.write()

    def write(self, **keys):
        self.tree |= keys
        self.table.to_excel(self.root / "layout.xlsx", index=False)
        kept = {key: value for key, value in self.tree.items() if value is not None}
        (self.root / "plates.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))

    def treated(self):
        return self.table.index[self.table["Content type"] == "treatment"]

    def name(self, row):
        return f"{self.table['Plate ID'][row]}_{self.table['Well position'][row]}"


def test_an_empty_compound_is_no_compound(sheet, tmp_path, capsys):
    """It was taken for a compound called as the label, which folds could part from its like."""
    rows = sheet.treated()[:3]
    sheet.table.loc[rows, "Drug"] = ""
    sheet.write()
    wells = [sheet.name(row) for row in rows]
    samples = PLATES.samples(sheet.root).set_index("well_id")
    assert samples["compound"][wells].isna().all() and samples.treatment[wells].isna().all()
    assert (samples.role[wells] == "treatment").all() and samples.label[wells].notna().all()
    capsys.readouterr()
    assert cellsignal("samples", "plates", "--root", sheet.root, cwd=tmp_path) == 0
    said = f"3 wells have no compound (column 'Drug'); first {min(wells)}"
    assert capsys.readouterr().out.count(said) == 1


def test_without_a_column_of_compounds_the_label_stands_for_it(sheet):
    sheet.write(compound=None)
    samples = PLATES.samples(sheet.root)
    treated = samples[samples.role == "treatment"]
    names = [PLATES.classes(sheet.root)[label] for label in treated.label]
    assert list(treated["compound"]) == names and PLATES.notes(sheet.root) == ()


@pytest.mark.parametrize(("folds", "column"), [("compound", "Drug"), ("batch", "Run")])
def test_folds_leave_wells_of_unknown_groups_alone(sheet, folds, column, tmp_path, caplog):
    """Neither training nor validation has them; with other folds both do."""
    rows = sheet.treated()[:2]
    sheet.table.loc[rows, column] = ""
    wells = {sheet.name(row) for row in rows}
    sheet.write(folds=folds)
    table_file = tmp_path / "folds.csv"
    words = ("folds", "plates", "--root", sheet.root, "--out", table_file)
    assert cellsignal(*words, cwd=tmp_path) == 0
    samples = PLATES.samples(sheet.root)
    assert wells <= set(samples.well_id), "their images stay in the store"
    table = read_folds(table_file, samples)
    for fold in table.folds:
        used = samples.well_id[table.training(samples, fold) | table.validation(samples, fold)]
        assert not wells & set(used) and len(set(used)) == len(sheet.treated()) - 2
    (note,) = PLATES.notes(sheet.root) if folds == "compound" else PLATES.notes(sheet.root)[:1]
    assert note.startswith(f"2 labelled wells have no {folds} (column {column!r} is empty")
    sheet.write(folds="plate")
    assert wells <= set(PLATES.samples(sheet.root).query("role == 'treatment'").well_id)
    sheet.table.loc[sheet.treated(), column] = ""
    sheet.write(folds=folds)
    with pytest.raises(InputError, match=f"folds: {folds}: no labelled well has a {folds}"):
        PLATES.samples(sheet.root)


def test_run_counts_wells_without_a_compound(sheet, tmp_path, caplog):
    sheet.table.loc[sheet.treated()[:1], "Drug"] = ""
    sheet.write()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tiny_config("plates", sheet.root)))
    assert cellsignal("prepare", "config.yaml", cwd=tmp_path) == 0
    name = sheet.name(sheet.treated()[0])
    said = f"1 well has no compound (column 'Drug'); first {name}"
    assert caplog.text.count(said) == 1


def test_one_compound_in_two_spellings_is_named(sheet):
    row = sheet.treated()[0]
    first = sheet.table["Drug"][row]
    sheet.table.loc[row, "Drug"] = first.upper()
    sheet.write()
    (note,) = PLATES.notes(sheet.root)
    assert repr(first) in note and repr(first.upper()) in note and "folds may part them" in note


def test_a_label_that_resembles_another_is_asked_for(sheet):
    row = sheet.treated()[0]
    label = sheet.table["Mechanism"][row]
    sheet.table.loc[row, "Mechanism"] = label.replace(" ", "")
    sheet.write()
    (note,) = PLATES.notes(sheet.root)
    written = label.replace(" ", "")
    assert note == f"label {written!r} has one well ({sheet.name(row)}); did you mean {label!r}?"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("moa1", "moa 1"),
        ("MOA_1", "moa 1"),
        ("moa 2", None),
        ("compound 1a", None),
        ("tubulin inhibtor", "tubulin inhibitor"),
        ("tubulin activator", None),
        ("+", None),
    ],
)
def test_what_resembles_a_name(name, meant):
    others = ["moa 1", "moa 3", "compound 1b", "tubulin inhibitor", "-"]
    assert find_resembling(name, others) == meant


def test_plates_that_only_one_side_knows_have_a_line(sheet, tmp_path, capsys):
    plates = sheet.table["Plate ID"]
    wells = (plates == "P002").sum()
    sheet.table["Plate ID"] = plates.where(plates != "P002", "P2")
    sheet.write()
    capsys.readouterr()
    assert cellsignal("samples", "plates", "--root", sheet.root, cwd=tmp_path) == 0
    out = capsys.readouterr().out
    images = len(list(sheet.root.glob("P002__*/Images/*ch1*.tiff")))
    assert (
        f"plate P002 ({images} wells) is in no row of layout.xlsx; the file has P001, P003, P2"
        in out.replace("P001, P2, P003", "P001, P003, P2")
    )
    said = f"plate P2 of layout.xlsx ({wells} wells) has no images; there are P001, P002, P003"
    assert said in out


def test_a_table_of_several_plates_needs_its_column(sheet, tmp_path, capsys):
    """Else the first plate's wells would be those of every plate."""
    sheet.write(plate=None)
    line = error_line(capsys, "samples", "plates", "--root", sheet.root, cwd=tmp_path)
    assert "if the table holds several plates, say plate: COLUMN in plates.yaml" in line
    assert line.endswith("'Plate ID' holds the plates' names")
    sheet.table = sheet.table.drop(columns="Plate ID")
    sheet.table.loc[1, "Well position"] = sheet.table.loc[0, "Well position"]
    sheet.write()
    line = error_line(capsys, "samples", "plates", "--root", sheet.root, cwd=tmp_path)
    assert "occurs twice; if the table holds several plates, say plate: COLUMN" in line


def test_another_column_with_the_plates_is_named(sheet):
    sheet.write(plate="Run")
    with pytest.raises(InputError, match=r"Run: names the plates .*'Plate ID' holds the plates'"):
        PLATES.samples(sheet.root)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("Content type = DMSO", r"did you mean 'dmso'\?; 'Content type' holds "),
        ("Content type = treatment, moa 1", r"moa 1 stands in column 'Mechanism'"),
        ("Content type = nothing", r"has 'Content type = nothing'; 'Content type' holds "),
    ],
)
def test_a_condition_that_no_well_fits_says_what_there_is(sheet, condition, said):
    counts = sheet.table["Content type"].value_counts()
    sheet.write(negative_controls=condition)
    with pytest.raises(InputError, match=r"plates.yaml: negative_controls: .*" + said) as refused:
        PLATES.samples(sheet.root)
    for value, count in counts.items():
        assert f"{value} ({count})" in str(refused.value)


def test_init_finds_the_column_of_the_plates(sheet, tmp_path, capsys):
    words = ("init", sheet.root, "--picture", tmp_path / "look.png", "--force")
    assert cellsignal(*words, cwd=tmp_path) == 0
    text = (sheet.root / "plates.yaml").read_text()
    assert "\nplate: Plate ID  #" in text and "\nwell: Well position\n" in text
    assert f"its columns: {', '.join(sheet.table)}\n" in text
    assert len(PLATES.samples(sheet.root)) == len(sheet.treated()), "controls have no label"
    sheet.table = sheet.table.drop(columns="Plate ID").rename(columns={"Drug": "Drug: #1"})
    sheet.table = sheet.table.drop_duplicates("Well position")
    sheet.table.to_excel(sheet.root / "layout.xlsx", index=False)
    assert cellsignal(*words, cwd=tmp_path) == 0
    text = (sheet.root / "plates.yaml").read_text()
    assert "\n# plate: COLUMN  #" in text and yaml.safe_load(text)["well"] == "Well position"


def test_fewer_groups_make_fewer_folds(sheet, tmp_path, capsys, caplog):
    """One new plate is predicted from two: the commonest question."""
    caplog.set_level("INFO")
    sheet.write(hidden="Plate ID = P003")
    words = ("folds", "plates", "--root", sheet.root, "--out", "folds.csv")
    assert cellsignal(*words, cwd=tmp_path) == 0
    assert sorted(pd.read_csv(tmp_path / "folds.csv").plate) == ["P001", "P002"]
    asked = error_line(capsys, *words[:-1], "other.csv", "--splits", 3, cwd=tmp_path)
    assert asked == "folds: 2 values of plate can be held out, too few for 3 folds"
    sheet.write(hidden="Run = " + sheet.table["Run"].iloc[0], folds="batch")
    sheet.table["Run"] = sheet.table["Run"].iloc[0]
    sheet.write(hidden=None)
    config = tiny_config("plates", sheet.root)
    config["folds"] = {"file": "run_folds.csv"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    line = error_line(capsys, "run", "config.yaml", cwd=tmp_path)
    assert re.fullmatch(r"folds: 1 value of batch can be held out, too few for 2 folds", line)
    assert not (tmp_path / "store").exists(), "it is said before packing"
