import logging

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model
from cellsignal.models.cost import forward_flops
from cellsignal.models.resnet3d import ResNet3d, inflate
from cellsignal.models.torchvision_cpu import import_timm


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small() -> ResNet3d:
    """Four frames, BNNeck; its BatchNorms have running statistics that matter."""
    torch.manual_seed(0)
    return stirred(ResNet3d(18, 12, 5, frames=4, bnneck=True)).eval()


def stirred(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            # timm starts a block's last one at 0, which silences the block
            nn.init.uniform_(module.weight, 0.3, 1)
    return network


def by_hand(depth: int) -> int:
    """Parameters from the published description alone: 3 channels, BNNeck, 38 classes."""
    total, inputs = 3 * 64 * 7**3 + 2 * 64, 64
    for width, blocks in zip(
        (64, 128, 256, 512), {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth], strict=True
    ):
        for _ in range(blocks):
            if depth == 18:
                outputs = width
                kernels = inputs * width * 27 + width * width * 27
                norms = 2 * width + 2 * width
            else:
                outputs = 4 * width
                kernels = inputs * width + width * width * 27 + width * outputs
                norms = 2 * width + 2 * width + 2 * outputs
                if inputs != outputs:  # shortcuts of type B; those of type A have no weights
                    kernels, norms = kernels + inputs * outputs, norms + 2 * outputs
            total, inputs = total + kernels + norms, outputs
    return total + 2 * inputs + inputs * 38 + 38


@pytest.mark.parametrize(("depth", "published"), [(18, 33_050_598), (50, 46_280_934)])
def test_parameters_are_the_published_ones(depth, published):
    with torch.device("meta"):
        network = ResNet3d(depth, 48, 38, bnneck=True)
    assert sum(p.numel() for p in network.parameters()) == published == by_hand(depth)
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert frozen == ["bnneck.bias"]


@pytest.mark.parametrize(
    ("keep_time", "times"), [(True, [16, 8, 8, 4, 4, 4]), (False, [16, 8, 8, 4, 2, 1])]
)
@pytest.mark.parametrize("depth", [18, 50])
def test_feature_maps_have_the_published_sizes(depth, keep_time, times):
    """After conv1, pool and the four layers, for 3x16x112x112."""
    with torch.device("meta"):
        network = ResNet3d(depth, 48, 38, keep_time=keep_time).eval()
        x = torch.empty(2, 48, 112, 112)
    shapes = []
    layers = (network.layer1, network.layer2, network.layer3, network.layer4)
    network.conv1.register_forward_hook(lambda _module, _x, y: shapes.append(tuple(y.shape)))
    network.layer1[0].register_forward_pre_hook(lambda _module, x: shapes.append(tuple(x[0].shape)))
    for layer in layers:
        layer[-1].register_forward_hook(lambda _module, _x, y: shapes.append(tuple(y.shape)))
    assert network.feature_map(x).shape == shapes[-1]
    widths = [64, 64, *(w * (4 if depth == 50 else 1) for w in (64, 128, 256, 512))]
    assert shapes == [
        (2, w, t, s, s) for w, t, s in zip(widths, times, (56, 28, 28, 14, 7, 4), strict=True)
    ]
    assert network.embed(x).shape == (2, network.width) == (2, widths[-1])
    assert network(x).shape == (2, 38)


@pytest.mark.parametrize("depth", [18, 50])
def test_one_frame_makes_it_the_two_dimensional_network(depth, caplog):
    torch.manual_seed(0)
    flat = two_dimensional(depth)
    with caplog.at_level(logging.INFO, logger="cellsignal"):
        network = inflated(flat, depth, frames=1)
    assert ("left out" in caplog.text) is (depth == 18)
    x = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(
            network.feature_map(x).squeeze(2), flat.forward_features(x), atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(network(x), flat(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", [18, 50])
def test_a_clip_of_equal_frames_gives_the_two_dimensional_features(depth):
    """In the middle of a clip so long that its padded ends are out of sight: 60 or more frames
    away.
    """
    torch.manual_seed(0)
    flat, frames = two_dimensional(depth), 136
    network = inflated(flat, depth, frames)
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        clip = network.feature_map(image.repeat_interleave(frames, 1))
        wanted = flat.forward_features(image)
    assert clip.shape[2] == frames // 4
    torch.testing.assert_close(clip[:, :, frames // 8], wanted, atol=1e-3, rtol=1e-3)
    assert (clip[:, :, 0] - wanted).abs().max() > 0.01  # at the end the padding is seen


def two_dimensional(depth: int) -> nn.Module:
    """timm's, for ten classes; with 18 layers its shortcuts are made type A."""
    network = stirred(import_timm().create_model(f"resnet{depth}", num_classes=10)).eval()
    if depth == 18:
        for layer in (network.layer2, network.layer3, network.layer4):
            layer[0].downsample = ShortcutA()
    return network


class ShortcutA(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.avg_pool2d(x, 1, stride=2)
        return torch.cat([x, torch.zeros_like(x)], 1)


def inflated(flat: nn.Module, depth: int, frames: int) -> ResNet3d:
    """From the weights as a file has them: with 18 layers also those of shortcuts that a 3-D
    network has not.
    """
    state = dict(flat.state_dict())
    if depth == 18:
        state |= {
            f"layer{i}.0.downsample.0.weight": torch.randn(
                64 * 2 ** (i - 1), 64 * 2 ** (i - 2), 1, 1
            )
            for i in (2, 3, 4)
        }
    with torch.device("meta"):
        network = ResNet3d(depth, 3 * frames, 10, frames, keep_time=True).eval()
    network.load_state_dict(network.adapt_weights(state), assign=True)
    return network


def test_inflated_kernels_add_up_to_the_flat_one():
    kernel = torch.randn(4, 3, 7, 7)
    state = inflate(
        {"conv1.weight": kernel, "bn1.bias": torch.ones(4), "fc.weight": torch.ones(2, 4)},
        frames=16,
    )
    assert state["conv1.weight"].shape == (4, 3, 7, 7, 7)
    torch.testing.assert_close(state["conv1.weight"].sum(2), kernel)
    assert torch.equal(state["conv1.weight"][:, :, 0], state["conv1.weight"][:, :, 6])
    assert state["bn1.bias"].shape == (4,) and state["fc.weight"].shape == (2, 4)


def test_three_dimensional_weights_are_taken_as_they_are(small):
    state = {key.replace("head.", "fc."): value for key, value in small.state_dict().items()}
    adapted = small.adapt_weights(state)
    assert adapted.keys() == small.state_dict().keys()
    assert all(torch.equal(adapted[key], value) for key, value in small.state_dict().items())


def test_planes_are_channel_by_channel(small):
    clips = torch.randn(2, 3, 4, 32, 32)
    planes = torch.stack([clips[:, c, t] for c in range(3) for t in range(4)], 1)
    seen = []
    handle = small.conv1.register_forward_pre_hook(lambda _module, x: seen.append(x[0]))
    small.embed(planes)
    small.embed(planes.contiguous(memory_format=torch.channels_last))
    handle.remove()
    assert torch.equal(seen[0], clips) and torch.equal(seen[1], clips)


def test_the_order_of_frames_matters(small):
    clips = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        forth, back = (small.embed(x.flatten(1, 2)) for x in (clips, clips.flip(2)))
    assert (forth - back).abs().max() > 1e-3


def test_bnneck_stands_between_losses_and_retrieval(small):
    x = torch.randn(3, 12, 32, 32)
    with torch.no_grad():
        before, logits, cosines = small.outputs(x)
        after = small.embed(x)
    pooled = small.feature_map(x).detach().flatten(2).mean(2)
    bn = small.bnneck
    assert cosines is None and torch.allclose(before, pooled, atol=1e-5)
    torch.testing.assert_close(
        after,
        (pooled - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias,
        atol=1e-4,
        rtol=1e-4,
    )
    torch.testing.assert_close(
        logits, after @ small.head.weight.T + small.head.bias, atol=1e-4, rtol=1e-4
    )
    assert torch.equal(small(x), logits)


def test_without_bnneck_the_head_sees_what_the_losses_see():
    network = ResNet3d(18, 3, 5, frames=1).eval()
    x = torch.randn(2, 3, 32, 32)
    assert network.bnneck is None and torch.equal(network.embed(x), network.outputs(x).embedding)


def test_dropout_comes_after_the_embedding():
    network = ResNet3d(18, 3, 5, frames=1, dropout=0.5).eval()
    network.dropout.train()
    x = torch.randn(2, 3, 32, 32)
    first, second = network.outputs(x), network.outputs(x)
    assert torch.equal(first.embedding, second.embedding) and not torch.equal(
        first.logits, second.logits
    )


def test_every_weight_but_the_necks_bias_learns():
    torch.manual_seed(0)
    network = ResNet3d(18, 12, 5, frames=4, bnneck=True, keep_time=True).train()
    embedding, logits, _ = network.outputs(torch.randn(4, 12, 32, 32))
    (functional.cross_entropy(logits, torch.arange(4)) + embedding.square().mean()).backward()
    still = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert still == ["bnneck.bias"]


def test_shortcuts_of_type_a_carry_gradients():
    block = ResNet3d(18, 3, 5, frames=1).layer2[0].eval()
    nn.init.zeros_(block.conv2.weight)  # the branch is silent
    x = torch.rand(1, 64, 3, 5, 5, requires_grad=True)
    y = block(x)
    assert torch.equal(y, torch.cat([x[:, :, ::2, ::2, ::2], torch.zeros(1, 64, 2, 3, 3)], 1))
    y.sum().backward()
    assert x.grad.sum() == 64 * 2 * 3 * 3


def test_the_trainers_memory_format_and_type_pass_through():
    network = ResNet3d(18, 3, 5, frames=1)
    assert network.to("cpu", memory_format=torch.channels_last) is network
    assert network.conv1.weight.is_contiguous()
    assert (
        network.to(torch.float64, memory_format=torch.channels_last).head.weight.dtype
        == torch.float64
    )
    network.to(memory_format=torch.channels_last_3d)
    assert network.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_compiles_whole_and_is_counted(small):
    x = torch.randn(2, 12, 32, 32)
    with torch.no_grad():
        compiled = torch.compile(small.outputs, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(compiled.logits, small(x))
    stem = 2 * 3 * 7**3 * 64 * 4 * 16 * 16
    assert stem < forward_flops(small, 12, 32) < 20 * stem


@pytest.mark.parametrize("channels", [0, 47])
def test_planes_that_are_no_clips_are_refused(channels):
    with pytest.raises(
        InputError, match=f"resnet3d18: {channels} planes are not whole clips of 16 frames"
    ):
        ResNet3d(18, channels, 5)


def test_another_number_of_planes_is_named(small):
    with pytest.raises(InputError, match="built for 12 planes, got images of 48"):
        small(torch.zeros(1, 48, 32, 32))


@pytest.mark.parametrize(("name", "depth"), [("resnet3d18", 18), ("resnet3d50", 50)])
def test_built_by_name(name, depth):
    with torch.device("meta"):
        network = build_model(
            Model(backbone=name, keep_time=True, bnneck=True, dropout=0.2, bn_momentum=0.3),
            48,
            38,
            None,
        )
        plain = build_model(Model(backbone=name), 3, 38, 64)
    assert (network.depth, network.frames, network.dropout.p, network.bn1.momentum) == (
        depth,
        16,
        0.2,
        0.3,
    )
    assert network.bnneck is not None and network.layer3[0].stride == (1, 2, 2)
    assert plain.frames == 1 and plain.bnneck is None and plain.layer3[0].stride == (2, 2, 2)


@pytest.mark.parametrize(
    ("options", "channels", "message"),
    [
        (
            {"backbone": "resnet3d18", "pretrained": True},
            48,
            "model.pretrained: resnet3d18 has no published weights",
        ),
        ({"backbone": "resnet3d18", "neck": 8}, 48, "model.neck: resnet3d18 has no such option"),
        ({"backbone": "resnet3d50", "drop_path": 0.1}, 48, "model.drop_path: resnet3d50"),
        (
            {"backbone": "resnet3d18"},
            5,
            "model.backbone: resnet3d18 takes clips of 3 channels; the images have 5 planes",
        ),
        (
            {"backbone": "resnet10t", "bnneck": True},
            48,
            "model.bnneck: resnet10t has no such option",
        ),
        ({"backbone": "lenet", "keep_time": True}, 48, "model.keep_time: lenet has no such option"),
        ({"backbone": "resnet3d"}, 48, "no backbone 'resnet3d'; near it: .*resnet3d18"),
    ],
)
def test_what_it_has_not_is_refused(options, channels, message):
    with pytest.raises(InputError, match=message):
        build_model(Model(**options), channels, 5, 64)


def test_flat_weights_start_it_from_a_file(tmp_path):
    flat = stirred(import_timm().create_model("resnet18", num_classes=10)).state_dict()
    path = tmp_path / "flat.safetensors"
    safetensors.torch.save_file(flat, path)
    network = build_model(Model(backbone="resnet3d18", weights=path, bnneck=True), 12, 5, None)
    torch.testing.assert_close(network.conv1.weight.sum(2), flat["conv1.weight"])
    assert torch.equal(network.layer4[1].bn2.running_var, flat["layer4.1.bn2.running_var"])
    safetensors.torch.save_file(
        {key: value for key, value in flat.items() if "layer2.1.conv1" not in key}, path
    )
    with pytest.raises(
        InputError, match=r"lacks 1 of the network's weights: layer2\.1\.conv1\.weight"
    ):
        build_model(Model(backbone="resnet3d18", weights=path, bnneck=True), 12, 5, None)
