"""Normalisation against numpy over the concatenated pixels, and what it must never depend on."""

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Normalization
from cellsignal.data import normalization
from cellsignal.data.normalization import (
    SMALLEST_SD,
    compute_shift_scale,
    pool_over_frames,
    pool_statistics,
    standardize,
)
from cellsignal.data.sites import channel_statistics

ROLES = ("treatment", "positive_control", "negative_control")
OF_WELLS = {"all": ROLES, "controls": ROLES[1:], "negative_controls": ROLES[2:]}


def world(roles, experiments, plates, seed=0):
    """Images (n, 2, 5, 6) uint8 of differing brightness, their samples rows and statistics."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(20, 200, (len(roles), 2, 1, 1))
    images = np.clip(rng.normal(level, 15, (len(roles), 2, 5, 6)), 0, 255).astype(np.uint8)
    samples = pd.DataFrame(
        {"experiment": experiments, "plate": plates, "role": roles, "label": range(len(roles))}
    )
    statistics = np.array([channel_statistics(image) for image in images])
    return images, samples, statistics[:, 0].astype(np.float32), statistics[:, 1].astype(np.float32)


def pixels(images, rows):
    """(C,) mean and SD over all pixels of some images."""
    together = images[rows].astype(np.float64).transpose(1, 0, 2, 3).reshape(images.shape[1], -1)
    return together.mean(1), together.std(1)


def brute_force(images, samples, by, wells):
    shift, scale = [], []
    for _, row in samples.iterrows():
        experiment = (samples.experiment == row.experiment).to_numpy()
        unit = experiment & (samples.plate == row.plate).to_numpy() if by == "plate" else experiment
        counts = samples.role.isin(OF_WELLS[wells]).to_numpy()
        for rows in (unit & counts, experiment & counts, unit):
            if rows.any():
                break
        mean, sd = pixels(images, rows)
        shift.append(mean)
        scale.append(np.maximum(sd, SMALLEST_SD))
    return np.array(shift), np.array(scale)


wells = st.tuples(st.sampled_from(ROLES), st.sampled_from("AB"), st.sampled_from("12"))
tables = st.lists(wells, min_size=1, max_size=14)


def test_wells_that_no_sample_is_of_are_refused():
    _, samples, mean, sd = world(["treatment", "positive_control"], ["A", "A"], ["1", "2"])
    for by in ("plate", "experiment"):
        compute_shift_scale(samples, mean, sd, Normalization(by=by, wells="controls"))
        with pytest.raises(
            InputError, match=r"^normalization\.wells: negative_controls: none of the 2 samples"
        ) as error:
            compute_shift_scale(samples, mean, sd, Normalization(by=by, wells="negative_controls"))
        assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(
    tables,
    st.sampled_from(["experiment", "plate"]),
    st.sampled_from(list(OF_WELLS)),
    st.integers(0, 99),
)
def test_units_equal_brute_force_on_the_pixels(table, by, wells, seed):
    images, samples, mean, sd = world(*zip(*table, strict=True), seed=seed)
    assume(samples.role.isin(OF_WELLS[wells]).any())
    shift, scale = compute_shift_scale(samples, mean, sd, Normalization(by=by, wells=wells))
    expected_shift, expected_scale = brute_force(images, samples, by, wells)
    assert shift.dtype == scale.dtype == np.float32
    np.testing.assert_allclose(shift, expected_shift, rtol=1e-5)
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(tables, st.sampled_from(["experiment", "plate", "image"]), st.randoms(use_true_random=False))
def test_neither_labels_nor_the_order_of_rows_matter(table, by, random):
    _, samples, mean, sd = world(*zip(*table, strict=True))
    config = Normalization(by=by, wells="all" if by == "image" else "controls")
    assume(samples.role.isin(OF_WELLS[config.wells]).any())
    shift, scale = compute_shift_scale(samples, mean, sd, config)
    order = list(range(len(samples)))
    random.shuffle(order)
    shuffled = samples.iloc[order].drop(columns="label")
    again = compute_shift_scale(shuffled, mean[order], sd[order], config)
    np.testing.assert_allclose(again[0], shift[order], rtol=1e-6)
    np.testing.assert_allclose(again[1], scale[order], rtol=1e-5)


def test_global_statistics_are_those_of_all_pixels():
    images, samples, mean, sd = world(["treatment"] * 9, ["A"] * 9, ["1"] * 9)
    chosen = np.array([0, 3, 4, 8])
    overall = pool_statistics(mean[chosen], sd[chosen])
    np.testing.assert_allclose(overall, pixels(images, chosen), rtol=1e-6)
    shift, scale = compute_shift_scale(samples, mean, sd, Normalization(by="global"), overall)
    assert shift.shape == scale.shape == (9, 2) and shift.dtype == np.float32
    np.testing.assert_allclose(shift, np.tile(overall[0], (9, 1)), rtol=1e-6)
    np.testing.assert_allclose(scale, np.tile(overall[1], (9, 1)), rtol=1e-6)


def test_global_without_the_training_rows_statistics_is_our_mistake():
    _, samples, mean, sd = world(["treatment"], ["A"], ["1"])
    with pytest.raises(AssertionError, match="overall"):
        compute_shift_scale(samples, mean, sd, Normalization(by="global"))
    with pytest.raises(AssertionError, match="no packed site"):
        pool_statistics(np.full((1, 2), np.nan), np.full((1, 2), np.nan))


def test_an_image_by_itself_becomes_zero_mean_and_unit_sd():
    images, samples, mean, sd = world(["treatment"] * 4, ["A"] * 4, ["1"] * 4)
    shift, scale = compute_shift_scale(samples, mean, sd, Normalization(by="image"))
    standard = standardize(
        images.astype(np.float32), shift[:, :, None, None], scale[:, :, None, None]
    )
    np.testing.assert_allclose(standard.mean((2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std((2, 3)), 1, atol=1e-5)


def test_plates_of_the_same_name_in_two_experiments_are_two_units():
    _, samples, mean, sd = world(["treatment"] * 4, ["A", "A", "B", "B"], ["1"] * 4)
    shift, _ = compute_shift_scale(samples, mean, sd, Normalization(by="plate"))
    np.testing.assert_allclose(shift[0], mean[:2].mean(0), rtol=1e-6)
    np.testing.assert_allclose(shift[3], mean[2:].mean(0), rtol=1e-6)


@pytest.mark.parametrize("by", ["image", "plate"])
def test_a_flat_channel_becomes_zeros(by):
    images, samples, mean, sd = world(["treatment"] * 3, ["A"] * 3, ["1"] * 3)
    images[:, 1] = 200
    mean[:, 1], sd[:, 1] = 200, 0
    shift, scale = compute_shift_scale(samples, mean, sd, Normalization(by=by))
    standard = standardize(
        images.astype(np.float32), shift[:, :, None, None], scale[:, :, None, None]
    )
    assert (
        np.isfinite(standard).all()
        and (standard[:, 1] == 0).all()
        and np.abs(standard[:, 0]).max() > 0.5
    )


def test_fallbacks_are_counted_in_one_warning(caplog):
    # A1 has a negative control; A2 none, its experiment has; B1 and B2 none at all
    roles = ["negative_control", "treatment", "treatment", "treatment", "positive_control"]
    _, samples, mean, sd = world(roles, list("AAABB"), list("11212"))
    with caplog.at_level(logging.WARNING):
        shift, _ = compute_shift_scale(
            samples, mean, sd, Normalization(by="plate", wells="negative_controls")
        )
    assert [record.getMessage() for record in caplog.records] == [
        "normalization by plate over negative_controls: 3 of 4 plates have none; "
        "1 take their experiment's, 2 all wells of their own"
    ]
    np.testing.assert_allclose(shift, mean[[0, 0, 0, 3, 4]], rtol=1e-6)
    caplog.clear()
    compute_shift_scale(samples, mean, sd, Normalization(by="plate"))
    assert not caplog.records


def test_wells_of_no_unit_are_refused_by_the_schema():
    with pytest.raises(ValidationError, match="needs by: experiment or plate"):
        Normalization(by="image", wells="controls")


@pytest.mark.real_data
def test_no_real_plate_is_below_the_smallest_sd(real_data):
    assert pd.read_csv(real_data / "rxrx1" / "plate_pixel_stats.csv")["std"].min() > SMALLEST_SD


def test_frames_of_a_clip_share_their_channels_statistics():
    # n, channels, frames, pixels
    clip = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6, 7)).astype(float)
    planes = clip.reshape(4, 15, -1)
    mean, sd = pool_over_frames(planes.mean(2), planes.std(2), 5)
    whole = clip.reshape(4, 3, -1)
    assert np.allclose(mean.reshape(4, 3, 5), whole.mean(2)[..., None]) and np.allclose(
        sd.reshape(4, 3, 5), whole.std(2)[..., None]
    )
    assert pool_over_frames(planes.mean(2), planes.std(2), 1)[0] is not None


@pytest.mark.parametrize("seed", range(3))
def test_arrays_and_tensors_are_standardised_to_the_same_bits(seed):
    rng = np.random.default_rng(seed)
    grey = rng.integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    shift = rng.uniform(20, 200, (2, 3, 1, 1)).astype(np.float32)
    scale = rng.uniform(0.5, 60, (2, 3, 1, 1)).astype(np.float32)
    expected = (grey.astype(np.float32) - shift) / scale
    assert np.array_equal(standardize(grey.astype(np.float32), shift, scale), expected)
    tensors = [torch.from_numpy(values) for values in (grey, shift, scale)]
    out = torch.empty(grey.shape)
    assert standardize(*tensors, out=out) is out
    assert np.array_equal(out.numpy(), expected)


def test_no_other_module_standardises_pixels_itself():
    """The feed, both warps and the albumentations path call `standardize`."""
    folder = Path(normalization.__file__).parent
    callers = {
        path.name
        for path in folder.glob("*.py")
        if "standardize(" in path.read_text() and path.name != "normalization.py"
    }
    assert callers == {"dataset.py", "feed.py", "warp.py", "warp_torch.py"}
    for name in callers:
        assert not re.search(r"- shift|/ scale|sub_\(|div_\(", (folder / name).read_text()), name
