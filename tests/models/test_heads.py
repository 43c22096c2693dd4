"""Neck and heads: parameters counted by hand, angles by acos, a whole training step."""

import math

import pytest
import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model
from cellsignal.models.heads import CosineHead, make_neck

TINY, FEATURES = "resnet10t", 512
FULL = {"cell_type_vector": True, "neck": 16, "cosine_head": True}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(classes: int = 5, cell_types: int = 3, backbone: str = TINY, **options) -> nn.Module:
    return build_model(Model(backbone=backbone, **options), 6, classes, 64, cell_types)


def batch(n: int = 4, cell_types: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(n, 6, 32, 32, generator=torch.Generator().manual_seed(0))
    return images, torch.eye(cell_types)[torch.arange(n) % cell_types]


def densenet161_features(channels: int) -> int:
    """Growth 48, stem 96, blocks of 6, 12, 36 and 24 layers (arXiv:1608.06993); a convolution has
    no bias, a norm a scale and a shift.
    """
    width = 96
    count = channels * width * 7 * 7 + 2 * width
    for block, layers in enumerate((6, 12, 36, 24)):
        for _ in range(layers):
            count += 2 * width + width * 192 + 2 * 192 + 192 * 48 * 3 * 3
            width += 48
        if block < 3:
            count += 2 * width + width * (width // 2)
            width //= 2
    assert width == 2208
    return count + 2 * width


def test_the_winning_network_has_the_parameters_counted_by_hand():
    classes, cell_types = 1139, 4
    with torch.device("meta"):
        network = build_model(
            Model(backbone="densenet161", neck=1024, cell_type_vector=True, cosine_head=True),
            6,
            classes,
            512,
            cell_types,
        )
    inputs = 2208 + cell_types
    between = 2 * inputs + inputs * 1024 + 2 * 1024 + 1024 * 1024 + 2 * 1024
    heads = (1024 * classes + classes) + 1024 * classes
    counted = sum(p.numel() for p in network.parameters())
    assert counted == densenet161_features(6) + between + heads == 32_142_107
    assert [type(m).__name__ for m in network.neck] == [
        "BatchNorm1d",
        "Linear",
        "ReLU",
        "BatchNorm1d",
        "Linear",
        "BatchNorm1d",
    ]
    assert [m.bias for m in network.neck if isinstance(m, nn.Linear)] == [None, None]


@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({}, FEATURES),
        ({"cosine_head": True}, FEATURES),
        ({"neck": 16}, 16),
        ({"cell_type_vector": True}, FEATURES + 3),
        (FULL, 16),
    ],
)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_outputs_forward_and_embed_agree(options, width, dropout):
    network = tiny(dropout=dropout, **options).eval()
    images, cell_type = batch()
    found = network.outputs(images, cell_type)
    assert (
        network.width == width
        and found.embedding.shape == (4, width)
        and found.logits.shape == (4, 5)
    )
    assert torch.allclose(found.logits, network(images, cell_type), atol=1e-5)
    assert torch.allclose(found.embedding, network.embed(images, cell_type), atol=1e-5)
    assert (found.cosines is not None) == ("cosine_head" in options)
    head = network.backbone.get_classifier() if network.head is None else network.head
    assert torch.allclose(head(found.embedding), found.logits, atol=1e-5)


@pytest.mark.parametrize(
    "backbone", ["vit_tiny_patch16_224", "mobilenetv3_small_050", "convnext_atto"]
)
def test_necks_fit_networks_whose_features_are_not_one_pool(backbone):
    network = tiny(backbone=backbone, **FULL).eval()
    assert network.outputs(torch.zeros(2, 6, 64, 64), torch.eye(3)[:2]).logits.shape == (2, 5)


def test_without_options_nothing_is_added():
    names = set(tiny().state_dict())
    added = {name for name in tiny(cosine_head=True).state_dict() if name not in names}
    assert added == {"cosine.weight"}
    own = set(tiny(**FULL).state_dict())
    assert names - own == {"backbone.fc.weight", "backbone.fc.bias"}
    assert {name.split(".")[0] for name in own - names} == {"neck", "head", "cosine"}


def test_the_cell_type_reaches_embedding_and_logits():
    network = tiny(**FULL).eval()
    images, cell_type = batch()
    one, other = network.outputs(images, cell_type), network.outputs(images, cell_type.roll(1, 1))
    assert not torch.allclose(one.embedding, other.embedding) and not torch.allclose(
        one.logits, other.logits
    )
    bare = tiny(cell_type_vector=True).eval()
    pooled = bare.backbone.forward_head(bare.backbone.forward_features(images), pre_logits=True)
    assert torch.equal(bare.embed(images, cell_type), torch.cat([pooled, cell_type], 1))


