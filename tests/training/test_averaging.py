"""SWA, EMA and the mean teacher against brute force, BatchNorm's buffers above all."""

import math

import pytest
import torch
from tiny import make_config, stage

from cellsignal.common.stopping import Stop
from cellsignal.config.losses import MeanTeacher
from cellsignal.config.stage import Stage
from cellsignal.data.feed import feed
from cellsignal.data.views import apply_view
from cellsignal.prediction.predict import trained_model
from cellsignal.training.averaging import Average, ramp
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.inference import plan_reading, predict_with
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import ALONE
from cellsignal.training.trainer import Trainer

PLAIN = {
    "augment": [],
    "batch_size": 512,
    "epochs": 4,
}  # one batch an epoch, so that its statistics are the whole training set's


def trained(plates, tmp_path, **more) -> tuple[Trainer, list[dict[str, torch.Tensor]]]:
    """A finished trainer and its weights after every epoch."""
    job = jobs_of(make_config(plates, tmp_path, [stage(**{**PLAIN, **more})]))[0]
    trainer, history = Trainer(job, ALONE, Stop()), []
    after = trainer.average.after_epoch

    def recording(model, epoch):
        after(model, epoch)
        history.append({name: value.clone() for name, value in model.state_dict().items()})

    trainer.average.after_epoch = recording
    trainer.run()
    return trainer, history


def statistics_by_hand(
    trainer: Trainer, weights: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The buffers after one training-mode pass over all training images with momentum 1."""
    model = trainer.model
    model.load_state_dict(weights)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        everything = [[(0, i) for i in range(len(trainer.training))]]
        model(next(feed(trainer.training, everything, 0, torch.device("cpu"))).images)
    return {name: value for name, value in model.state_dict().items() if "running" in name}


def test_swa_is_the_mean_of_the_late_epochs_with_statistics_of_its_own(plates, tmp_path):
    trainer, history = trained(plates, tmp_path, swa=0.5)
    found = load_checkpoint(trainer.job.folder / "last.pt")["averaged"]
    late = history[2:]
    assert len(history) == 4
    for name, value in found.items():
        if "running" not in name and value.is_floating_point():
            assert torch.allclose(value, sum(state[name] for state in late) / 2, atol=1e-6), name
    by_hand = statistics_by_hand(trainer, found)
    assert by_hand
    for name, value in by_hand.items():
        assert torch.allclose(found[name], value, atol=1e-4, rtol=1e-3), name
        assert (
            not torch.allclose(
                found[name], sum(state[name] for state in late) / 2, atol=1e-3, rtol=1e-2
            )
            or "mean" in name
        )


def test_ema_can_have_its_statistics_recomputed(plates, tmp_path):
    trainer, _ = trained(plates, tmp_path, ema=0.5, bn_recompute=True)
    found = load_checkpoint(trainer.job.folder / "last.pt")["averaged"]
    for name, value in statistics_by_hand(trainer, found).items():
        assert torch.allclose(found[name], value, atol=1e-4, rtol=1e-3), name


def test_before_its_first_epoch_swa_predicts_with_the_plain_weights(plates, tmp_path, monkeypatch):
    job = jobs_of(make_config(plates, tmp_path, [stage(**PLAIN, swa=0.75)]))[0]
    trainer = Trainer(job, ALONE, Stop())
    seen = []
    validate = Trainer.validate
    monkeypatch.setattr(
        Trainer,
        "validate",
        lambda self: (seen.append(self.predictor is self.model), validate(self))[1],
    )
    trainer.run()
    assert seen == [True, True, True, False]


def test_the_averaged_weights_are_what_predicts(plates, tmp_path):
    trainer, _ = trained(plates, tmp_path, ema=0.9)
    job = trainer.job
    state = load_checkpoint(job.folder / "last.pt")
    model = trained_model(job, state)
    assert all(
        torch.equal(value, state["averaged"][name]) for name, value in model.state_dict().items()
    )
    by_trainer = predict_with(job, trainer.predictor, plan_reading(job, trainer.pixels, job.valid))[
        "identity"
    ]
    assert (
        by_trainer
        == predict_with(job, model, plan_reading(job, trainer.pixels, job.valid))["identity"]
    ).all()
    assert not torch.equal(
        state["averaged"]["backbone.conv1.0.weight"], state["model"]["backbone.conv1.0.weight"]
    )


def test_the_teacher_judges_another_view_by_the_batch_and_is_left_alone(plates, tmp_path):
    job = jobs_of(make_config(plates, tmp_path, [stage(ema=0.9)]))[0]
    trainer = Trainer(job, ALONE, Stop())
    model, average = trainer.model, trainer.average
    images = torch.randn(6, 6, 24, 24, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in average.module.state_dict().items()}
    model.train()
    with torch.no_grad():
        plain, turned = model(images), model(apply_view(images, "rot90"))
    assert average.disagreement(plain, "identity", images).item() == pytest.approx(0, abs=1e-9)
    expected = (plain.softmax(1) - turned.softmax(1)).square().sum(1).mean().item()
    assert (
        average.disagreement(plain, "rot90", images).item() == pytest.approx(expected, rel=1e-4)
        and expected > 0
    )
    assert all(
        torch.equal(value, before[name]) for name, value in average.module.state_dict().items()
    )
    assert not average.module.training


@pytest.mark.slow
def test_consistency_trains(plates, tmp_path):
    """With its weight the same training ends elsewhere, and the two views of the student's images
    agree more.
    """
    ends = []
    for weight in (1e-9, 30.0):
        job = jobs_of(
            make_config(
                plates,
                tmp_path / str(weight),
                [
                    stage(
                        epochs=4,
                        ema=0.5,
                        mean_teacher={"weight": weight, "ramp_epochs": 0, "unlabelled": "test"},
                    )
                ],
            )
        )[0]
        trainer = Trainer(job, ALONE, Stop())
        trainer.run()
        views = predict_with(
            job,
            trainer.predictor,
            plan_reading(job, trainer.pixels, job.test),
            ("identity", "rot90"),
        )
        a, b = (torch.from_numpy(views[view]).softmax(1) for view in ("identity", "rot90"))
        ends.append((a - b).square().sum(1).mean().item())
    assert ends[1] < 0.5 * ends[0]


def test_the_ramp():
    config = MeanTeacher(weight=2.0, ramp_epochs=4)
    assert ramp(config, 0) == pytest.approx(2 * math.exp(-5)) and ramp(config, 2) == pytest.approx(
        2 * math.exp(-1.25)
    )
    assert (
        ramp(config, 4) == ramp(config, 9) == 2.0
        and ramp(MeanTeacher(weight=2.0, ramp_epochs=0), 0) == 2.0
    )


def test_no_averaging_is_none():
    average = Average(Stage(name="a", epochs=1), torch.nn.Linear(1, 1))
    average.after_update(None, 1)
    average.after_epoch(None, 0)
    assert average.module is None and not average.needs_statistics and average.state_dict() is None
