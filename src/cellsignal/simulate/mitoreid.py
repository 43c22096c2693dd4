"""Simulated MitoReID: cells filmed over 16 frames, whose mitochondria tell the mechanism of action by how they change, not by how they look.

At the first frame all cells are alike. A mechanism (MoA) is what happens (mitochondria gather at the nucleus, break up, lose their potential,
swell, stop or race) and when: `early` and `late` courses go through the very same states in reversed order and are back at rest in the end,
so that a model which ignores the order of frames cannot tell one from the other, and a model of the last frame sees nothing of either.
Stopping and racing show between frames alone. Libraries have optics of their own, drugs a strength, a delay and a side effect of their own.
"""

import io
import math
import re
import zipfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cellsignal.errors import InputError
from cellsignal.files import atomic_path, write_csv
from cellsignal.simulate.output import claim_folder, generator, run_jobs

FRAMES = 16
# name -> (what changes, its course). The first six are three pairs that time alone tells apart.
MOAS = {
    "gathers early": ("gather", "early"),
    "gathers late": ("gather", "late"),
    "loses potential early": ("depolarise", "early"),
    "loses potential late": ("depolarise", "late"),
    "stops": ("stop", "lasting"),
    "races": ("race", "lasting"),
    "breaks up early": ("break", "early"),
    "breaks up late": ("break", "late"),
    "swells early": ("swell", "early"),
    "swells late": ("swell", "late"),
    "gathers for good": ("gather", "lasting"),
    "breaks up for good": ("break", "lasting"),
}
EFFECTS = ("gather", "depolarise", "break", "swell", "stop", "race")
_PEAK = {"early": 3 / 15, "late": 12 / 15}  # of the way; each the other's mirror image
_MITOCHONDRIA, _PIECES = 26, 3  # of a cell; that each may break into
_CELL, _NUCLEUS = 0.40, 0.13  # radii, as shares of the picture
_QUALITY = 95
_MOST = 10**6
_RANGES = {"moas": (2, len(MOAS)), "drugs_per_moa": (1, _MOST), "libraries": (1, 9), "train": (1, _MOST), "query": (1, _MOST), "gallery": (1, _MOST),
           "controls": (1, _MOST), "novel_drugs": (0, _MOST), "natural": (0, _MOST), "disjoint": (0, 1), "size": (16, 512)}  # fmt: skip


@dataclass(frozen=True)
class Drug:
    """What a drug does: how strong each of `EFFECTS` is, when it sets in (frames), and its side effect (stain ratio, cell size).

    Attributes:
        moa: index into `MOAS`, None for the solvent.
    """

    name: str
    moa: int | None
    strength: float
    delay: float
    stain: float
    girth: float


@dataclass(frozen=True)
class Optics:
    """A library's microscope: blur (pixels of a 48-pixel picture), gain of each stain, noise (grey levels)."""

    blur: float
    gain: tuple[float, float, float]
    noise: float


@dataclass(frozen=True)
class _Job:
    folder: Path
    key: str
    library: str
    drug: Drug


