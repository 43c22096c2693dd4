import logging
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model
from cellsignal.models.torchvision_cpu import import_timm
from cellsignal.models.weights import read_weights

TINY = "resnet10t"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(channels: int = 6, classes: int = 5, **options) -> torch.nn.Module:
    return build_model(Model(backbone=TINY, **options), channels, classes, 32).eval()


@pytest.fixture
def rgb(tmp_path) -> tuple[torch.nn.Module, Path]:
    """A ten-class RGB network and its file, as timm writes one."""
    network = import_timm().create_model(TINY, num_classes=10).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    path = tmp_path / "rgb.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    return network, path


@pytest.mark.parametrize("channels", [1, 3, 5, 6])
def test_any_number_of_channels(channels):
    network = tiny(channels)
    x = torch.randn(2, channels, 32, 32)
    assert network(x).shape == (2, 5)
    assert network.embed(x).shape == (2, 512)
    assert torch.allclose(network.backbone.fc(network.embed(x)), network(x), atol=1e-5)


@pytest.mark.parametrize(
    # parameters for 3 channels and 1000 classes, as torchvision's documentation has them
    ("name", "imagenet", "stem"),
    [
        ("resnet18", 11_689_512, 64 * 7 * 7),
        ("resnet50", 25_557_032, 64 * 7 * 7),
        ("densenet121", 7_978_856, 64 * 7 * 7),
        ("densenet161", 28_681_000, 96 * 7 * 7),
    ],
)
def test_six_channels_add_parameters_to_the_stem_alone(name, imagenet, stem):
    with torch.device("meta"):
        network = build_model(Model(backbone=name), 6, 1000, None)
    assert sum(p.numel() for p in network.parameters()) == imagenet + 3 * stem


def test_parameter_names_are_timms_under_backbone():
    """Checkpoints depend on them."""
    names = set(tiny().state_dict())
    assert names == {f"backbone.{name}" for name in import_timm().create_model(TINY).state_dict()}
    assert {
        "backbone.conv1.0.weight",
        "backbone.layer4.0.conv2.weight",
        "backbone.fc.bias",
    } <= names


def test_dropout_and_drop_path_reach_the_network():
    for network, drops in ((tiny(dropout=0.5), True), (tiny(), False)):
        head = network.backbone.train().forward_head
        features = torch.ones(4, 512, 1, 1)
        assert torch.equal(head(features), head(features)) is not drops
    paths = [m for m in tiny(drop_path=0.3).modules() if type(m).__name__ == "DropPath"]
    assert paths and max(m.drop_prob for m in paths) == pytest.approx(0.3)


def test_a_vision_transformer_is_built_for_the_image_size():
    network = build_model(Model(backbone="vit_tiny_patch16_224"), 6, 5, 32).eval()
    assert network(torch.zeros(1, 6, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet81"}, "no backbone 'resnet81'; near it: resnet"),
        ({"backbone": "lenett"}, "near it: lenet"),
        ({"backbone": "hf-hub:someone/model"}, "no backbone 'hf-hub:someone/model'"),
        ({"backbone": "resnet18.nowhere"}, "Invalid pretrained tag"),
        (
            {"backbone": "densenet121", "drop_path": 0.1},
            "model.drop_path: densenet121 has no such option",
        ),
        ({"backbone": "lenet", "drop_path": 0.1}, "model.drop_path: lenet"),
        ({"backbone": "lenet", "pretrained": True}, "model.pretrained: lenet"),
        ({"backbone": "vgg11.none", "pretrained": True}, "Invalid pretrained tag"),
    ],
)
def test_what_cannot_be_built_is_named(options, message):
    with pytest.raises(InputError, match=message) as raised:
        build_model(Model(**options), 6, 5, 64)
    assert "\n" not in str(raised.value)


def test_lenet_by_name_needs_the_image_size():
    assert build_model(Model(backbone="lenet"), 6, 5, 64)(torch.zeros(1, 6, 64, 64)).shape == (1, 5)
    with pytest.raises(InputError, match="image size"):
        build_model(Model(backbone="lenet"), 6, 5, None)


