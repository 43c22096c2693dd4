"""Logits as float16 and back."""

import numpy as np
import pytest

from cellsignal.prediction.halves import HALF_LIMIT, narrow, widen


def test_every_finite_half_is_widened_exactly():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]  # both zeros and all numbers below the normal ones, too
    for values in (halves.reshape(-1, 31), halves[::-3], np.zeros((0, 4), np.float16)):
        found = widen(values)
        assert found.dtype == np.float32 and found.shape == values.shape
        np.testing.assert_array_equal(found.view(np.uint32), values.astype("f4").view(np.uint32))
    for kind in ("f4", "f8"):
        np.testing.assert_array_equal(widen(np.array([1.5, -3e30], kind)), np.float32([1.5, -3e30]))


@pytest.mark.parametrize(
    ("value", "kind"),
    [(HALF_LIMIT, "f4"), (-HALF_LIMIT, "f4"), (255.9, "f2"), (-255.9, "f2"), (np.nan, "f4")],
)
def test_large_logits_stay_float32(value, kind):
    assert narrow(np.array([[0.5, value]])).dtype == kind
    half = np.ones((2, 2), np.float16)
    assert narrow(half) is half and narrow(np.zeros((0, 3))).dtype == "f2"
