"""idr0088 on the published annotation table, counted a second time here by the csv module; and its
committed folds.
"""

import csv
import io
import re
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd
import pytest

from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import balance, balance_table
from cellsignal.competitions.idr0088.metadata import (
    FILE,
    channel_meaning,
    compounds,
    read_annotation,
)
from cellsignal.competitions.idr0088.moa import MIN_COMPOUNDS, read_moa_table

REPOSITORY = Path(__file__).resolve().parents[3]
TASKS = ("idr0088_gpcr", "idr0088_moa")
# a receptor's name as the table writes it, that is coupled to a G protein, and that it is switched
# on
GPCR = re.compile(
    r"(((Alpha|Beta)-adrenergic|Dopamine|Histamine|Opioid|Serotonin|Cannabinoid|Bile acid|Metabotropic glutamate) receptor|mAChR) (partial[ _])?agonist"
)


@pytest.fixture(scope="module")
def path(real_data) -> Path:
    return real_data / "idr0088" / FILE


@pytest.fixture(scope="module")
def rows(path) -> list[dict[str, str]]:
    """The table by the csv module: of every name and plate one row, and the first 5,000."""
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        text = csv.reader(io.TextIOWrapper(file, encoding="utf-8"))
        header = next(text)
        seen, kept = set(), []
        name, plate = header.index("Compound Name"), header.index("Plate")
        for number, cells in enumerate(text):
            new = {("name", cells[name]), ("plate", cells[plate])} - seen
            if new or number < 5000:
                kept.append(dict(zip(header, cells, strict=True)))
                seen |= new
    return kept


@pytest.fixture(scope="module")
def truth(rows) -> dict[str, set[str]]:
    """InChIKey -> the MoA strings between the bars, of all names of it."""
    found = defaultdict(set)
    for row in rows:
        if row["Compound InChIKey"]:
            found[row["Compound InChIKey"]] |= set(row["Compound MoA"].split("|")) - {
                "",
                "Unknown target Unknown_MoA",
            }
    return dict(found)


@pytest.mark.slow
def test_the_published_counts(path):
    table = read_annotation(path)
    assert (
        len(table) == 317_430 and table.plate.nunique() == 1_199 and table.control.sum() == 33_568
    )
    assert (
        table.name.nunique() == 1_177
        and table.reporter_line.nunique() == 15
        and table.well.nunique() == 308
    )
    assert (
        sorted(table.concentration.dropna().unique()) == [0.3, 1.0, 3.0, 9.0]
        and table.moa.nunique() == 293
    )
    assert (
        table.experiment.nunique() == 67
        and (table.groupby("plate", observed=True).experiment.nunique() == 1).all()
    )
    pairs = channel_meaning(table).pivot(index="reporter_line", columns="channel", values="shows")
    assert len(pairs) == 15 and set(pairs.ch1) == {"Nuclei/Cytoplasm"}
    assert all(
        line.split("-", 1)[1] == f"{green}-{red}"
        for line, green, red in pairs[["ch2", "ch3"]].itertuples()
    )


@pytest.mark.slow
def test_compounds_are_joined_by_inchikey(path, truth):
    found = compounds(read_annotation(path))
    assert (
        len(found) == 1_174
        and set(found["compound"]) == set(truth)
        and found.n.sum() == 317_430 - 33_568
    )
    shared = found[found.name.str.contains("; ")].set_index("name")
    assert list(shared.index) == [
        "Quinidine hydrochloride monohydrate; quinidine",
        "Aminophylline; theophylline",
    ]
    assert (shared.raw.map(len) == 1).all(), "one name of the two has its MoA"


@pytest.mark.slow
def test_every_string_is_in_the_curated_table_and_no_other(path):
    assert set(read_moa_table().moas_of) == set(read_annotation(path).moa.cat.categories) - {""}
    assert len(read_moa_table().moas_of) == 292


def test_a_string_keeps_its_mechanisms_and_their_direction():
    """Spellings meet; no mechanism is lost, and none changes sides."""
    for raw, moas in read_moa_table().moas_of.items():
        parts = [] if raw == "Unknown target Unknown_MoA" else raw.split("|")
        assert len(moas) == len(parts), raw
        for part, moa in zip(parts, moas, strict=True):
            assert ("antagonist" in moa) == ("antagonist" in part), (part, moa)
            assert ("agonist" in moa) == ("agonist" in part or "receptor activator" in part), (
                part,
                moa,
            )


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_unlabelled_is_never_negative(path, truth, task):
    known, classes = get_competition(task).known_compounds(path)
    assert (
        set(known["compound"]) == {key for key, moas in truth.items() if moas}
        and len(known) == 1_005
    )
    labels = dict(zip(known["compound"], known["labels"], strict=True))
    if task == "idr0088_gpcr":
        positive = {key for key, moas in truth.items() if any(GPCR.fullmatch(moa) for moa in moas)}
        assert (
            classes == ("GPCR agonist",)
            and {key for key, found in labels.items() if found} == positive
        )
        assert len(positive) == 63
    else:
        counts = Counter(label for found in labels.values() for label in found)
        assert (
            len(classes) == 132
            and min(counts.values()) == MIN_COMPOUNDS == 3
            and list(classes) == sorted(classes, key=str.casefold)
        )
        assert not any("nactive" in name or "nknown" in name for name in classes)
        # as the table writes them
        same = (
            "HDAC inhibitor",
            "Voltage-gated sodium channel blocker",
            "Microtubule inhibitor",
            "CDK inhibitor",
        )
        assert {name: counts[classes.index(name)] for name in same} == {
            name: sum(name in moas for moas in truth.values()) for name in same
        }
        assert sum(len(found) == 0 for found in labels.values()) == 61