def test_pretrained_needs_published_weights():
    timm = import_timm()
    without = next(
        name
        for name in timm.list_models("resnet*")
        if not timm.get_pretrained_cfg(name).has_weights
    )
    with pytest.raises(
        InputError, match=f"model.pretrained: timm publishes no weights for {without}"
    ):
        build_model(Model(backbone=without, pretrained=True), 6, 5, 32)


def test_pretrained_without_a_network_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = Model(backbone=TINY, pretrained=True)
    build_model(config, 6, 5, 32, initial_weights=False)  # nothing to fetch: a checkpoint follows
    with pytest.raises(
        InputError, match=f"model.pretrained: the weights of {TINY} could not be fetched"
    ) as raised:
        build_model(config, 6, 5, 32)
    assert "\n" not in str(raised.value) and "model.weights" in str(raised.value)


def test_rgb_weights_see_a_repeated_image_as_before(rgb):
    network, path = rgb
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for channels in (3, 6, 9):
            wide = tiny(channels, 10, weights=path)
            assert torch.allclose(wide(x.repeat(1, channels // 3, 1, 1)), network(x), atol=1e-4)
        gray = x[:, :1]
        assert torch.allclose(
            tiny(1, 10, weights=path)(gray), network(gray.expand(-1, 3, -1, -1)), atol=1e-4
        )


def test_a_head_of_other_classes_is_left_out_and_logged(rgb, caplog):
    network, path = rgb
    with caplog.at_level(logging.INFO, logger="cellsignal"):
        kept = tiny(3, 10, weights=path).backbone.fc.weight
        assert torch.equal(kept, network.fc.weight) and "head" not in caplog.text
        fresh = tiny(6, 7, weights=path)
    assert fresh.backbone.fc.weight.shape == (7, 512)
    assert torch.equal(fresh.backbone.layer4[0].conv2.weight, network.layer4[0].conv2.weight)
    assert "head is left out" in caplog.text and "from 3 to 6 channels" in caplog.text


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}]
)
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_pth_files_in_the_usual_wrappings(rgb, tmp_path, wrap, prefix):
    network, _ = rgb
    state = {
        prefix + key: value
        for key, value in network.state_dict().items()
        if "num_batches" not in key
    }
    torch.save(wrap(state), tmp_path / "w.pth")
    loaded = tiny(3, 10, weights=tmp_path / "w.pth").backbone.state_dict()
    assert all(torch.equal(loaded[key.removeprefix(prefix)], value) for key, value in state.items())


def test_torchvisions_old_densenet_names(tmp_path):
    block = "features.denseblock1.denselayer2"
    torch.save(
        {f"{block}.norm.1.weight": torch.ones(1), "features.norm5.bias": torch.ones(1)},
        tmp_path / "d.pth",
    )
    assert set(read_weights(tmp_path / "d.pth")) == {f"{block}.norm1.weight", "features.norm5.bias"}


def test_lenet_takes_local_weights(tmp_path):
    three = build_model(Model(backbone="lenet"), 3, 6, 64)
    safetensors.torch.save_file(three.state_dict(), tmp_path / "lenet.safetensors")
    six = build_model(Model(backbone="lenet", weights=tmp_path / "lenet.safetensors"), 6, 4, 64)
    assert torch.equal(six.conv1.weight, torch.cat([three.conv1.weight] * 2, 1) / 2)
    assert torch.equal(six.dense.weight, three.dense.weight)