def simulate_mitoreid(
    out: Path | str,
    seed: int = 0,
    *,
    moas: int = 6,
    drugs_per_moa: int = 3,
    libraries: int = 3,
    train: int = 4,
    query: int = 1,
    gallery: int = 1,
    controls: int = 4,
    novel_drugs: int = 3,
    natural: int = 2,
    disjoint: int = 0,
    size: int = 48,
    workers: int = 1,
) -> None:
    """Write simulated tracks to `out` (new, empty, or this very simulation) in the release's layout, and the answers to `answers_path(out)`.

    Args:
        moas: the first so many of `MOAS`.
        drugs_per_moa: each in all libraries.
        train, query, gallery: tracks of each drug in each library.
        controls: DMSO tracks of each library that train; as many as of a drug are in query and gallery.
        novel_drugs, natural: compounds of `novel` and of `nc`, in turn of each MoA; `train` tracks each (in each library).
        disjoint: 1 keeps the last drug of each MoA for `query` alone and every other drug out of it, so that no asked drug was trained on
            (needs two drugs a MoA). 0 is the published split.
        size: height and width in pixels.
        workers: processes that draw.

    Raises:
        InputError: an argument out of its range, or `out` holds something else.
    """
    from cellsignal.competitions.base import answers_path  # imported late, for competitions import this module
    from cellsignal.competitions.mitoreid.competition import published_answers

    out = Path(out)
    counts = {"train": train, "query": query, "gallery": gallery}
    numbers = {"moas": moas, "drugs_per_moa": drugs_per_moa, "libraries": libraries, **counts, "controls": controls,
               "novel_drugs": novel_drugs, "natural": natural, "disjoint": disjoint, "size": size}  # fmt: skip
    for name, value in numbers.items():
        low, high = _RANGES[name]
        if not low <= value <= high:
            raise InputError(f"simulate mitoreid: {name} is {value}, {f'at least {low}' if high == _MOST else f'{low} to {high}'} needed")
    if disjoint and drugs_per_moa < 2:
        raise InputError("simulate mitoreid: disjoint needs drugs_per_moa of 2 or more; the last of each is asked alone")
    claim_folder(out, answers_path(out), {"competition": "mitoreid", "seed": seed, **numbers})
    listed = [_drug(seed, str(1 + moa * drugs_per_moa + i), moa) for moa in range(moas) for i in range(drugs_per_moa)]
    first = len(listed) + 1
    unseen = [_drug(seed, str(first + i), i % moas) for i in range(novel_drugs)]
    plants = [_drug(seed, f"N{i + 1}", i % moas) for i in range(natural)]
    jobs = []
    for library in [f"l{i + 1}" for i in range(libraries)]:
        for number, drug in enumerate(listed):
            asked = number % drugs_per_moa == drugs_per_moa - 1
            parts = counts if not disjoint else {"query": query} if asked else {"train": train, "gallery": gallery}
            jobs += [job for part, n in parts.items() for job in _jobs(out, library, f"{library}/{part}", drug, n)]
        solvent = replace(_drug(seed, "dmso", None), strength=0.0)
        for part, n in (counts | {"train": controls}).items():
            jobs += _jobs(out, library, f"{library}/{part}", solvent, n)
        jobs += [job for drug in plants for job in _jobs(out, library, f"{library}/nc", drug, train)]
    jobs += [job for drug in unseen for job in _jobs(out, "l1", "novel", drug, train)]
    run_jobs(partial(_draw, seed=seed, size=size), jobs, len(jobs), workers)
    _write_annotation(out / "annotation.xlsx", listed, unseen, plants)
    hidden = [(f"{'novel' if drug in unseen else 'l1_nc'}_{drug.name}", drug) for drug in (*unseen, *plants)]
    more = [{"id": name, "part": "compound", "library": "all", "drug": drug.name, "moa": list(MOAS)[drug.moa]} for name, drug in hidden]
    write_csv(answers_path(out), pd.concat([published_answers(out), pd.DataFrame(more)], ignore_index=True))


