"""Snapshots: kept at the end of the schedule's cycles or of given epochs, also after a resume."""

import pytest
import torch
from tiny import make_config, stage

from cellsignal.config.stage import Stage
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.run import train

CYCLES = {"epochs": 4, "schedule": {"name": "cosine", "cycles": 2}, "snapshots": "cycles"}


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ({}, ()),
        (CYCLES, (2, 4)),
        (CYCLES | {"epochs": 7, "schedule": {"cycles": 3, "warmup_epochs": 1}}, (3, 5, 7)),
        ({"epochs": 5, "snapshots": [5, 2, 2]}, (2, 5)),
    ],
)
def test_the_epochs_of_snapshots(changes, epochs):
    assert Stage(**stage(**changes)).snapshot_epochs == epochs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"snapshots": "cycles"}, "needs schedule.cycles above 1"),
        ({"snapshots": [3]}, "epoch 3 is none of 1 .. 2"),
        (CYCLES | {"epochs": 5}, "are not 2 cycles of whole epochs"),
        ({"schedule": {"name": "onecycle", "cycles": 2}}, "cycles needs name: cosine"),
        ({"schedule": {"name": "cosine", "cycles": 2, "over_epochs": 8}}, "without over_epochs"),
    ],
)
def test_cycles_and_snapshots_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Stage(**stage(**changes))


def test_the_last_snapshot_is_what_predicts_and_the_first_is_another(plates, tmp_path):
    config = make_config(plates, tmp_path, [stage(**CYCLES)])
    (job,) = train(config)
    assert sorted(path.name for path in job.folder.glob("snapshot*")) == [
        "snapshot_0002.pt",
        "snapshot_0004.pt",
    ]
    last = load_checkpoint(job.folder / "last.pt")["model"]
    first, second = (load_checkpoint(job.snapshot(epoch))["model"] for epoch in (2, 4))
    assert all(torch.equal(last[name], second[name]) for name in last)
    assert not all(torch.equal(last[name], first[name]) for name in last)
