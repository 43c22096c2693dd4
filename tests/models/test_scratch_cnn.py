"""The bootcamp's small networks, and frozen backbones: parameters counted by hand, what a step
changes and what not.
"""

import pytest
import torch

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def by_hand(filters, dense, side=224, channels=3, classes=1) -> int:
    total = 0
    for out in filters:
        total, channels, side = total + 9 * channels * out + out, out, side // 2
    width = channels * side * side
    for out in (*dense, classes):
        total, width = total + width * out + out, out
    return total


def test_the_published_number_of_parameters():
    assert (
        parameters(build_model(Model(backbone="scratch_cnn", dropout=0.2), 3, 1, 224))
        == 6_441_985
        == by_hand((32, 64), (32,))
    )


@pytest.mark.parametrize(
    "name, filters, dense",
    [
        ("scratch_cnn_conv3", (32, 64, 64), (32,)),
        ("scratch_cnn_dense2", (32, 64), (32, 32)),
        ("scratch_cnn_leaky", (32, 64), (32,)),
    ],
)
def test_variants(name, filters, dense):
    model = build_model(Model(backbone=name), 2, 5, 50)
    assert parameters(model) == by_hand(filters, dense, 50, 2, 5)
    x = torch.randn(3, 2, 50, 50)
    found = model.outputs(x)
    assert (
        found.logits.shape == (3, 5)
        and found.embedding.shape == (3, model.width)
        and torch.equal(model.eval()(x), model.head(model.embed(x)))
    )
    with pytest.raises(InputError, match="built for 50"):
        model(torch.randn(1, 2, 51, 51))


def test_leaky_lets_negative_values_through():
    assert (
        build_model(Model(backbone="scratch_cnn_leaky"), 1, 1, 32).embed(torch.randn(64, 1, 32, 32))
        < 0
    ).any()
    assert (
        build_model(Model(backbone="scratch_cnn"), 1, 1, 32).embed(torch.randn(64, 1, 32, 32)) >= 0
    ).all()


def test_mobilenet_has_the_course_projects_parameters():
    assert parameters(build_model(Model(backbone="mobilenetv2_100"), 3, 50, 128)) == 2_287_922


def test_a_step_changes_the_head_of_a_frozen_network_alone():
    torch.manual_seed(0)
    model = build_model(Model(backbone="test_resnet", frozen=True, dropout=0.5), 3, 4, 32).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(8, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert (
        changed == {"head.weight", "head.bias"}
        and not model.backbone.training
        and model.dropout.training
    )


@pytest.mark.parametrize("option", ["frozen", "cosine_head", "pretrained"])
def test_the_small_networks_refuse_what_they_have_not(option):
    with pytest.raises(InputError, match=option):
        build_model(Model(backbone="scratch_cnn", **{option: True}), 3, 2, 32)
