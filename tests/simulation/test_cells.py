"""Drawn cells: what a `Look` asks for is what is seen, at every size; phenotypes differ, and do so
reproducibly.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from cellsignal.simulation.cells import CELL_TYPES, draw_field, pixel_size
from cellsignal.simulation.phenotypes import LIMIT, N_EFFECTS, SCALES, effect, look_of, units


def _field(look, size=128, seed=0):
    return draw_field(look, size, np.random.default_rng(seed))


def _nuclei(field) -> int:
    plane = np.ascontiguousarray(field[..., 0])
    count, _, stats, _ = cv2.connectedComponentsWithStats(
        (plane > 0.4 * np.percentile(plane, 99)).astype(np.uint8)
    )
    return int((stats[1:count, cv2.CC_STAT_AREA] > 4).sum())


@pytest.mark.parametrize("cell_type", CELL_TYPES)
@pytest.mark.parametrize("size", [16, 33, 64, 130])
def test_fields_are_finite_positive_and_not_flat(cell_type, size):
    field = _field(CELL_TYPES[cell_type], size)
    assert field.shape == (size, size, 6) and field.dtype == np.float32
    assert np.isfinite(field).all() and (field >= 0).all()
    assert (field.std(axis=(0, 1)) > 0).all()


@pytest.mark.parametrize("n", [-LIMIT, LIMIT])
def test_extreme_looks_can_be_drawn(n):
    for cell_type in CELL_TYPES:
        assert np.isfinite(_field(look_of(cell_type, np.full(N_EFFECTS, n)), 48)).all()
    assert np.isfinite(_field(replace(CELL_TYPES["RPE"], density=1e-6), 32)).all()


def test_number_of_nuclei_follows_density():
    look = replace(CELL_TYPES["RPE"], binucleate=0, clumping=0.1)
    few, many = (
        np.mean([_nuclei(_field(replace(look, density=d), seed=s)) for s in range(4)])
        for d in (40, 120)
    )
    assert 1.8 < many / few < 3.6
    assert 0.6 < many / 120 < 1.3  # 128 pixels show the whole 512-pixel field


def test_nuclei_are_about_six_pixels_wide_at_64_pixels():
    width = 2 * CELL_TYPES["HUVEC"].nucleus / pixel_size(64)
    assert 5 <= width <= 6.5
    assert pixel_size(512) == 1 and pixel_size(128) == pixel_size(32) == 4


def test_cell_types_differ_as_the_real_ones_do():
    found = {
        name: np.mean([_nuclei(_field(look, 320, seed=s)) for s in range(2)])
        for name, look in CELL_TYPES.items()
    }
    # touching nuclei count once
    assert found["HEPG2"] > 1.3 * found["HUVEC"] and found["HUVEC"] > 1.3 * found["U2OS"]


@pytest.mark.parametrize(
    ("name", "channel"), [("stain_er", 1), ("stain_mito", 4), ("stain_golgi", 5)]
)
def test_a_stain_brightens_its_own_channel_only(name, channel):
    plain, bright = _field(look_of("U2OS", units())), _field(look_of("U2OS", units(**{name: 2.0})))
    ratio = bright.mean(axis=(0, 1)) / plain.mean(axis=(0, 1))
    assert ratio[channel] == pytest.approx(np.exp(2 * SCALES[name]), rel=1e-3)
    assert np.delete(ratio, channel) == pytest.approx(np.ones(5), rel=1e-3)


def test_a_strong_phenotype_is_separable_by_one_simple_feature():
    def granularity(look, seed):
        plane = np.ascontiguousarray(_field(look, 64, seed)[..., 4])
        return float((plane - cv2.GaussianBlur(plane, (0, 0), 1.5)).std() / plane.mean())

    plain = [granularity(look_of("HUVEC", units()), s) for s in range(8)]
    grainy = [granularity(look_of("HUVEC", units(mito_texture=2.5)), s) for s in range(8)]
    assert min(grainy) > max(plain)


def test_effects_are_fixed_by_seed_and_class_and_shared_in_part_by_cell_types():
    same = [np.corrcoef(effect(0, k, "HEPG2"), effect(0, k, "RPE"))[0, 1] for k in range(60)]
    other = [
        np.corrcoef(effect(0, k, "HEPG2"), effect(0, k + 60, "HEPG2"))[0, 1] for k in range(60)
    ]
    assert np.mean(same) > 0.6 > 0.15 > abs(np.mean(other))
    assert np.array_equal(effect(3, 5, "RPE"), effect(3, 5, "RPE"))
    assert not np.array_equal(effect(3, 5, "RPE"), effect(4, 5, "RPE"))
