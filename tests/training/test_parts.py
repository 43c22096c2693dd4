"""Schedules, losses, optimisers and checkpoints against torch's own and hand-computed values."""

import errno
import math
import os
import pickle

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from cellsignal.common import files
from cellsignal.common.errors import InputError
from cellsignal.config.stage import Optimizer, Schedule
from cellsignal.training.checkpoints import load_checkpoint, save_checkpoint
from cellsignal.training.losses import SoftCrossEntropy, class_weights
from cellsignal.training.optim import LearningRate, build_optimizer


def rates(schedule, epochs=4, steps=5, figures=None, lr=2.0, higher=True):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    rate = LearningRate(optimizer, schedule, epochs, steps, higher)
    found = []
    for epoch in range(epochs):
        for step in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            rate.step(epoch * steps + step + 1)
        rate.epoch_end(0.0 if figures is None else figures[epoch])
    return found


def test_cosine_is_the_textbook_formula():
    found = rates(Schedule(name="cosine", min_lr_ratio=0.1))
    expected = [2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi * i / 20)) / 2) for i in range(20)]
    assert found == pytest.approx(expected)


def test_warm_up_rises_linearly_then_the_schedule_begins():
    found = rates(Schedule(name="constant", warmup_epochs=1))
    assert found[:5] == pytest.approx([2 * i / 6 for i in range(1, 6)])
    assert found[5:] == [2.0] * 15


def test_exponential_is_torchs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    oracle = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
    expected = []
    for _ in range(4):
        expected += [optimizer.param_groups[0]["lr"]] * 5
        optimizer.step()
        oracle.step()
    assert rates(Schedule(name="exponential", gamma=0.95)) == pytest.approx(expected)


@pytest.mark.parametrize("higher", [True, False])
def test_plateau_is_torchs(higher):
    figures = [0.5, 0.6, 0.6, 0.55, 0.6, 0.6, 0.7, 0.1, 0.1, 0.1, 0.1, 0.1]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max" if higher else "min", factor=0.1, patience=2, threshold=0, eps=0
    )
    expected = []
    for figure in figures:
        expected += [optimizer.param_groups[0]["lr"]] * 5
        oracle.step(figure)
    assert rates(
        Schedule(name="plateau", factor=0.1, patience=2), epochs=12, figures=figures, higher=higher
    ) == pytest.approx(expected)


def test_onecycle_rises_to_the_peak_and_falls_to_almost_nothing():
    found = rates(Schedule(name="onecycle", pct_start=0.25), epochs=8)
    assert (
        max(found) == pytest.approx(2.0, rel=0.01)
        and found.index(max(found)) in range(8, 12)
        and found[-1] < 0.05
    )


def test_onecycle_is_torchs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    oracle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2.0, total_steps=41, pct_start=0.3, cycle_momentum=False
    )
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle.step()
    # to the bit: trainings come out as before
    assert rates(Schedule(name="onecycle", pct_start=0.3), epochs=8) == expected


@pytest.mark.parametrize("epochs", [1, 2, 4, 9])
def test_onecycle_of_a_few_steps(epochs):
    found = rates(Schedule(name="onecycle"), epochs=epochs, steps=1)
    assert len(found) == epochs and all(0 < rate <= 2.0 for rate in found)


@pytest.mark.parametrize("name", ["constant", "cosine", "onecycle", "plateau", "exponential"])
def test_a_schedule_resumes_where_it_was(name):
    schedule = Schedule(name=name, warmup_epochs=0.0 if name == "onecycle" else 0.5, patience=0)

    def run(stop):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
        rate, found = LearningRate(optimizer, schedule, 3, 4, True), []
        for i in range(12):
            if i == stop:
                state, inner = rate.state_dict(), optimizer.state_dict()
                optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
                rate = LearningRate(optimizer, schedule, 3, 4, True)
                optimizer.load_state_dict(inner)
                rate.load_state_dict(state)
            optimizer.step()
            rate.step(i + 1)
            if i % 4 == 3:
                rate.epoch_end(-i)
            found.append(optimizer.param_groups[0]["lr"])
        return found

    assert run(stop=None) == run(stop=5) == run(stop=8)


