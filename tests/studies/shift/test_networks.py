"""Training of the bench: what shares a batch, BatchNorm by controls by hand, and the network."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cellsignal.studies.shift import networks
from cellsignal.studies.shift.networks import (
    RECIPES,
    ContextBatchNorm2d,
    Network,
    Recipe,
    augment,
    draw_batches,
    standardise_pixels,
    train_network,
)


def table_of(experiments=4, plates=2, treated=6, controls=3) -> pd.DataFrame:
    rows = [
        {"experiment": f"e{e}", "plate": str(p), "role": role, "label": k if k < 3 else k - 3}
        for e in range(experiments)
        for p in range(plates)
        for role, number in (("treatment", treated), ("negative_control", controls))
        for k in range(number)
    ]
    table = pd.DataFrame(rows).assign(is_test=False)
    table.loc[table.role != "treatment", "label"] = -1
    return table


def test_statistics_of_the_context_by_hand():
    torch.manual_seed(0)
    layer = ContextBatchNorm2d(2)
    layer.context = 3
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, -1.0]))
        layer.bias.copy_(torch.tensor([0.5, 0.0]))
    x = torch.randn(5, 2, 4, 4) * 3 + 1
    first = x[:3].numpy().transpose(1, 0, 2, 3).reshape(2, -1)
    mean, variance = first.mean(1)[:, None, None], first.var(1)[:, None, None]
    expected = (x.numpy() - mean) / np.sqrt(variance + 1e-5)
    expected = expected * np.array([2.0, -1.0])[:, None, None] + np.array([0.5, 0])[:, None, None]
    np.testing.assert_allclose(layer(x).detach(), expected, atol=1e-5)
    np.testing.assert_allclose(layer.running_mean, 0.1 * mean.ravel(), rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * variance.ravel(), rtol=1e-5)


def test_without_context_it_is_plain_batch_norm():
    x = torch.randn(5, 2, 4, 4)
    ours, plain = ContextBatchNorm2d(2), nn.BatchNorm2d(2)
    assert torch.equal(ours(x), plain(x))
    ours.context = 2
    assert torch.equal(ours.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(
    ("recipe", "unit"),
    [
        (Recipe("plate", context=True), ["experiment", "plate"]),
        (Recipe("experiment"), ["experiment"]),
        (Recipe(penalty="coral"), None),
        (Recipe(), None),
    ],
)
def test_a_batch_is_of_its_unit_and_an_epoch_of_all_wells(recipe, unit, monkeypatch):
    monkeypatch.setattr(networks, "BATCH", 6)
    table = table_of()
    treated = np.flatnonzero(table.role == "treatment")
    batches = list(draw_batches(table, treated, recipe, np.random.default_rng(0)))
    members = np.concatenate([members for _, members in batches])
    assert sorted(members) == treated.tolist()
    for context, rows in batches:
        mine = table.iloc[rows]
        if unit:
            assert len(mine[unit].drop_duplicates()) == 1
        if recipe.penalty == "coral":
            counts = mine.experiment.value_counts()
            assert len(counts) == 2 and np.ptp(counts) <= 1
        controls = table.iloc[context]
        assert len(controls) == (3 if recipe.context else 0)
        assert set(controls.role) <= {"negative_control"}
        assert set(controls.plate) <= set(mine.plate)


def test_augmentation_shows_each_image_in_one_of_its_eight_views():
    images = torch.arange(20 * 2 * 9.0).reshape(20, 2, 3, 3)
    shown = augment(images, np.random.default_rng(0))
    views = 0
    for before, after in zip(images, shown, strict=True):
        turned = [torch.rot90(before, k, (1, 2)) for k in range(4)]
        options = [*turned, *(view.flip(2) for view in turned)]
        assert any(torch.equal(after, option) for option in options)
        views += not torch.equal(after, before)
    assert views > 10


def test_pixels_are_standardised_over_the_training_wells():
    images = np.random.default_rng(0).integers(0, 255, (6, 6, 4, 4)).astype(np.uint8)
    is_test = np.array([False, False, True, False, True, True])
    found = standardise_pixels(images, is_test)
    np.testing.assert_allclose(found[~is_test].mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(found[~is_test].std((0, 2, 3), correction=0), 1, atol=1e-4)
    assert found[is_test].mean().abs() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_learns_a_plain_pattern(name):
    """A bright class, a dark one and one between; an untrained network does not know them."""
    table = table_of(experiments=2, controls=8)
    rng = np.random.default_rng(0)
    side = 16 if RECIPES[name].norm == "batch" else 48
    images = rng.normal(size=(len(table), 6, side, side)).astype(np.float32)
    images[:, 0] += np.array([0, 3.0, -3.0])[table.label.clip(0)][:, None, None]
    if RECIPES[name].norm == "instance":  # takes brightness away: stripes tell the classes
        images[:, 0, ::2] += 3 * table.label.to_numpy()[:, None, None]
    x = torch.from_numpy(images)
    recipe = Recipe(**{**vars(RECIPES[name]), "epochs": 40 * (name != "untrained")})
    model = train_network(x, table, recipe, 0)
    assert not model.training
    treated = table.role == "treatment"
    with torch.no_grad():
        right = model(x[np.array(treated)]).argmax(1).numpy() == table.label[treated]
    assert right.mean() > 0.9 if name != "untrained" else right.mean() < 0.9


def test_instance_norm_network_keeps_no_statistics():
    kinds = {type(module) for module in Network(3, "instance").modules()}
    assert nn.InstanceNorm2d in kinds and not kinds & {nn.BatchNorm2d, ContextBatchNorm2d}
