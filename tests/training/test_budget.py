"""Training, prediction and packing within a time budget, by a clock that the test holds: stopped in
time, each call gets on, the end has the same bits.
"""

import functools
import itertools
import logging
import os
import re
import signal
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import make_config, stage

from cellsignal.common import stopping
from cellsignal.common.errors import OUT_OF_TIME, Interrupted, OutOfTime
from cellsignal.common.stopping import DEADLINE
from cellsignal.competitions import get_competition
from cellsignal.data import filling
from cellsignal.data.pack import prepare
from cellsignal.prediction import embeddings, pieces
from cellsignal.prediction import predict as predicting
from cellsignal.prediction.pieces import in_pieces, pieces_folder
from cellsignal.prediction.predict import predict
from cellsignal.training import budget
from cellsignal.training import trainer as trainer_module
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import ALONE
from cellsignal.training.run import train
from cellsignal.training.trainer import Trainer


class Clock:
    """Time that passes only where the test says so, seen by all that measures or keeps a budget."""

    def __init__(self, monkeypatch, *modules):
        self.now, self.monkeypatch = 1e9, monkeypatch
        monkeypatch.setattr(stopping, "_now", lambda: self.now)
        for module in modules:
            monkeypatch.setattr(
                module,
                "time",
                SimpleNamespace(perf_counter=lambda: self.now, monotonic=time.monotonic),
            )

    def takes(self, owner, name: str, seconds: float) -> None:
        """From now on calls of `owner.name` take so long."""
        real = getattr(owner, name)

        def call(*args, **more):
            self.now += seconds
            return real(*args, **more)

        self.monkeypatch.setattr(owner, name, call)

    def budget(self, seconds: float) -> None:
        self.deadline = self.now + seconds
        self.monkeypatch.setenv(DEADLINE, repr(self.deadline))


