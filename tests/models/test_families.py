"""One small network of each of timm's families sees six channels, and starts from RGB weights."""

import pytest
import safetensors.torch
import torch

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model
from cellsignal.models.stems import adapt_stem
from cellsignal.models.torchvision_cpu import import_timm

# the smallest of each module of timm 1.0.31 that has one below 36 million parameters
FAMILIES = (
    "halonet_h1",
    "test_byobnet",
    "cait_xxs24_224",
    "coat_tiny",
    "convit_tiny",
    "convmixer_768_32",
    "test_convnext",
    "cpubone_nano",
    "crossvit_tiny_240",
    "cs3darknet_focus_s",
    "cspnext_tiny",
    "davit_tiny",
    "deit_tiny_patch16_224",
    "densenet121",
    "dla46x_c",
    "dpn48b",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "test_efficientnet",
    "efficientvim_m1",
    "efficientvit_b0",
    "efficientvit_m0",
    "vit_tiny_patch16_dinov3_qkvb",
    "fasternet_t0",
    "fastvit_t8",
    "focalnet_tiny_srf",
    "gcvit_xxtiny",
    "ghostnet_050",
    "hardcorenas_b",
    "hgnetv2_b0",
    "hiera_tiny_224",
    "sam2_hiera_tiny",
    "hrnet_w18_small",
    "iformer_t",
    "inception_next_atto",
    "inception_v3",
    "lcnetv2_small",
    "levit_128s",
    "lowformer_b0",
    "test_mambaout",
    "test_coatnet",
    "poolformerv2_s12",
    "gmlp_ti16_224",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "mvitv2_tiny",
    "nest_tiny",
    "nextvit_small",
    "test_nfnet",
    "pit_ti_224",
    "pvt_v2_b0",
    "rdnet_tiny",
    "regnetx_002",
    "repghostnet_050",
    "repvit_m1",
    "res2next50",
    "resnest14d",
    "test_resnet",
    "resnetv2_18",
    "rexnet_100",
    "selecsls42",
    "legacy_seresnet18",
    "sequencer2d_s",
    "shvit_s1",
    "skresnet18",
    "starnet_s050",
    "swiftformer_xs",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "swinv2_cr_tiny_224",
    "tiny_vit_5m_224",
    "tnt_s_legacy_patch16_224",
    "tresnet_m",
    "twins_svt_small",
    "visformer_tiny",
    "test_vit",
    "vit_tiny_r_s16_p8_224",
    "test_vit_relpos",
    "vitamin_small_224",
    "volo_d1_224",
    "ese_vovnet19b_slim_dw",
    "legacy_xception",
    "xception41p",
    "xcit_nano_12_p8_224",
)
# their stems standardise the weights, which no weights can make up for
STANDARDISED = {"test_nfnet": 2.0, "vit_tiny_r_s16_p8_224": 0.1}
QUICK = ("test_resnet", "test_convnext", "test_coatnet", "test_vit", "test_byobnet")


def size_of(name: str) -> int:
    published = import_timm().get_pretrained_cfg(name)
    size = published.input_size[-1] if published else 224
    fixed = published is None or published.fixed_input_size
    return size if fixed or name == "halonet_h1" else min(size, 128)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_rgb_weights_of_every_family_see_a_gray_image_as_before(name, tmp_path, caplog):
    check_family(name, tmp_path, caplog, (6, 5))


@pytest.mark.parametrize("name", QUICK)
def test_rgb_weights_see_a_gray_image_as_before(name, tmp_path, caplog):
    check_family(name, tmp_path, caplog, (6, 5, 1))


