"""Draw films of simulated cells, whose mechanism shows in how the mitochondria change.

At the first frame all cells are alike. A mechanism (MoA) is what happens and when: mitochondria
gather at the nucleus, break up, lose their potential, swell, stream along the cell's radius, stop
or race. `early` and `late` courses go through the same states in reversed order and end at rest, so
a model that ignores the order of frames cannot tell one from the other. Streaming, stopping and
racing show between frames alone: mitochondria that leave at one end come in at the other, so that
every single frame looks like one of a cell at rest.

What makes it hard is drawn anew for each cell: how far it answers, when, its shape and light, how
fast its stains bleach, and how the focus drifts.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from cellsignal.competitions.mitoreid.images import FRAMES

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
    """What a drug does: its mechanism, and its side effects.

    Attributes:
        moa: index into `MOAS`, None for the solvent.
        strength, delay: of the mechanism; frames by which it sets in later.
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
    """A library's microscope: blur (pixels of a 48-pixel picture), gains, noise (grey levels)."""

    blur: float
    gain: tuple[float, float, float]
    noise: float


@dataclass
class Cell:
    """What is drawn anew for each cell. M mitochondria; lengths in pixels, angles in radians."""

    centre: np.ndarray  # (2,) x, y
    radius: float
    aspect: float
    turn: float  # of the long axis
    way: np.ndarray  # (M,) of each mitochondrion from the nucleus (0) to the border (1)
    direction: np.ndarray  # (M,) in which it lies from the nucleus
    length: np.ndarray  # (M,)
    angle: np.ndarray  # (M,)
    light: np.ndarray  # (M,)
    scatter: np.ndarray  # (M, _PIECES, 2) where its pieces go when it breaks up
    drift: np.ndarray  # (M, 2) away from its place, changes from frame to frame
    gains: np.ndarray  # (3,) of the stains
    fading: np.ndarray  # (16, 3) by bleaching
    focus: np.ndarray  # (16,) factor of the blur


def courses(moa: int | None, strength: float, delay: float) -> dict[str, np.ndarray]:
    """Return how far each of `EFFECTS` is at each frame: (16,) from 0 (rest) to 1.

    All are zero at the first frame.

    Args:
        moa: index into `MOAS`; None is the solvent, which has no effect.
        delay: frames by which its full strength is reached later.
    """
    course_of = {name: np.zeros(FRAMES) for name in EFFECTS}
    if moa is None:
        return course_of
    effect, course = list(MOAS.values())[moa]
    if course == "lasting":
        course_of[effect] = strength * np.clip(np.arange(FRAMES) / (6 + delay), 0, 1)
    else:
        peak = _PEAK[course] + delay / (FRAMES - 1)
        times = np.arange(FRAMES) / (FRAMES - 1)
        course_of[effect] = strength * np.interp(times, [0, peak, 1], [0, 1, 0])
    return course_of


def draw_track(rng: np.random.Generator, drug: Drug, optics: Optics, size: int) -> np.ndarray:
    """Draw one cell, (16, H, W, 3) uint8.

    The stains are w1 (nucleus), w2 (mitochondria by their potential), w3 (mitochondria by their
    mass).
    """
    unit = size / 48
    span = _draw_courses(rng, drug)
    cell = _draw_cell(rng, drug, optics, size)
    outline = _ellipse(size, cell.centre, cell.radius, cell.aspect, cell.turn)
    nucleus_aspect = 1.0 + (cell.aspect - 1) / 2
    nucleus = _ellipse(size, cell.centre, size * _NUCLEUS, nucleus_aspect, cell.turn)
    streamed = _STREAM * np.cumsum(span["outward"] - span["inward"])
    clip = np.empty((FRAMES, size, size, 3), np.uint8)
    for t in range(FRAMES):
        state = {name: course[t] for name, course in span.items()}
        step = rng.normal(0, 0.42 * unit, cell.drift.shape) * (t > 0)
        _move(cell, step, state)
        mass = _draw_mitochondria(cell, streamed[t], state, size)
        blur = optics.blur * cell.focus[t] + 1.5 * state["swell"]
        mass = cv2.GaussianBlur(mass, (0, 0), blur * unit)
        potential = 150 * mass * (1 - 0.8 * state["depolarise"])
        planes = np.stack([165 * nucleus, potential, 110 * drug.stain * mass + 20], axis=-1)
        noise = optics.noise * rng.standard_normal(planes.shape, np.float32)
        noisy = planes * cell.gains * cell.fading[t] + noise
        clip[t] = np.clip(noisy * outline[..., None], 0, 255)
    return clip


