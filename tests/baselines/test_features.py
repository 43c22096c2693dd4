import numpy as np
import pandas as pd
import pytest
from site_images import plate_images, plate_samples

from cellsignal.baselines.features import (
    cached,
    classical_features,
    with_plate_differences,
)
from cellsignal.profiles.image_features import image_features

SAMPLES = plate_samples(rows="B", columns=range(2, 4), sites=1)


def test_features_are_finite_and_as_many_as_said():
    for channels in (1, 3):
        image = np.stack([plate_images(SAMPLES)[0][0]] * channels)
        features = classical_features(image)
        assert features.shape == (29 * channels + channels * (channels - 1) // 2,)
        assert np.isfinite(features).all()
    assert np.isfinite(classical_features(np.zeros((2, 32, 32), np.uint8))).all()


def test_an_opening_removes_what_is_smaller_than_its_disk():
    """Bright disks of radius 3 go with the opening by radius 3, which is the third."""
    y, x = np.mgrid[:64, :64] % 16 - 8
    plane = np.where(y**2 + x**2 <= 9, 200, 0).astype(np.uint8)
    granularity = classical_features(plane[None])[len(image_features(plane[None])) + 10 :][:6]
    assert granularity[:2].sum() < 0.3 and granularity[:3].sum() == pytest.approx(1)


def test_large_images_are_shrunk_first():
    plane = plate_images(SAMPLES)[0][0]
    large = np.kron(plane, np.ones((5, 5), np.uint8))  # 360 px
    assert classical_features(large[None]).shape == classical_features(plane[None]).shape


def test_differences_from_the_plate_take_a_shift_out():
    samples = pd.DataFrame({"experiment": "e", "plate": ["1", "1", "2", "2"]})
    x = np.array([[1.0], [3.0], [11.0], [13.0]])
    assert with_plate_differences(x, samples).tolist() == [[1, -1], [3, 1], [11, -1], [13, 1]]


def test_kept_arrays_are_made_once_for_a_key(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": np.arange(3)}

    file = tmp_path / "kept.npz"
    for key, count in (("a", 1), ("a", 1), ("b", 2)):
        assert cached(file, key, make)["x"].tolist() == [0, 1, 2] and len(made) == count
    file.write_bytes(file.read_bytes()[:50])
    assert cached(file, "b", make)["x"].tolist() == [0, 1, 2] and len(made) == 3
