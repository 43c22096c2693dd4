"""Geometric augmentations as matrices, and which input pixels a matrix reads. For `data.draws`.

A step's matrix takes (x, y, 1) of a pixel centre in the step's output to its place in the step's
input; the first pixel's centre is 0. Distributions, and the centres and roundings of each step:
albumentations 2.0.8, and `data.transforms` for `square_crop_resize`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from cellsignal.config import augment

# Of a pixel: where a coordinate falls half-way between two, the later one of the cropped square is
# taken, even after a flip of it
HALF_UP = 1e-9
# matrix (B, 3, 3), new height (B,), new width (B,)
Step = tuple[np.ndarray, np.ndarray, np.ndarray]
# class of config/augment.py -> uniform numbers that it takes beside that of `p`, and its function
# (augmentation, numbers (B, n), heights (B,), widths (B,)) -> step
STEPS: dict[type, tuple[int, Callable[[Any, np.ndarray, np.ndarray, np.ndarray], Step]]] = {}


def moves_pixels(kind: type, numbers: int) -> Callable:
    """Return a decorator that registers a function in `STEPS`."""
    return lambda function: STEPS.setdefault(kind, (numbers, function))[1]


@dataclass(frozen=True)
class View:
    """The size of each of B images after some steps, and where its pixels lie in the input."""

    height: np.ndarray  # (B,) int
    width: np.ndarray  # (B,) int
    matrix: np.ndarray  # (B, 3, 3) float64
    origin: np.ndarray  # (B, 2) int: top, left of the input in the stored image
    input: tuple[int, int]

    @staticmethod
    def whole(n: int, shape: tuple[int, int]) -> "View":
        sides = (np.full(n, side) for side in shape)
        return View(
            *sides, np.broadcast_to(np.eye(3), (n, 3, 3)), np.zeros((n, 2), np.int64), shape
        )

    def then(
        self, fired: np.ndarray, matrix: np.ndarray, height: np.ndarray, width: np.ndarray
    ) -> "View":
        """Add a step, for the images where it is applied."""
        after = self.matrix @ np.where(fired[:, None, None], matrix, np.eye(3))
        return replace(
            self,
            matrix=after,
            height=np.where(fired, height, self.height),
            width=np.where(fired, width, self.width),
        )

    def cut(self, size: tuple[int, int]) -> "View":
        """Take the view, of `size`, as the new input."""
        x, y = _corners(self.matrix, size)
        left, top = (np.rint(c.min(axis=1)).astype(np.int64) for c in (x, y))
        matrix = _matrix(1, 0, -left, 0, 1, -top) @ self.matrix
        return replace(self, matrix=matrix, origin=np.stack([top, left], axis=1), input=size)


def crop(top: np.ndarray, left: np.ndarray, side: int) -> Step:
    return _matrix(1, 0, left, 0, 1, top), np.full(len(top), side), np.full(len(top), side)


def centre(view: View, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return top and left (B,) of the central square."""
    return (view.height - side) // 2, (view.width - side) // 2


def integer(u: np.ndarray, low: np.ndarray | int, high: np.ndarray | int) -> np.ndarray:
    """Draw evenly from the integers low to high, both included."""
    return np.minimum(low + np.floor(u * (high - low + 1)), high).astype(np.int64)


