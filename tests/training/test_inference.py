"""What goes through a model: adaptation to each unit by brute force, order, channels, and that
labels do not matter.
"""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import make_config, stage

from cellsignal.common.errors import InputError
from cellsignal.competitions.targets import sum_by_target
from cellsignal.data.draws import Recipe
from cellsignal.data.transforms import Transform
from cellsignal.models.backbones import build_model
from cellsignal.training import inference
from cellsignal.training.inference import (
    pixel_statistics,
    plan_reading,
    predict_with,
    site_dataset,
)
from cellsignal.training.job import unit_codes
from cellsignal.training.plan import jobs_of


def setting(plates, tmp_path, **more):
    """A job, an untrained network whose running statistics are those of noise, and the pixel
    statistics.
    """
    job = jobs_of(make_config(plates, tmp_path / "runs", [stage()], **more))[0]
    torch.manual_seed(0)
    model = build_model(job.config.model, len(job.channels), job.outputs, 24, len(job.cell_types))
    model.train()
    for _ in range(3):
        model(
            torch.randn(8, len(job.channels), 24, 24),
            *([torch.eye(4)[[0, 1, 2, 3] * 2]] if job.config.model.cell_type_vector else []),
        )
    model.eval()
    return job, model, pixel_statistics(job.config, job.store, job.train)


def images_of(job, pixels, positions) -> torch.Tensor:
    """By hand: read, choose channels, standardise."""
    rows = job.store.samples.row.to_numpy()[positions]
    found = [
        (job.store.read(int(row)).astype(np.float32) - pixels.shift[p][:, None, None])
        / pixels.scale[p][:, None, None]
        for p, row in zip(positions, rows, strict=True)
    ]
    return torch.from_numpy(np.stack(found)[:, job.channels])


@pytest.mark.parametrize("unit", ["cell_type", "experiment", "plate"])
def test_adapted_predictions_are_those_of_the_whole_unit_in_one_training_batch(
    plates, tmp_path, unit
):
    job, model, pixels = setting(plates, tmp_path, predict={"adapt": unit, "batch_size": 512})
    chosen = job.valid[::7]
    found = predict_with(job, model, plan_reading(job, pixels, chosen), ("identity", "hflip"))
    codes = unit_codes(job.store.samples, unit)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for code in np.unique(codes[chosen]):
        # all wells of the unit, controls and unlabelled ones too
        members = np.flatnonzero(codes == code)
        model.load_state_dict(before, strict=False)
        model.train()
        with torch.no_grad():
            whole = model(images_of(job, pixels, members))
        mine = np.flatnonzero(codes[chosen] == code)
        expected = whole[np.searchsorted(members, chosen[mine])]
        np.testing.assert_allclose(found["identity"][mine], expected, atol=2e-4)
    roles = job.store.samples.role.to_numpy()[codes == codes[chosen[0]]]
    assert len(set(roles)) == 3
    assert not np.allclose(found["identity"], found["hflip"])


def test_without_adaptation_it_is_a_plain_forward_pass_in_the_order_asked_for(plates, tmp_path):
    job, model, pixels = setting(plates, tmp_path, predict={"batch_size": 5})
    chosen = np.random.default_rng(0).permutation(job.valid)[:23]
    with torch.no_grad():
        images = images_of(job, pixels, chosen)
        expected, embedded = model(images), model.embed(images)
    np.testing.assert_allclose(
        predict_with(job, model, plan_reading(job, pixels, chosen))["identity"], expected, atol=1e-4
    )
    np.testing.assert_allclose(
        predict_with(job, model, plan_reading(job, pixels, chosen), embeddings=True)["identity"],
        embedded,
        atol=1e-4,
    )
    assert predict_with(job, model, plan_reading(job, pixels, chosen[:0]))["identity"].shape == (
        0,
        job.outputs,
    )


