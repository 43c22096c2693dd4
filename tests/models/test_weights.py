"""Weights as other programs save them: whatever stands before the names or around the tensors, the
same network comes out.
"""

import argparse
import itertools
import logging
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model
from cellsignal.models.torchvision_cpu import import_timm
from cellsignal.models.weights import load_weights, read_weights

KINDS = {  # backbone -> (options of the config, channels, image size)
    "test_resnet": ({}, 6, 24),
    "test_vit": ({}, 3, 160),
    "lenet": ({}, 3, 64),
    "scratch_cnn": ({}, 3, 24),
    "resnet3d18": ({"base_width": 4, "bnneck": True}, 48, None),
}
PREFIXES = (
    "",
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "net.",
    "backbone.",
    "encoder.",
    "model.backbone.",
    "module.model._orig_mod.",
    "model.net.encoder.module.",
    "a_name.nobody.thought_of.",
)
KEYS = (
    (),
    ("state_dict",),
    ("model",),
    ("model_state_dict",),
    ("ema",),
    ("teacher",),
    ("net",),
    ("weights",),
    ("checkpoint", "model", "state_dict"),
    ("a", "b", "c", "d"),
)


def build(kind: str, **options) -> nn.Module:
    more, channels, size = KINDS[kind]
    return build_model(Model(backbone=kind, **more, **options), channels, 4, size)


def weights_of(kind: str) -> dict[str, torch.Tensor]:
    """Random weights of a network as its own names have them, timm's without the `backbone.` that
    is ours.
    """
    network = build(kind)
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor)
    network = getattr(network, "backbone", network)
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def loaded(kind: str, path) -> dict[str, torch.Tensor]:
    network = build(kind, weights=path)
    return getattr(network, "backbone", network).state_dict()


