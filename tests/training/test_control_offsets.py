"""Statistics that controls foretell: against brute force, and through validation to prediction."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_inference import biased_moments, images_of, setting
from tiny import make_config, stage

from cellsignal.models.batch_norm import unit_statistics
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.predict import predict, trained_model
from cellsignal.training.adaptation import plan_comparison
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.control_offsets import plan_offsets, unit_offsets
from cellsignal.training.inference import pixel_statistics, plan_reading, predict_with
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import ALONE
from cellsignal.training.run import train
from cellsignal.training.validation import Validation

CONTROLS = {"adapt": "plate", "adapt_wells": "controls", "batch_size": 512}


def test_statistics_of_all_wells_compare_nothing(plates, tmp_path):
    job, model, pixels = setting(plates, tmp_path, predict={"adapt": "plate"})
    assert plan_offsets(job, pixels) is None and unit_offsets(job, model, None) is None


def test_the_first_layers_offset_is_the_mean_over_plates_by_hand(plates, tmp_path):
    """Of the first layer, which sees the same whatever the others standardise by."""
    job, model, pixels = setting(plates, tmp_path, predict=CONTROLS)
    offsets = unit_offsets(job, model, plan_offsets(job, pixels))
    first = next(iter(offsets))
    shifts, logs = [], []
    for controls, trained in plan_comparison(job):
        (mean, variance), (other, spread) = (
            biased_moments(model, images_of(job, pixels, rows))[first]
            for rows in (controls, trained)
        )
        widened = variance + first.eps
        shifts.append((other - mean) / widened.sqrt())
        logs.append(((spread + first.eps) / widened).log())
    assert len(shifts) >= 2
    shift, ratio = torch.stack(shifts).mean(0), torch.stack(logs).mean(0).exp()
    np.testing.assert_allclose(offsets[first].shift, shift, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(offsets[first].ratio, ratio, rtol=1e-3)


def test_predictions_take_the_foretold_statistics(plates, tmp_path):
    job, model, pixels = setting(plates, tmp_path, predict=CONTROLS)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    offsets = unit_offsets(job, model, plan_offsets(job, pixels))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    samples = job.store.samples
    first = samples.iloc[job.valid[0]]
    plate = (samples.experiment == first.experiment) & (samples.plate == first.plate)
    controls = np.flatnonzero(plate & (samples.role != "treatment"))
    chosen = np.intersect1d(job.valid, np.flatnonzero(plate))
    found = predict_with(job, model, plan_reading(job, pixels, chosen), offsets=offsets)["identity"]
    with torch.no_grad():
        batch = (images_of(job, pixels, controls),)
        with unit_statistics(model, [batch], offsets=offsets):
            expected = model(images_of(job, pixels, chosen))
        with unit_statistics(model, [batch]):
            plain = model(images_of(job, pixels, chosen))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert not np.allclose(found, plain, atol=0.05)
    with pytest.raises(AssertionError):  # statistics of controls alone are never taken unawares
        predict_with(job, model, plan_reading(job, pixels, chosen))


@pytest.mark.slow
def test_what_was_validated_is_what_predicts(plates, tmp_path):
    predicting = {**CONTROLS, "batch_size": 16, "tta": 1}
    one_epoch = [stage(epochs=1, amp="off")]
    config = make_config(plates, tmp_path / "runs", one_epoch, predict=predicting)
    train(config)
    job = jobs_of(config)[0]
    model = trained_model(job, load_checkpoint(job.folder / "last.pt"))
    pixels = pixel_statistics(config, job.store, job.train)
    row = pd.read_csv(job.folder / "log.csv").iloc[-1]
    measured = Validation(job, pixels, ALONE).measure(model)
    assert row[list(measured)].to_dict() == pytest.approx(measured, abs=1e-4)
    offsets = unit_offsets(job, model, plan_offsets(job, pixels))
    reading = plan_reading(job, pixels, job.valid)
    logits = predict_with(job, model, reading, offsets=offsets)["identity"]
    predictions = load_predictions(predict(config)[0])
    held_out = predictions.ids["part"] == "oof"
    order = pd.Index(predictions.ids["sample_id"][held_out])
    places = order.get_indexer(job.store.samples.sample_id.iloc[job.valid])
    found = predictions.logits("identity")[held_out][places]
    np.testing.assert_allclose(found, logits, rtol=2e-3, atol=0.02)
