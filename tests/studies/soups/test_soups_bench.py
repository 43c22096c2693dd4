"""The study in small: its figures against what its runs wrote."""

import numpy as np
import pandas as pd
import pytest
import torch

from cellsignal.prediction.container import load_predictions
from cellsignal.studies.soups.bench import Study, measure
from cellsignal.studies.soups.rows import ROWS
from cellsignal.training.checkpoints import load_checkpoint

TINY = {"classes": 8, "controls": 1, "size": 24, "train_experiments": 2, "test_experiments": 1}
TINY |= {"sites": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    work = tmp_path_factory.mktemp("soups")
    return work / "epochs6_seed1", measure(1, 6, work, TINY)


def logits(folder, run: str, seed: int = 3) -> pd.DataFrame:
    """The log-probabilities of test wells; there is one site and one view."""
    made = load_predictions(folder / f"runs/{run}/seed{seed}/predictions/fold0_all.npz")
    kept = made.ids["part"] == "test"
    values = torch.from_numpy(made.logits("identity")[kept].astype(np.float32))
    return pd.DataFrame(values.log_softmax(1).numpy(), index=made.ids["target_id"][kept])


def share_right(folder, *runs) -> float:
    """The accuracy of the mean of some runs' log-probabilities, by the simulator's answers."""
    answers = pd.read_csv(folder / "raw.answers.csv").set_index("id_code")["sirna"]
    mean = sum(logits(folder, *run).sort_index() for run in runs)
    return float((mean.to_numpy().argmax(1) == answers.loc[mean.index].to_numpy()).mean())


@pytest.mark.slow
def test_rows_are_those_of_loops_over_what_the_runs_wrote(place):
    folder, record = place
    assert set(record["rows"]) == set(ROWS) and len(record["units"]) == 32
    plain = {name: np.mean(values["plain"]) for name, values in record["rows"].items()}
    members = [("tuned", 3), ("tuned", 4), ("tuned", 5)]
    wanted = {
        "one": share_right(folder, ("one",)),
        "cycles_last": share_right(folder, ("snap_e6",)),
        "cycles_mean": share_right(folder, ("snap_e4",), ("snap_e5",), ("snap_e6",)),
        "tuned_alone": np.mean([share_right(folder, member) for member in members]),
        "tuned_mean": share_right(folder, *members),
        "tuned_uniform": share_right(folder, ("tuned_uniform",)),
    }
    assert {name: plain[name] for name in wanted} == pytest.approx(wanted)


@pytest.mark.slow
def test_soups_are_the_means_of_the_members_they_name(place):
    folder, record = place

    def weights(run, seed=3, file="last"):
        path = folder / f"runs/{run}/seed{seed}/fold0/all/all/{file}.pt"
        return next(w for w in load_checkpoint(path)["model"].values() if w.ndim == 4)

    tuned = [weights("tuned", seed) for seed in (3, 4, 5)]
    assert not torch.equal(tuned[0], tuned[1])
    torch.testing.assert_close(weights("tuned_uniform"), torch.stack(tuned).mean(0))
    kept = [weights("cycles", file=f"snapshot_{epoch:04d}") for epoch in (4, 5, 6)]
    torch.testing.assert_close(weights("snap_uniform"), torch.stack(kept).mean(0))
    assert "one/seed4: began with other weights than one/seed3" in record["refused"]


@pytest.mark.slow
def test_a_second_call_trains_nothing_and_finds_the_same(place, monkeypatch):
    folder, record = place
    (folder / "record.json").unlink()
    monkeypatch.setattr(
        "cellsignal.studies.soups.bench.separate_runs", lambda *_: pytest.fail("made again")
    )
    files = sorted(folder.rglob("*.pt"))
    before = [file.stat().st_mtime_ns for file in files]
    again = Study(folder, 1, 6, TINY).record()
    assert {**again, "seconds": 0} == {**record, "seconds": 0}
    assert [file.stat().st_mtime_ns for file in sorted(folder.rglob("*.pt"))] == before
