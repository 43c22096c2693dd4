"""One rule for the layers that see the image: what a gray image gives stays as it is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.models.stems import adapt_layer, adapt_stem
from cellsignal.models.torchvision_cpu import import_timm

NUMBERS = st.integers(1, 9)


@given(NUMBERS, NUMBERS, st.integers(0, 5))
def test_the_sum_over_channels_is_that_of_the_file_from_any_number_to_any(inputs, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, inputs, 3, 3, generator=generator, dtype=torch.float64)
    adapted = adapt_stem(weight, channels)
    assert adapted.shape == (4, channels, 3, 3)
    np.testing.assert_allclose(adapted.numpy().sum(1), weight.numpy().sum(1), atol=1e-12)


@given(NUMBERS, NUMBERS)
def test_every_channel_is_its_own_scaled_and_an_equal_share_of_the_rest(inputs, channels):
    """By hand, one number at a time."""
    weight = torch.randn(1, inputs, 1, 1, dtype=torch.float64)
    w = weight.flatten().tolist()
    scaled = [w[c % inputs] * inputs / channels for c in range(channels)]
    expected = [value + (sum(w) - sum(scaled)) / channels for value in scaled]
    np.testing.assert_allclose(adapt_stem(weight, channels).flatten(), expected, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3, 6, 9])
def test_whole_multiples_and_one_channel_are_adapted_as_timm_adapts_its_own(channels):
    import_timm()
    from timm.models import adapt_input_conv

    weight = torch.randn(4, 3, 5, 5)
    adapted = adapt_stem(weight, channels)
    assert torch.allclose(adapted, adapt_input_conv(channels, weight), atol=1e-6)


@pytest.mark.parametrize(("inputs", "channels"), [(3, 5), (3, 4), (3, 2), (5, 6), (6, 5), (5, 1)])
def test_a_gray_image_gives_the_same_output_where_timm_does_not(inputs, channels):
    import_timm()
    from timm.models import adapt_input_conv

    weight, gray = torch.randn(4, inputs, 3, 3), torch.randn(2, 1, 9, 9)
    expected = torch.conv2d(gray.expand(-1, inputs, -1, -1), weight)
    images = gray.expand(-1, channels, -1, -1)
    torch.testing.assert_close(torch.conv2d(images, adapt_stem(weight, channels)), expected)
    if channels > 1:
        theirs = torch.conv2d(images, adapt_input_conv(channels, weight, base_chans=inputs))
        assert not torch.allclose(theirs, expected, atol=0.1)


def test_outputs_of_independent_channels_keep_their_size():
    torch.manual_seed(0)
    weight, images = torch.randn(64, 3, 5, 5), torch.randn(4, 6, 40, 40)
    before = torch.conv2d(images[:, :3], weight).std()
    for channels in (4, 5, 6):
        after = torch.conv2d(images[:, :channels], adapt_stem(weight, channels)).std()
        assert 0.6 < after / before < 1.1  # sqrt(3 / 6) at the least


def unshuffled(images: torch.Tensor, side: int) -> torch.Tensor:
    """(B, C, H, W) -> (B, side * side * C, H / side, W / side), the channel counted fastest."""
    batch, channels, height, width = images.shape
    parts = images.numpy().reshape(batch, channels, height // side, side, width // side, side)
    moved = parts.transpose(0, 3, 5, 1, 2, 4)
    return torch.from_numpy(
        moved.reshape(batch, side * side * channels, height // side, width // side).copy()
    )


@pytest.mark.parametrize(("inputs", "channels"), [(3, 6), (3, 5), (5, 6), (3, 1)])
def test_pixels_that_are_seen_as_channels_stay_apart(inputs, channels):
    gray, weight = torch.randn(2, 1, 8, 8), torch.randn(4, 4 * inputs, 3, 3)
    expected = torch.conv2d(unshuffled(gray.expand(-1, inputs, -1, -1), 2), weight)
    state = {"stem.weight": weight}
    network = {"stem.weight": torch.empty(4, 4 * channels, 3, 3)}
    adapt_layer(state, network, "stem.weight", channels, "a file")
    images = unshuffled(gray.expand(-1, channels, -1, -1), 2)
    seen = torch.conv2d(images, state["stem.weight"])
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("inputs", "channels"), [(3, 6), (3, 5)])
def test_a_linear_layer_of_patches(inputs, channels):
    """A patch is counted row by row, the channel fastest, as timm's NaFlexViT does."""
    gray, weight = torch.randn(2, 16, 1), torch.randn(4, 16 * inputs)
    expected = gray.expand(-1, -1, inputs).flatten(1) @ weight.T
    state, layer = {"proj.weight": weight}, nn.Linear(16 * channels, 4)
    adapt_layer(state, {"proj.weight": layer.weight}, "proj.weight", channels, "a file")
    seen = gray.expand(-1, -1, channels).flatten(1) @ state["proj.weight"].T
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)


def test_inputs_that_are_no_channels_are_refused():
    state, network = {"stem.weight": torch.ones(4, 7)}, {"stem.weight": torch.ones(4, 24)}
    with pytest.raises(
        InputError, match=r"^a file: stem\.weight has 7 inputs, .* at 4 pixels each$"
    ):
        adapt_layer(state, network, "stem.weight", 6, "a file")
