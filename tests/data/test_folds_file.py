"""A fold table is never replaced by another one without a word."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from helpers import cellsignal

from cellsignal.competitions import competition_ids
from cellsignal.data.folds import bring_folds_up_to_date
from cellsignal.simulation.output import MARKER


def real_copy(root: Path, place: Path) -> Path:
    """A copy that does not say that it is simulated."""
    shutil.copytree(root, place)
    (place / MARKER).unlink()
    return place


@pytest.mark.parametrize("name", competition_ids())
def test_a_simulated_copy_asks_for_out(simulated, tmp_path, name, capsys, caplog):
    table = tmp_path / "folds" / f"{name}.csv"
    table.parent.mkdir()
    table.write_text("the published table")
    assert cellsignal("folds", name, "--root", simulated(name), "--splits", 2, cwd=tmp_path) == 2
    assert "is a simulated copy" in capsys.readouterr().err + caplog.text
    assert table.read_text() == "the published table"
    assert (
        cellsignal(
            "folds",
            name,
            "--root",
            simulated(name),
            "--splits",
            2,
            "--out",
            "mine.csv",
            cwd=tmp_path,
        )
        == 0
    )
    assert (tmp_path / "mine.csv").is_file() and table.read_text() == "the published table"


def test_another_table_is_replaced_by_force_alone(simulated, tmp_path, capsys, caplog):
    root = real_copy(simulated("rxrx1"), tmp_path / "raw")
    table = tmp_path / "folds" / "rxrx1.csv"

    def folds(*more):
        return cellsignal("folds", "rxrx1", "--root", root, "--splits", 2, *more, cwd=tmp_path)

    assert folds() == 0
    first = table.read_bytes()
    assert folds() == 0 and table.read_bytes() == first, "the same table may be written again"
    other = next(seed for seed in range(1, 20) if _table(folds, seed, tmp_path) != first)
    assert folds("--seed", other) == 2 and table.read_bytes() == first
    assert "--force" in capsys.readouterr().err + caplog.text
    assert folds("--seed", other, "--force") == 0 and table.read_bytes() != first


def _table(folds, seed: int, place: Path) -> bytes:
    assert folds("--seed", seed, "--out", place / f"{seed}.csv") == 0
    return (place / f"{seed}.csv").read_bytes()


def test_run_makes_its_own_table_anew_and_leaves_others_alone(simulated, tmp_path, caplog):
    root, out = simulated("rxrx1"), tmp_path / "folds.csv"

    def make(splits):
        bring_folds_up_to_date("rxrx1", root, out, splits=splits, seed=0)
        return pd.read_csv(out).fold.nunique()

    assert make(2) == 2
    mark = out.stat().st_mtime_ns
    assert make(2) == 2 and out.stat().st_mtime_ns == mark
    assert make(3) == 3
    assert "is made anew; changed: splits" in caplog.text
    out.write_text(out.read_text() + "\n")  # now it is somebody else's
    before = out.read_bytes()
    make(2)
    assert out.read_bytes() == before
    note = out.with_name("folds.csv.made_by_run.json")
    assert json.loads(note.read_text())["made_from"]["splits"] == 3
    note.unlink()
    make(2)
    assert out.read_bytes() == before
