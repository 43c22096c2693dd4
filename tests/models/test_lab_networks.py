import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsignal.common.errors import InputError
from cellsignal.models.lab_networks import LeNet, same_padding


def test_the_labs_table():
    """Output sizes and parameters of each layer as the lab's Keras summary gives them."""
    torch.set_num_threads(1)
    network, seen = LeNet(3, 6, 256), {}
    for name, layer in network.named_children():
        layer.register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: tuple(out.shape[1:])})
        )
    with torch.no_grad():
        network(torch.zeros(1, 3, 256, 256))
    shapes = {
        "conv1": (16, 128, 128),
        "conv2": (32, 64, 64),
        "conv3": (64, 16, 16),
        "dense": (1024,),
        "head": (6,),
    }
    assert {name: seen[name] for name in shapes} == shapes
    counts = {
        name: sum(p.numel() for p in layer.parameters()) for name, layer in network.named_children()
    }
    expected = {
        "conv1": 1_216,
        "conv2": 12_832,
        "conv3": 51_264,
        "dense": 1_049_600,
        "dropout": 0,
        "head": 6_150,
    }
    assert counts == expected
    assert sum(counts.values()) == 1_121_062


@pytest.mark.parametrize(("channels", "size"), [(1, 63), (6, 64), (3, 100), (5, 129)])
def test_other_sizes_and_channels(channels, size):
    network = LeNet(channels, 4, size).eval()
    x = torch.randn(2, channels, size, size)
    assert network(x).shape == (2, 4)
    assert network.embed(x).shape == (2, 1024)
    assert torch.allclose(network.head(network.embed(x)), network(x))


def test_too_small_or_another_size_is_refused():
    with pytest.raises(InputError, match="63 pixels or more a side, got 62"):
        LeNet(3, 6, 62)
    with pytest.raises(InputError, match="built for 64 pixels"):
        LeNet(3, 6, 64)(torch.zeros(1, 3, 128, 128))


def test_dropout_acts_in_training_alone():
    network, x = LeNet(3, 6, 64, dropout=0.5), torch.randn(2, 3, 64, 64)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_weights_are_glorot_uniform_and_biases_zero():
    torch.manual_seed(0)
    network = LeNet(3, 6, 256)
    bound = np.sqrt(6 / (1024 + 1024))
    assert network.dense.weight.abs().max() <= bound
    assert network.dense.weight.std().item() == pytest.approx(bound / np.sqrt(3), rel=0.01)
    assert not any(
        value.any() for name, value in network.named_parameters() if name.endswith("bias")
    )


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
)
def test_same_padding_is_tensorflows(height, width, kernel, stride):
    """TensorFlow: pad = max(k - s, 0) where s divides n, else max(k - n mod s, 0); the smaller half
    before.
    """
    x = torch.ones(1, 1, height, width)
    padded = same_padding(x, kernel, stride)
    for axis, n in ((2, height), (3, width)):
        total = max(kernel - stride, 0) if n % stride == 0 else max(kernel - n % stride, 0)
        assert padded.shape[axis] == n + total
        lit = np.flatnonzero(padded[0, 0].sum(3 - axis).numpy())
        assert lit[0] == total // 2 and len(lit) == n
        assert (padded.shape[axis] - kernel) // stride + 1 == -(-n // stride) or kernel < stride