def damaged(kind: str, rgb_path: Path, folder: Path) -> Path:
    path = folder / f"{kind}.safetensors"
    state = safetensors.torch.load_file(rgb_path)
    match kind:
        case "missing_file":
            return path
        case "missing_keys":
            del state["bn1.weight"], state["layer1.0.bn1.bias"]
        case "unknown_keys":
            state["layer9.weight"] = torch.ones(1)
        case "wrong_shape":
            state["layer1.0.bn1.bias"] = torch.ones(3)
        case "cut_short":
            path.write_bytes(rgb_path.read_bytes()[:1000])
            return path
        case "garbage_pth":
            path = folder / "garbage.pth"
            path.write_bytes(b"\x80\x02 no weights here")
            return path
        case "cut_short_pth":
            path = folder / "cut.pth"
            torch.save(state, path)
            path.write_bytes(path.read_bytes()[:5000])
            return path
        case "no_tensors":
            path = folder / "epoch.pth"
            torch.save({"epoch": 3}, path)
            return path
    safetensors.torch.save_file(state, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing_file", "no such file of weights"),
        ("missing_keys", "lacks 2 of the network's weights: bn1.weight, layer1.0.bn1.bias"),
        ("unknown_keys", "has weights that the network has not, 1 of them: layer9.weight"),
        ("wrong_shape", r"layer1.0.bn1.bias has shape \(3,\), the network's has \(64,\)"),
        ("cut_short", "cannot be read as weights"),
        ("garbage_pth", "weights"),
        ("cut_short_pth", "cannot be read as weights"),
        ("no_tensors", "holds no weights"),
    ],
)
def test_a_file_that_does_not_fit_is_named(rgb, tmp_path, kind, message):
    path = damaged(kind, rgb[1], tmp_path)
    with pytest.raises(InputError, match=message) as raised:
        tiny(6, 10, weights=path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


class RunsOnUnpickling:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_code_in_a_pth_is_never_run(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"weight": RunsOnUnpickling(mark)}, tmp_path / "evil.pth")
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert mark.exists()  # the trap works where code is allowed
    mark.unlink()
    with pytest.raises(InputError, match="not a file of plain weights"):
        read_weights(tmp_path / "evil.pth")
    assert not mark.exists()


@pytest.fixture(scope="module")
def densenet():
    """Torchvision's DenseNet121 with running statistics and norms that leave signed features, and
    images.
    """
    from torchvision.models import DenseNet

    torch.manual_seed(0)
    network = DenseNet(32, (6, 12, 24, 16), 64, num_classes=5)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
    return network.eval(), torch.randn(3, 3, 64, 64)


@pytest.mark.parametrize("pool_relu", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"cell_type_vector": True, "neck": 16, "cosine_head": True}]
)
def test_a_densenet_pools_its_last_norm_with_or_without_the_relu(densenet, pool_relu, options):
    """Oracle: torchvision's network with the same weights. Its `features` end in the norm, its
    forward adds the ReLU.
    """
    published, images = densenet
    config = Model(backbone="densenet121", pool_relu=pool_relu, **options)
    model = build_model(config, 3, 5, 64, cell_types=2).eval()
    weights = published.state_dict()
    if options:
        weights = {
            name: value for name, value in weights.items() if not name.startswith("classifier")
        }
    model.backbone.load_state_dict(weights)
    cell_type = torch.eye(2)[[0, 1, 1]]
    with torch.no_grad():
        features = published.features(images)
        expected = (features.relu() if pool_relu else features).mean((2, 3))
        assert (features.mean((2, 3)) < 0).any()
        if options:
            seen = []
            model.neck.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
            model.embed(images, cell_type)
            expected = torch.cat([expected, cell_type], 1)
            [embedding] = seen
        else:
            embedding = model.embed(images)
        torch.testing.assert_close(embedding, expected, rtol=1e-5, atol=1e-5)
        if not options and pool_relu:  # without an own head the logits are the published network's
            torch.testing.assert_close(model(images), published(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("resnet10t", {}, "resnet10t has no ReLU between a last norm and the pooling"),
        ("lenet", {}, "lenet has no ReLU"),
        ("densenet121", {"layers": (1, 2)}, "has no part in `layers`"),
    ],
)
def test_a_network_without_a_relu_before_the_pooling_has_none_to_leave_out(
    backbone, options, message
):
    with pytest.raises(InputError, match=f"model.pool_relu: {message}"):
        build_model(Model(backbone=backbone, pool_relu=False, **options), 3, 5, 64)


def test_the_first_place_recipe_pools_signed_features():
    from cellsignal.config import load_config

    repository = Path(__file__).resolve().parent.parent.parent
    config = load_config(repository / "configs" / "rxrx1" / "first_place_densenet161.yaml")
    model = build_model(config.model, 6, 5, 64, cell_types=4, initial_weights=False)
    assert isinstance(model.backbone.features.norm5.act, torch.nn.Identity)
