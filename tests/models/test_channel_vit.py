"""Transformers of stains by name: one network for images of other channels."""

import logging

import numpy as np
import pytest
import safetensors.torch
import torch

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model, see_channels
from cellsignal.models.cost import checkpoint_activations
from cellsignal.models.torchvision_cpu import import_timm

NAME = "channel_vit_micro_patch8"
STAINS = ("nuclei", "endoplasmic_reticulum", "actin", "nucleoli")


def build(names=STAINS, classes: int = 5, size: int = 32, backbone: str = NAME, **options):
    torch.manual_seed(0)
    return build_model(
        Model(backbone=backbone, **options), len(names), classes, size, names=tuple(names)
    ).eval()


def test_one_channel_is_timms_transformer():
    """Oracle: timm's network with the same weights, and the stain's embedding in its positions."""
    import_timm()
    from timm.models.vision_transformer import VisionTransformer

    model = build(("dna",))
    trunk = model.backbone
    oracle = VisionTransformer(
        img_size=32, patch_size=8, in_chans=1, embed_dim=96, depth=4, num_heads=3, num_classes=5
    ).eval()
    state = trunk.state_dict()
    embedding = state.pop("channel_embed.dna")
    assert embedding.abs().max() > 0
    state["pos_embed"] = torch.cat(
        [state["pos_embed"][:, :1], state["pos_embed"][:, 1:] + embedding], 1
    )
    oracle.load_state_dict(state)
    images = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), oracle(images))
        torch.testing.assert_close(
            model.embed(images),
            oracle.forward_head(oracle.forward_features(images), pre_logits=True),
        )


def test_channels_are_known_by_name_not_by_place():
    model, order, images = build(), [2, 0, 3, 1], torch.randn(2, 4, 32, 32)
    other = build([STAINS[index] for index in order])
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(other(images[:, order]), expected)
        assert not torch.allclose(model(images[:, order]), expected, atol=1e-4)


def test_a_channel_that_is_not_looked_at_is_as_one_that_is_not_there():
    model, images = build(), torch.randn(2, 4, 32, 32)
    some = build([STAINS[index] for index in (0, 3)])
    some.load_state_dict(model.state_dict(), strict=False)
    see_channels(model, (1, 4))
    with torch.no_grad():
        torch.testing.assert_close(model(images), some(images[:, [0, 3]]))
        images[:, [1, 2]] = torch.nan
        assert torch.isfinite(model(images)).all()
        see_channels(model, None)
        assert torch.isnan(model(images)).all()


@pytest.mark.parametrize("numbers", [(5,), (0, 1), (1, 1)])
def test_channels_that_are_not_there_are_refused(numbers):
    with pytest.raises(
        InputError, match=r"^predict\.channels: .*the network knows 1 to 4 \(dna, er, actin, rna\)"
    ):
        see_channels(build(), numbers)


def test_a_network_of_all_channels_cannot_leave_some_out():
    model = build_model(Model(backbone="test_resnet"), 4, 5, 32)
    with pytest.raises(InputError, match=r"^predict\.channels: this network takes all channels"):
        see_channels(model, (1, 2))


def test_an_image_of_other_channels_is_refused():
    with pytest.raises(
        InputError, match=r"takes images of 4 channels \(dna, er, actin, rna\), got 3"
    ):
        build()(torch.zeros(1, 3, 32, 32))


def test_channel_dropout_draws_every_number_evenly_in_training_alone():
    model = build(channel_dropout=1.0)
    trunk, images = model.backbone, torch.zeros(1, 4, 1, 1)
    assert trunk.choose(images)[1] == [0, 1, 2, 3]  # evaluation
    model.train()
    torch.manual_seed(1)
    drawn = [tuple(trunk.choose(images)[1]) for _ in range(3000)]
    assert all(list(chosen) == sorted(set(chosen)) for chosen in drawn)
    lengths = np.bincount([len(chosen) for chosen in drawn], minlength=5)
    assert lengths[0] == lengths[4] == 0
    # binomial SD of 3000 at 1/3 is 26
    assert np.abs(lengths[1:4] - 1000).max() < 110
    places = np.bincount([index for chosen in drawn for index in chosen], minlength=4)
    assert np.abs(places / places.sum() - 0.25).max() < 0.02
    torch.manual_seed(1)
    assert [tuple(trunk.choose(images)[1]) for _ in range(5)] == drawn[:5]


def test_channel_dropout_has_its_probability():
    model = build(channel_dropout=0.3).train()
    images = torch.zeros(1, 4, 1, 1)
    torch.manual_seed(0)
    whole = np.mean([len(model.backbone.choose(images)[1]) == 4 for _ in range(2000)])
    assert whole == pytest.approx(0.7, abs=0.04)


def test_in_training_every_embedding_has_a_gradient_also_those_that_were_dropped():
    model = build(channel_dropout=1.0).train()
    torch.manual_seed(0)
    model(torch.randn(4, 4, 32, 32)).square().sum().backward()
    gradients = [embedding.grad for embedding in model.backbone.channel_embed.values()]
    assert all(gradient is not None for gradient in gradients)
    zero = sum(bool((gradient == 0).all()) for gradient in gradients)
    assert 1 <= zero <= 3


