"""Place wells on plates, and draw plates with batch effects.

A plate's gain and offset are chosen once, from some of its sites, so that its pixel mean and SD
land near the values drawn for it. They are never fitted image by image: a bright well stays bright.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from cellsignal.simulation.cells import Look, draw_field, pixel_size
from cellsignal.simulation.output import generator

# the used part of a 384-well plate, 16 rows x 24 columns
ROWS, COLUMNS = "BCDEFGHIJKLMNO", range(2, 24)
WELLS = tuple(f"{row}{column:02d}" for row in ROWS for column in COLUMNS)
NEGATIVE_WELL = "B02"
POSITIVE_WELLS = tuple(f"{row}{column:02d}" for row in "CFHJM" for column in (3, 7, 11, 15, 19, 22))

# what experiments differ in besides brightness: no normalisation by mean and SD takes it out
BLEED = 0.12  # typical light of one stain in another's channel, relative to that channel's own
SATURATION = 0.3  # SD of the log power
FOCUS = 0.45  # SD of the log blur

_REFERENCE_SITES = 24
_MOST_POWER = 2.5
_SHOT, _READ = 0.06, 0.35  # noise variance for each gray level; SD in gray levels


@dataclass(frozen=True)
class Optics:
    """What microscope and staining do to one plate. C channels."""

    mean: np.ndarray  # (C,) pixel mean to reach, gray levels
    sd: np.ndarray  # (C,)
    light: np.ndarray  # (C, 3) centre x, centre y (0..1) and strength of the fall-off of light
    focus: np.ndarray  # (C,) SD of the blur, pixels of the 512-pixel field
    edge: float  # how strongly wells at the plate's edge differ
    # (C, C) share of each stain's light (column) that reaches each channel (row), diagonal 1
    bleed: np.ndarray
    power: np.ndarray  # (C,) gray = light ** power: saturated (< 1) or contrasty (> 1) staining


@dataclass(frozen=True)
class Site:
    """One picture to draw."""

    name: str  # names the picture and its random numbers
    well: str
    look: Look


@dataclass(frozen=True)
class Plate:
    """One plate to draw: everything a worker needs."""

    name: str
    optics: Optics
    sites: tuple[Site, ...]


def place_wells(
    positives: int, others: int, negatives: int, rng: np.random.Generator
) -> tuple[list[str], list[str], list[str]]:
    """Draw the wells of one plate, as on the real ones.

    Positive controls stand on a fixed grid in shuffled order; the first negative control stands in
    the corner B02; all else is scattered over rows B..O and columns 02..23.

    Returns:
        The wells of the positive controls, of the treatments (`others`), and of the negative
        controls.
    """
    assert positives + others + negatives <= len(WELLS), "more wells than a plate has"
    grid = list(rng.permutation(POSITIVE_WELLS)[:positives])
    free = [well for well in WELLS if well != NEGATIVE_WELL and well not in set(grid)]
    scattered = [str(well) for well in rng.permutation(free)]
    missing = positives - len(grid)
    positive = [str(well) for well in grid] + scattered[:missing]
    rest = scattered[missing:]
    return positive, rest[:others], [NEGATIVE_WELL, *rest[others : others + negatives - 1]]


def edge_effect(well: str) -> float:
    """Return 1 in the outermost used row or column of a 384-well plate, towards 0 inside."""
    row, column = "ABCDEFGHIJKLMNOP".index(well[0]), int(well[1:])
    to_border = min(row, 15 - row, column - 1, 24 - column)
    return float(np.exp(-(to_border - 1) / 1.3))


def draw_optics(mean: np.ndarray, sd: np.ndarray, seed: int, experiment: str, plate: str) -> Optics:
    """Draw the batch effects of a plate, which shares most of them with its experiment.

    Args:
        mean, sd: (C,) of the pixels, drawn before.
    """
    of_experiment = generator(seed, "optics", experiment)
    of_plate = generator(seed, "optics", experiment, plate)
    channels = len(mean)
    centre = of_experiment.uniform(0.3, 0.7, (channels, 2))
    falloff = of_experiment.uniform(0.1, 0.7, (channels, 1))
    light = np.concatenate([centre, falloff], axis=1)
    light += of_plate.normal(size=(channels, 3)) * (0.03, 0.03, 0.04)
    blur = FOCUS * of_experiment.normal(size=channels) + 0.12 * of_plate.normal(size=channels)
    focus = 1.6 * np.exp(blur)
    diagonal = np.eye(channels)
    stray = BLEED * np.abs(of_experiment.normal(size=(channels, channels)))
    bleed = diagonal + stray * (1 - diagonal)
    power = np.exp(SATURATION * of_experiment.normal(size=channels))
    return Optics(mean, sd, light, focus, of_experiment.uniform(0.4, 1.2), bleed, power)


def draw_plate(
    plate: Plate, size: int, seed: int, channels: tuple[int, ...] = tuple(range(6))
) -> Iterator[tuple[Site, np.ndarray]]:
    """Draw a plate's sites.

    Args:
        channels: which stains of `cells.STAINS` are photographed, in this order; `plate.optics` has
        as many.

    Yields:
        Each site with its picture, (C, size, size) uint8.
    """
    optics = plate.optics
    light = _light(optics.light, size)
    step = max(1, len(plate.sites) // _REFERENCE_SITES)
    images = {
        site.name: _photograph(site, optics, light, size, seed, channels)
        for site in plate.sites[::step]
    }
    level = np.mean([image.mean(axis=(1, 2)) for image in images.values()], axis=0)
    mix = (optics.bleed * level[:, None] / level[None, :]).astype(np.float32)
    stride = max(1, size // 20)
    sample = np.stack([image[:, ::stride, ::stride] for image in images.values()], axis=1)
    sample = mix @ sample.reshape(len(channels), -1)
    sample = sample ** optics.power[:, None].astype(np.float32)
    power, gain, offset = fit_response(sample, optics.mean, optics.sd)
    power = power * optics.power
    for site in plate.sites:
        image = images.pop(site.name, None)
        if image is None:
            image = _photograph(site, optics, light, size, seed, channels)
        image = (mix @ image.reshape(len(channels), -1)).reshape(image.shape)
        image = np.stack([cv2.pow(plane, float(p)) for plane, p in zip(image, power, strict=True)])
        image = image * gain[:, None, None] + offset[:, None, None]
        yield site, _camera(image, generator(seed, "camera", site.name))


def fit_response(
    sample: np.ndarray, mean: np.ndarray, sd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit the camera's response to a plate: gray = sample ** power * gain + offset.

    Cut to 0..255 and with camera noise, the grays have about the given mean and SD.
    The power is 1 but where the contrast to reach is greater than the sample's: there a gain would
    push the darker half of the cells below 0.

    Args:
        sample: (C, n) float32, > 0.
        mean, sd: (C,) gray levels.

    Returns:
        power, gain, offset: (C,) float32 each.
    """
    signal_sd = np.sqrt(np.maximum(sd**2 - _SHOT * mean - _READ**2 - 1 / 12, 0.15 * sd**2))
    power = np.ones(len(mean), np.float32)
    for c, contrast in enumerate(signal_sd / mean):
        while power[c] < _MOST_POWER and _contrast(sample[c] ** power[c]) < 0.9 * contrast:
            power[c] += 0.25
    sample = sample ** power[:, None]
    gain = signal_sd / np.maximum(sample.std(axis=1), 1e-6)
    offset = mean - gain * sample.mean(axis=1)
    for _ in range(7):
        cut = np.clip(sample * gain[:, None] + offset[:, None], 0, 255)
        gain *= np.clip(signal_sd / np.maximum(cut.std(axis=1), 1e-6), 0.7, 1.4)
        cut = np.clip(sample * gain[:, None] + offset[:, None], 0, 255)
        offset += mean - cut.mean(axis=1)
    return power, gain.astype(np.float32), offset.astype(np.float32)


