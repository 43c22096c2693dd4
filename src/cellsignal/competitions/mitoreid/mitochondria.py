"""Cells filmed over 16 frames, whose mitochondria tell the mechanism of action by how they change,
not by how they look.

At the first frame all cells are alike. A mechanism (MoA) is what happens (mitochondria gather at
the nucleus, break up, lose their potential, swell, stream along the cell's radius, stop or race)
and when: `early` and `late` courses go through the very same states in reversed order and are back
at rest in the end, so that a model which ignores the order of frames cannot tell one from the
other. Streaming, stopping and racing show between frames alone: mitochondria that leave at one end
come in at the other, so that every single frame looks like one of a cell at rest.

What makes it hard is drawn anew for each cell: how far it answers, when, its shape and light, how
fast its stains bleach, and how the focus drifts.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

FRAMES = 16
# name -> (what changes, its course). The first eight are four pairs that time alone tells apart.
MOAS = {
    "gathers early": ("gather", "early"),
    "gathers late": ("gather", "late"),
    "loses potential early": ("depolarise", "early"),
    "loses potential late": ("depolarise", "late"),
    "streams inward": ("inward", "lasting"),
    "streams outward": ("outward", "lasting"),
    "breaks up early": ("break", "early"),
    "breaks up late": ("break", "late"),
    "swells early": ("swell", "early"),
    "swells late": ("swell", "late"),
    "stops": ("stop", "lasting"),
    "races": ("race", "lasting"),
    "gathers for good": ("gather", "lasting"),
    "breaks up for good": ("break", "lasting"),
}
EFFECTS = ("gather", "depolarise", "break", "swell", "inward", "outward", "stop", "race")
_PEAK = {"early": 3 / 15, "late": 12 / 15}  # of the way; each the other's mirror image
_MITOCHONDRIA, _PIECES = 26, 3  # of a cell; that each may break into
_CELL, _NUCLEUS = 0.40, 0.13  # radii, as shares of the picture
_STREAM = 0.055  # of the way from nucleus to border, a frame
# of the drug's strength that a cell shows; SD of its own delay (frames)
_LEAST_ANSWER, _JITTER = 0.7, 0.5
# a frame, typical: share of the light lost; SD of the steps of the blur's logarithm
_BLEACHING, _DRIFT = 0.012, 0.06


@dataclass(frozen=True)
class Drug:
    """What a drug does: how strong its mechanism is, when it sets in (frames), and its side
    effects.

    Attributes:
        moa: index into `MOAS`, None for the solvent.
        stain, girth: ratio of the stains and size of the cell, beside the solvent's.
        second, second_strength: a weaker second mechanism that this drug alone has (off-target),
        None for none.
    """

    name: str
    moa: int | None
    strength: float
    delay: float
    stain: float
    girth: float
    second: int | None = None
    second_strength: float = 0.0


@dataclass(frozen=True)
class Optics:
    """A library's microscope: blur (pixels of a 48-pixel picture), gain of each stain, noise (grey
    levels).
    """

    blur: float
    gain: tuple[float, float, float]
    noise: float


def courses(moa: int | None, strength: float, delay: float) -> dict[str, np.ndarray]:
    """How far each of `EFFECTS` is at each frame: (16,) from 0 (rest) to 1, zero at the first
    frame.

    Args:
        moa: index into `MOAS`; None is the solvent, of which nothing comes.
        delay: frames by which its full strength is reached later.
    """
    found = {name: np.zeros(FRAMES) for name in EFFECTS}
    if moa is not None:
        effect, course = list(MOAS.values())[moa]
        at = np.arange(FRAMES) / (FRAMES - 1)
        if course == "lasting":
            found[effect] = strength * np.clip(np.arange(FRAMES) / (6 + delay), 0, 1)
        else:
            peak = _PEAK[course] + delay / (FRAMES - 1)
            found[effect] = strength * np.interp(at, [0, peak, 1], [0, 1, 0])
    return found


def draw_track(rng: np.random.Generator, drug: Drug, optics: Optics, size: int) -> np.ndarray:
    """One cell: (16, H, W, 3) uint8, stains w1 (nucleus), w2 (mitochondria by their potential), w3
    (mitochondria by their mass).
    """
    unit = size / 48
    answer, delay = rng.uniform(_LEAST_ANSWER, 1), drug.delay + rng.normal(0, _JITTER)
    first, second = (
        courses(moa, answer * strength, delay)
        for moa, strength in ((drug.moa, drug.strength), (drug.second, drug.second_strength))
    )
    span = {name: np.minimum(first[name] + second[name], 1) for name in EFFECTS}
    radius = size * _CELL * drug.girth * rng.uniform(0.9, 1.08)
    aspect = rng.uniform(1.0, 1.35)
    turn = rng.uniform(0, math.pi)
    centre = size / 2 + rng.normal(0, 0.03 * size, 2)
    inner = size * _NUCLEUS * 1.15 / radius  # the nucleus, as a share of the cell's radius
    # of the way to the border; direction
    place = rng.uniform(0, 1, _MITOCHONDRIA), rng.uniform(0, 2 * math.pi, _MITOCHONDRIA)
    length = rng.uniform(3.0, 6.0, _MITOCHONDRIA) * unit
    angle = rng.uniform(0, math.pi, _MITOCHONDRIA)
    light = rng.uniform(0.6, 1.0, _MITOCHONDRIA)
    scatter = rng.normal(0, 1.6 * unit, (_MITOCHONDRIA, _PIECES, 2))
    drift = rng.normal(0, 0.9 * unit, (_MITOCHONDRIA, 2))
    spin = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    gains = np.array(optics.gain) * rng.uniform(0.9, 1.1, 3)
    cell, nucleus = (
        _ellipse(size, centre, r, a, turn)
        for r, a in ((radius, aspect), (size * _NUCLEUS, 1.0 + (aspect - 1) / 2))
    )
    # (16, 3)
    fading = np.exp(
        -np.outer(np.arange(FRAMES), _BLEACHING * rng.uniform(0.3, 1.7, 3) * [0.5, 1, 1])
    )
    focus = np.exp(np.cumsum(np.r_[0, rng.normal(0, _DRIFT, FRAMES - 1)]))
    streamed = _STREAM * np.cumsum(span["outward"] - span["inward"])
    clip = np.empty((FRAMES, size, size, 3), np.uint8)
    for t in range(FRAMES):
        s = {name: course[t] for name, course in span.items()}
        way = (place[0] + streamed[t]) % 1  # who leaves at one end comes in at the other
        drift = 0.9 * drift + rng.normal(0, 0.42 * unit, drift.shape) * (1 - 0.93 * s["stop"]) * (
            1 + 2.2 * s["race"]
        ) * (t > 0)
        if s["stop"]:
            drift = drift / 0.9 ** s["stop"]  # what stands still is not drawn back either
        away = inner + (0.9 - inner) * way * (1 - 0.75 * s["gather"])
        ring = (
            np.column_stack(
                [
                    away * np.cos(place[1]) * math.sqrt(aspect),
                    away * np.sin(place[1]) / math.sqrt(aspect),
                ]
            )
            * radius
        )
        # dim at both ends, so that none comes or goes at once
        shown = light * np.sqrt(np.sin(math.pi * way))
        mass = _mitochondria(
            size, centre + ring @ spin.T + drift, length, angle, shown, scatter, s["break"], unit
        )
        mass = cv2.GaussianBlur(mass, (0, 0), (optics.blur * focus[t] + 1.5 * s["swell"]) * unit)
        planes = np.stack(
            [165 * nucleus, 150 * mass * (1 - 0.8 * s["depolarise"]), 110 * drug.stain * mass + 20],
            axis=-1,
        )
        noisy = planes * gains * fading[t] + optics.noise * rng.standard_normal(
            planes.shape, np.float32
        )
        clip[t] = np.clip(noisy * cell[..., None], 0, 255)
    return clip


def _mitochondria(
    size, middle, length, angle, light, scatter, broken: float, unit: float
) -> np.ndarray:
    """(H, W) float32: each mitochondrion as a line of pieces that shrink and scatter as it breaks
    up.
    """
    canvas = np.zeros((size, size), np.uint8)
    along = np.column_stack([np.cos(angle), np.sin(angle)])
    third, thick = length / _PIECES, max(1, round(1.2 * unit))
    for piece in range(_PIECES):
        mid = middle + along * (third * (piece - 1))[:, None] + broken * scatter[:, piece]
        half = along * (third * (0.5 - 0.42 * broken))[:, None]
        ends = np.rint(np.stack([mid - half, mid + half], axis=1) * 16).astype(int)
        for (start, end), bright in zip(ends.tolist(), light, strict=True):
            cv2.line(canvas, start, end, int(255 * bright), thick, cv2.LINE_AA, shift=4)
    return canvas.astype(np.float32) / 255


def _ellipse(
    size: int, centre: np.ndarray, radius: float, aspect: float, turn: float
) -> np.ndarray:
    """(H, W) float32: 1 inside an ellipse, softly falling to 0 at its border."""
    y, x = np.mgrid[:size, :size] - centre[::-1, None, None]
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    distance = np.hypot(u / math.sqrt(aspect), v * math.sqrt(aspect)) - radius
    return (1 / (1 + np.exp(distance / (0.02 * size)))).astype(np.float32)