def test_weights_of_another_data_set_start_it_by_the_stains_names(tmp_path, caplog):
    """cpjump1 knows dna and er, not actin: it starts from the mean; mito is left out."""
    first = build(("DNA", "ER", "Mito"), classes=9)
    torch.save({"model": first.state_dict(), "epoch": 3}, tmp_path / "last.pt")
    with caplog.at_level(logging.INFO, logger="cellsignal"):
        second = build(("actin", "nuclei", "endoplasmic_reticulum"), weights=tmp_path / "last.pt")
    assert "stains that the weights do not know start from the mean: actin" in caplog.text
    theirs, ours = first.backbone.channel_embed, second.backbone.channel_embed
    assert sorted(ours) == ["actin", "dna", "er"]
    for stain in ("dna", "er"):
        assert torch.equal(ours[stain], theirs[stain])
    mean = sum(theirs[stain] for stain in ("dna", "er", "mito")) / 3
    torch.testing.assert_close(ours["actin"], mean)
    assert torch.equal(
        second.backbone.blocks[2].attn.qkv.weight, first.backbone.blocks[2].attn.qkv.weight
    )
    assert second.backbone.head.weight.shape == (5, 96)
    images = torch.randn(2, 2, 32, 32)
    second.backbone.see((1, 2))
    first.backbone.see((0, 1))
    nothing = torch.zeros(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            second.embed(torch.cat([nothing, images], 1)),
            first.embed(torch.cat([images, nothing], 1)),
        )


def test_rgb_weights_of_timm_start_it(tmp_path):
    """A gray image in one channel, no embedding of its stain: the RGB network's features."""
    timm = import_timm()
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0).eval()
    torch.nn.init.normal_(network.pos_embed)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "vit.safetensors")
    model = build(
        ("dna",), backbone="channel_vit_tiny_patch16", weights=tmp_path / "vit.safetensors"
    )
    with torch.no_grad():
        model.backbone.channel_embed["dna"].zero_()
        gray = torch.randn(2, 1, 32, 32)
        expected = network(gray.expand(-1, 3, -1, -1))
        torch.testing.assert_close(model.embed(gray), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("repeats", [1, 4, 11])
def test_positions_that_repeat_for_each_channel_are_taken_once(repeats):
    """Four channels of 4 x 4 patches are as many as one of 8 x 8."""
    model = build(("dna", "er"))
    state, once = model.backbone.state_dict(), torch.randn(1, 16, 96)
    first = torch.zeros(1, 1, 96)
    state["pos_embed"] = torch.cat([first, once.repeat(1, repeats, 1)], 1)
    adapted = model.backbone.adapt_weights(state)
    assert torch.equal(adapted["pos_embed"], torch.cat([first, once], 1))


def test_stains_can_be_changed_for_others_that_it_knows():
    model = build()
    model.backbone.use_stains(("actin", "dna"))
    assert model(torch.zeros(1, 2, 32, 32)).shape == (1, 5)
    with pytest.raises(InputError, match="does not know the stains mito"):
        model.backbone.use_stains(("dna", "mito"))


def test_neck_heads_and_images_of_another_size():
    options = {"neck": 16, "cosine_head": True, "cell_type_vector": True, "drop_path": 0.1}
    model = build_model(Model(backbone=NAME, **options), 4, 5, 32, 2, names=STAINS).eval()
    outputs = model.outputs(torch.randn(3, 4, 40, 48), torch.eye(2)[[0, 1, 1]])
    assert outputs.embedding.shape == (3, 16) and outputs.cosines.shape == (3, 5)


def test_activations_can_be_dropped():
    model, images = build(), torch.randn(2, 4, 32, 32)
    before = model(images)
    checkpoint_activations(model, (images,))
    assert model.backbone.grad_checkpointing
    torch.testing.assert_close(model.eval()(images), before)


def test_channels_without_names_are_told_apart_by_their_numbers():
    model = build_model(Model(backbone=NAME), 3, 5, 32)
    assert sorted(model.backbone.channel_embed) == ["channel_1", "channel_2", "channel_3"]


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({"pretrained": True}, 32, "model.pretrained: channel_vit_micro_patch8 has no"),
        ({"layers": (1,)}, 32, "model.layers: channel_vit_micro_patch8 has no such option"),
        ({}, None, "channel_vit_micro_patch8 needs images of 8 pixels or more a side"),
        ({}, 7, "needs images of 8 pixels or more"),
    ],
)
def test_what_it_has_not_is_refused(options, size, message):
    with pytest.raises(InputError, match=message):
        build_model(Model(backbone=NAME, **options), 3, 5, size)


@pytest.mark.parametrize("name", ["test_resnet", "lenet"])
def test_networks_of_all_channels_have_no_channel_dropout(name):
    with pytest.raises(
        InputError, match=rf"^model\.channel_dropout: {name} takes all channels at once"
    ):
        build_model(Model(backbone=name, channel_dropout=0.5), 3, 5, 64)