def _contrast(values: np.ndarray) -> float:
    return float(values.std() / max(values.mean(), 1e-6))


def _photograph(
    site: Site, optics: Optics, light: np.ndarray, size: int, seed: int, channels: tuple[int, ...]
) -> np.ndarray:
    """Return a site as the lens sees it, before the camera: (C, size, size) float32."""
    rng = generator(seed, "site", site.name)
    edge = optics.edge * edge_effect(site.well)
    density = site.look.density * (1 - 0.3 * edge)
    rounded = site.look.rounded * (1 + 0.5 * edge)
    field = draw_field(replace(site.look, density=density, rounded=rounded), size, rng)
    blur = np.sqrt((optics.focus * np.exp(0.1 * rng.normal()) / pixel_size(size)) ** 2 + 0.3**2)
    image = np.empty((len(channels), size, size), np.float32)
    for plane, channel, sigma in zip(image, channels, blur, strict=True):
        stain = np.ascontiguousarray(field[..., channel])
        cv2.GaussianBlur(stain, (0, 0), float(sigma), dst=plane)
    image += np.float32(0.05)
    return image * light * np.float32(1 + 0.12 * edge)


def _light(light: np.ndarray, size: int) -> np.ndarray:
    """Return the illumination of each channel, (C, size, size) float32.

    It falls off with the square of the distance from its centre.
    """
    x, y, strength = light.T[:, :, None, None]
    place = (np.arange(size, dtype=np.float32) + 0.5) / size
    square = (place[None, None, :] - x) ** 2 + (place[None, :, None] - y) ** 2
    return np.maximum(1 - strength * square, 0.2).astype(np.float32)


def _camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add shot and read noise, and cut to 8 bits."""
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise *= np.sqrt(np.maximum(image, 0) * np.float32(_SHOT) + np.float32(_READ**2))
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