def assert_same(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("kind", KINDS)
def test_every_prefix_under_every_key(tmp_path, kind):
    expected = weights_of(kind)
    network = build(kind)
    network = getattr(network, "backbone", network)
    path = tmp_path / "w.pth"
    pairs = list(itertools.product(PREFIXES, KEYS))
    # 7: every one of both occurs
    for prefix, keys in pairs if kind in ("lenet", "scratch_cnn") else pairs[::7]:
        content = {prefix + name: tensor for name, tensor in expected.items()}
        for key in reversed(keys):
            content = {key: content, "epoch": 3, "metric": 0.5}
        torch.save(content, path)
        for tensor in itertools.chain(network.parameters(), network.buffers()):
            tensor.data.zero_()
        load_weights(network, path, (), ())
        assert_same(network.state_dict(), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_safetensors_too_and_through_the_config(tmp_path, kind, prefix):
    expected = weights_of(kind)
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(
        {prefix + name: tensor.clone() for name, tensor in expected.items()}, path
    )
    assert_same(loaded(kind, path), expected)


class Lightning(nn.Module):
    """What a training program wraps around a network: the network, a loss with weights, a second
    network.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.net = network
        self.loss = nn.Linear(2, 2)


@pytest.mark.slow
def test_what_torch_itself_saves(tmp_path):
    """Names as torch makes them, not as we think it does: AveragedModel, torch.compile,
    DataParallel, and all at once.
    """
    kind = "test_resnet"
    network = import_timm().create_model(kind, num_classes=4, in_chans=6)
    network.load_state_dict(weights_of(kind))
    optimizer = torch.optim.AdamW(network.parameters())
    network.eval()(torch.rand(2, 6, 24, 24)).sum().backward()
    optimizer.step()
    expected = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    wrapped = {
        "averaged": AveragedModel(network).state_dict(),
        "compiled": torch.compile(network).state_dict(),
        "parallel": nn.DataParallel(network).state_dict(),
        "all": AveragedModel(torch.compile(nn.DataParallel(network))).state_dict(),
        "lightning": {
            "state_dict": Lightning(network).state_dict(),
            "optimizer_states": [optimizer.state_dict()],
        },
        "optimizer": {
            "net": OrderedDict(network.state_dict()),
            "optimizer": optimizer.state_dict(),
            "lr": 0.1,
        },
    }
    assert "n_averaged" in wrapped["averaged"] and any(
        "_orig_mod" in name for name in wrapped["compiled"]
    )
    for name, content in wrapped.items():
        torch.save(content, tmp_path / f"{name}.pth")
        assert_same(loaded(kind, tmp_path / f"{name}.pth"), expected)


def test_parts_that_were_wrapped_on_their_own(tmp_path):
    expected = weights_of("test_resnet")
    for wrapper in (
        "_orig_mod",
        "module",
        "module._orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
    ):
        torch.save(
            {
                f"model.{name.replace('.', f'.{wrapper}.', 1)}": tensor
                for name, tensor in expected.items()
            },
            tmp_path / "w.pth",
        )
        assert_same(loaded("test_resnet", tmp_path / "w.pth"), expected)


def test_of_two_that_fit_the_averaged_one_is_taken_and_it_is_said(tmp_path, caplog):
    expected, other = weights_of("lenet"), weights_of("lenet")
    for averaged, plain in (
        ("ema", "model"),
        ("state_dict_ema", "state_dict"),
        ("teacher", "student"),
        ("averaged", "model"),
    ):
        for content in (
            {averaged: expected, plain: other},
            {plain: other, averaged: expected},
            {
                "state_dict": {f"{plain}.{k}": v for k, v in other.items()}
                | {f"{averaged}.{k}": v for k, v in expected.items()}
            },
        ):
            torch.save(content, tmp_path / "w.pth")
            caplog.clear()
            assert_same(loaded("lenet", tmp_path / "w.pth"), expected)
            (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
            assert f"{averaged}.'" in line.message and f"{plain}.'" in line.message


def test_of_mocos_encoders_that_of_the_queries_is_taken(tmp_path):
    expected, other = weights_of("lenet"), weights_of("lenet")
    torch.save({"state_dict": {"encoder_k": other, "encoder_q": expected}}, tmp_path / "w.pth")
    assert_same(loaded("lenet", tmp_path / "w.pth"), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weight: weight.index_fill(0, torch.tensor(0), torch.nan),
            r"has \d+ of \d+ weights that are not finite",
        ),
        (lambda weight: weight / 0, r"has \d+ of \d+ weights that are not finite numbers"),
        (
            lambda weight: (weight * 100).to(torch.int8),
            "has values of type torch.int8, the network's are torch.float32",
        ),
        (lambda weight: weight.to("meta"), "has a shape and no values"),
    ],
)
def test_weights_that_are_no_numbers_of_the_network_are_refused(tmp_path, change, message):
    """Quantised weights mean nothing without their scale; weights of a training that diverged mean
    nothing at all.
    """
    state = weights_of("lenet")
    torch.save(state | {"conv2.weight": change(state["conv2.weight"])}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=rf"w\.pth: conv2\.weight {message}"):
        loaded("lenet", tmp_path / "w.pth")


def test_what_is_left_aside_is_said(tmp_path, caplog):
    torch.save({"net": weights_of("lenet"), "loss": {"weight": torch.ones(3)}}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, logger="cellsignal"):
        loaded("lenet", tmp_path / "w.pth")
    assert "1 tensors are left aside that are not under 'net.': loss.weight" in caplog.text


def test_a_head_for_other_classes_is_left_out_under_a_prefix_too(tmp_path):
    expected = weights_of("test_resnet")
    other = {
        **expected,
        "fc.weight": torch.ones(9, expected["fc.weight"].shape[1]),
        "fc.bias": torch.ones(9),
    }
    torch.save(
        {"state_dict": {f"model.{name}": tensor for name, tensor in other.items()}},
        tmp_path / "w.pth",
    )
    state = loaded("test_resnet", tmp_path / "w.pth")
    assert state["fc.weight"].shape == expected["fc.weight"].shape
    rest = [name for name in expected if not name.startswith("fc.")]
    assert all(torch.equal(state[name], expected[name]) for name in rest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {f"q.{i}": torch.ones(1) for i in range(9)},
            r"has none of the network's weights \(conv1\.weight, .*\); the file has q\.0, q\.1, q\.2; its prefixes are q\. \(9\)$",
        ),
        (
            lambda state: {f"model.{k}": v for k, v in state.items() if k != "conv2.bias"},
            r"lacks 1 of the network's weights: conv2\.bias; the file has model\.conv1\.weight, .*; its prefixes are model\. \(9\)$",
        ),
        (
            lambda state: {"net": {**state, "conv9.bias": torch.ones(1)}},
            r"has weights that the network has not, 1 of them: conv9\.bias; the file has net\.conv1\.weight, .*prefixes are net\. \(11\)$",
        ),
    ],
)
def test_what_does_not_fit_names_what_the_file_has(tmp_path, change, message):
    path = tmp_path / "w.pth"
    torch.save(change(weights_of("lenet")), path)
    with pytest.raises(InputError, match=message) as raised:
        loaded("lenet", path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [argparse.Namespace(lr=1), np.float64(3), nn.Linear(2, 2)])
def test_a_file_that_needs_pickle_says_so_and_what_to_do(tmp_path, content):
    path = tmp_path / "w.ckpt"
    torch.save({"state_dict": weights_of("lenet"), "extra": content}, path)
    with pytest.raises(InputError) as raised:
        read_weights(path)
    text = str(raised.value)
    assert (
        text.startswith(f"{path}: not a file of plain weights (it holds more than tensors, ")
        and "\n" not in text
    )
    assert "torch.save(model.state_dict(), FILE)" in text
