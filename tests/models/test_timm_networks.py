"""Vision transformers of another image size: positions are timm's own resampled ones."""

import logging

import pytest
import safetensors.torch
import torch

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model
from cellsignal.models.torchvision_cpu import import_timm

VIT = "test_vit"  # patches of 16, as published for 160 pixels


@pytest.fixture
def published(tmp_path):
    """A file of weights for 160 pixels, and the network that it is of."""
    torch.manual_seed(0)
    network = import_timm().create_model(VIT, num_classes=4).eval()
    torch.nn.init.normal_(network.pos_embed)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "vit.safetensors")
    return network, tmp_path / "vit.safetensors"


def test_the_files_size_changes_nothing(published):
    network, path = published
    model = build_model(Model(backbone=VIT, weights=path), 3, 4, 160).eval()
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(model(images), network(images))


@pytest.mark.parametrize("size", [64, 96, 256])
def test_positions_of_another_size_are_resampled_bicubically(published, size, caplog):
    network, path = published
    with caplog.at_level(logging.INFO, logger="cellsignal"):
        model = build_model(Model(backbone=VIT, weights=path), 3, 4, size).eval()
    assert "timm resampled or renamed 1 weights, such as pos_embed" in caplog.text
    grid, positions = size // 16, network.pos_embed.detach()
    patches = positions[:, 1:].unflatten(1, (10, 10)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        patches, (grid, grid), mode="bicubic", antialias=True, align_corners=False
    )
    state = model.backbone.state_dict()
    assert torch.equal(state["pos_embed"][:, :1], positions[:, :1])
    torch.testing.assert_close(state["pos_embed"][:, 1:], expected.flatten(2).transpose(1, 2))
    assert torch.equal(state["blocks.1.mlp.fc1.weight"], network.blocks[1].mlp.fc1.weight)


def test_channels_classes_and_size_at_once(published):
    network, path = published
    model = build_model(Model(backbone=VIT, weights=path), 6, 9, 64).eval()
    assert model(torch.randn(2, 6, 64, 64)).shape == (2, 9)
    assert torch.equal(model.backbone.norm.weight, network.norm.weight)


def test_positions_that_are_no_square_are_refused_in_one_line(tmp_path):
    state = import_timm().create_model(VIT, num_classes=4).state_dict()
    state["pos_embed"] = torch.randn(1, 8, state["pos_embed"].shape[2])
    safetensors.torch.save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(
        InputError, match=r"pos_embed has shape \(1, 8, 64\), the network's has"
    ) as raised:
        build_model(Model(backbone=VIT, weights=tmp_path / "odd.safetensors"), 3, 4, 64)
    assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_dynamic_size_takes_images_of_any():
    name, images = "vit_tiny_patch16_224", torch.randn(2, 3, 64, 64)
    fixed = build_model(Model(backbone=name), 3, 4, 64).eval()
    model = build_model(Model(backbone=name, dynamic_size=True), 3, 4, 64).eval()
    model.load_state_dict(fixed.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(images), fixed(images))
        assert model(torch.randn(2, 3, 96, 128)).shape == (2, 4)
        with pytest.raises(AssertionError, match="64"):
            fixed(torch.randn(2, 3, 96, 96))


@pytest.mark.parametrize("name", ["test_resnet", "densenet121"])
def test_a_network_of_any_size_has_no_dynamic_one(name):
    with pytest.raises(InputError, match=f"^model.dynamic_size: {name} has no such option$"):
        build_model(Model(backbone=name, dynamic_size=True), 3, 4, 64)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own, in its resampling
def test_relative_positions_of_a_swin_are_resampled_too(tmp_path):
    """Oracle: timm's own loading of the same weights."""
    timm, name = import_timm(), "swin_tiny_patch4_window7_224"
    torch.manual_seed(0)
    given = timm.create_model(name, num_classes=4).state_dict()
    safetensors.torch.save_file(given, tmp_path / "swin.safetensors")
    options = {"num_classes": 4, "img_size": 128}
    overlay = {"state_dict": dict(given), "num_classes": 4}
    theirs = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    config = Model(backbone=name, weights=tmp_path / "swin.safetensors")
    model, images = build_model(config, 3, 4, 128).eval(), torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs.eval()(images))


@pytest.mark.parametrize(("name", "layers"), [("test_vit", (1, 3)), ("test_convnext", (1, 3))])
def test_layers_of_a_transformer_and_a_convnext(name, layers):
    """Means and SDs of the uncut network's own intermediates, for six channels."""
    torch.manual_seed(0)
    model = build_model(Model(backbone=name, layers=layers), 6, 4, 160).eval()
    whole = import_timm().create_model(name, in_chans=6, num_classes=0).eval()
    whole.load_state_dict(model.backbone.network.state_dict(), strict=False)
    images, seen = torch.randn(2, 6, 160, 160), []
    parts = whole.blocks if name == "test_vit" else whole.stages
    for layer in layers:
        parts[layer].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        whole.forward_features(images)
        tokens = [out[:, 1:] if out.ndim == 3 else out.flatten(2).transpose(1, 2) for out in seen]
        expected = [f for out in tokens for f in (out.mean(1), out.std(1, correction=0))]
        features = model.embed(images)
    torch.testing.assert_close(features, torch.cat(expected, 1), atol=1e-3, rtol=1e-3)
