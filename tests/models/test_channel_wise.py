"""A network of one channel looks at each channel: told apart from calls channel by channel."""

import pytest
import safetensors.torch
import torch

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model, see_channels
from cellsignal.models.cost import checkpoint_activations, forward_flops
from cellsignal.models.stems import adapt_stem
from cellsignal.models.torchvision_cpu import import_timm

NAMES = ("actin", "tubulin", "dna")


@pytest.fixture
def gray(tmp_path):
    """A file of a network of one channel, and the network."""
    torch.manual_seed(0)
    network = import_timm().create_model("test_resnet", in_chans=1, num_classes=0).eval()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "gray.safetensors")
    return network, tmp_path / "gray.safetensors"


def build(way: str, names=NAMES, **options):
    config = Model(backbone="test_resnet", channel_wise=way, **options)
    return build_model(config, len(names), 5, 32, names=names).eval()


def test_concat_is_each_channels_features_side_by_side(gray):
    network, path = gray
    model, images = build("concat", weights=path), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = torch.cat([network(images[:, c : c + 1]) for c in range(3)], 1)
        torch.testing.assert_close(model.embed(images), expected)
    assert model.width == expected.shape[1] and model(images).shape == (2, 5)


def test_mean_is_the_mean_of_the_channels_times_their_gates(gray):
    network, path = gray
    model, images = build("mean", weights=path), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = torch.stack([network(images[:, c : c + 1]) for c in range(3)])
        torch.testing.assert_close(model.embed(images), features.mean(0))
        gates = torch.rand(3, features.shape[2])
        for stain, gate in zip(NAMES, gates, strict=True):
            model.backbone.channel_gate[stain].copy_(gate)
        torch.testing.assert_close(model.embed(images), (features * gates[:, None]).mean(0))
        see_channels(model, (3, 1))
        some = (features[2] * gates[2] + features[0] * gates[0]) / 2
        torch.testing.assert_close(model.embed(images), some)


def test_gates_of_a_run_are_taken_by_the_stains_names(tmp_path):
    """dna keeps its gate; er, which the run does not know, starts from the mean."""
    first = build("mean")
    with torch.no_grad():
        for gate in first.backbone.channel_gate.values():
            gate.uniform_()
    averaged = {name: tensor + 1 for name, tensor in first.state_dict().items()}
    for name, state in (
        ("model", {"model": first.state_dict()}),
        ("both", {"model": averaged, "averaged": first.state_dict()}),
    ):
        torch.save(state, tmp_path / f"{name}.pt")
        second = build("mean", ("nuclei", "er"), weights=tmp_path / f"{name}.pt")
        theirs, ours = first.backbone.channel_gate, second.backbone.channel_gate
        assert torch.equal(ours["dna"], theirs["dna"])
        torch.testing.assert_close(ours["er"], sum(theirs.values()) / 3)
        conv = "backbone.network.layer2.0.conv1.weight"
        assert torch.equal(second.state_dict()[conv], first.state_dict()[conv])
    wrong = first.state_dict() | {"backbone.channel_gate.dna": torch.ones(7)}
    torch.save(wrong, tmp_path / "wrong.pt")
    with pytest.raises(InputError, match=r"wrong\.pt: the gate of dna has shape \(7,\)"):
        build("mean", weights=tmp_path / "wrong.pt")


@pytest.mark.parametrize("way", ["concat", "mean"])
def test_rgb_weights_are_summed_for_the_one_channel(way, tmp_path):
    rgb = import_timm().create_model("test_resnet").state_dict()
    safetensors.torch.save_file(rgb, tmp_path / "rgb.safetensors")
    model = build(way, weights=tmp_path / "rgb.safetensors")
    stem = model.backbone.network.state_dict()["conv1.0.weight"]
    torch.testing.assert_close(stem, adapt_stem(rgb["conv1.0.weight"], 1))


def test_layers_of_each_channel(gray):
    _, path = gray
    model = build("concat", weights=path, layers=(1, 2), frozen=True)
    one = build_model(Model(backbone="test_resnet", layers=(1, 2), weights=path), 1, 5, 32).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = torch.cat([one.embed(images[:, c : c + 1]) for c in range(3)], 1)
        torch.testing.assert_close(model.embed(images), expected)


@pytest.mark.parametrize("way", ["concat", "mean"])
def test_cost_and_dropped_activations(way):
    model, images = build(way), torch.randn(4, 3, 32, 32)
    one = build_model(Model(backbone="test_resnet"), 1, 5, 32)
    trunk = forward_flops(one, 1, 32) - 2 * 5 * one.width
    assert forward_flops(model, 3, 32) == pytest.approx(3 * trunk + 2 * 5 * model.width)
    before = model(images)
    checkpoint_activations(model, (images,))
    torch.testing.assert_close(model.eval()(images), before)


def test_mean_takes_other_stains_and_concat_takes_all():
    model = build("mean", channel_dropout=0.5)
    model.backbone.use_stains(("dna", "actin"))
    assert model(torch.zeros(2, 2, 32, 32)).shape == (2, 5)
    with pytest.raises(InputError, match="does not know the stains er"):
        model.backbone.use_stains(("er",))
    with pytest.raises(InputError, match=r"^predict\.channels: this network takes all channels"):
        see_channels(build("concat"), (1,))
    with pytest.raises(
        InputError, match=r"^model\.channel_dropout: test_resnet takes all channels"
    ):
        build("concat", channel_dropout=0.5)


def test_networks_that_are_not_timms_have_no_such_option():
    with pytest.raises(InputError, match=r"^model\.channel_wise: lenet has no such option"):
        build_model(Model(backbone="lenet", channel_wise="mean"), 3, 5, 64)