def test_what_else_is_predicted_and_what_the_labels_are_changes_nothing(plates, tmp_path):
    job, model, pixels = setting(plates, tmp_path, predict={"adapt": "plate", "batch_size": 512})
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    many = predict_with(job, model, plan_reading(job, pixels, job.valid))["identity"]
    few = predict_with(job, model, plan_reading(job, pixels, job.valid[[40, 3]]))["identity"]
    np.testing.assert_allclose(few, many[[40, 3]], atol=1e-5)
    samples = job.store.samples.copy()
    samples["label"] = np.random.default_rng(1).permutation(samples.label.fillna(0))
    store = object.__new__(type(job.store))
    store.__dict__.update(job.store.__dict__)
    store.__dict__["samples"] = samples
    blind = dataclasses.replace(job, store=store)
    assert np.array_equal(
        predict_with(blind, model, plan_reading(blind, pixels, job.valid))["identity"], many
    )
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_chosen_channels_and_the_cell_type_reach_the_network(plates, tmp_path):
    job, model, pixels = setting(
        plates,
        tmp_path,
        data={"channels": [4, 2]},
        model={"backbone": "test_resnet", "cell_type_vector": True},
    )
    assert list(job.channels) == [3, 1]
    chosen = job.valid[::11]
    types = job.store.samples.cell_type.to_numpy()[chosen]
    vectors = torch.tensor(
        [[float(name == t) for name in ("HEPG2", "HUVEC", "RPE", "U2OS")] for t in types]
    )
    with torch.no_grad():
        expected = model(images_of(job, pixels, chosen), vectors)
        other = model(images_of(job, pixels, chosen), vectors.roll(1, 1))
    found = predict_with(job, model, plan_reading(job, pixels, chosen))["identity"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not np.allclose(found, other, atol=1e-2)


def test_sum_by_target_sums_the_sites_of_a_well():
    targets, merged, first = sum_by_target(
        np.array([[1.0, 2], [3, 4], [5, 6]]), np.array(["b", "a", "b"])
    )
    assert (
        list(targets) == ["a", "b"]
        and merged.tolist() == [[3, 4], [6, 8]]
        and list(first) == [1, 0]
    )


def test_each_image_is_read_once_for_statistics_and_all_views(plates, tmp_path, monkeypatch):
    job, model, pixels = setting(
        plates, tmp_path, predict={"adapt": "plate", "batch_size": 5}, data={"cache_gib": 0.0}
    )
    reading, reads = plan_reading(job, pixels, job.valid), []
    read = type(job.store).read
    monkeypatch.setattr(
        type(job.store),
        "read",
        lambda self, row, **more: (reads.append(row), read(self, row, **more))[1],
    )
    once = predict_with(job, model, reading, ("identity", "hflip"))
    assert sorted(reads) == sorted(job.store.samples.row.to_numpy()[reading.positions])
    # units that are too large to be held are read twice, and predicted alike
    monkeypatch.setattr(inference, "HELD_GIB", 0.0)
    reads.clear()
    twice = predict_with(job, model, reading, ("identity", "hflip"))
    assert len(reads) == len(reading.positions) + len(job.valid)
    assert all(np.array_equal(once[view], twice[view]) for view in once)


def test_a_network_without_batch_norm_is_not_confused_by_adaptation(plates, tmp_path, monkeypatch):
    job, _, pixels = setting(plates, tmp_path, predict={"adapt": "plate", "batch_size": 7})

    class Means(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, images):
            return self.scale * images.mean((2, 3))

    expected = images_of(job, pixels, job.valid).mean((2, 3))
    wide = dataclasses.replace(job, outputs=expected.shape[1])
    for held in (4.0, 0.0):
        monkeypatch.setattr(inference, "HELD_GIB", held)
        found = predict_with(wide, Means(), plan_reading(job, pixels, job.valid))["identity"]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("pipeline", "augment", "kind"),
    [
        ("auto", [{"name": "rotate90"}], Recipe),
        ("auto", [{"name": "rotate90"}, {"name": "blur"}], Transform),
        ("warp", [{"name": "rotate90"}], Recipe),
        ("albumentations", [{"name": "rotate90"}], Transform),
        ("warp", [{"name": "blur"}], None),
    ],
)
def test_the_pipeline_is_the_configured_one_and_can_do_what_the_stage_lists(
    plates, tmp_path, pipeline, augment, kind
):
    config = make_config(
        plates, tmp_path / "runs", [stage(augment=augment)], data={"pipeline": pipeline}
    )
    job = jobs_of(config)[0]
    pixels = pixel_statistics(job.config, job.store, job.train)
    if kind is None:
        with pytest.raises(InputError, match=r"data\.pipeline: warp cannot make stage 'all'"):
            site_dataset(job, job.train, pixels, job.stage.augment)
    else:
        assert type(site_dataset(job, job.train, pixels, job.stage.augment).augmentation) is kind
