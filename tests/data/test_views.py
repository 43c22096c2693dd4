"""The views of test-time augmentation: a group of eight, and the same of the zoomed image."""

import numpy as np
import pytest
import torch

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Predict
from cellsignal.data.views import DIHEDRAL, VIEWS, apply_view, register_view, tta_views, zoom


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_so_many_different_views_of_the_same_size(count):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = [apply_view(images, view) for view in tta_views(count)]
    assert len(found) == count and all(view.shape == images.shape for view in found)
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
    assert tta_views(count)[0] == "identity" and torch.equal(found[0], images)


def test_the_eight_are_the_dihedral_group():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    whole = {tuple(apply_view(image, view).flatten().tolist()) for view in DIHEDRAL}
    brute = set()
    for turns in range(4):
        turned = np.rot90(image[0, 0].numpy(), turns)
        brute |= {tuple(turned.flatten().tolist()), tuple(turned.T.flatten().tolist())}
    assert whole == brute and len(whole) == 8


def test_zoom_shows_the_centre_enlarged():
    """A linear ramp stays linear, its slope times 7/8, its middle where it was."""
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    row = zoom(ramp)[0, 0, 10]
    assert row[1:-1].diff().mean().item() == pytest.approx(7 / 8, abs=1e-3)
    assert row.mean().item() == pytest.approx(31.5) and row.min() >= 4 and row.max() <= 59
    assert torch.equal(apply_view(ramp, "zoom_hflip"), zoom(ramp).flip(3))


def test_presets_are_named_too_and_views_can_be_listed():
    assert tta_views("none") == tta_views(1) and tta_views("half_turn") == tta_views(2)
    assert tta_views("flips") == tta_views(4) and tta_views("d4") == tta_views(8) == DIHEDRAL
    assert tta_views("d4_zoom") == tta_views(16)
    assert tta_views(("identity", "zoom_hflip")) == ("identity", "zoom_hflip")


@pytest.mark.parametrize(
    "tta, message",
    [
        ("d4_zoo", r"no preset \(several views are a list\) 'd4_zoo'; did you mean 'd4_zoom'"),
        (("identity", "hflipp"), r"^predict\.tta: no view 'hflipp'; did you mean 'hflip'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(tta, message):
    with pytest.raises(InputError, match=message):
        tta_views(tta)


@pytest.mark.parametrize(
    "given, expected",
    [
        (8, 8),
        ("8", 8),
        ("D4", "d4"),
        (False, "none"),
        (["identity", "hflip"], ("identity", "hflip")),
    ],
)
def test_the_config_takes_numbers_presets_and_lists(given, expected):
    assert Predict(tta=given).tta == expected


@pytest.mark.parametrize("given", [3, True, [], ["hflip", "hflip"], [1], 2.5])
def test_the_config_refuses_other_values_in_one_mistake(given):
    with pytest.raises(ValueError, match="takes a list of different views") as error:
        Predict(tta=given)
    assert error.value.error_count() == 1


def test_a_view_of_ones_own_is_one_function(monkeypatch):
    monkeypatch.setattr("cellsignal.data.views.VIEWS", dict(VIEWS))

    @register_view
    def darker(images):
        return images - 1

    assert tta_views(["identity", "darker"])[1] == "darker"
    assert torch.equal(apply_view(torch.ones(1, 1, 2, 2), "darker"), torch.zeros(1, 1, 2, 2))
