"""The annotation of idr0088: what it must hold, what is refused by name, and the curated mechanisms
of action.
"""

import csv
import io
import re
import zipfile

import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions.idr0088.metadata import (
    COLUMNS,
    FILE,
    channel_meaning,
    compounds,
    find_annotation,
    read_annotation,
)
from cellsignal.competitions.idr0088.moa import (
    GPCR_AGONIST,
    INACTIVE,
    gpcr_classes,
    labels_of,
    moa_classes,
    read_moa_table,
)

KEYS = ("AAAAAAAAAAAAAA-AAAAAAAASA-N", "BBBBBBBBBBBBBB-BBBBBBBBSA-N")


def row(**changes: str) -> list[str]:
    """One treated well, by the short names of the columns."""
    given = {
        "plate": "0101",
        "well": "B3",
        "cell_line": "A549",
        "reporter_line": "A549-ACTB-RAB5A",
        "concentration": "0.3",
        "compound_set": "MoA Reference",
        "moa": "CDK inhibitor",
        "name": "x",
        "inchikey": KEYS[0],
        "control": "",
        "channels": "Ch1 (blue): Nuclei/Cytoplasm, Ch2 (green): ACTB, Ch3 (red): RAB5A",
        "location": "p1PPS1/a",
    } | changes
    return [given.get(name, "z") for name in COLUMNS.values()]


CONTROL = {
    "concentration": "",
    "compound_set": "",
    "moa": "",
    "name": "DMSO",
    "inchikey": "",
    "control": "Negative Control",
}


def table_text(*rows: list[str], header: list[str] | None = None) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([header or list(COLUMNS), *rows])
    return text.getvalue()


def written(folder, text: str):
    path = folder / FILE.removesuffix(".zip")
    path.write_bytes(text.encode())
    return path


def test_a_table_is_read_as_text_plain_and_zipped(tmp_path):
    text = table_text(
        row(),
        row(well="B02", **CONTROL),
        row(well="C24", concentration="9", moa="", inchikey=KEYS[1], name="NA"),
    )
    plain = written(tmp_path, text)
    with zipfile.ZipFile(tmp_path / FILE, "w") as archive:
        archive.writestr("inside.csv", "\ufeff" + text.replace("\r\n", "\n"))
    assert find_annotation(tmp_path) == tmp_path / FILE
    for path in (plain, tmp_path / FILE):
        frame = read_annotation(path)
        assert frame.plate.tolist() == ["0101"] * 3 and frame.well.tolist() == ["B3", "B2", "C24"]
        assert frame.concentration.fillna(-1).tolist() == [
            0.3,
            -1,
            9,
        ] and frame.control.tolist() == [False, True, False]
        assert (
            frame.moa.tolist() == ["CDK inhibitor", "", ""]
            and frame.experiment.tolist() == ["p1PPS1"] * 3
        )
        assert compounds(frame).name.tolist() == ["x", "NA"]
        assert channel_meaning(frame).shows.tolist() == ["Nuclei/Cytoplasm", "ACTB", "RAB5A"]


def test_names_of_one_inchikey_are_one_compound(tmp_path):
    path = written(
        tmp_path,
        table_text(
            row(),
            row(well="B4", name="x hydrate", moa=""),
            row(well="B5", inchikey=KEYS[1], moa=""),
            row(well="B6"),
        ),
    )
    found = compounds(read_annotation(path))
    assert found.to_dict("list") == {
        "compound": list(KEYS),
        "name": ["x; x hydrate", "x"],
        "raw": [("CDK inhibitor",), ()],
        "n": [3, 1],
    }