def courses(moa: int | None, strength: float, delay: float) -> dict[str, np.ndarray]:
    """How far each of `EFFECTS` is at each frame: (16,) from 0 (rest) to 1, zero at the first frame.

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


def _drug(seed: int, name: str, moa: int | None) -> Drug:
    rng = generator(seed, "drug", name)
    return Drug(name, moa, rng.uniform(0.75, 1.0), rng.uniform(-0.7, 0.7), math.exp(rng.normal(0, 0.12)), math.exp(rng.normal(0, 0.05)))


def _optics(seed: int, library: str) -> Optics:
    rng = generator(seed, "optics", library)
    return Optics(rng.uniform(0.45, 0.8), tuple(np.exp(rng.normal(0, 0.15, 3)).tolist()), rng.uniform(2, 5))


def _jobs(out: Path, library: str, part: str, drug: Drug, n: int) -> list[_Job]:
    """The tracks of one drug in one folder, named as the release does: drug, number of the cell."""
    return [_Job(out / part / drug.name / f"{drug.name}_{i}", f"{part}/{drug.name}/{i}", library, drug) for i in range(n)]


def _draw(job: _Job, seed: int, size: int) -> int:
    clip = draw_track(generator(seed, "track", job.key), job.drug, _optics(seed, job.library), size)
    job.folder.mkdir(parents=True, exist_ok=True)
    settings = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    for t, frame in enumerate(clip):
        done, data = cv2.imencode(".jpg", frame, settings)  # blue, green, red: w1, w2, w3
        assert done, job
        path = job.folder / f"{t + 1}.jpg"
        try:
            path.write_bytes(data)
        except OSError as error:
            raise InputError(f"{path}: could not be written ({error.strerror or error})") from error
    return 1


def draw_track(rng: np.random.Generator, drug: Drug, optics: Optics, size: int) -> np.ndarray:
    """One cell: (16, H, W, 3) uint8, stains w1 (nucleus), w2 (mitochondria by their potential), w3 (mitochondria by their mass)."""
    unit, span = size / 48, courses(drug.moa, drug.strength, drug.delay)
    radius = size * _CELL * drug.girth * rng.uniform(0.9, 1.08)
    aspect, turn, centre = rng.uniform(1.0, 1.35), rng.uniform(0, math.pi), size / 2 + rng.normal(0, 0.03 * size, 2)
    inner = size * _NUCLEUS * 1.15 / radius  # the nucleus, as a share of the cell's radius
    place = np.sqrt(rng.uniform(inner**2, 0.9**2, _MITOCHONDRIA)), rng.uniform(0, 2 * math.pi, _MITOCHONDRIA)
    length, angle = rng.uniform(3.0, 6.0, _MITOCHONDRIA) * unit, rng.uniform(0, math.pi, _MITOCHONDRIA)
    light = rng.uniform(0.6, 1.0, _MITOCHONDRIA)
    scatter, drift = rng.normal(0, 1.6 * unit, (_MITOCHONDRIA, _PIECES, 2)), rng.normal(0, 0.9 * unit, (_MITOCHONDRIA, 2))
    spin, gains = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]), np.array(optics.gain) * rng.uniform(0.9, 1.1, 3)
    cell, nucleus = (_ellipse(size, centre, r, a, turn) for r, a in ((radius, aspect), (size * _NUCLEUS, 1.0 + (aspect - 1) / 2)))
    clip = np.empty((FRAMES, size, size, 3), np.uint8)
    for t in range(FRAMES):
        s = {name: course[t] for name, course in span.items()}
        drift = 0.9 * drift + rng.normal(0, 0.42 * unit, drift.shape) * (1 - 0.93 * s["stop"]) * (1 + 2.2 * s["race"]) * (t > 0)
        if s["stop"]:
            drift = drift / 0.9 ** s["stop"]  # what stands still is not drawn back either
        away = inner + (place[0] - inner) * (1 - 0.75 * s["gather"])
        ring = np.column_stack([away * np.cos(place[1]) * math.sqrt(aspect), away * np.sin(place[1]) / math.sqrt(aspect)]) * radius
        mass = _mitochondria(size, centre + ring @ spin.T + drift, length, angle, light, scatter, s["break"], unit)
        mass = cv2.GaussianBlur(mass, (0, 0), (optics.blur + 1.5 * s["swell"]) * unit)
        planes = np.stack([165 * nucleus, 150 * mass * (1 - 0.8 * s["depolarise"]), 110 * drug.stain * mass + 20], axis=-1)
        noisy = planes * gains + optics.noise * rng.standard_normal(planes.shape, np.float32)
        clip[t] = np.clip(noisy * cell[..., None], 0, 255)
    return clip


def _mitochondria(size, middle, length, angle, light, scatter, broken: float, unit: float) -> np.ndarray:
    """(H, W) float32: each mitochondrion as a line of pieces that shrink and scatter as it breaks up."""
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


def _ellipse(size: int, centre: np.ndarray, radius: float, aspect: float, turn: float) -> np.ndarray:
    """(H, W) float32: 1 inside an ellipse, softly falling to 0 at its border."""
    y, x = np.mgrid[:size, :size] - centre[::-1, None, None]
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    distance = np.hypot(u / math.sqrt(aspect), v * math.sqrt(aspect)) - radius
    return (1 / (1 + np.exp(distance / (0.02 * size)))).astype(np.float32)


def _write_annotation(path: Path, listed: list[Drug], unseen: list[Drug], plants: list[Drug]) -> None:
    """Both sheets. The solvent is a row with a MoA of its own, as in the release; unseen drugs are listed but not chosen."""
    names = list(MOAS)
    rows = [(int(drug.name), drug.moa + 1, 1, names[drug.moa]) for drug in listed]
    rows += [(int(drug.name), None, 0, None) for drug in unseen]
    rows.append(("dmso", 0, 1, "control"))
    fda = pd.DataFrame(rows, columns=["index", "moa_id", "moa_choose", "common_moa"])
    natural = pd.DataFrame([(drug.name, f"natural compound {drug.name}") for drug in plants], columns=["index", "name"])
    packed = io.BytesIO()
    with pd.ExcelWriter(packed, engine="openpyxl") as book:
        fda.to_excel(book, sheet_name="FDA-list", index=False)
        natural.to_excel(book, sheet_name="Novel-list", index=False)
    with atomic_path(path) as temporary, zipfile.ZipFile(packed) as made, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as kept:
        for name in made.namelist():  # without the time of writing, so that the same seed gives the same bytes
            kept.writestr(zipfile.ZipInfo(name), re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"2024-01-01T00:00:00Z", made.read(name)))
