"""CellProfiler's measures of nuclei, where the package is installed."""

import numpy as np
import pytest
from site_images import plate_images, plate_samples

from cellsignal.baselines.cell_profiler import missing_package, nuclei_features
from cellsignal.quality.site_measures import bright_objects

SAMPLES = plate_samples(rows="B", columns=range(2, 4), sites=1)


def test_objects_are_numbered_without_a_gap():
    labels = bright_objects(plate_images(SAMPLES)[0][0])
    assert sorted(np.unique(labels)) == list(range(10))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing_package() == "the package is not installed: pip install cp_measure"


@pytest.mark.skipif(missing_package() != "", reason="cp_measure is an extra")
def test_features_are_finite_and_know_the_number_of_nuclei():
    pytest.importorskip("cp_measure")
    images = plate_images(SAMPLES)
    first = nuclei_features(images[0], 0)
    assert np.isfinite(first).all() and first[-1] == pytest.approx(np.log(10))
    few = plate_images(SAMPLES, cells=lambda well: 4)[0]
    assert nuclei_features(few, 0).shape == first.shape
    assert nuclei_features(np.zeros_like(few), 0) is None
    brighter = nuclei_features(np.stack([few[0], few[1] // 2]), 0)
    assert (brighter != nuclei_features(few, 0)).any()