WRONG = {
    "well": (
        row(well="B25"),
        "row 3: Well 'B25' is not a well of a 384-well plate; its Plate is '0101'",
    ),
    "no key": (row(well="B4", inchikey=""), "row 3: Compound InChIKey '' is not an InChIKey"),
    "key": (
        row(well="B4", inchikey="AAAA-BBB-N"),
        "row 3: Compound InChIKey 'AAAA-BBB-N' is not an InChIKey",
    ),
    "no dose": (
        row(well="B4", concentration=""),
        "row 3: Compound Concentration (microMolar) '' is not a number",
    ),
    "dose": (
        row(well="B4", concentration="-3"),
        "row 3: Compound Concentration (microMolar) '-3' is not above 0",
    ),
    "control": (
        row(well="B4", control="Positive"),
        "row 3: Control Type 'Positive' is neither 'Negative Control' nor empty",
    ),
    "twice": (row(well="B03"), "row 3: Well 'B03' has a second row on its plate"),
    "no plate": (row(plate=""), "row 3: Plate is empty"),
    "short": (row(well="B4")[:-1], "row 3 has 20 cells, the header has 21"),
    "long": ([*row(well="B4"), "more"], "row 3 has 22 cells, the header has 21"),
    "two lines": (
        row(well="B4", reporter_line="A549-CANX-COX4I1"),
        "row 3: Comment [Cell Line with Markers] 'A549-CANX-COX4I1' is not the one of",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_row_is_named(tmp_path, what):
    bad, message = WRONG[what]
    path = written(tmp_path, table_text(row(), bad))
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read_annotation(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "what",
    [
        "missing",
        "empty",
        "header alone",
        "fewer columns",
        "more columns",
        "cut zip",
        "zip of nothing",
        "bytes",
    ],
)
def test_a_wrong_file_is_named(tmp_path, what):
    path = tmp_path / FILE
    text = table_text(row())
    if what in ("cut zip", "zip of nothing"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.csv" if what == "cut zip" else "a.txt", text)
        if what == "cut zip":  # the directory is whole, the member is not
            path.write_bytes(path.read_bytes().replace(b"CDK", b"CDX", 1))
    elif what == "fewer columns":
        path.write_text(table_text(header=list(COLUMNS)[:-1]))
    elif what == "more columns":
        path.write_text(table_text(header=[*COLUMNS, "Notes"]))
    elif what != "missing":
        path.write_bytes(
            {"empty": b"", "header alone": table_text().encode(), "bytes": b"\xff\xfe\x00" * 50}[
                what
            ]
        )
    expected = {
        "fewer columns": "no column 'Plate Location'",
        "more columns": "unknown column 'Notes'",
        "missing": "no such file",
        "zip of nothing": "holds no CSV",
        "cut zip": "not a readable zip",
        "header alone": "no rows",
        "empty": "is empty",
        "bytes": "line 1 is not UTF-8 text",
    }
    with pytest.raises(InputError, match=re.escape(expected[what])) as error:
        read_annotation(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


# mechanisms
# --------------------------------------------------------------------------------------------------


def test_an_unknown_string_is_an_error_that_names_it():
    with pytest.raises(
        InputError, match=r"here\.csv: Compound MoA 'Flux capacitor' is not in moa\.csv"
    ):
        read_moa_table().moas(["CDK inhibitor", "Flux capacitor"], "here.csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,b; c,g,", "2 mechanisms, 1 groups"),
        ("a,b,g,\na,b,g,", "row 3"),
        ("a,b,g,\nc,b,h,", "'b' is in 'h' here"),
        ("a,b", "row 2"),
    ],
)
def test_a_curated_table_that_contradicts_itself_is_refused(tmp_path, line, message):
    path = tmp_path / "moa.csv"
    path.write_text(f"raw,moa,coarse,note\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_moa_table(path)


def test_spellings_meet_and_agonist_and_antagonist_stay_apart():
    table = read_moa_table()

    def of(*raw):
        return table.moas(raw, "")

    assert of("PPAR agonist") == of("Peroxisome proliferator-activated receptor activator")
    assert of("Cannabinoid receptor partial agonist") == of("Cannabinoid receptor agonist")
    assert of("Polo-like kinase modulator") == of("Polo-like kinase inhibitor")
    assert (
        of("mAChR agonist") != of("mAChR antagonist")
        and len(of("Opioid receptor agonist|Opioid receptor antagonist")) == 2
    )
    assert of("p38 MAPK inhibitor|Microtubule inhibitor") == of(
        "Microtubule inhibitor", "p38 MAPK inhibitor"
    )
    assert of("Unknown target Unknown_MoA") is None and of() is None
    assert len({name.casefold() for name in table.coarse}) == len(table.coarse), (
        "two spellings of a mechanism"
    )
    singular = {re.sub(r"[^a-z0-9]", "", name.casefold()) for name in table.coarse}
    assert len(singular) == len(table.coarse), "two punctuations of a mechanism"


RECEPTORS = (
    "Alpha-adrenergic",
    "Beta-adrenergic",
    "Dopamine",
    "Histamine",
    "Opioid",
    "Serotonin",
    "Cannabinoid",
    "Muscarinic",
    "Metabotropic",
    "protein-coupled",
)


def test_gpcr_agonists_are_those_of_the_known_receptors():
    table = read_moa_table()
    found = {name for name, group in table.coarse.items() if group == GPCR_AGONIST}
    assert all(name.endswith(" agonist") for name in found)
    assert found == {
        name
        for name in table.coarse
        if name.endswith(" agonist") and any(word in name for word in RECEPTORS)
    }
    for raw in (
        "nAChR agonist",
        "Estrogen receptor agonist",
        "Trk receptor agonist",
        "PPAR agonist",
        "Adenosine receptor antagonist|Phosphodiesterase inhibitor",
        "Ionotropic GABA-A receptor positive_allosteric_modulator",
        "Glucocorticoid receptor agonist",
    ):
        assert labels_of(table.moas([raw], ""), gpcr_classes([])) == ()
    assert labels_of(table.moas(["nAChR agonist|mAChR agonist"], ""), gpcr_classes([])) == (0,)


def test_a_class_has_three_compounds_and_the_unknown_have_no_labels():
    cdk, two, rare = ("CDK inhibitor",), ("Akt inhibitor", "CDK inhibitor"), ("PKD inhibitor",)
    inactive = next((name,) for name, group in read_moa_table().coarse.items() if group == INACTIVE)
    moas = [
        cdk,
        two,
        two,
        rare,
        rare,
        None,
        None,
        None,
        inactive,
        inactive,
        inactive,
        ("Akt inhibitor",),
    ]
    classes = moa_classes(moas)
    assert list(classes) == ["Akt inhibitor", "CDK inhibitor"]
    assert [labels_of(moa, classes) for moa in moas] == [
        (1,),
        (0, 1),
        (0, 1),
        (),
        (),
        None,
        None,
        None,
        (),
        (),
        (),
        (0,),
    ]
