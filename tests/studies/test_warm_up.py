"""The warm-up: its network counted by hand, its splits apart, its table from its own figures, and
its accuracy.
"""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from cellsignal.common.errors import InputError
from cellsignal.metrics.accuracy import wilson_interval
from cellsignal.studies.warm_up import (
    EPOCHS,
    WarmUp,
    _warm_up,
    bench_warm_up,
    digits,
    digits_network,
    warm_up_text,
)

pytestmark = pytest.mark.slow


def test_parameters_by_hand():
    """Convolutions 1 -> 32 and 32 -> 64 of 3x3; 8x8 pooled twice is 2x2; 256 -> 128 -> 10; every
    layer with biases.
    """
    by_hand = (9 * 1 + 1) * 32 + (9 * 32 + 1) * 64 + (64 * 2 * 2 + 1) * 128 + (128 + 1) * 10
    assert sum(p.numel() for p in digits_network().parameters()) == by_hand == 53_002


@pytest.mark.parametrize("split", ["image", "writer"])
def test_the_split_uses_every_image_once(split):
    train, train_label, test, test_label = digits(split)
    pixels, label = load_digits(return_X_y=True)
    found = torch.cat([train, test]).numpy().reshape(-1, 64) * 16
    order, expected = np.lexsort(found.T), np.lexsort(pixels.T)
    np.testing.assert_array_equal(found[order], pixels[expected])
    np.testing.assert_array_equal(
        torch.cat([train_label, test_label]).numpy()[order], label[expected]
    )
    assert 0.19 < len(test) / len(label) < 0.22 and np.bincount(test_label).min() >= 34
    if split == "writer":
        # whole blocks, at the end
        np.testing.assert_array_equal(test.numpy().reshape(-1, 64) * 16, pixels[len(train) :])


def test_seeds_decide_and_leave_the_callers_random_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again = _warm_up("writer", (0, 1), epochs=1), _warm_up("writer", (1,), epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first.correct[1], again.correct[0])
    assert not np.array_equal(first.correct[0], first.correct[1])


def test_it_learns():
    """Ten digits are a tenth by chance; docs say 98 %, and no seed and no machine's rounding costs
    as much as 8 points.
    """
    assert _warm_up("image", (1,), EPOCHS).correct.mean() > 0.9


def test_the_table_says_what_was_found():
    correct = np.zeros((2, 100), bool)
    correct[0, :90], correct[1, :80] = True, True
    text = warm_up_text([WarmUp("image", (4, 7), correct, 400, 53_002, 3)])
    low, high = wilson_interval(90, 100)
    assert f"0.900 [{low:.2f}, {high:.2f}] (90/100)" in text and "0.800 [" in text
    assert "0.850 [" in text and "(SD 0.071)" in text and "53,002 parameters, 3 epochs" in text


@pytest.mark.parametrize(("seeds", "epochs"), [((), 1), ((1, 1), 1), ((0,), 0)])
def test_bad_input_is_refused(seeds, epochs):
    with pytest.raises(InputError, match="warm-up"):
        bench_warm_up(seeds, epochs)