def _draw_courses(rng: np.random.Generator, drug: Drug) -> dict[str, np.ndarray]:
    """Return the sum of a drug's mechanisms in one cell, as `courses`."""
    answer = rng.uniform(_LEAST_ANSWER, 1)
    delay = drug.delay + rng.normal(0, _JITTER)
    first = courses(drug.moa, answer * drug.strength, delay)
    second = courses(drug.second, answer * drug.second_strength, delay)
    return {name: np.minimum(first[name] + second[name], 1) for name in EFFECTS}


def _draw_cell(rng: np.random.Generator, drug: Drug, optics: Optics, size: int) -> Cell:
    unit = size / 48
    return Cell(
        radius=size * _CELL * drug.girth * rng.uniform(0.9, 1.08),
        aspect=rng.uniform(1.0, 1.35),
        turn=rng.uniform(0, math.pi),
        centre=size / 2 + rng.normal(0, 0.03 * size, 2),
        way=rng.uniform(0, 1, _MITOCHONDRIA),
        direction=rng.uniform(0, 2 * math.pi, _MITOCHONDRIA),
        length=rng.uniform(3.0, 6.0, _MITOCHONDRIA) * unit,
        angle=rng.uniform(0, math.pi, _MITOCHONDRIA),
        light=rng.uniform(0.6, 1.0, _MITOCHONDRIA),
        scatter=rng.normal(0, 1.6 * unit, (_MITOCHONDRIA, _PIECES, 2)),
        drift=rng.normal(0, 0.9 * unit, (_MITOCHONDRIA, 2)),
        gains=np.array(optics.gain) * rng.uniform(0.9, 1.1, 3),
        fading=np.exp(
            -np.outer(np.arange(FRAMES), _BLEACHING * rng.uniform(0.3, 1.7, 3) * [0.5, 1, 1])
        ),
        focus=np.exp(np.cumsum(np.r_[0, rng.normal(0, _DRIFT, FRAMES - 1)])),
    )


def _move(cell: Cell, step: np.ndarray, state: dict[str, float]) -> None:
    """Let the mitochondria drift by one frame."""
    speed = (1 - 0.93 * state["stop"]) * (1 + 2.2 * state["race"])
    cell.drift = 0.9 * cell.drift + step * speed
    if state["stop"]:
        # what stands still is not drawn back either
        cell.drift = cell.drift / 0.9 ** state["stop"]


def _draw_mitochondria(
    cell: Cell, streamed: float, state: dict[str, float], size: int
) -> np.ndarray:
    """Return (H, W) float32: each mitochondrion as a line of pieces.

    The pieces shrink and scatter as it breaks up.
    """
    inner = size * _NUCLEUS * 1.15 / cell.radius  # the nucleus, as a share of the cell's radius
    way = (cell.way + streamed) % 1  # who leaves at one end comes in at the other
    distance = inner + (0.9 - inner) * way * (1 - 0.75 * state["gather"])
    x = distance * np.cos(cell.direction) * math.sqrt(cell.aspect)
    y = distance * np.sin(cell.direction) / math.sqrt(cell.aspect)
    sine, cosine = math.sin(cell.turn), math.cos(cell.turn)
    spin = np.array([[cosine, -sine], [sine, cosine]])
    middle = cell.centre + (np.column_stack([x, y]) * cell.radius) @ spin.T + cell.drift
    # dim at both ends, so that none comes or goes at once
    light = cell.light * np.sqrt(np.sin(math.pi * way))
    unit, broken = size / 48, state["break"]
    canvas = np.zeros((size, size), np.uint8)
    along = np.column_stack([np.cos(cell.angle), np.sin(cell.angle)])
    third, thickness = cell.length / _PIECES, max(1, round(1.2 * unit))
    for piece in range(_PIECES):
        mid = middle + along * (third * (piece - 1))[:, None] + broken * cell.scatter[:, piece]
        half = along * (third * (0.5 - 0.42 * broken))[:, None]
        ends = np.rint(np.stack([mid - half, mid + half], axis=1) * 16).astype(int)
        for (start, end), bright in zip(ends.tolist(), light, strict=True):
            cv2.line(canvas, start, end, int(255 * bright), thickness, cv2.LINE_AA, shift=4)
    return canvas.astype(np.float32) / 255


def _ellipse(
    size: int, centre: np.ndarray, radius: float, aspect: float, turn: float
) -> np.ndarray:
    """Return (H, W) float32: 1 inside an ellipse, softly falling to 0 at its border."""
    y, x = np.mgrid[:size, :size] - centre[::-1, None, None]
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    distance = np.hypot(u / math.sqrt(aspect), v * math.sqrt(aspect)) - radius
    return (1 / (1 + np.exp(distance / (0.02 * size)))).astype(np.float32)
