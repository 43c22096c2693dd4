"""Features of a frozen network: of each image by itself, whatever its brightness, in any view."""

from types import SimpleNamespace

import numpy as np
import pytest

from cellsignal.baselines.networks import LAYERS, missing_weights, network_features
from cellsignal.common.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 120, (3, 2, 32, 32)).astype(np.uint8)


def features(images, planes=(0, 1), rows=(0, 1, 2), **options):
    store = SimpleNamespace(shape=images.shape[1:], read=lambda row: images[row])
    return network_features(store, rows, planes, **{"pretrained": False} | options)


@pytest.mark.slow
def test_an_image_has_the_same_features_in_any_company_and_at_any_brightness():
    x = features(IMAGES)
    np.testing.assert_allclose(features(IMAGES, rows=(2,)), x[2:], rtol=1e-3, atol=1e-5)
    brighter = IMAGES.copy()
    brighter[:, 0] = 2 * brighter[:, 0] + 9
    np.testing.assert_allclose(features(brighter), x, rtol=1e-3, atol=1e-4)
    assert np.abs(features(IMAGES, planes=(1, 0)) - x).max() > 1e-3


def test_a_view_is_seen_in_place_of_the_image():
    mirrored = np.ascontiguousarray(IMAGES[..., ::-1])
    np.testing.assert_allclose(
        features(IMAGES, view="hflip"), features(mirrored), rtol=1e-4, atol=1e-5
    )
    assert np.abs(features(mirrored) - features(IMAGES)).max() > 1e-4


def test_layers_stand_one_after_the_other():
    deep = features(IMAGES, layers=(*LAYERS, 4))
    x = features(IMAGES)
    assert deep.shape[1] > x.shape[1]
    np.testing.assert_allclose(deep[:, : x.shape[1]], x, rtol=1e-4, atol=1e-5)
    assert np.abs(features(IMAGES, seed=1) - x).max() > 1e-3


def test_weights_that_are_missing_are_named(tmp_path):
    file = tmp_path / "none.safetensors"
    assert missing_weights(file) == f"{file}: no such file"
    with pytest.raises(InputError, match="no such file"):
        features(IMAGES, pretrained=True, weights=file)
