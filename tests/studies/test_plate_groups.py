"""The benchmark of plate groups measures what it says, on a small simulated copy."""

import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal

from cellsignal.studies import plate_groups

pytestmark = pytest.mark.slow


def test_a_strong_signal_is_all_right_and_none_is_not_reported(
    simulated, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(plate_groups, "SIGNALS", (0.01, 50.0))
    table = plate_groups.bench_plate_groups(simulated("rxrx1"), seeds=2, every=1)
    assert table.logits.tolist() == [*plate_groups.SURENESS, "labels only", "plate effects"] * 2
    assert (table.right + table.wrong + table.unsure).to_numpy() == pytest.approx(np.ones(14))
    none, strong = table[table.signal == 0.01], table[table.signal == 50.0]
    assert (none.right + none.wrong < 0.3).all() and (none.ours < 0.5).all()
    columns = [
        "argmax",
        "first",
        "ours",
        "best",
        "first_argmax",
        "ours_argmax",
        "best_argmax",
        "first_right",
        "right",
    ]
    assert (strong[columns] == 1).all().all()
    rescaled = table[table.logits.isin([*plate_groups.SURENESS])].groupby("signal")
    assert (rescaled.ours.max() - rescaled.ours.min() < 0.01).all()
    monkeypatch.setattr(plate_groups, "SIGNALS", (50.0,))
    assert (
        cellsignal(
            "study", "plate-groups", "--root", simulated("rxrx1"), "--seeds", 1, cwd=tmp_path
        )
        == 0
    )
    assert "wrong of the reported groups, all rows: 0.0000" in capsys.readouterr().out


def test_the_share_of_wrong_groups_by_hand():
    table = pd.DataFrame(
        {
            "signal": [1.0, 2.0],
            "logits": ["a", "b"],
            "right": [0.6, 0.2],
            "wrong": [0.1, 0.1],
            "unsure": [0.3, 0.7],
        }
    )
    for column in (
        "argmax",
        "first",
        "ours",
        "best",
        "first_argmax",
        "ours_argmax",
        "best_argmax",
        "first_right",
    ):
        table[column] = 0.5
    assert plate_groups.plate_groups_text(table).endswith(
        "wrong of the reported groups, all rows: 0.2000"
    )
