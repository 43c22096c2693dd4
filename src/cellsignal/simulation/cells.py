"""Draw one field of stained cells, at any image size, with array operations on the whole picture.

No cell is drawn by itself. A distance transform from short nuclear axes gives every pixel its cell
and its distance from that cell's axis; each stain is then a smooth function of the pixel's place in
its cell, of per-cell numbers and of shared noise textures. Lengths are in pixels of a 512-pixel
field (about .65 um), and are scaled to the image.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

STAINS = ("nuclei", "er", "actin", "rna", "mito", "golgi")
_MARGIN = 24.0  # lengths beyond the border within which cells still reach into the picture
_HAZE_WIDTH = 28.0


@dataclass(frozen=True)
class Look:
    """What a well's cells look like. All are positive; a phenotype multiplies them."""

    density: float  # cells a 512 x 512 field
    clumping: float  # 0 spread evenly .. 1 islands
    nucleus: float  # geometric mean radius
    elongation: float  # long axis / short axis of the nucleus
    reach: float  # of the cytoplasm, from the nuclear axis
    rounded: float  # fraction of round, bright cells (mitotic or dying)
    binucleate: float  # fraction of cells with a second nucleus
    chromatin: float  # contrast of nuclear texture
    er_extent: float
    er_texture: float
    fibre: float  # strength of actin stress fibres
    cortex: float  # strength of actin at the cell border
    nucleoli: float
    mito_extent: float
    mito_texture: float
    golgi_size: float
    golgi_offset: float  # distance of the golgi from the nuclear centre, in nuclear radii
    stain_nuclei: float
    stain_er: float
    stain_actin: float
    stain_rna: float
    stain_mito: float
    stain_golgi: float
    alignment: float  # how far neighbours share a direction
    haze: float  # light of cells above and below the focal plane


# set by eye against untreated wells of the real cell types; all stains are 1
_LOOKS = """
               HEPG2  HUVEC    RPE   U2OS   MCF7
density          620    150    120     80    190
clumping        0.55    0.3   0.45    0.4   0.85
nucleus          8.6   11.5     12     16    9.5
elongation      1.15    1.4   1.55   1.25   1.25
reach             13     27     34     42     21
rounded         0.03   0.03   0.02   0.03   0.02
binucleate      0.02   0.03   0.03   0.04   0.02
chromatin       0.22   0.25    0.2   0.15   0.15
er_extent         14      7     14     17     16
er_texture       0.3   0.35   0.45    0.5   0.35
fibre           0.15   0.75    1.1    0.6    0.2
cortex           0.7    0.6   0.35    0.5    1.2
nucleoli         0.5   0.45    0.5    0.9    0.5
mito_extent        9      8     11     17     11
mito_texture     0.8    0.7    0.5      1    0.7
golgi_size         3    4.5      5    6.5      4
golgi_offset       1    1.3    1.3   1.25    1.2
alignment        0.2    0.6   0.85    0.3    0.2
haze             0.6    0.2   0.35   0.25   0.12
"""


def _read_looks(table: str) -> dict[str, Look]:
    header, *lines = table.strip().splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    stains = {f"stain_{name}": 1.0 for name in STAINS}
    return {
        cell_type: Look(**{name: float(row[number]) for name, row in rows.items()}, **stains)
        for number, cell_type in enumerate(header.split())
    }


CELL_TYPES: dict[str, Look] = _read_looks(_LOOKS)


def pixel_size(size: int) -> float:
    """Return the width of a pixel of a `size` x `size` image, in pixels of the 512-pixel field.

    Small images show a part of the field (a quarter of it at 64 pixels), so that nuclei stay about
    six pixels wide.
    """
    return min(4.0, 512.0 / size)


