"""Number formats, schedules and optimisers against torch's own and hand-computed values."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cellsignal.config.stage import Optimizer, Schedule, Stage
from cellsignal.training import losses, optim
from cellsignal.training.optim import LearningRate, autocast, build_optimizer, compute_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_what_is_asked_for(amp, dtype):
    assert compute_dtype(amp, CPU) == compute_dtype(amp, GPU) == dtype
    with autocast(amp, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_what_the_device_has(has, monkeypatch):
    monkeypatch.setattr(optim, "_cpu_has_bfloat16", lambda: has)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: has and not including_emulation
    )
    expected = torch.bfloat16 if has else torch.float32
    assert compute_dtype("auto", CPU) == expected
    with autocast("auto", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
    assert compute_dtype("auto", GPU) == (torch.bfloat16 if has else torch.float16)


def test_the_cpu_is_asked():
    assert optim._cpu_has_bfloat16() == torch.ops.mkldnn._is_mkldnn_bf16_supported()


def rates(schedule, epochs=4, steps=5, figures=None, lr=2.0, higher=True):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    rate = LearningRate(optimizer, SimpleNamespace(schedule=schedule, epochs=epochs), steps, higher)
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


def test_cosine_of_more_epochs_than_the_stage_has_begins_after_the_warm_up():
    schedule = Schedule(name="cosine", warmup_epochs=1, over_epochs=6, min_lr_ratio=0.25)
    warm = [2 * (i + 1) / 6 for i in range(5)]
    cosine = [2 * (0.25 + 0.75 * (1 + math.cos(math.pi * i / 25)) / 2) for i in range(15)]
    assert rates(schedule) == pytest.approx(warm + cosine)
    # a stage that is all warm-up ends it at the least rate, and goes no lower
    short = rates(Schedule(name="cosine", warmup_epochs=1, over_epochs=1, min_lr_ratio=0.25))
    assert short[5:7] == pytest.approx([2.0, 0.5]) and short[-1] == pytest.approx(0.5)


def test_cosine_restarts_as_torchs_schedule_of_warm_restarts():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10, eta_min=0.2)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()
    found = rates(Schedule(name="cosine", cycles=2, min_lr_ratio=0.1))
    assert found == pytest.approx(expected)
    warm = rates(Schedule(name="cosine", cycles=3, warmup_epochs=1))
    assert warm[5::5] == pytest.approx([2.0] * 3) and warm[-1] < 0.25


def test_a_rate_goes_no_further_than_its_stage_and_reads_older_states():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    rate = LearningRate(
        optimizer, SimpleNamespace(schedule=Schedule(name="cosine"), epochs=2), 5, True
    )
    rate.step(99)
    assert rate.state_dict()["position"] == 10
    rate.load_state_dict({"plateau": {"bad": 1}, "torch": {"last_epoch": 7}})
    assert rate.state_dict() == {
        "position": 7,
        "plateau": {"best": -math.inf, "bad": 1, "scale": 1.0},
    }


def test_running_statistics_become_the_mean_of_the_processes():
    mine, others = [torch.tensor([1.0, 3.0]), torch.tensor([[5.0]])], torch.tensor([3.0, 0.0, 1.0])
    us = SimpleNamespace(world=2, add_up=lambda values: values.add_(others))
    optim._average(mine, us)
    assert mine[0].tolist() == [2.0, 1.5] and mine[1].tolist() == [[3.0]]


def stepper(world=1, **more) -> optim.Stepper:
    """Of a linear network, a running mean and a loss that learns a number by SGD of its own."""
    model, loss = nn.Linear(2, 1, bias=False), losses.Loss()
    nn.init.ones_(model.weight)
    model.register_buffer("running_mean", torch.tensor([4.0]))
    model.outputs = lambda images: SimpleNamespace(logits=model(images))
    loss.scale = nn.Parameter(torch.ones(1))
    loss.forward = lambda outputs, targets, labels: (loss.scale * outputs.logits).sum()
    loss.parameter_groups = lambda: [{"params": [loss.scale], "lr": 0.5}]
    sgd = Optimizer(name="sgd", lr=0.1, momentum=0, weight_decay=0)
    stage = Stage(name="a", epochs=1, optimizer=sgd, amp="off", **more)
    ranks = SimpleNamespace(
        world=world,
        device=CPU,
        wrap=lambda module, unused: module,
        add_up=lambda values: values.add_(2.0),
    )
    return optim.Stepper(model, loss, stage, ranks)


def test_a_step_moves_the_network_and_what_the_loss_learns_each_at_its_rate():
    made = stepper()
    value, logits = made.forward(torch.tensor([[3.0, 4.0]]), None, None)
    made.backward(value)
    made.update()
    assert (value.item(), logits.item()) == (7.0, 7.0)
    assert made.model.weight.tolist() == [[pytest.approx(0.7), pytest.approx(0.6)]]
    assert made.loss.scale.item() == pytest.approx(1 - 0.5 * 7)
    assert made.model.weight.grad is None and made.loss.scale.grad is None
    assert made.model.running_mean.item() == 4
    made.update()  # nothing was learnt since
    assert made.loss.scale.item() == pytest.approx(1 - 0.5 * 7)


def test_gradients_are_clipped_and_running_statistics_shared():
    made = stepper(world=2, clip_norm=1.0)
    made.backward(made.forward(torch.tensor([[3.0, 4.0]]), None, None)[0])
    made.update()
    moved = torch.tensor([[0.94, 0.92]])  # a gradient of norm 5 becomes one of norm 1
    torch.testing.assert_close(made.model.weight.data, moved, rtol=0, atol=1e-5)
    assert made.model.running_mean.item() == 3  # (4 + 2) / 2


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
    assert rates(Schedule(name="exponential", factor=0.95)) == pytest.approx(expected)


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
    found = rates(Schedule(name="onecycle", warmup_epochs=2), epochs=8)
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
    assert rates(Schedule(name="onecycle", warmup_epochs=2.4), epochs=8) == expected


@pytest.mark.parametrize("epochs", [1, 2, 4, 9])
def test_onecycle_of_a_few_steps(epochs):
    found = rates(Schedule(name="onecycle"), epochs=epochs, steps=1)
    assert len(found) == epochs and all(0 < rate <= 2.0 for rate in found)


@pytest.mark.parametrize("name", ["constant", "cosine", "onecycle", "plateau", "exponential"])
def test_a_schedule_resumes_where_it_was(name):
    schedule = Schedule(name=name, warmup_epochs=0.0 if name == "onecycle" else 0.5, patience=0)

    part = SimpleNamespace(schedule=schedule, epochs=3)

    def run(stop):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
        rate, found = LearningRate(optimizer, part, 4, True), []
        for i in range(12):
            if i == stop:
                state, inner = rate.state_dict(), optimizer.state_dict()
                optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
                rate = LearningRate(optimizer, part, 4, True)
                optimizer.load_state_dict(inner)
                rate.load_state_dict(state)
            optimizer.step()
            rate.step(i + 1)
            if i % 4 == 3:
                rate.epoch_end(-i)
            found.append(optimizer.param_groups[0]["lr"])
        return found

    assert run(stop=None) == run(stop=5) == run(stop=8)


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
