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
from cellsignal.training.control_offsets import plan_offsets, unit_offsets
from cellsignal.training.inference import (
    pixel_statistics,
    plan_reading,
    predict_with,
    site_dataset,
)
from cellsignal.training.job import Job, unit_codes
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


@pytest.mark.parametrize("wells", ["controls", "negative_controls"])
def test_statistics_of_controls_are_those_of_one_training_batch_of_controls(
    plates, tmp_path, wells
):
    """Every layer by hand: its moments over the plate's control wells, in one batch."""
    predict = {"adapt": "plate", "adapt_wells": wells, "batch_size": 512}
    job, model, pixels = setting(plates, tmp_path, predict=predict)
    chosen = job.valid[::7]
    reading = plan_reading(job, pixels, chosen)
    # no offset in any layer
    found = predict_with(job, model, reading, offsets={})["identity"]
    codes, roles = unit_codes(job.store.samples, "plate"), job.store.samples.role.to_numpy()
    wanted = {"negative_control"} if wells == "negative_controls" else set(roles) - {"treatment"}
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for code in np.unique(codes[chosen]):
        controls = np.flatnonzero((codes == code) & np.isin(roles, list(wanted)))
        assert len(controls) >= 2
        model.load_state_dict(before, strict=False)
        moments = biased_moments(model, images_of(job, pixels, controls))
        mine = np.flatnonzero(codes[chosen] == code)
        for layer, (mean, variance) in moments.items():
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(variance)
        with torch.no_grad():
            expected = model.eval()(images_of(job, pixels, chosen[mine]))
        np.testing.assert_allclose(found[mine], expected, rtol=1e-3, atol=2e-3)
    model.load_state_dict(before, strict=False)


def biased_moments(model, images) -> dict:
    """Mean and biased variance of each layer's inputs in a training batch of these images."""
    moments = {}

    def keep(layer, inputs):
        x = inputs[0].double().movedim(1, -1).flatten(0, -2)
        moments[layer] = x.mean(0).float(), x.var(0, unbiased=False).float()

    layers = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    with torch.no_grad():
        model.train()(images)
    for hook in hooks:
        hook.remove()
    return moments


def without_treatments(job, code, keep) -> Job:
    """The job on a store whose plate `code` holds only the treatments at `keep`."""
    samples = job.store.samples
    mine = (unit_codes(samples, "plate") == code) & (samples.role == "treatment").to_numpy()
    mine[keep] = False
    store = object.__new__(type(job.store))
    store.__dict__.update(job.store.__dict__)
    store.__dict__["samples"] = samples[~mine].reset_index(drop=True)
    return dataclasses.replace(job, store=store)


@pytest.mark.parametrize("wells", ["all", "controls"])
def test_other_treatments_of_the_plate_move_logits_only_where_they_are_counted(
    plates, tmp_path, wells
):
    """The same well on its plate, and on the plate with two treatments alone."""
    predict = {"adapt": "plate", "adapt_wells": wells, "batch_size": 512}
    settings = {"predict": predict, "normalization": {"by": "image"}}
    job, model, job_pixels = setting(plates, tmp_path, **settings)
    code = unit_codes(job.store.samples, "plate")[job.valid[0]]
    plate = unit_codes(job.store.samples, "plate") == code
    treated = np.flatnonzero(plate & (job.store.samples.role == "treatment").to_numpy())
    skewed = without_treatments(job, code, treated[:2])
    logits = []
    for each in (job, skewed):
        pixels = pixel_statistics(each.config, each.store, each.train[:1])
        ids = each.store.samples.sample_id
        chosen = np.flatnonzero(ids.isin(job.store.samples.sample_id[treated[:2]]))
        offsets = unit_offsets(job, model, plan_offsets(job, job_pixels))
        reading = plan_reading(each, pixels, chosen)
        logits.append(predict_with(each, model, reading, offsets=offsets)["identity"])
    same = np.allclose(*logits, atol=1e-5)
    assert same if wells == "controls" else not np.allclose(*logits, atol=1e-2)


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
