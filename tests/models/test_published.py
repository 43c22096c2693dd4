"""Published files: reference networks with random weights, saved under the published names.

The files themselves were never read here. The references are transformers' own classes, and
networks put together from timm's parts as the published code describes them.
"""

import logging

import pytest
import safetensors.torch
import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model
from cellsignal.models.published import rename
from cellsignal.models.torchvision_cpu import import_timm


def randomise(network: nn.Module) -> nn.Module:
    """Give every weight a random value, so that none is left out unseen."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    for norm in network.modules():
        if isinstance(norm, nn.LayerNorm):
            nn.init.normal_(norm.weight, 1.0, 0.1)
    return network.eval()


def save(state: dict[str, torch.Tensor], path) -> None:
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    if path.suffix == ".pth":
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)


# DINOv2 under facebook's names
# --------------------------------------------------------------------------------------------------


def facebook_dinov2(registers: int = 0, chunks: int = 0) -> tuple[dict, nn.Module]:
    """A DINOv2 of width 48 under facebook's names, and what it computes, without timm's filter.

    With registers the class token has a position and the registers have none; they stand between.
    """
    import_timm()
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(
        img_size=70,
        patch_size=14,
        embed_dim=384,
        depth=12,
        num_heads=6,
        init_values=1e-5,
        num_classes=0,
        reg_tokens=0,
    )
    randomise(network)
    state = dict(network.state_dict()) | {"mask_token": torch.randn(1, 384)}
    if registers:
        state["register_tokens"] = torch.randn(1, registers, 384) * 0.05
    if chunks:
        state = {
            f"blocks.{int(name.split('.')[1]) // chunks}.{name[7:]}"
            if name.startswith("blocks.")
            else name: tensor
            for name, tensor in state.items()
        }

    def features(images):
        patches = network.patch_embed(images)
        tokens = torch.cat([network.cls_token.expand(len(images), -1, -1), patches], 1)
        tokens = tokens + network.pos_embed
        if registers:
            middle = state["register_tokens"].expand(len(images), -1, -1)
            tokens = torch.cat([tokens[:, :1], middle, tokens[:, 1:]], 1)
        return network.norm(network.blocks(tokens))[:, 0]

    return state, features


@pytest.mark.parametrize(
    ("name", "registers", "chunks", "suffix"),
    [
        ("vit_small_patch14_dinov2", 0, 0, ".pth"),
        ("vit_small_patch14_reg4_dinov2", 4, 0, ".safetensors"),
        pytest.param("vit_small_patch14_dinov2", 0, 4, ".pth", marks=pytest.mark.slow),
    ],
)
def test_facebooks_dinov2(tmp_path, name, registers, chunks, suffix):
    state, features = facebook_dinov2(registers, chunks)
    save(state, tmp_path / f"dinov2{suffix}")
    config = Model(backbone=name, weights=tmp_path / f"dinov2{suffix}")
    model, images = build_model(config, 3, 5, 70).eval(), torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        torch.testing.assert_close(model.embed(images), features(images), atol=1e-5, rtol=1e-5)


def test_the_blocks_of_other_networks_are_no_chunks():
    names = ["blocks.0.0.norm1.weight", "blocks.0.1.norm1.weight", "blocks.1.0.norm1.weight"]
    state = {name: torch.ones(1) for name in names}
    assert list(rename(state)) == names
    assert list(rename(state | {"mask_token": torch.ones(1)})) == [*names, "mask_token"]


# transformers' names
# --------------------------------------------------------------------------------------------------

SMALL = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "patch_size": 14,
    "image_size": 70,
}


def saved_by_transformers(kind: str, folder, options: dict) -> nn.Module:
    """A random model, saved by transformers itself in `folder`."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(**options)
    model = randomise(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(folder)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "name", "more"),
    [
        ("Dinov2", "vit_small_patch14_dinov2", {}),
        ("Dinov2WithRegisters", "vit_small_patch14_reg4_dinov2", {"num_register_tokens": 4}),
    ],
)
def test_transformers_dinov2(tmp_path, kind, name, more):
    reference = saved_by_transformers(kind, tmp_path, {**SMALL, **more})
    config = Model(backbone=name, weights=tmp_path / "model.safetensors")
    model, images = build_model(config, 3, 5, 70).eval(), torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        expected = reference(images).last_hidden_state[:, 0]
        torch.testing.assert_close(model.embed(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_transformers_vit(tmp_path):
    options = {**SMALL, "patch_size": 16, "image_size": 64, "intermediate_size": 1536}
    options["layer_norm_eps"] = 1e-6  # as timm's; published files have 1e-12
    reference = saved_by_transformers("ViT", tmp_path, options)
    config = Model(backbone="vit_small_patch16_224", weights=tmp_path / "model.safetensors")
    model, images = build_model(config, 3, 5, 64).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = reference(images).last_hidden_state[:, 0]
        torch.testing.assert_close(model.embed(images), expected, atol=1e-5, rtol=1e-5)


def transformers_names(state: dict[str, torch.Tensor], prefix: str = "") -> dict:
    """timm's names of a ViT under transformers', written out by hand."""
    outer = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    inner = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    result = {}
    for name, tensor in state.items():
        if name in outer:
            result[prefix + outer[name]] = tensor
            continue
        _, number, *parts, last = name.split(".")
        layer, part = f"{prefix}encoder.layer.{number}.", ".".join(parts)
        if part == "attn.qkv":
            for word, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                result[f"{layer}attention.attention.{word}.{last}"] = piece
        else:
            result[f"{layer}{inner[part]}.{last}"] = tensor
    return result


@pytest.mark.parametrize("prefix", ["", "vit.", "dinov2."])
def test_names_of_transformers_without_transformers(tmp_path, prefix):
    network = randomise(import_timm().create_model("test_vit", num_classes=0))
    state = transformers_names(network.state_dict(), prefix)
    state |= {f"{prefix}pooler.dense.weight": torch.ones(2), "classifier.weight": torch.ones(3)}
    save(state, tmp_path / "model.safetensors")
    config = Model(backbone="test_vit", weights=tmp_path / "model.safetensors")
    model, images = build_model(config, 3, 4, 160).eval(), torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(model.embed(images), network(images))


def test_a_part_that_lacks_is_named(tmp_path):
    network = import_timm().create_model("test_vit", num_classes=0)
    state = transformers_names(network.state_dict())
    del state["encoder.layer.1.attention.attention.key.weight"]
    save(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"lacks 1 of .* weights: blocks\.1\.attn\.qkv\.weight;"):
        build_model(Model(backbone="test_vit", weights=tmp_path / "model.safetensors"), 3, 4, 160)


# OpenPhenom
# --------------------------------------------------------------------------------------------------


class CaMae(nn.Module):
    """The encoder of OpenPhenom from timm's parts, as maes_microscopy describes it.

    Patches of single channels, sine and cosine positions that repeat for 11 channels, no embedding
    of channels; the features are the mean of all patches, of blocks without a norm at the end.
    """

    def __init__(self, size: int):
        super().__init__()
        import_timm()
        from timm.models.vision_transformer import ParallelScalingBlock, vit_small_patch16_224

        self.vit_backbone = vit_small_patch16_224(
            img_size=size,
            in_chans=1,
            num_classes=0,
            global_pool="avg",
            init_values=1e-4,
            block_fn=ParallelScalingBlock,
            qkv_bias=False,
            qk_norm=True,
        )
        grid = size // 16
        place = torch.arange(grid, dtype=torch.float32)
        rows, columns = (mesh.flatten() for mesh in torch.meshgrid(place, place, indexing="ij"))
        waves = 1 / 10000 ** (torch.arange(96) / 96)
        parts = [torch.outer(x, waves) for x in (rows, columns)]
        positions = torch.cat([f(x) for x in parts for f in (torch.sin, torch.cos)], 1)[None]
        self.positions = torch.cat([torch.zeros(1, 1, 384), positions.repeat(1, 11, 1)], 1)

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) uint8 -> (B, 384), as the published model's `predict`."""
        x = nn.functional.instance_norm(images.float() / 255)
        vit = self.vit_backbone
        patches = [vit.patch_embed.proj(x[:, c : c + 1]).flatten(2) for c in range(x.shape[1])]
        tokens = torch.cat(patches, 2).transpose(1, 2)
        tokens = torch.cat([vit.cls_token.expand(len(x), -1, -1), tokens], 1)
        tokens = tokens + self.positions[:, : tokens.shape[1]]
        return vit.blocks(tokens)[:, 1:].mean(1)


@pytest.mark.parametrize(
    ("channels", "container"),
    [(1, "state_dict"), (6, ""), pytest.param(11, "", marks=pytest.mark.slow)],
)
def test_open_phenom(tmp_path, channels, container):
    reference = CaMae(64)
    randomise(reference)
    state = {f"encoder.{name}": tensor for name, tensor in reference.state_dict().items()} | {
        "encoder.vit_backbone.pos_embed": reference.positions,
        "decoder.mask_token": torch.ones(1, 1, 8),
        "decoder.decoders.0.0.norm1.weight": torch.ones(8),
        "encoder_decoder_proj.weight": torch.ones(8, 384),
    }
    path = tmp_path / ("model.pth" if container else "model.safetensors")
    if container:
        torch.save({container: state}, path)
    else:
        save(state, path)
    model = build_model(Model(backbone="open_phenom", weights=path), channels, 5, 64).eval()
    raw = torch.randint(0, 256, (2, channels, 64, 64), dtype=torch.uint8)
    images = raw.float() / 255
    mean, var = images.mean((2, 3), keepdim=True), images.var((2, 3), keepdim=True, correction=0)
    with torch.no_grad():
        embedding = model.embed((images - mean) / (var + 1e-5).sqrt())
        torch.testing.assert_close(embedding, reference.predict(raw), atol=1e-5, rtol=1e-5)


def test_open_phenom_for_another_size_has_resampled_positions(tmp_path, caplog):
    reference = CaMae(64)
    state = {f"encoder.{name}": tensor for name, tensor in reference.state_dict().items()}
    state["encoder.vit_backbone.pos_embed"] = reference.positions
    save(state, tmp_path / "model.safetensors")
    config = Model(backbone="open_phenom", weights=tmp_path / "model.safetensors")
    with caplog.at_level(logging.INFO, logger="cellsignal"):
        model = build_model(config, 6, 5, 96).eval()
    assert model.backbone.pos_embed.shape == (1, 1 + 36, 384)
    patches = reference.positions[:, 1:17].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(patches, (6, 6), mode="bicubic", antialias=True)
    seen = model.backbone.pos_embed[:, 1:].unflatten(1, (6, 6)).permute(0, 3, 1, 2)
    torch.testing.assert_close(seen, expected)


# MorphEm
# --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {
            "student": {f"module.backbone.{k}": v for k, v in s.items()}
            | {"module.head.last_layer.weight_v": torch.ones(3)}
        },
    ],
)
def test_morphem_looks_at_one_channel_after_the_other(tmp_path, wrap):
    """A ViT-S/16 of one channel; features of the class token side by side, channel by channel."""
    network = import_timm().create_model(
        "vit_small_patch16_224", in_chans=1, num_classes=0, img_size=64
    )
    randomise(network)
    torch.save(wrap(dict(network.state_dict())), tmp_path / "morphem.pth")
    config = Model(
        backbone="vit_small_patch16_224",
        weights=tmp_path / "morphem.pth",
        channel_wise="concat",
        frozen=True,
    )
    model, images = build_model(config, 5, 4, 64).eval(), torch.randn(2, 5, 64, 64)
    assert model.width == 5 * 384
    with torch.no_grad():
        expected = torch.cat([network(images[:, c : c + 1]) for c in range(5)], 1)
        torch.testing.assert_close(model.embed(images), expected, atol=1e-5, rtol=1e-5)
