"""What the commands on data print and write beside what their modules make."""

from pathlib import Path

import pandas as pd
import pytest
from helpers import cellsignal

from cellsignal.cli import main
from cellsignal.competitions import get_competition
from cellsignal.data.commands import SHOWN, folds_text


def test_a_long_fold_table_is_printed_in_25_lines():
    rows = [
        (fold, f"compound{fold}_{number}", 3) for fold in (-2, -1, 0, 1) for number in range(40)
    ]
    table = pd.DataFrame(rows, columns=["fold", "compound", "n"])
    text = folds_text(table)
    assert len(text.splitlines()) <= 25
    lines = [line.split() for line in text.splitlines()]
    assert lines[0][:4] == ["fold", "compounds", "rows", "n"]
    assert lines[-1] == ["1", "40", "40", "120", "compound1_0"]
    assert "kept for the test" in text and "in training alone" in text
    assert "compound0_3" in folds_text(table[table.fold == 0].head(10))


def test_a_fold_table_is_printed_by_row_up_to_its_limit():
    rows = [(number % 2, f"plate{number:02d}") for number in range(SHOWN + 1)]
    table = pd.DataFrame(rows, columns=["fold", "plate"])
    by_row = folds_text(table.head(SHOWN)).splitlines()
    assert len(by_row) == SHOWN + 1 and by_row[-1].split() == ["0", f"plate{SHOWN - 1:02d}"]
    by_fold = [line.split() for line in folds_text(table).splitlines()]
    assert by_fold == [
        ["fold", "plates", "rows", "first"],
        ["0", "8", "8", "plate00"],
        ["1", "8", "8", "plate01"],
    ]


def test_samples_writes_what_is_asked_for_and_nothing_else(simulated, tmp_path, capsys):
    root = simulated("plates")
    words = ("samples", "plates", "--root", root)
    assert cellsignal(*words, cwd=tmp_path) == 0
    assert not list(tmp_path.iterdir())
    shown = capsys.readouterr().out
    table = get_competition("plates").samples(root)
    assert f"{len(table)} sites of {table.well_id.nunique()} wells" in shown
    assert cellsignal(*words, "--out", "table.csv", cwd=tmp_path) == 0
    written = pd.read_csv(tmp_path / "table.csv", dtype=str)
    assert written.sample_id.tolist() == table.sample_id.tolist()
    assert written.files.tolist() == [" ".join(files) for files in table.files]
    left_out = get_competition("plates").left_out(root)
    expected = {"table.csv"} | ({"table.left_out.csv"} if left_out else set())
    assert {path.name for path in tmp_path.iterdir()} == expected
    assert capsys.readouterr().out.splitlines()[-1] == sorted(expected)[0]


@pytest.mark.parametrize("own", [True, False])
def test_verify_names_the_config_that_reads_the_root(prepared, tmp_path, capsys, monkeypatch, own):
    space = prepared("plates")
    monkeypatch.chdir(space.folder if own else tmp_path)
    assert main(["verify", "plates", "--root", str(space.root)]) == 0
    expected = "config.yaml" if own else "CONFIG.yaml"
    assert f"next: cellsignal prepare {expected}\n" in capsys.readouterr().err


def test_prepare_asks_for_folds_only_where_there_are_none(prepared, tmp_path, capsys, monkeypatch):
    space = prepared("plates").copy(tmp_path / "space")
    monkeypatch.chdir(space.folder)
    assert main(["prepare", "config.yaml"]) == 0
    assert "next: cellsignal train config.yaml" in capsys.readouterr().err
    Path("folds.csv").unlink()
    assert main(["prepare", "config.yaml"]) == 0
    assert "next: cellsignal folds plates --root" in capsys.readouterr().err
