"""The kill test in small, and that it would notice: a run that ends in other bytes, loses a
checkpoint or leaves half a file is told.
"""

import numpy as np
import pytest

from cellsignal.common.errors import InputError
from cellsignal.studies import torture, torture_run


@pytest.mark.slow
def test_killed_runs_and_full_disks_end_in_the_same_bytes(tmp_path):
    found = torture.bench_torture(tmp_path / "here", kills=4, fills=1, seed=1)
    assert sum(found.kills.values()) >= 4 and found.rounds >= 1 and found.fills == 1
    text = torture.torture_text(found)
    assert (
        text.startswith(f"{sum(found.kills.values())} kills (")
        and "1 saves onto a full disk" in text
    )


def finished(place):
    """The files that tell a run's outcome, drawn at random."""
    (place / "submissions").mkdir(parents=True)
    (place / "submissions" / "torture.csv").write_text("id,sirna\n")
    predictions = place / "runs" / "torture" / "seed0" / "predictions"
    predictions.mkdir(parents=True)
    np.savez(predictions / "fold0_second.npz", logits=np.arange(6.0))
    return place


def test_other_bytes_and_leftovers_are_told(tmp_path, monkeypatch):
    from cellsignal.data import store

    class Rows:
        samples = type("S", (), {"row": [0, 1]})

        @staticmethod
        def read(row):
            return np.full((2, 2), row, np.uint8)

    monkeypatch.setattr(store.Store, "open", lambda path: Rows)
    monkeypatch.setattr(torture, "_in_child", lambda function, *arguments: function(*arguments))
    one, other = finished(tmp_path / "one"), finished(tmp_path / "other")
    wanted = torture_run.outcome(one)
    torture._check_same(other, wanted)
    np.savez(
        other / "runs" / "torture" / "seed0" / "predictions" / "fold0_second.npz",
        logits=np.arange(6.0) + 1e-12,
    )
    with pytest.raises(
        InputError,
        match=r"other bytes than the undisturbed run: runs/torture/seed0/predictions/fold0_second\.npz",
    ):
        torture._check_same(other, wanted)
    (one / ".last.pt.x.tmp").write_text("half")
    with pytest.raises(InputError, match="1 half-written files were left behind"):
        torture._check_same(one, wanted)


def test_the_phase_is_told_by_the_files(tmp_path):
    run = tmp_path / "runs" / "torture" / "seed0"
    assert torture_run.phase_of(tmp_path) == "packing"
    for path, phase in (
        ("store/store.json", "stage 1"),
        ("runs/torture/seed0/fold0/second/x", "stage 2"),
        ("runs/torture/seed0/predictions/.x.pieces/1.npz", "predicting"),
        ("runs/torture/seed0/predictions/x.npz", "submitting"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
        assert torture_run.phase_of(tmp_path) == phase
    assert run.is_dir()


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match="is not empty"):
        torture.bench_torture(tmp_path)
