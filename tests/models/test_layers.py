"""Features of middle layers: told apart by hooks on a network that is not cut."""

import pytest
import safetensors.torch
import torch

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model
from cellsignal.models.cost import checkpoint_activations
from cellsignal.models.heads import PooledLayers
from cellsignal.models.torchvision_cpu import import_timm


@pytest.mark.parametrize(
    ("name", "layers", "modules"),
    [
        ("test_resnet", (1, 3), ("layer1", "layer3")),
        ("test_efficientnet", (0, 2), ("blocks.0", "blocks.2")),
    ],
)
def test_they_are_means_and_sds_of_the_uncut_networks_layers(name, layers, modules, tmp_path):
    whole = import_timm().create_model(name, num_classes=10).eval()
    for module in whole.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    seen = {}
    for module in modules:
        whole.get_submodule(module).register_forward_hook(
            lambda _, __, out, key=module: seen.update({key: out})
        )
    x = torch.randn(3, 3, 64, 64)
    whole(x)
    config = Model(
        backbone=name, layers=layers, frozen=True, weights=tmp_path / "weights.safetensors"
    )
    cut = build_model(config, 3, 5, 64).eval()
    expected = torch.cat(
        [
            part
            for key in modules
            for part in (seen[key].flatten(2).mean(2), seen[key].flatten(2).std(2, correction=0))
        ],
        1,
    )
    assert cut.width == expected.shape[1] and cut(x).shape == (3, 5)
    # where a channel is off its SD is 1e-4
    torch.testing.assert_close(cut.embed(x), expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(cut.outputs(x).embedding, cut.embed(x))
    assert sum(p.numel() for p in cut.backbone.parameters()) < sum(
        p.numel() for p in whole.parameters()
    )


def test_a_frozen_one_trains_its_head_alone_and_an_open_one_has_gradients_on_a_flat_image():
    for frozen in (True, False):
        network = build_model(
            Model(backbone="test_resnet", layers=(1,), frozen=frozen), 3, 5, None
        ).train()
        network(torch.zeros(4, 3, 32, 32)).square().sum().backward()
        of_backbone = [p.grad for p in network.backbone.parameters() if p.grad is not None]
        assert bool(of_backbone) != frozen
        assert all(
            torch.isfinite(grad).all()
            for grad in (*of_backbone, *(p.grad for p in network.head.parameters()))
        )


def test_the_head_does_not_care_for_the_layers_scale():
    network = build_model(Model(backbone="test_resnet", layers=(0, 2)), 3, 5, None).train()
    features = torch.randn(64, network.width) * torch.logspace(-1, 3, network.width) + 7
    assert network.head[0](features).std(0).sub(1).abs().max() < 0.1


def test_activations_can_be_dropped_in_a_cut_network():
    network = build_model(Model(backbone="test_resnet", layers=(1, 2)), 3, 5, None)
    x = torch.randn(4, 3, 32, 32)
    before = network.eval()(x)
    checkpoint_activations(network, (x,))
    torch.testing.assert_close(network.eval()(x), before)


@pytest.mark.parametrize(
    ("name", "layers", "said"),
    [
        ("test_resnet", (9,), "has the layers 0 to"),
        ("test_resnet", (2, 1), "ascending"),
        ("test_resnet", (1, 1), "ascending"),
        ("lenet", (1,), "lenet has no such option"),
    ],
)
def test_layers_that_are_not_there(name, layers, said):
    with pytest.raises(InputError, match=f"model.layers: .*{said}"):
        build_model(Model(backbone=name, layers=layers), 3, 5, 32)


def test_a_network_that_does_not_tell_its_layers():
    with pytest.raises(InputError, match=r"model\.layers: plain cannot be cut"):
        PooledLayers(torch.nn.Conv2d(3, 4, 3), (0,), "plain")
