"""What the commands on data print and write beside what their modules make."""

from pathlib import Path

import pandas as pd
import pytest
from helpers import cellsignal

from cellsignal.cli import main
from cellsignal.competitions import get_competition


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


@pytest.mark.parametrize("own", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_verify_names_the_config_that_reads_the_root(prepared, tmp_path, capsys, monkeypatch, own):
    space = prepared("plates")
    monkeypatch.chdir(space.folder if own else tmp_path)
    assert main(["verify", "plates", "--root", str(space.root)]) == 0
    expected = "cellsignal prepare config.yaml"
    if not own:
        expected = "write a config (docs/own_plates.md, section 3)"
    assert f"next: {expected}\n" in capsys.readouterr().err


def test_prepare_asks_for_folds_only_where_there_are_none(prepared, tmp_path, capsys, monkeypatch):
    space = prepared("plates").copy(tmp_path / "space")
    monkeypatch.chdir(space.folder)
    assert main(["prepare", "config.yaml"]) == 0
    assert "next: cellsignal train config.yaml" in capsys.readouterr().err
    Path("folds.csv").unlink()
    assert main(["prepare", "config.yaml"]) == 0
    assert "next: cellsignal folds plates --root" in capsys.readouterr().err