@pytest.mark.slow
def test_two_mechanisms_a_compound(path):
    known, classes = get_competition("idr0088_moa").known_compounds(path)
    named = {
        name: {classes[label] for label in labels}
        for name, labels in zip(known.name, known["labels"], strict=True)
    }
    assert named["CMPD-1"] == {"p38 MAPK inhibitor", "Microtubule inhibitor"}
    # adenosine receptor antagonists are one compound
    assert named["Aminophylline; theophylline"] == {"Phosphodiesterase inhibitor"}
    assert named["ergotamine"] == {
        "Alpha-adrenergic receptor agonist",
        "Serotonin receptor agonist",
    }
    assert named["(-)-JQ1"] == set() and named["(+)-JQ1"] == {"Bromodomain inhibitor"}
    assert (known.moa.str.count("; ") > 0).sum() == 180


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_committed_folds_hold_whole_compounds_out(path, task):
    known, classes = get_competition(task).known_compounds(path)
    table = pd.read_csv(REPOSITORY / "folds" / f"{task}.csv", dtype=str, keep_default_na=False)
    assert table["compound"].is_unique and set(table["compound"]) == set(known["compound"]), (
        "no compound in two folds, none without"
    )
    assert (table.groupby(table["compound"].str[:14]).fold.nunique() == 1).all(), (
        "no stereoisomer in two folds"
    )
    told = table.set_index("compound")
    for row in known.itertuples():
        assert (told.label[row.compound], int(told.n[row.compound])) == (
            "+".join(map(str, row.labels)),
            row.n,
        )
    found = balance(table, classes)
    sizes = found.drop_duplicates("fold")
    assert (
        list(sizes.fold) == [0, 1, 2, 3, 4]
        and sizes.compounds.between(200, 202).all()
        and sizes.wells.sum() == 243_207
    )
    spread = found.groupby("class").positives.agg(["min", "max", "sum"])
    assert (spread["max"] - spread["min"] <= 2).all() and (
        spread["min"][spread["sum"] >= 8] >= 1
    ).all()
    if task == "idr0088_gpcr":
        assert (
            found.positives.tolist() == [13, 12, 13, 12, 13]
            and found.prevalence.between(0.0597, 0.0648).all()
        )
    printed = balance_table(table, classes).splitlines()
    assert len(printed) == 1 + len(classes) + 2 and printed[-2].split() == [
        "(compounds)",
        *map(str, sizes.compounds),
        "1005",
    ]


@pytest.mark.slow
def test_samples_of_the_real_table(path, rows, tmp_path):
    """Wells of a known compound, of its salt without a MoA, of an unlabelled one and of DMSO, by an
    `images.csv`.
    """
    wanted = {"theophylline", "Aminophylline", "Aconitine", "DMSO", "(-)-JQ1", "2-methoxyestradiol"}
    chosen = {row["Compound Name"]: row for row in rows if row["Compound Name"] in wanted}
    assert set(chosen) == wanted
    (tmp_path / FILE).symlink_to(path)
    images = [
        (row["Plate"], row["Well"], "1", "7", *(f"images/{name}{c}.png" for c in (1, 2, 3)))
        for name, row in chosen.items()
    ]
    columns = ["plate", "well", "field", "image_id", "file_ch1", "file_ch2", "file_ch3"]
    pd.DataFrame(images, columns=columns).to_csv(tmp_path / "images.csv", index=False)
    for task, expected in (("idr0088_gpcr", ()), ("idr0088_moa", (97,))):
        competition = get_competition(task)
        samples = competition.samples(tmp_path).set_index(pd.Index(list(chosen)))
        assert samples["labels"].map(repr).to_dict() == {
            "theophylline": repr(expected),
            "Aminophylline": repr(expected),
            "(-)-JQ1": "()",
            "Aconitine": "None",
            "DMSO": "None",
            "2-methoxyestradiol": "None",
        }
        hidden = samples.loc[["Aconitine", "2-methoxyestradiol"]]
        assert (hidden.split == "test").all() and hidden[["compound", "treatment"]].isna().all(
            axis=None
        )
        assert set(competition.sample_submission(tmp_path).well_id) == set(hidden.well_id)
        assert samples.role["DMSO"] == "negative_control" and samples.split["DMSO"] == "train"
        one = chosen["theophylline"]
        dose = float(one["Compound Concentration (microMolar)"])
        assert samples.treatment["theophylline"] == f"ZFXYFBGIUFBOJW-UHFFFAOYSA-N@{dose:g}"
        assert samples.cell_type["theophylline"] == one["Comment [Cell Line with Markers]"]
        assert samples.experiment["theophylline"] == one["Plate Location"].split("/")[0]