def draw_field(look: Look, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one field of cells, before any optics: (size, size, 6) float32, >= 0, as `STAINS`."""
    pixel = pixel_size(size)
    margin = math.ceil(_MARGIN / pixel)
    cells = _cells(look, (size + 2 * margin) * pixel, rng)
    cells[_LENGTHS] /= np.float32(pixel)
    cell, distance = _territories(cells, size + 2 * margin)
    inner = slice(margin, margin + size)
    cell = np.ascontiguousarray(cell[inner, inner])
    distance = np.ascontiguousarray(distance[inner, inner])
    field = _stain(look, cells, cell, distance, margin, pixel, rng)
    if look.haze > 0:
        field += np.float32(look.haze) * _blur(field, _HAZE_WIDTH / pixel)
    return field


# rows of the table of cells
_X, _Y, _COS, _SIN, _LONG, _SHORT, _REACH, _BRIGHT, _PHASE, _GOLGI_U, _GOLGI_V, _ROUND, _ACTIN = (
    range(13)
)
_LENGTHS = [_X, _Y, _LONG, _SHORT, _REACH, _GOLGI_U, _GOLGI_V]


def _cells(look: Look, width: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the cells of a square: (13, n) float32, n >= 1, lengths in pixels of the 512 field."""
    x, y = _places(look, width, rng)
    n = len(x)
    swirl = _waves(x, y, 3, 180.0, rng)
    share = min(look.alignment, 1.0)
    angle = rng.uniform(0, math.pi) + 0.8 * share * swirl
    angle = angle + (1 - share) * rng.uniform(-1.6, 1.6, n) + 0.15 * rng.normal(size=n)
    noise = rng.normal(size=(6, n))
    round_ = rng.random(n) < min(look.rounded, 0.8)
    radius = look.nucleus * np.exp(0.14 * noise[0]) * np.where(round_, 0.72, 1.0)
    # a look may be rounder than round
    stretch = np.maximum(1 + (look.elongation - 1) * np.exp(0.4 * noise[1]), 0.4)
    ratio = np.sqrt(np.where(round_, 1.0, stretch))
    reach = look.reach * np.exp(0.18 * noise[2])
    turn = rng.uniform(0, 2 * math.pi, n)
    offset = look.golgi_offset * radius * np.exp(0.15 * noise[4])
    table = np.empty((13, n))
    table[_X], table[_Y], table[_COS], table[_SIN] = x, y, np.cos(angle), np.sin(angle)
    table[_LONG], table[_SHORT] = radius * ratio, radius / ratio
    table[_REACH] = np.where(round_, 1.45 * radius, np.maximum(reach, 1.2 * radius))
    table[_BRIGHT] = np.exp(0.28 * noise[3]) * np.where(round_, 2.2, 1.0)
    table[_PHASE], table[_ROUND], table[_ACTIN] = turn, round_, 0.8 * np.exp(0.5 * noise[5])
    table[_GOLGI_U], table[_GOLGI_V] = offset * np.cos(turn), offset * np.sin(turn)
    twice = np.flatnonzero(rng.random(n) < min(look.binucleate, 0.8))
    if len(twice):  # a second, smaller nucleus at the side of the first
        second = table[:, twice].copy()
        second[_X] -= 1.7 * second[_SHORT] * second[_SIN]
        second[_Y] += 1.7 * second[_SHORT] * second[_COS]
        second[[_LONG, _SHORT]] *= 0.8
        table = np.concatenate([table, second], axis=1)
    return table.astype(np.float32)


def _places(look: Look, width: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the cell centres: a jittered grid, with holes where a slow random field is low."""
    wanted = max(1, rng.poisson(look.density * (width / 512.0) ** 2))
    filled = 1 - 0.45 * min(look.clumping, 1.0)
    side = math.ceil(math.sqrt(wanted / filled))
    centres = (np.arange(side) + 0.5) / side
    x, y = np.tile(centres, side), np.repeat(centres, side)
    x, y = ((axis + rng.uniform(-0.48, 0.48, side * side) / side) * width for axis in (x, y))
    hills = _waves(x, y, 6, 70.0, rng)
    share = min(look.clumping, 1.0)
    height = share * hills + (1.05 - share) * 2 * rng.normal(size=side * side)
    highest = np.argsort(-height, kind="stable")[:wanted]
    return x[highest], y[highest]


def _waves(
    x: np.ndarray, y: np.ndarray, count: int, length: float, rng: np.random.Generator
) -> np.ndarray:
    """Return the sum of random sine waves at each place: a slow random field."""
    wave = rng.normal(size=(count, 2)) / length
    phase = rng.uniform(0, 6.3, count)
    return np.sin(np.outer(x, wave[:, 0]) + np.outer(y, wave[:, 1]) + phase).sum(1)


def _territories(cells: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return every pixel's nearest cell, int32, and the pixels to its nuclear axis, float32."""
    half = (cells[_LONG] - cells[_SHORT]) * np.linspace(-1, 1, 7, dtype=np.float32)[:, None]
    column = np.clip(np.rint(cells[_X] + half * cells[_COS] - 0.5), 0, size - 1).astype(np.intp)
    row = np.clip(np.rint(cells[_Y] + half * cells[_SIN] - 0.5), 0, size - 1).astype(np.intp)
    away = np.ones((size, size), np.uint8)
    away[row, column] = 0
    distance, nearest = cv2.distanceTransformWithLabels(
        away, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner = np.zeros(nearest.max() + 1, np.int32)
    owner[nearest[row, column]] = np.arange(cells.shape[1], dtype=np.int32)
    return owner[nearest], distance


def _stain(
    look: Look,
    cells: np.ndarray,
    cell: np.ndarray,
    distance: np.ndarray,
    margin: int,
    pixel: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the six stains of a field whose pixels know their cells: (H, W, 6) float32."""
    size = cell.shape[0]
    centres = np.arange(margin, margin + size, dtype=np.float32) + 0.5
    of_pixel = cells[:, cell]
    x, y, cos, sin, long, short, reach, bright, phase, golgi_u, golgi_v, round_, actin = of_pixel
    x, y = centres[None, :] - x, centres[:, None] - y
    u, v = x * cos + y * sin, y * cos - x * sin
    fine, middle, grain = _noise(size, (1.6 / pixel, 7.0 / pixel, 3.5 / pixel), rng)
    rho = np.sqrt((u / long) ** 2 + (v / short) ** 2)
    nucleus = np.clip((1 - rho) * short / max(1.0, 2.0 / pixel) + 0.5, 0, 1)
    body, rim = _body(cell, distance, reach * (1 + 0.22 * middle), pixel)
    outside = np.maximum(distance - short, 0)
    cytoplasm = body * (1 - nucleus)

    def decay(extent: float) -> np.ndarray:
        return np.exp(outside * np.float32(-pixel / extent))

    field = np.empty((size, size, 6), np.float32)
    field[..., 0] = nucleus * (1.15 - 0.3 * rho) * (1 + look.chromatin * fine) + 0.04 * body
    er = np.maximum(1 + look.er_texture * (0.55 * grain + 0.6 * fine), 0.1)
    er = er * (0.2 + decay(look.er_extent))
    field[..., 1] = er * (cytoplasm + 0.35 * nucleus)
    threads = _threads(v, phase, middle, pixel)
    fibres = look.fibre * (0.35 + threads * actin) * (1 - round_)
    field[..., 2] = body * np.maximum(0.3 + 0.1 * grain + fibres, 0.05) + look.cortex * rim * actin
    spots = sum(_blob(u - s * 0.38 * long, v + s * 0.2 * short, 2.6 / pixel) for s in (-1, 1))
    nucleoli = nucleus * (0.4 + look.nucleoli * spots)
    field[..., 3] = 0.3 * field[..., 1] + cytoplasm * (0.2 + 0.5 * decay(16)) + nucleoli
    network = np.maximum(1 + look.mito_texture * (0.8 * fine + 0.45 * grain), 0.05)
    field[..., 4] = cytoplasm * network * (0.06 + decay(look.mito_extent)) + 0.08 * nucleus
    blob = _blob(u - golgi_u, v - golgi_v, look.golgi_size / pixel)
    blob = blob * 9.0 * np.float32(4.5 / look.golgi_size)
    golgi = body * (0.3 + 0.2 * blob * np.maximum(1 + 0.4 * fine, 0))
    field[..., 5] = golgi + 0.35 * nucleus + 0.25 * field[..., 2]
    if pixel < 2:
        bright = _blur(bright, 2.5 / pixel)
    stains = np.array([getattr(look, f"stain_{name}") for name in STAINS], np.float32)
    field *= bright[..., None] * stains
    return np.maximum(field, 0, out=field)


def _threads(v: np.ndarray, phase: np.ndarray, middle: np.ndarray, pixel: float) -> np.ndarray:
    """Return the actin threads along each cell's long axis, of two widths."""
    wide, narrow = [
        np.sin(v * np.float32(2 * math.pi / max(width / pixel, 2.6)) + turns * phase + 1.5 * middle)
        for width, turns in ((8.5, 1), (14.0, 3))
    ]
    return np.maximum(wide + 0.7 * narrow, 0) * np.maximum(0.6 + 0.8 * middle, 0)


def _body(
    cell: np.ndarray, distance: np.ndarray, reach: np.ndarray, pixel: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of the cytoplasm (0..1, soft) and of its border (0..1)."""
    inside = reach - distance
    body = np.clip(inside / max(1.0, 6.0 / pixel) + 0.5, 0, 1)
    number = cell.astype(np.float32)
    touching = (cv2.dilate(number, None) != cv2.erode(number, None)).astype(np.float32)
    touching = _blur(touching, max(0.6, 1.6 / pixel)) * min(1.0, pixel / 2)
    width = max(0.8, 3.0 / pixel)
    rim = np.exp(-((inside / width) ** 2))
    return body, np.maximum(rim, body * touching * max(1.0, 2.0 / pixel))


def _blob(u: np.ndarray, v: np.ndarray, width: float) -> np.ndarray:
    """Return a round spot; one smaller than a pixel is spread over it and keeps its light."""
    drawn = max(width, 0.55)
    return np.exp((u * u + v * v) * np.float32(-0.5 / drawn**2)) * np.float32((width / drawn) ** 2)


def _noise(size: int, widths: tuple[float, ...], rng: np.random.Generator) -> list[np.ndarray]:
    """Draw a Gaussian texture of unit variance for each width in pixels, (size, size) float32."""
    fields = []
    for width in widths:
        noise = rng.standard_normal((size, size), dtype=np.float32)
        if width > 0.45:
            noise = _blur(noise, width)
            noise /= np.float32(noise.std() + 1e-6)
        fields.append(noise)
    return fields


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur an image; wide blurs use a reduced image to save time."""
    step = int(min(8, sigma // 3, image.shape[0] // 16))
    if step <= 1:
        return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    if image.ndim == 3 and image.shape[2] > 4:  # OpenCV resizes four channels at most
        halves = np.array_split(image, [image.shape[2] // 2], axis=2)
        return np.concatenate([_blur(half, sigma) for half in halves], axis=2)
    height, width = image.shape[:2]
    reduced = (math.ceil(width / step), math.ceil(height / step))
    small = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / step, borderType=cv2.BORDER_REFLECT)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