def check_family(name: str, folder, caplog, numbers: tuple[int, ...]) -> None:
    """Random RGB weights in a file, a gray image: the same features for any number of channels."""
    size, path = size_of(name), folder / "rgb.safetensors"
    torch.manual_seed(0)
    rgb = build_model(Model(backbone=name), 3, 4, size).eval()
    state = {key: value.contiguous().clone() for key, value in rgb.backbone.state_dict().items()}
    safetensors.torch.save_file(state, path)
    gray = torch.randn(2, 1, size, size)
    with torch.no_grad():
        expected = rgb.embed(gray.expand(-1, 3, -1, -1))
    for channels in numbers:
        model = build_model(Model(backbone=name, weights=path), channels, 7, size).eval()
        with torch.no_grad():
            outputs = model.outputs(gray.expand(-1, channels, -1, -1))
        assert outputs.logits.shape == (2, 7)
        assert outputs.embedding.shape == (2, model.width) == expected.shape
        assert ("standardises" in caplog.text) is (name in STANDARDISED), name
        difference = (outputs.embedding - expected).abs().max() / expected.abs().max()
        assert difference < STANDARDISED.get(name, 1e-4), (channels, difference)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_dropout_and_drop_path_or_says_that_it_does_not(name):
    for key in ("dropout", "drop_path"):
        config = Model(backbone=name, **{key: 0.25})
        try:
            with torch.device("meta"):
                build_model(config, 6, 4, size_of(name))
        except InputError as error:
            assert str(error) == f"model.{key}: {name} has no such option"
            assert name not in QUICK


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_layers_of_every_family_or_a_line_that_says_why_not(name):
    size = size_of(name)
    config = Model(backbone=name, layers=(1, 2), frozen=True)
    try:
        model = build_model(config, 6, 4, size).eval()
    except InputError as error:
        assert str(error).startswith("model.layers: ") and "\n" not in str(error)
        assert name not in QUICK
        return
    with torch.no_grad():
        features = model.embed(torch.randn(2, 6, size, size))
    assert features.shape == (2, model.width) and torch.isfinite(features).all()


def test_a_stem_that_standardises_its_weights_says_so(tmp_path, caplog):
    rgb = import_timm().create_model("test_nfnet")
    safetensors.torch.save_file(rgb.state_dict(), tmp_path / "rgb.safetensors")
    config = Model(backbone="test_nfnet", weights=tmp_path / "rgb.safetensors")
    build_model(config, 3, 4, 64)
    assert "standardises" not in caplog.text
    build_model(config, 6, 4, 64)
    assert "stem.conv1 standardises its weights, so a gray image does not give" in caplog.text


@pytest.mark.parametrize(
    ("name", "stem", "inputs", "channels"),
    [
        ("test_vit", "patch_embed.proj", 3, 6),
        ("test_vit", "patch_embed.proj", 5, 6),
        ("test_convnext", "stem.0", 3, 5),
        ("test_efficientnet", "conv_stem", 6, 5),
        ("regnetx_002", "stem.conv", 3, 6),
        ("test_coatnet", "stem.conv1", 5, 6),
    ],
)
def test_every_kind_of_stem_is_adapted_by_the_one_rule(name, stem, inputs, channels, tmp_path):
    given = import_timm().create_model(name, in_chans=inputs).state_dict()
    safetensors.torch.save_file(given, tmp_path / "given.safetensors")
    config = Model(backbone=name, weights=tmp_path / "given.safetensors")
    state = build_model(config, channels, 4, size_of(name)).backbone.state_dict()
    expected = adapt_stem(given[f"{stem}.weight"], channels)
    assert expected.shape[1] == channels
    torch.testing.assert_close(state[f"{stem}.weight"], expected)
    others = [key for key in state if not key.startswith((stem, "head", "fc", "classifier"))]
    assert others and all(torch.equal(state[key], given[key]) for key in others)


@pytest.mark.slow
def test_weights_of_the_hub_are_adapted_by_the_same_rule(monkeypatch):
    """`pretrained` with timm's fetching replaced: its own network, of RGB and a thousand classes."""
    timm = import_timm()
    published = timm.create_model("test_convnext").state_dict()
    import timm.models._builder as builder

    asked = []

    def load(model, **options):
        asked.append((options["in_chans"], options["num_classes"]))
        model.load_state_dict(published)

    monkeypatch.setattr(builder, "load_pretrained", load)
    model = build_model(Model(backbone="test_convnext", pretrained=True), 5, 4, 64)
    assert asked == [(3, 1000)]
    state = model.backbone.state_dict()
    torch.testing.assert_close(state["stem.0.weight"], adapt_stem(published["stem.0.weight"], 5))
    assert state["head.fc.weight"].shape[0] == 4
    assert torch.equal(
        state["stages.1.blocks.0.norm.weight"], published["stages.1.blocks.0.norm.weight"]
    )
