"""FLOPs against counts by hand and against published figures."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model
from cellsignal.models.cost import forward_flops, training_flops


def test_a_small_network_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 16 x 16 places, 8 x 3 x 9 products
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4),  # 8 x 8 places, 12 x 2 x 9
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )
    assert forward_flops(network, 3, 16) == 2 * (16 * 16 * 8 * 3 * 9 + 8 * 8 * 12 * 2 * 9 + 12 * 5)


def test_attention_by_hand():
    class Attention(nn.Module):
        def forward(self, x):
            x = x.flatten(2).mT.unsqueeze(1)  # (1, 1, 64, 4)
            return functional.scaled_dot_product_attention(x, x, x)

    assert forward_flops(Attention(), 4, 8) == 2 * (64 * 4 * 64 + 64 * 64 * 4)


def test_lenet_by_hand():
    network = build_model(Model(backbone="lenet"), 6, 10, 64)
    products = (
        32**2 * 16 * 6 * 25 + 16**2 * 32 * 16 * 25 + 4**2 * 64 * 32 * 25 + 64 * 1024 + 1024 * 10
    )
    assert forward_flops(network, 6, 64, 4) == 2 * products


@pytest.mark.parametrize(("backbone", "gflop"), [("resnet50", 129), ("densenet161", 244)])
def test_published_cost_of_training(backbone, gflop):
    """Six channels at 512 px; three times the forward pass is that and the stem's gradient of its
    inputs, which nobody computes.
    """
    network = build_model(Model(backbone=backbone), 6, 1, 512)
    training = training_flops(forward_flops(network, 6, 512)) / 1e9
    assert training == pytest.approx(gflop, rel=0.05)
    stem = network.backbone.conv1 if backbone == "resnet50" else network.backbone.features.conv0
    assert training - 2 * stem.weight.numel() * 256**2 / 1e9 == pytest.approx(gflop, abs=0.5)


def test_checkpointing_counts_another_forward():
    assert training_flops(10.0) == 30 and training_flops(10.0, checkpointed=True) == 40


def test_own_heads_and_cell_types_count():
    plain, vector = (
        build_model(Model(backbone="resnet10t", cell_type_vector=on), 6, 7, 32, 4)
        for on in (False, True)
    )
    assert forward_flops(vector, 6, 32, 4) - forward_flops(plain, 6, 32, 4) == 2 * 4 * 7


def test_nothing_is_left_behind():
    network = build_model(Model(backbone="resnet10t", dropout=0.5), 6, 7, 32)
    network.train()
    network.backbone.bn1.eval()  # frozen by itself
    modes = [module.training for module in network.modules()]
    before = copy.deepcopy(network.state_dict())
    random = torch.get_rng_state()
    parameters = list(map(id, network.parameters()))
    first = forward_flops(network, 6, 32)
    network.backbone.set_grad_checkpointing(True)
    assert forward_flops(network, 6, 32) == first
    assert [module.training for module in network.modules()] == modes and list(
        map(id, network.parameters())
    ) == parameters
    after = network.state_dict()
    assert list(after) == list(before) and all(
        torch.equal(after[name], value) for name, value in before.items()
    )
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(RuntimeError):
        forward_flops(network, 5, 32)
    assert [module.training for module in network.modules()] == modes and list(
        map(id, network.parameters())
    ) == parameters
