"""The command's exit status, files and refusals; the project's own folds on real tables."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal, error_line
from house import REPOSITORY
from planted import clean_set, shared_wells

from cellsignal.audit.compounds import check_compounds
from cellsignal.audit.findings import Finding, findings_text
from cellsignal.audit.parts import Audited, Part
from cellsignal.competitions import get_competition
from cellsignal.config import load_config
from cellsignal.data.folds import FoldTable, read_fold_rows


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    clean_set(4).write(folder)
    return folder


@pytest.mark.slow
def test_strict_fails_on_warnings(clean, capsys):
    words = ("audit", "config.yaml", "--set", "predict.checkpoint=best")
    assert cellsignal(*words, cwd=clean) == 0
    assert "PASS: 0 fail, 1 warn" in capsys.readouterr().out
    assert cellsignal(*words, "--strict", cwd=clean) == 1
    assert cellsignal("audit", "config.yaml", "--strict", cwd=clean) == 0


def test_files_hold_what_is_printed(clean, capsys):
    for name in ("a.json", "a.csv"):
        assert cellsignal("audit", "config.yaml", "--out", name, cwd=clean) == 0
    out = capsys.readouterr().out
    content = json.loads((clean / "a.json").read_text())
    with open(clean / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert content["passed"] is True and content["competition"] == "rxrx1"
    assert [row["check"] for row in rows] == [f["check"] for f in content["findings"]]
    assert len(rows) == sum(content["counts"].values()) and content["counts"]["pass"] > 20
    assert {row["check"] for row in rows} == {c for c in {r["check"] for r in rows} if c in out}


def test_every_rung_of_the_ladder_is_measured(clean):
    assert cellsignal("audit", "config.yaml", "--out", "l.json", cwd=clean) == 0
    findings = json.loads((clean / "l.json").read_text())["findings"]
    rungs = {f["part"]: f for f in findings if f["check"] == "ladder"}
    assert list(rungs) == ["image", "well", "plate", "experiment", "compound", "as split"]
    assert all(f["severity"] == "pass" and f["count"] > 0 for f in rungs.values())


@pytest.mark.slow
def test_without_a_store_the_tables_are_checked(clean, capsys, prepared):
    space = prepared("rxrx1")
    words = ("audit", "config.yaml", "--set", "data.store=absent")
    assert cellsignal(*words, cwd=space.folder) == 0
    out = capsys.readouterr().out
    assert "needs images: there is no store absent" in out and "shared experiments" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "a.txt"), "--out a.txt: write a name that ends in .json or .csv"),
        (("--images", "1"), "--images 1: at least 2"),
        (("--split", "absent.csv"), "absent.csv"),
        (("--split", "wrong.csv"), "wrong.csv: row 3: part 'validation' is none of"),
        (("--split", "unknown.csv"), "unknown.csv: row 2: sample_id 'nobody' is unknown"),
        (("--split", "train.csv"), "train.csv: needs rows of the part train, and of valid or test"),
        (("--compounds", "keys.csv"), "keys.csv: row 2: inchikey 'ABC' is not an InChIKey"),
        (("--compounds", "names.csv"), "names.csv: no column 'inchikey'"),
        (("--set", "folds.file=absent.csv"), "absent.csv: there is no fold table"),
        (("--set", "competition=cpjump1"), "store: is a store of 'rxrx1'"),
        (("--answers", "absent.csv"), "absent.csv"),
    ],
)
def test_bad_input_is_one_line(clean, capsys, words, said):
    ids = clean_set(4).samples.sample_id
    tables = {
        "wrong": {"sample_id": ids[:2], "part": ["train", "validation"]},
        "unknown": {"sample_id": ["nobody"], "part": ["train"]},
        "train": {"sample_id": ids[:1], "part": ["train"]},
        "keys": {"compound": ["a"], "inchikey": ["ABC"]},
        "names": {"compound": ["a"]},
    }
    for name, columns in tables.items():
        pd.DataFrame(columns).to_csv(clean / f"{name}.csv", index=False)
    if "--compounds" in words:  # looked at where folds are by compound
        words = (*words, "--set", "competition=bbbc021", "--set", "data.store=store_bbbc021")
        if not (clean / "store_bbbc021").exists():
            plates = clean_set(4, "bbbc021", "compound")
            plates.write(clean / "bbbc021")
            (clean / "bbbc021" / "store").rename(clean / "store_bbbc021")
            plates.folds.to_csv(clean / "by_compound.csv", index=False)
        words = (*words, "--set", "folds.file=by_compound.csv")
    assert said in error_line(capsys, "audit", "config.yaml", *words, cwd=clean)


@pytest.mark.slow
def test_the_price_of_shared_wells_is_shown(tmp_path, capsys):
    plates = clean_set(4)
    shared_wells(plates)
    assert cellsignal(*plates.write(tmp_path), cwd=tmp_path) == 1
    out = capsys.readouterr().out
    assert out.index("fail ") < out.index("pass ") and "what to do: deal whole wells" in out


def test_parts_that_passed_alike_share_a_line():
    rows = [Finding("a", f"fold {k}", "pass", k, f"{k} wells, none shared") for k in range(3)]
    rows.append(Finding("b", "fold 0", "fail", 2, "two", ("x",), "mend it"))
    text = findings_text(rows)
    assert "3 parts" in text and "what to do: mend it" in text and text.count("none shared") == 1
    scores = [Finding("a", f"fold {k}", "pass", k, f"scores 0.{k}") for k in range(3)]
    assert findings_text(scores).count("scores") == 3


# real tables
# --------------------------------------------------------------------------------------------------


REAL = (
    ("rxrx1/two_stage_resnet50", "rxrx1", "rxrx1", "[3]"),
    ("rxrx1/first_place_densenet161", "rxrx1", "rxrx1_first_place", "[0]"),
    ("bbbc021/resnet10", "bbbc021/subset", "bbbc021", "null"),
    ("bbbc021/resnet10", "bbbc021/subset", "bbbc021_well", "null"),
    ("bbbc021_full/kensert_resnet50", "bbbc021", "bbbc021_full", "[0, 1]"),
)


@pytest.mark.real_data
@pytest.mark.parametrize(("recipe", "root", "folds", "use"), [REAL[0], REAL[3]])
@pytest.mark.slow
def test_the_projects_own_folds_pass(real_data, recipe, root, folds, use, tmp_path, capsys):
    _audit_own_folds(real_data / root, recipe, folds, use, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(("recipe", "root", "folds", "use"), REAL)
def test_all_of_the_projects_own_folds_pass(real_data, recipe, root, folds, use, tmp_path, capsys):
    _audit_own_folds(real_data / root, recipe, folds, "null", tmp_path, capsys)


def _audit_own_folds(root, recipe, folds, use, tmp_path, capsys):
    words = [f"data.root={root}", f"folds.file={REPOSITORY}/folds/{folds}.csv", f"folds.use={use}"]
    words = [word for change in words for word in ("--set", change)]
    status = cellsignal("audit", REPOSITORY / f"configs/{recipe}.yaml", *words, cwd=tmp_path)
    out = capsys.readouterr().out
    assert status == 0 and "PASS: 0 fail" in out and "needs images" in out
    # known of the real plates: HUVEC-07 is RPE-03, one plate on
    known = folds.startswith("rxrx1") and use != "[0]"
    assert ("HUVEC-07 1 repeats RPE-03 2: 277 of 277 wells" in out) == known


@pytest.mark.parametrize("name", ["idr0088_moa", "idr0088_gpcr"])
def test_no_stereoisomer_crosses_the_folds_of_idr0088(name):
    """The committed tables deal 1,174 InChIKeys; two swapped rows would be seen."""
    competition = get_competition(name)
    recipe = next((REPOSITORY / "configs" / name).glob("*.yaml"))
    rows = read_fold_rows(REPOSITORY / "folds" / f"{name}.csv")
    severities = []
    for table in (rows, _one_moved(rows)):
        samples = pd.DataFrame({"compound": table["compound"].to_numpy(object)})
        fold = table.fold.to_numpy()
        parts = tuple(
            Part(f"fold {k}", "validation", *map(np.flatnonzero, (fold != k, fold == k)))
            for k in sorted(set(fold))
            if k >= 0
        )
        folds = FoldTable("compound", table)
        config = load_config(recipe)
        audited = Audited(
            competition, config, samples, parts, "compound", "compound", None, "", folds
        )
        found = [f for f in check_compounds(audited) if f.check == "stereoisomers"]
        severities.append({f.severity for f in found})
    assert severities == [{"pass"}, {"pass", "fail"}]


def _one_moved(rows):
    """Move one of two stereoisomers to another fold."""
    skeleton = rows["compound"].str[:14]
    row = rows.index[skeleton.duplicated()][0]
    moved = rows.copy()
    moved.loc[row, "fold"] = (moved.loc[row, "fold"] + 1) % 3
    return moved
