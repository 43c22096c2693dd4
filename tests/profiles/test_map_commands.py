"""The map protocols as commands, on tables of simulated RxRx1 phenotypes with planted relations."""

import re

import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal, error_line

from cellsignal.simulation.phenotypes import effect, experiment_response, well_effect
from cellsignal.simulation.plates import WELLS

GENES, COMPLEXES, SIZE = 90, 15, 3


def embeddings(likeness: float) -> pd.DataFrame:
    """What a perfect network would see: the effects in each well of four experiments."""
    rows = []
    for number in range(4):
        experiment = f"HUVEC-{number:02d}"
        response = experiment_response(0, experiment)
        wells = np.random.default_rng(number).permutation(WELLS)
        for label in range(GENES + 12):
            treated = label < GENES
            group = label // SIZE if label < COMPLEXES * SIZE else None
            units = effect(0, label, "HUVEC", group, likeness) if treated else np.zeros(23)
            seen = well_effect(0, units, response, (experiment, 1), wells[label])
            name = f"g{label:03d}" if treated else "EMPTY"
            rows.append((experiment, experiment, wells[label], name, *seen))
    columns = ["Metadata_Plate", "Metadata_Batch", "Metadata_Well", "Metadata_Gene"]
    return pd.DataFrame(rows, columns=[*columns, *(f"e{n}" for n in range(23))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    embeddings(0.8).to_csv(folder / "alike.csv", index=False)
    embeddings(0.0).to_csv(folder / "apart.csv", index=False)
    pairs = [(a, b) for a in range(45) for b in range(a + 1, 45) if a // SIZE == b // SIZE]
    named = pd.DataFrame(pairs, columns=["entity1", "entity2"]).map(lambda n: f"g{n:03d}")
    named.to_csv(folder / "planted.csv", index=False)
    others = np.random.default_rng(0).permutation(GENES)
    shuffled = pd.DataFrame(others[np.array(pairs)], columns=["entity1", "entity2"])
    shuffled.map(lambda n: f"g{n:03d}").to_csv(folder / "shuffled.csv", index=False)
    return folder


def rows_of(text: str) -> dict[tuple[str, str], list[str]]:
    """The lines of a table by their first two cells, which are two blanks or more apart."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return {(cells[0], cells[1]): cells[2:] for cells in lines if len(cells) > 4}


def relations(folder, capsys, *words) -> dict[tuple[str, str], list[str]]:
    capsys.readouterr()
    names = ("--features", "e", "--relations", "planted.csv", "shuffled.csv", "--draws", "400")
    assert cellsignal("profiles", "relations", "--table", *words, *names, cwd=folder) == 0
    return rows_of(capsys.readouterr().out)


def test_planted_relations_are_found_and_shuffled_ones_are_at_chance(folder, capsys):
    rows = relations(folder, capsys, "alike.csv", "--out", "pairs.csv")
    genes, pairs, recall, *_, p = rows["planted", "alike.csv"]
    assert (genes, pairs) == ("45", "45") and float(recall) > 0.8 and float(p) < 0.005
    for name in ("names exchanged", "random profiles"):
        assert float(rows["planted", name][2]) == pytest.approx(0.1, abs=0.03)
    assert float(rows["planted", "position only"][-1]) > 0.01
    shuffled = rows["shuffled", "alike.csv"]
    assert float(shuffled[2]) < 0.3 and float(shuffled[-1]) > 0.01
    table = pd.read_csv(folder / "pairs.csv", keep_default_na=False)
    own = table[table.relations == "planted"]
    assert (own.recalled != "").mean() == pytest.approx(float(recall), abs=5e-4)
    apart = relations(folder, capsys, "apart.csv")
    assert float(apart["planted", "apart.csv"][-1]) > 0.01


def test_the_steps_and_the_map_can_be_chosen(folder, capsys):
    words = ("alike.csv", "--steps", "tvn", "--by", "experiment", "--aggregate", "median")
    dropped = relations(folder, capsys, *words, "--drop-genes", "g000", "--thresholds", ".1", ".9")
    genes, pairs, recall, *_ = dropped["planted", "alike.csv"]
    assert (genes, pairs) == ("44", "43") and float(recall) > 0.8
    assert float(dropped["planted", "random profiles"][2]) == pytest.approx(0.2, abs=0.04)


def test_replicates_are_consistent_and_exchanged_wells_are_not(folder, capsys):
    words = ("--table", "alike.csv", "--features", "e", "--sets", "400", "--out", "genes.csv")
    assert cellsignal("profiles", "consistency", *words, cwd=folder) == 0
    text = capsys.readouterr().out
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    shares = {cells[0]: float(cells[3]) for cells in lines if len(cells) > 5 and cells[1] == "90"}
    assert shares["alike.csv"] > 0.9
    assert shares["shuffled labels"] < 0.15 and shares["position only"] < 0.15
    table = pd.read_csv(folder / "genes.csv")
    assert (table.groupby("profiles").size() == 90).all()


def test_compounds_find_their_targets(folder, capsys):
    """Each compound looks as its target does, weakly at the low concentration."""
    frame = pd.read_csv(folder / "alike.csv").assign(Metadata_Perturbation="crispr")
    frame["Metadata_Concentration"] = frame["Metadata_Compound"] = ""
    features = [f"e{n}" for n in range(23)]
    rows = []
    for number, gene in enumerate(range(60, 80)):
        target = frame[frame.Metadata_Gene == f"g{gene:03d}"].iloc[0]
        control = frame[
            (frame.Metadata_Gene == "EMPTY") & (frame.Metadata_Plate == target.Metadata_Plate)
        ]
        for dose, share in (("0.1", 0.02), ("10", 0.8)):
            row = target.copy()
            base = control[features].mean()
            row[features] = (
                base
                + share * (target[features] - base)
                + 0.1 * np.sin(np.arange(23.0) * (number + 1))
            )
            row[["Metadata_Gene", "Metadata_Compound"]] = "", f"c{number}"
            row[["Metadata_Concentration", "Metadata_Perturbation"]] = dose, "compound"
            row["Metadata_Well"] = f"P{1 + number:02d}" if dose == "10" else f"A{1 + number:02d}"
            rows.append(row)
    pd.concat([frame, pd.DataFrame(rows)]).to_csv(folder / "both.csv", index=False)
    known = [(f"c{n}", f"g{60 + n:03d}", 10) for n in range(20)] + [
        ("x", f"g{n:03d}", 1) for n in range(90)
    ]
    names = ["treatment", "gene_symbol", "nM_value"]
    pd.DataFrame(known, columns=names).to_csv(folder / "known.csv", index=False)
    columns = ("--columns", "treatment=Metadata_Compound", "--controls", "Gene=EMPTY")
    words = ("--table", "both.csv", "--features", "e", "--interactions", "known.csv", *columns)
    capsys.readouterr()
    assert cellsignal("profiles", "activity", *words, "--out", "ap.csv", cwd=folder) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["10", "both.csv"][0] == "20"
    high, low = (float(rows[dose, "both.csv"][1]) for dose in ("10", "0.1"))
    chance = float(rows["10", "both.csv"][-3])
    assert high > 0.8 and high > low
    assert float(rows["10", "random profiles"][1]) == pytest.approx(chance, abs=0.15)
    assert float(rows["max", "both.csv"][1]) > 0.5
    assert set(pd.read_csv(folder / "ap.csv", dtype=str).concentration) == {"0.1", "10", "max"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("relations", "--relations", "absent.csv"), "absent.csv: no such file"),
        (("relations", "--relations", "other.csv"), "none of its 1 pairs"),
        (("relations", "--relations", "planted.csv", "--thresholds", ".9", ".1"), "--thresholds"),
        (("relations", "--relations", "planted.csv", "--drop-genes", "X"), "X: is neither a gene"),
        (("consistency", "--null-genes", "g001", "g0011"), "g0011: is neither a gene"),
        (("relations", "--relations", "planted.csv", "--components", "0"), "--components"),
        (("relations", "--relations", "planted.csv", "--draws", "0"), "--draws: at least 1"),
        (("consistency", "--sets", "3"), "--sets 3"),
        (("consistency", "--null-genes", "g001", "g002"), "2 perturbations of the null"),
        (("activity", "--interactions", "planted.csv"), "no column of the compound"),
        (("activity", "--interactions", "known2.csv"), "no well is of a compound"),
        (("activity", "--interactions", "known2.csv", "--active", "0"), "--active 0"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(folder, capsys, words, message):
    (folder / "other.csv").write_text("entity1,entity2\nX,Y\n")
    (folder / "known2.csv").write_text("treatment,gene_symbol,nM_value\na,g001,1\n")
    line = error_line(
        capsys,
        "profiles",
        *words,
        "--table",
        "alike.csv",
        "--features",
        "e",
        "--out",
        "no.csv",
        cwd=folder,
    )
    assert message in line and not (folder / "no.csv").exists()