STEP, SAVE, VALIDATION = 1.0, 3.0, 20.0
VARIANTS = {
    "swa": {"epochs": 3, "swa": 0.3, "accumulation": 2},
    "pseudo": {
        "epochs": 3,
        "pseudo_labels": {"start": 1, "least_confidence": 0.0},
        "ema": 0.9,
        "validate_every": 2,
        "mix": {"mixup": 0.4},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["swa", "pseudo"])
def test_training_in_short_budgets_stops_in_time_and_ends_in_the_same_bits(
    plates, tmp_path, monkeypatch, variant
):
    configs = [
        make_config(
            plates,
            tmp_path / name,
            [stage(**VARIANTS[variant])],
            model={"backbone": "test_resnet", "dropout": 0.2},
        )
        for name in ("whole", "broken")
    ]
    train(configs[0])
    clock = Clock(monkeypatch, budget)
    clock.takes(Trainer, "_update", STEP)
    clock.takes(Trainer, "_save", SAVE)
    for owner, name in (
        (Trainer, "validate"),
        (Trainer, "_recompute_statistics"),
        (trainer_module, "draw_pseudo_labels"),
    ):
        clock.takes(owner, name, VALIDATION)
    last, places = jobs_of(configs[1])[0].folder / "last.pt", []
    for seconds in itertools.chain([4.0, 60.0], itertools.cycle([8.0, 52.0, 27.0])):
        clock.budget(seconds)
        started = clock.now
        try:
            torch.rand(3)
            train(configs[1])
            break
        except OutOfTime as told:
            assert told.status == OUT_OF_TIME and re.search(
                r"out of time, .* saved \(.*(left)\); the same command goes on from here$",
                str(told),
            )
            state = load_checkpoint(last)
            places.append((state["progress"]["epoch"], state["progress"]["batch"]))
            # of one epoch's end, where a budget has room for less
            assert clock.now - started <= max(seconds, 2 * VALIDATION + 2 * SAVE + STEP)
            assert len(places) < 40
    assert places == sorted(set(places))  # each call got on
    batches = len(Trainer(jobs_of(configs[0])[0], ALONE, stopping.Stop()).examples.batches(0))
    assert any(batch >= batches for _, batch in places)  # before a validation that would not fit
    assert any(0 < batch < batches for _, batch in places)
    states = [load_checkpoint(jobs_of(config)[0].folder / "last.pt") for config in configs]
    for part in ("model", "averaged"):
        if states[0][part] is not None:
            assert all(
                torch.equal(values, states[1][part][name])
                for name, values in states[0][part].items()
            )
    logs = [
        pd.read_csv(jobs_of(c)[0].folder / "log.csv").drop(
            columns=["images_per_s", "waiting", "of_peak"]
        )
        for c in configs
    ]
    assert logs[0].equals(logs[1])


@pytest.mark.slow
def test_the_budget_is_kept_where_all_was_measured(plates, tmp_path, monkeypatch, caplog):
    """A validation of 20 s, budgets of 30 s: none is overrun once the first call has seen one
    validation, which the checkpoint remembers.
    """
    config = make_config(plates, tmp_path, [stage(epochs=4)])
    clock = Clock(monkeypatch, budget)
    clock.takes(Trainer, "_update", STEP)
    clock.takes(Trainer, "_save", SAVE)
    clock.takes(Trainer, "validate", VALIDATION)
    batches = len(Trainer(jobs_of(config)[0], ALONE, stopping.Stop()).examples.batches(0))
    clock.budget(batches * STEP + VALIDATION + 3 * SAVE + 15)
    calls = 0
    with caplog.at_level(logging.INFO):
        while True:
            calls += 1
            try:
                train(config)
                break
            except OutOfTime:
                assert clock.now <= clock.deadline
                clock.budget(36)
    assert calls > 3 and clock.now <= clock.deadline
    told = [record.message for record in caplog.records if "epochs fit" in record.message]
    assert 0 < len(told) <= calls and re.fullmatch(
        r"seed 0 fold 0 stage all: epoch 1 takes about .*; .* left: about [\d.]+ epochs fit",
        told[0],
    )


@pytest.mark.slow
def test_an_epoch_is_foretold_by_what_was_measured(plates, tmp_path, monkeypatch, caplog):
    config = make_config(plates, tmp_path, [stage(epochs=2)])
    clock = Clock(monkeypatch, budget)
    clock.takes(Trainer, "_update", 60.0)
    trainer = Trainer(jobs_of(config)[0], ALONE, stopping.Stop())
    batches, valid = len(trainer.examples.batches(0)), len(trainer.job.scored)
    clock.budget(100 * 3600)
    with caplog.at_level(logging.INFO):
        train(config)
    (line,) = [record.message for record in caplog.records if "epochs fit" in record.message]
    minutes = batches + valid / 8  # validation is not measured yet: each image as in a step, of 8
    hours_left = 100 - 60 / 3600 - min(batches, 20) / 60
    assert minutes > 90 or line.startswith(
        f"seed 0 fold 0 stage all: epoch 1 takes about {minutes:.1f} min; "
        f"{hours_left:.1f} h left: about "
    )
    assert float(re.search(r"about ([\d.]+) epochs fit", line)[1]) == pytest.approx(
        hours_left * 60 / minutes, rel=0.01
    )


# estimates, by hand
# --------------------------------------------------------------------------------------------------


def by_hand(adapt="none", processes=2, later=0.0, **more) -> budget.Budget:
    """A budget of 31 validation and 100 training images; it validates after each second epoch."""
    options = {"accumulation": 2, "batch_size": 4, "swa": None, "bn_recompute": False}
    options |= {"pseudo_labels": None, "epochs": 5} | more
    job = SimpleNamespace(
        stage=SimpleNamespace(**options),
        config=SimpleNamespace(predict=SimpleNamespace(adapt=adapt)),
        test=np.arange(10),
        title="job",
        validates_after=lambda epoch: epoch % 2 == 1,
    )
    model = torch.nn.Linear(1000, 250, bias=False)  # a million bytes
    return budget.Budget(job, model, processes, 3, 100, 31, later)


LABELS = SimpleNamespace(start=2)


@pytest.mark.parametrize(
    ("options", "images"),
    [
        ({}, [0, 16]),
        ({"processes": 1}, [0, 31]),
        ({"adapt": "plate"}, [0, 31]),
        ({"swa": 0.5}, [0, 66]),
        ({"bn_recompute": True}, [0, 66]),
        ({"swa": 0.5, "pseudo_labels": LABELS}, [50, 66]),
        ({"pseudo_labels": LABELS}, [0, 16]),
    ],
)
def test_images_without_a_step_are_counted(options, images):
    assert [by_hand(**options).images_after(epoch) for epoch in (0, 1)] == images


def test_test_images_are_labelled_from_the_first_epoch_of_pseudo_labels():
    assert by_hand().images_to_label(2) == 0
    labels = by_hand(adapt="plate", pseudo_labels=LABELS, processes=3)
    assert [labels.images_to_label(epoch) for epoch in (1, 2, 3)] == [0, 7, 7]


def test_estimates_take_the_slow_batches_and_what_was_not_measured_from_them():
    made = by_hand(pseudo_labels=SimpleNamespace(start=0))
    made.start_epoch(0, 7)
    assert made.estimate_next_save(1, 3)[1] is None
    assert made.estimate_epoch(1) == pytest.approx(0.08)  # 4 MB at 50 MB/s
    made.made_progress = True
    for seconds in [1.0] * 18 + [3.0, 5.0]:
        made.paces["batch"].add(seconds)
    # 7 batches; 16 + 5 images, 3 s a batch of 4; a save
    assert made.estimate_epoch(1) == pytest.approx(7 + 21 * 0.75 + 0.08)
    made.paces["image"].add(0.5)
    made.paces["save"].add(2.0)
    assert made.estimate_epoch(1) == pytest.approx(7 + 21 * 0.5 + 2)
    step, end = "the next step and a save", "the end of the epoch with its validation"
    assert made.estimate_next_save(1, 0) == (step, 2 * 3 * 3.0 + 5 * 0.5 + 2)
    assert made.estimate_next_save(1, 3) == (step, 2 * 3 * 3.0 + 2)
    assert made.estimate_next_save(1, 7) == (end, 16 * 0.5 + 2 * 2)
    again = by_hand()
    again.load_state_dict(made.state_dict())
    assert again.state_dict() == made.state_dict() and len(again.paces["batch"]) == 20


def test_the_time_left_adds_up_the_epochs_to_come():
    """An epoch of 7 s and a save of 2 s, every second one with 16 images of .5 s besides."""
    made = by_hand(later=10)
    made.start_epoch(0, 7)
    for part, seconds in (("batch", 1.0), ("image", 0.5), ("save", 2.0)):
        made.paces[part].add(seconds)
    assert made.seconds_left(4) == (0.0, pytest.approx(10 * (3 * 9 + 2 * 17) / 5))
    assert made.seconds_left(0) == (17 + 9 + 17 + 9, pytest.approx(52 + 122))


def test_what_a_training_takes_is_said_after_its_first_steps(monkeypatch, caplog):
    clock = Clock(monkeypatch, budget)
    made = by_hand(later=10)
    made.start_epoch(0, 8)
    with caplog.at_level(logging.INFO):
        for batch in range(1, 9):
            clock.now += 1.0
            made.record(0, batch, None)
            assert len(caplog.records) == (batch >= 4)
    # 5 epochs of 8 s and a save, two validations of 16 images at 1 s a batch of 4
    assert caplog.records[0].message == "job: takes about 48 s, with the trainings to come 2.4 min"


@pytest.mark.parametrize("seconds", [0.01, 0.3])
def test_a_short_training_is_not_announced(monkeypatch, caplog, seconds):
    clock = Clock(monkeypatch, budget)
    made = by_hand(epochs=2)
    made.start_epoch(0, 8)
    with caplog.at_level(logging.INFO):
        for batch in range(1, 9):
            clock.now += seconds
            made.record(0, batch, None)
    assert caplog.records == []


def fits(caplog) -> list[str]:
    """The lines that say how many epochs fit."""
    return [record.message for record in caplog.records if "epochs fit" in record.message]


def test_batches_are_measured_between_updates_and_epochs_logged_once(monkeypatch, caplog):
    clock = Clock(monkeypatch, budget)
    made = by_hand(accumulation=1)
    made.start_epoch(10, 50)
    caplog.set_level(logging.INFO)
    for number in range(1, 21):
        assert not fits(caplog)
        clock.now += 3.0
        made.record(0, 10 + 2 * number, None if number == 1 else 600.0)
        made.record(0, 10 + 2 * number, None)  # no batch, no measurement
    assert made.paces["batch"].seconds() == [1.5] * 20 and made.made_progress
    made.record(0, 50, 600.0)
    (line,) = fits(caplog)
    assert line == "job: epoch 1 takes about 75 s; 10.0 min left: about 7.99 epochs fit"


def test_a_short_epoch_is_estimated_at_its_end(monkeypatch, caplog):
    clock = Clock(monkeypatch, budget)
    made = by_hand()
    made.start_epoch(0, 2)
    caplog.set_level(logging.INFO)
    for batch in (1, 2):
        clock.now += 60.0
        made.record(0, batch, -5.0)
    (line,) = fits(caplog)
    assert line.endswith("left: about 0 epochs fit")
    with made.measure("image", 4):
        clock.now += 8.0
    with made.measure("save", 0):
        clock.now += 8.0
    assert made.paces["image"].seconds() == [2.0] and len(made.paces["save"]) == 0


# prediction
# --------------------------------------------------------------------------------------------------


def test_prediction_in_short_budgets_goes_on_to_the_same_file(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, pieces)
    places = np.split(np.arange(24), 12)
    path = tmp_path / "x.npz"

    def compute(chosen):
        clock.now += 10.0
        return {"a": np.stack([chosen, chosen**2], axis=1)}

    calls = 0
    while True:
        calls += 1
        clock.budget(35.0)
        try:
            found = in_pieces(path, {"of": 1}, places, compute)
            break
        except OutOfTime as told:
            assert (
                clock.now <= clock.deadline
                and f"{3 * calls} of 12 pieces saved (the next piece would take about 12 s"
                in str(told)
            )
            assert len(list(pieces_folder(path).rglob("*.npz"))) == 3 * calls
    assert calls == 4 and np.array_equal(
        found["a"], in_pieces(tmp_path / "y.npz", {}, places, compute_plain)["a"]
    )


def compute_plain(chosen):
    return {"a": np.stack([chosen, chosen**2], axis=1)}


def test_a_budget_below_one_piece_still_gets_on(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, pieces)
    done = []

    def compute(chosen):
        clock.now += 10.0
        done.append(chosen[0])
        return {"a": chosen[:, None]}

    for _ in range(3):
        clock.budget(4.0)
        with pytest.raises(OutOfTime):
            in_pieces(tmp_path / "x.npz", {}, np.split(np.arange(4), 4), compute)
    assert done == [0, 1, 2]


def test_a_signal_waits_for_the_piece_in_hand(tmp_path):
    def compute(chosen):
        if chosen[0] == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return {"a": chosen[:, None]}

    with stopping.Stop() as stop, pytest.raises(Interrupted) as told:
        in_pieces(tmp_path / "x.npz", {}, np.split(np.arange(4), 4), compute, stop=stop)
    assert (
        told.value.status == 128 + signal.SIGUSR1
        and len(list(pieces_folder(tmp_path / "x.npz").rglob("*.npz"))) == 2
    )


@pytest.mark.slow
def test_predict_and_embed_keep_the_budget(plates, tmp_path, monkeypatch):
    config = make_config(plates, tmp_path, [stage(epochs=1)])
    train(config)
    expected = predicting.load_predictions(predict(config)[0])
    logits = expected.logits("identity").copy()
    expected.path.unlink()
    clock, real = Clock(monkeypatch, pieces), predicting.predict_with

    def slow(*args, **more):
        clock.now += 10.0
        return real(*args, **more)

    monkeypatch.setattr(predicting, "predict_with", slow)
    calls = 0
    while True:
        calls += 1
        clock.budget(60.0)
        try:
            predict(config)
            break
        except OutOfTime:
            assert clock.now <= clock.deadline and calls < 15
    assert calls > 1 and np.array_equal(
        predicting.load_predictions(expected.path).logits("identity"), logits
    )
    clock.budget(-1.0)
    with pytest.raises(OutOfTime):
        embeddings.embed(config)


# packing
# --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_packing_in_short_budgets_goes_on_to_the_same_store(plates, tmp_path, monkeypatch):
    competition, clock = get_competition("rxrx1"), Clock(monkeypatch, filling)
    real = filling.pack_site

    def slow(job, task):
        clock.now += 1.0
        return real(job, task)

    monkeypatch.setattr(filling, "pack_site", functools.wraps(real)(slow))
    n = len(competition.samples(plates / "raw"))
    calls = 0
    while True:
        calls += 1
        clock.budget(n)
        try:
            report = prepare(competition, plates / "raw", tmp_path / "store")
            break
        except OutOfTime as told:
            assert clock.now <= clock.deadline and re.search(
                rf"out of time, \d+ of {n} sites saved \(the next sites would take about", str(told)
            )
    assert 1 < calls < 10 and report.n_packed == n
    for file in ("images", "arrays"):
        for path in (plates / "store" / file).rglob("*"):
            if path.is_file():
                assert (
                    path.read_bytes()
                    == (tmp_path / "store" / path.relative_to(plates / "store")).read_bytes()
                )
