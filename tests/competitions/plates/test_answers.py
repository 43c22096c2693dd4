"""Labels of hidden wells: from the platemap to answers, and never to training."""

import re

import pandas as pd
import pytest
import yaml
from helpers import cellsignal, error_line

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.plates.answers import answers_of_platemap


@pytest.fixture(params=["plates", "plates_multi_label"])
def told(request, simulated, tmp_path):
    """A copy whose platemap tells what the hidden wells got, and the answers of the original."""
    source, root = simulated(request.param), tmp_path / "told"
    root.mkdir()
    for folder in source.glob("P0*"):
        (root / folder.name).symlink_to(folder)
    (root / "plates.yaml").write_bytes((source / "plates.yaml").read_bytes())
    competition = get_competition(request.param)
    answers = competition.answers(answers_path(source)).set_index("well_id")
    table = pd.read_csv(source / "platemaps.csv", dtype=str, keep_default_na=False)
    assert (table.moa[table.role == "test"] == "").all()
    if request.param == "plates":
        labels = answers.label
    else:
        moas = [name for name in answers if name.startswith("moa")]
        labels = answers[moas].apply(lambda row: "|".join(row.index[row == 1]), axis=1)
    wells = table.plate + "_" + table.well
    table["moa"] = table.moa.where(table.role != "test", wells.map(labels))
    table.to_csv(root / "platemaps.csv", index=False)
    return competition, root, source


def test_the_platemap_tells_the_answers_and_training_does_not_hear_them(told, tmp_path, capsys):
    competition, root, source = told
    pd.testing.assert_frame_equal(competition.samples(root), competition.samples(source))
    assert competition.classes(root) == competition.classes(source)
    out = tmp_path / "answers.csv"
    words = ("profiles", "answers", competition.id, "--root", root, "--out", out)
    assert cellsignal(*words, cwd=tmp_path) == 0
    columns = ["well_id", *answers_of_platemap(root).columns[1:]]
    expected = competition.answers(answers_path(source))[columns]
    found = competition.answers(out)[columns]
    pd.testing.assert_frame_equal(
        found.sort_values("well_id", ignore_index=True),
        expected.sort_values("well_id", ignore_index=True),
    )
    assert f"{len(found)} answers, for scoring alone: {out}" in capsys.readouterr().out


def test_hidden_wells_without_an_answer_are_counted(told, tmp_path, caplog):
    competition, root, _ = told
    whole = len(answers_of_platemap(root))
    table = pd.read_csv(root / "platemaps.csv", dtype=str, keep_default_na=False)
    first, second = table.index[table.role == "test"][:2]
    table.loc[first, "moa"], table.loc[second, "moa"] = "", "never seen"
    table.to_csv(root / "platemaps.csv", index=False)
    caplog.clear()
    assert len(answers_of_platemap(root)) == whole - 2
    assert f"1 of {whole} hidden wells have no label in the platemap" in caplog.text
    assert f"1 of {whole} hidden wells have a label that no training well has" in caplog.text
    assert f"first {table.plate[second]}_{table.well[second]} (never seen)" in caplog.text
    table.loc[table.role == "test", "moa"] = ""
    table.to_csv(root / "platemaps.csv", index=False)
    with pytest.raises(InputError, match=rf"none of {whole} hidden wells has a label"):
        competition.published_answers(root)


def test_without_hidden_wells_there_is_nothing_to_answer(simulated, tmp_path):
    source = simulated("plates")
    tree = yaml.safe_load((source / "plates.yaml").read_text())
    tree["images"]["root"], tree["platemap"] = str(source), str(source / "platemaps.csv")
    del tree["hidden"]
    (tmp_path / "plates.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(InputError, match="no well is hidden, so there is nothing to answer"):
        answers_of_platemap(tmp_path)


def test_a_platemap_is_no_answers(told, tmp_path, capsys):
    competition, root, _ = told
    sheet = tmp_path / "layout.xlsx"
    pd.read_csv(root / "platemaps.csv", dtype=str).to_excel(sheet, index=False)
    for path in (sheet, root / "platemaps.csv"):
        with pytest.raises(InputError, match=re.escape(str(path))) as refused:
            competition.answers(path)
        text = str(refused.value)
        assert "a CSV with the columns well_id (PLATE_WELL) and " in text and "\n" not in text
        assert "`cellsignal profiles answers` writes them" in text
    config = {"competition": competition.id, "data": {"root": str(root), "store": "store"}}
    config |= {"name": "x", "folds": {"file": "folds.csv"}, "stages": [{"name": "a", "epochs": 1}]}
    config["model"] = {"backbone": "test_resnet"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    line = error_line(capsys, "run", "config.yaml", "--answers", sheet, cwd=tmp_path)
    assert line.startswith(f"{sheet}: is no table of answers")
    assert not (tmp_path / "store").exists()