@pytest.mark.parametrize("cell_type", [None, torch.zeros(4, 2), torch.zeros(3, 3)])
def test_a_missing_or_wrong_cell_type_is_named(cell_type):
    network = tiny(**FULL).eval()
    for call in (network, network.embed, network.outputs):
        with pytest.raises(
            InputError,
            match=r"model.cell_type_vector: the network needs cell types of shape \(4, 3\)",
        ):
            call(batch()[0], cell_type)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "lenet", "neck": 8}, "model.neck: lenet"),
        ({"backbone": "lenet", "cell_type_vector": True}, "model.cell_type_vector: lenet"),
        ({"backbone": "lenet", "cosine_head": True}, "model.cosine_head: lenet"),
        ({"backbone": "lenet", "bn_momentum": 0.1}, "model.bn_momentum: lenet has no BatchNorm"),
        (
            {"backbone": "vit_tiny_patch16_224", "bn_momentum": 0.1},
            "model.bn_momentum: vit_tiny_patch16_224 has no",
        ),
    ],
)
def test_what_a_network_cannot_have_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        tiny(**options)


def test_a_cell_type_vector_needs_cell_types():
    with pytest.raises(InputError, match=r"model.cell_type_vector: there are no cell types"):
        tiny(cell_types=0, cell_type_vector=True)


def test_momentum_of_every_batch_norm():
    norms = [m for m in tiny(bn_momentum=0.05, **FULL).modules() if "BatchNorm" in type(m).__name__]
    assert len(norms) > 10 and {m.momentum for m in norms} == {0.05}
    assert {m.momentum for m in tiny(**FULL).modules() if "BatchNorm" in type(m).__name__} == {0.1}


def test_dropout_is_before_the_plain_head_alone_where_there_is_a_neck():
    network = tiny(dropout=0.5, **FULL)
    network.eval()
    network.dropout.train()
    one, other = (network.outputs(*batch()) for _ in range(2))
    assert torch.equal(one.embedding, other.embedding) and torch.equal(one.cosines, other.cosines)
    assert not torch.equal(one.logits, other.logits)
    assert getattr(network.backbone, "drop_rate", 0.0) == 0


def test_cosines_are_the_cosines_of_angles():
    torch.manual_seed(0)
    head, embedding = CosineHead(7, 4), 10 * torch.randn(5, 7)
    found = head(embedding)
    for i in range(5):
        for k in range(4):
            a, b = embedding[i].tolist(), head.weight[k].tolist()
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            assert found[i, k].item() == pytest.approx(
                dot / math.hypot(*a) / math.hypot(*b), abs=1e-6
            )
    assert torch.allclose(head(100 * embedding), found, atol=1e-6)


def test_cosines_stay_in_single_precision_under_autocast():
    torch.manual_seed(0)
    head, embedding = CosineHead(64, 9), torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(embedding)
        rounded = nn.functional.linear(embedding, head.weight)
    assert rounded.dtype == torch.bfloat16 and found.dtype == torch.float32
    assert torch.equal(found, head(embedding))


def test_the_neck_standardises_its_output():
    torch.manual_seed(0)
    found = make_neck(9, 6)(5 + 3 * torch.randn(200, 9))
    assert torch.allclose(found.mean(0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(found.var(0, unbiased=False), torch.ones(6), atol=1e-2)


def test_local_weights_fill_the_backbone_under_a_neck(tmp_path):
    """The file's own head, of any number of classes, is not needed."""
    for classes in (5, 9):
        old = tiny(classes)
        torch.save(old.state_dict(), tmp_path / "w.pth")
        fresh = tiny(weights=tmp_path / "w.pth", **FULL)
        weights = {
            name: value
            for name, value in old.state_dict().items()
            if not name.startswith("backbone.fc")
        }
        assert all(torch.equal(fresh.state_dict()[name], value) for name, value in weights.items())


def test_every_parameter_learns():
    network = tiny(**FULL).train()
    found = network.outputs(*batch(8))
    (found.logits.square().sum() + found.cosines.square().sum()).backward()
    assert [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.isfinite().all()
    ] == []


def test_lenet_has_the_same_face():
    network = tiny(backbone="lenet").eval()
    images = torch.randn(2, 6, 64, 64)
    found = network.outputs(images, torch.eye(3)[:2])
    assert found.cosines is None and found.embedding.shape == (2, network.width) == (2, 1024)
    assert torch.equal(found.logits, network(images, None)) and torch.equal(
        found.embedding, network.embed(images)
    )