def test_soft_cross_entropy_on_hard_labels_is_torchs():
    logits, labels = torch.randn(9, 4), torch.randint(0, 4, (9,))
    hard = nn.functional.one_hot(labels, 4).float()
    assert torch.allclose(
        SoftCrossEntropy(None, 0.1)(logits, hard),
        nn.CrossEntropyLoss(label_smoothing=0.1)(logits, labels),
    )


def test_soft_cross_entropy_by_hand():
    weights = torch.tensor([1.0, 3.0])
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    targets = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    log_p = logits.log_softmax(1)
    expected = -(0.25 * log_p[0, 0] + 3 * 0.75 * log_p[0, 1] + log_p[1, 0]) / 2
    assert torch.allclose(SoftCrossEntropy(weights)(logits, targets), expected)


def test_class_weights_are_sklearns():
    labels = np.array([0, 0, 0, 1, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights(labels, 3, "balanced").numpy() == pytest.approx(expected)
    assert class_weights(labels, 3, "sqrt").numpy() == pytest.approx(expected**0.5)
    assert class_weights(labels, 4, "balanced")[3] == 1 and class_weights(labels, 3, "none") is None


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_norms_and_biases_are_not_decayed(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    groups = build_optimizer(model, Optimizer(name=name, weight_decay=0.3)).param_groups
    decayed = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert [decayed[id(p)] for p in model.parameters()] == [0.3, 0, 0, 0]


def test_decay_all_decays_every_parameter_of_every_module():
    modules = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Linear(2, 2, bias=False)]
    (group,) = build_optimizer(
        modules, Optimizer(name="adam", weight_decay=1e-5, decay_all=True)
    ).param_groups
    assert group["weight_decay"] == 1e-5
    assert [id(p) for p in group["params"]] == [
        id(p) for module in modules for p in module.parameters()
    ]
    groups = build_optimizer(modules, Optimizer(name="adam")).param_groups
    assert [len(group["params"]) for group in groups] == [2, 3]


def test_checkpoint_round_trip(tmp_path):
    state = {
        "model": {"w": torch.arange(4.0)},
        "progress": {"epoch": 3, "best": None, "history": [{"a": 1.5}]},
    }
    save_checkpoint(tmp_path / "a" / "last.pt", state)
    found = load_checkpoint(tmp_path / "a" / "last.pt")
    assert (
        torch.equal(found["model"]["w"], state["model"]["w"])
        and found["progress"] == state["progress"]
    )
    assert os.listdir(tmp_path / "a") == ["last.pt"]


def test_a_flipped_byte_in_a_checkpoint_is_found(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {"w": torch.arange(1000.0)}})
    data = bytearray(path.read_bytes())
    place = data.find(torch.arange(1000.0).numpy().tobytes()[400:800])
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"last\.pt: corrupt checkpoint"):
        load_checkpoint(path)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_pickled_code_never_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "cellsignal-checkpoint-1", "bomb": Bomb()}, "evil.pt")
    with open("plain.pt", "wb") as file:
        pickle.dump(Bomb(), file)
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(InputError, match="corrupt or foreign"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 50])
def test_what_is_no_checkpoint(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pt: corrupt or foreign checkpoint"):
        load_checkpoint(tmp_path / "x.pt")


def test_a_foreign_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="not a checkpoint of cellsignal"):
        load_checkpoint(tmp_path / "x.pt")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {"w": torch.ones(2)}})

    def full(*_, **__):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"last\.pt: could not be written .*untouched"):
        save_checkpoint(path, {"model": {"w": torch.zeros(2)}})
    monkeypatch.undo()
    assert torch.equal(load_checkpoint(path)["model"]["w"], torch.ones(2)) and os.listdir(
        tmp_path
    ) == ["last.pt"]


def test_a_disk_that_fills_at_the_flush_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a.txt", "old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        InputError, match=r"a\.txt: could not be written \(No space left on device\)"
    ):
        files.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
