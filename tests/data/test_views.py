"""The views of test-time augmentation: a group of eight, and the same of the zoomed image."""

import numpy as np
import pytest
import torch

from cellsignal.data.views import VIEWS, apply_view, tta_views, zoomed


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_so_many_different_views_of_the_same_size(count):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = [apply_view(images, view) for view in tta_views(count)]
    assert len(found) == count and all(view.shape == images.shape for view in found)
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
    assert tta_views(count)[0] == "identity" and torch.equal(found[0], images)


def test_the_eight_are_the_dihedral_group():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    whole = {tuple(apply_view(image, view).flatten().tolist()) for view in VIEWS}
    brute = set()
    for turns in range(4):
        turned = np.rot90(image[0, 0].numpy(), turns)
        brute |= {tuple(turned.flatten().tolist()), tuple(turned.T.flatten().tolist())}
    assert whole == brute and len(whole) == 8


def test_zoom_shows_the_centre_enlarged():
    """A linear ramp stays linear, its slope times 7/8, its middle where it was."""
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    row = zoomed(ramp)[0, 0, 10]
    assert row[1:-1].diff().mean().item() == pytest.approx(7 / 8, abs=1e-3)
    assert row.mean().item() == pytest.approx(31.5) and row.min() >= 4 and row.max() <= 59
    assert torch.equal(apply_view(ramp, "zoom_hflip"), zoomed(ramp).flip(3))
