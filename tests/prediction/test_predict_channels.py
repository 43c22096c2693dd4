"""One run of a network of stains: it predicts from some channels, and starts a run of others."""

import numpy as np
import pytest
import torch
from tiny import make_config, stage

from cellsignal.common.errors import InputError
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.freshness import config_inputs
from cellsignal.prediction.predict import predict
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.run import train

VIT = {"backbone": "channel_vit_micro_patch8", "channel_dropout": 0.5}


def changed(config, section: str, **keys):
    part = getattr(config, section).model_copy(update=keys)
    return config.model_copy(update={section: part})


def logits_of(config) -> np.ndarray:
    (path,) = predict(config)
    return load_predictions(path).logits("identity")


@pytest.mark.slow
def test_a_run_of_stains_predicts_from_some_channels_and_starts_another(plates, tmp_path):
    stages = [stage(epochs=1, augment=[{"name": "rotate90"}])]
    config = make_config(plates, tmp_path / "runs", stages, model=VIT, predict={"tta": 1})
    (job,) = train(config)
    whole = logits_of(config)
    some = logits_of(changed(config, "predict", channels=(1, 3)))
    assert whole.shape == some.shape and not np.allclose(whole, some, atol=1e-4)
    # the order in which they are named is none of the prediction's
    again = logits_of(changed(config, "predict", channels=(3, 1)))
    np.testing.assert_allclose(again, some, atol=1e-4)

    state = load_checkpoint(job.folder / "last.pt")["model"]
    weights = {"weights": job.folder / "last.pt"}
    other = make_config(
        plates,
        tmp_path / "runs",
        stages,
        name="other",
        model=VIT | weights,
        data={"channels": (2, 1)},
        seed=1,
    )
    from cellsignal.models.backbones import build_model
    from cellsignal.training.plan import jobs_of

    (started,) = jobs_of(other)
    assert started.channel_names == ("endoplasmic_reticulum", "nuclei")
    model = build_model(other.model, 2, started.outputs, 24, 4, names=started.channel_names)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    (job,) = train(other)
    assert set(load_checkpoint(job.folder / "last.pt")["model"]) == set(model.state_dict())
    np.testing.assert_array_equal(logits_of(other).shape, whole.shape)


def test_channels_that_a_network_cannot_choose_are_refused_before_training(plates, tmp_path):
    config = make_config(plates, tmp_path / "runs", predict={"channels": (1, 2)})
    with pytest.raises(InputError, match=r"^predict\.channels: this network takes all channels"):
        train(config)
    config = make_config(plates, tmp_path / "runs", model=VIT, predict={"channels": (1, 7)})
    with pytest.raises(InputError, match=r"^predict\.channels: channels \[1, 7\]: .* 1 to 6 \(dna"):
        train(config)
    assert not list((tmp_path / "runs").glob("**/*.pt"))


def test_predictions_from_before_the_keys_stay_current(plates, tmp_path):
    config = make_config(plates, tmp_path / "runs")
    inputs = config_inputs(config, 0)
    assert "channels" not in inputs["predict"] and "channel_wise" not in inputs["model"]
    some = config_inputs(changed(config, "predict", channels=(1,)), 0)
    assert some["predict"]["channels"] == [1]
    mean = config_inputs(changed(config, "model", channel_wise="mean"), 0)
    assert mean["model"]["channel_wise"] == "mean"
