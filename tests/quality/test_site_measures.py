import cv2
import numpy as np
import pytest
from scipy import ndimage

from cellsignal.quality.site_measures import (
    GRID,
    MEASURES,
    corner_centre_ratio,
    count_nuclei,
    focus_slope,
    measure_channel,
    shrink,
)


def disks(side=128, pitch=32, radius=8, value=150, noise=3, seed=0):
    """A plane with a disk in the middle of each square of the pitch."""
    y, x = np.mgrid[:side, :side] % pitch - pitch // 2
    plane = np.where(y**2 + x**2 <= radius**2, value, 20.0)
    plane += np.random.default_rng(seed).normal(0, noise, plane.shape)
    return np.clip(np.rint(plane), 0, 255).astype(np.uint8)


def measures(plane):
    return dict(zip(MEASURES, measure_channel(plane), strict=True))


def test_intensities_against_numpy():
    plane = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    figures = measures(plane)
    darkest = np.sort(plane.ravel())[: plane.size // 10]
    assert figures["mean"] == pytest.approx(plane.mean())
    assert figures["sd"] == pytest.approx(plane.std())
    assert figures["background"] == pytest.approx(darkest.mean())
    assert figures["saturated"] == pytest.approx((plane == 255).mean())


def test_laplacian_against_scipy():
    plane = disks()
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    edges = ndimage.convolve(plane.astype(float), kernel, mode="mirror")
    expected = np.log10(edges.var() / plane.astype(float).var())
    assert measures(plane)["focus_laplacian"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("exponent", [-1.0, -2.0, -3.0])
def test_slope_of_a_power_law(exponent):
    """Noise whose power falls as frequency ** exponent, independent of its brightness."""
    side, slopes = 128, []
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    f[0, 0] = 1
    for seed in range(8):
        white = np.fft.fft2(np.random.default_rng(seed).normal(size=(side, side)))
        field = np.real(np.fft.ifft2(white * f ** (exponent / 2)))
        plane = 128 + 100 * field / np.abs(field).max()
        slopes.append(focus_slope(plane))
    assert np.mean(slopes) == pytest.approx(exponent, abs=0.15)
    assert focus_slope(plane / 3) == pytest.approx(slopes[-1], abs=1e-3)


def test_blur_lowers_both_focus_measures():
    sharp = disks()
    blurred = cv2.GaussianBlur(sharp, (0, 0), 4.0)
    before, after = measures(sharp), measures(blurred)
    assert after["focus_slope"] < before["focus_slope"] - 1
    assert after["focus_laplacian"] < before["focus_laplacian"] - 0.5


def test_a_flat_channel_has_no_focus_but_a_mean():
    figures = measures(np.full((32, 32), 255, np.uint8))
    assert figures["mean"] == 255 and figures["saturated"] == 1 and figures["sd"] == 0
    assert np.isnan(figures["focus_slope"]) and np.isnan(figures["focus_laplacian"])


def test_nuclei_are_counted():
    assert count_nuclei(disks()) == 16
    assert count_nuclei(disks(value=60, noise=6)) == 16


def test_noise_and_nothing_hold_hardly_any_nuclei():
    rng = np.random.default_rng(0)
    noise = np.clip(rng.normal(40, 8, (128, 128)), 0, 255).astype(np.uint8)
    assert count_nuclei(noise) <= 3
    assert count_nuclei(np.zeros((64, 64), np.uint8)) == 0


def test_corner_over_centre():
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    dark_corners = 200 - 60 * (x**2 + y**2)
    image = np.stack([np.full((256, 256), 80), dark_corners]).astype(np.uint8)
    grid = shrink(image)
    assert grid.shape == (2, GRID, GRID)
    even, uneven = corner_centre_ratio(grid)
    assert even == pytest.approx(1)
    corner = dark_corners[:32, :32].mean() / dark_corners[96:160, 96:160].mean()
    assert uneven == pytest.approx(corner, abs=0.01)


def test_a_black_centre_has_no_ratio():
    assert np.isnan(corner_centre_ratio(np.zeros((1, GRID, GRID)))).all()