def between(u: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * u


def normal(u: np.ndarray) -> np.ndarray:
    """Turn u in [0, 1) into N(0, 1) by the inverse of its distribution."""
    return ndtri(np.maximum(u, 2.0**-54))


def _matrix(xx, xy, x0, yx, yy, y0) -> np.ndarray:
    """Make (B, 3, 3) matrices: x' = xx x + xy y + x0, y' = yx x + yy y + y0."""
    values = np.broadcast_arrays(
        *(np.asarray(v, np.float64) for v in (xx, xy, x0, yx, yy, y0, 0, 0, 1))
    )
    return np.stack(values, axis=-1).reshape(*values[0].shape, 3, 3)


@moves_pixels(augment.HorizontalFlip, 0)
def _flip_horizontally(a, u: np.ndarray, h: np.ndarray, w: np.ndarray) -> Step:
    return _matrix(-1, 0, w - 1, 0, 1, 0), h, w


@moves_pixels(augment.VerticalFlip, 0)
def _flip_vertically(a, u: np.ndarray, h: np.ndarray, w: np.ndarray) -> Step:
    return _matrix(1, 0, 0, 0, -1, h - 1), h, w


@moves_pixels(augment.Transpose, 0)
def _transpose(a, u: np.ndarray, h: np.ndarray, w: np.ndarray) -> Step:
    return _matrix(0, 1, 0 * h, 1, 0, 0), w, h


@moves_pixels(augment.Rotate90, 1)
def _turn(a, u: np.ndarray, h: np.ndarray, w: np.ndarray) -> Step:
    """Counter-clockwise, as np.rot90."""
    turns = integer(u[:, 0], 0, 3)
    x = np.choose(turns, [0 * w, w - 1, w - 1, 0 * w])
    y = np.choose(turns, [0 * h, 0 * h, h - 1, h - 1])
    cos, sin = np.array([1, 0, -1, 0])[turns], np.array([0, 1, 0, -1])[turns]
    odd = turns % 2 == 1
    return _matrix(cos, -sin, x, sin, cos, y), np.where(odd, w, h), np.where(odd, h, w)


@moves_pixels(augment.Affine, 4)
def _affine(a: augment.Affine, u: np.ndarray, h: np.ndarray, w: np.ndarray) -> Step:
    """The inverse of: scale and rotate about the centre, then move by whole pixels."""
    shift_x = np.trunc(between(u[:, 0], -a.translate, a.translate) * w)
    shift_y = np.trunc(between(u[:, 1], -a.translate, a.translate) * h)
    scale, angle = between(u[:, 2], *a.scale), np.deg2rad(between(u[:, 3], -a.rotate, a.rotate))
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    x, y = (w - 1) / 2, (h - 1) / 2
    to_x, to_y = x + shift_x, y + shift_y
    x0, y0 = x - cos * to_x + sin * to_y, y - sin * to_x - cos * to_y
    return _matrix(cos, -sin, x0, sin, cos, y0), h, w


@moves_pixels(augment.RandomCrop, 2)
def _random_crop(a: augment.RandomCrop, u: np.ndarray, h: np.ndarray, w: np.ndarray) -> Step:
    return crop(integer(u[:, 0], 0, h - a.size), integer(u[:, 1], 0, w - a.size), a.size)


def _resized(top: np.ndarray, left: np.ndarray, height, width, new_height, new_width) -> np.ndarray:
    """A window enlarged or shrunk so that its edges stay edges."""
    down, across = height / new_height, width / new_width
    return _matrix(across, 0, left + across / 2 - 0.5, 0, down, top + down / 2 - 0.5)


@moves_pixels(augment.SquareCropResize, 3)
def _square_crop_resize(
    a: augment.SquareCropResize, u: np.ndarray, h: np.ndarray, w: np.ndarray
) -> Step:
    full = np.minimum(h, w)
    side = integer(u[:, 0], np.maximum(1, np.rint(a.min_fraction * full)), full)
    top, left = integer(u[:, 1], 0, h - side), integer(u[:, 2], 0, w - side)
    return _resized(top + HALF_UP, left + HALF_UP, side, side, full, full), full, full


@moves_pixels(augment.RandomResizedCrop, 22)
def _random_resized_crop(
    a: augment.RandomResizedCrop, u: np.ndarray, h: np.ndarray, w: np.ndarray
) -> Step:
    """The first of ten areas and aspects that fits; a central crop where none does."""
    area = between(u[:, :10], *a.scale) * (h * w)[:, None]
    aspect = np.exp(between(u[:, 10:20], *np.log(a.ratio)))
    tall, wide = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (tall > 0) & (wide > 0) & (tall <= h[:, None]) & (wide <= w[:, None])
    first, any_fits = (np.arange(len(u)), fits.argmax(axis=1)), fits.any(axis=1)
    narrow, broad = w / h < a.ratio[0], w / h > a.ratio[1]
    height = np.where(any_fits, tall[first], np.where(narrow, np.rint(w / a.ratio[0]), h))
    width = np.where(any_fits, wide[first], np.where(broad, np.rint(h * a.ratio[1]), w))
    top = np.where(any_fits, integer(u[:, 20], 0, h - height), (h - height) // 2)
    left = np.where(any_fits, integer(u[:, 21], 0, w - width), (w - width) // 2)
    new_h, new_w = (h, w) if a.size is None else (np.full(len(u), a.size),) * 2
    return _resized(top, left, height, width, new_h, new_w), new_h, new_w


@moves_pixels(augment.Perspective, 9)
def _perspective(a: augment.Perspective, u: np.ndarray, h: np.ndarray, w: np.ndarray) -> Step:
    """Four corners drawn inwards become those of the image.

    It is then enlarged by its side over the quadrilateral's longer one. The matrix of unit square
    to quadrilateral: Heckbert, Fundamentals of Texture Mapping and Image Warping, 1989, section
    2.2.3.
    """
    inwards = np.abs(normal(u[:, 1:]) * between(u[:, :1], *a.scale)) % 0.32
    # x, y of top left, top right, bottom right, bottom left
    far = np.array([0, 0, 1, 0, 1, 1, 0, 1])
    p = np.abs(far - inwards).reshape(-1, 4, 2) * np.stack([w, h], axis=1)[:, None]
    longest = [
        np.maximum(
            2, np.maximum(*(np.linalg.norm(p[:, i] - p[:, j], axis=1) for i, j in pairs))
        ).astype(np.int64)
        for pairs in (((0, 1), (2, 3)), ((1, 2), (0, 3)))
    ]  # along x, along y
    (ax, ay), (bx, by), (s, t) = (
        (p[:, 1] - p[:, 2]).T,
        (p[:, 3] - p[:, 2]).T,
        (p[:, 0] - p[:, 1] + p[:, 2] - p[:, 3]).T,
    )
    size = ax * by - bx * ay
    g, k = (s * by - bx * t) / size, (ax * t - s * ay) / size
    ones = np.ones(len(u))
    columns = [
        p[:, 1] - p[:, 0] + g[:, None] * p[:, 1],
        p[:, 3] - p[:, 0] + k[:, None] * p[:, 3],
        p[:, 0],
    ]
    square = np.stack(
        [np.column_stack([c, last]) for c, last in zip(columns, (g, k, ones), strict=True)], axis=2
    )
    zoom = np.stack([longest[0] / w**2, longest[1] / h**2, ones], axis=1)
    return square * zoom[:, None], h, w


def _corners(matrix: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y (B, 4) in the input of the output's corners; infinite behind a horizon."""
    bottom, right = size[0] - 1, size[1] - 1
    places = matrix @ np.array(
        [[0, right, 0, right], [0, 0, bottom, bottom], [1, 1, 1, 1]], np.float64
    )
    if (places[:, 2] <= 0).any():
        places = np.where(
            (places[:, 2] > 0).all(axis=1)[:, None, None],
            places,
            np.array([np.inf, np.inf, 1])[:, None],
        )
    return places[:, 0] / places[:, 2], places[:, 1] / places[:, 2]


def rows_read(
    matrix: np.ndarray, bilinear: np.ndarray, input: tuple[int, int], output: tuple[int, int]
) -> np.ndarray:
    """Return (B, 2) int: top and bottom (exclusive) of the input rows that are read.

    Mirrored ones are included.
    """
    last = input[0] - 1
    y = _corners(matrix, output)[1]
    y = np.where(np.isfinite(y).all(axis=1)[:, None], y, [-last, last, -last, last])
    # one more for the coordinates' rounding
    low, high = np.floor(y.min(axis=1)) - 1, np.ceil(y.max(axis=1)) + 1
    mirrored_low = np.where(high > last, 2 * last - high, last)
    mirrored_high = np.where(low < 0, -low, 0)
    top = np.where(
        bilinear, np.clip(np.minimum(low, mirrored_low), 0, last), np.floor(y.min(axis=1) + 0.5)
    )
    bottom = np.where(
        bilinear, np.clip(np.maximum(high, mirrored_high), 0, last), np.floor(y.max(axis=1) + 0.5)
    )
    return np.clip(np.stack([top, bottom + 1], axis=1), [0, 1], [last, last + 1]).astype(np.int64)


def indices(
    matrix: np.ndarray, input: tuple[int, int], output: tuple[int, int]
) -> tuple[np.ndarray, ...]:
    """See `draws.Draws.nearest`."""
    swapped = matrix[:, 0, 0] == 0
    axes = []
    for axis, positions in ((1, np.arange(output[0])), (0, np.arange(output[1]))):
        # which input coordinate moves along this output axis
        row = np.where(swapped, 1 - axis, axis)
        slope, start = (matrix[np.arange(len(matrix)), row, k][:, None] for k in (axis, 2))
        last = np.where(swapped, input[axis], input[1 - axis])[:, None] - 1
        axes.append(np.clip(np.floor(positions * slope + start + 0.5), 0, last).astype(np.int64))
    return (*axes, swapped)
