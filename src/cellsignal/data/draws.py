"""Draw the random parameters of an augmented batch: matrix, boxes, gains and biases.

The numbers are drawn for a whole batch on the host, so that the same draws can be applied to one
image on a CPU (`data.warp`) or to a batch on a GPU (`data.warp_torch`). Each parameter is
distributed as `data.transforms` (albumentations 2.0.8) draws it; the geometry of a recipe is
composed, so an image is resampled once, however many steps are written. Where that can be told from
doing them one after the other:
- an affine step after a crop that is not the recipe's first step sees the pixels beside the crop,
  not the crop mirrored at its border;
- `random_resized_crop` sees the half pixel beside its crop, where OpenCV's resize repeats the
  crop's last pixel.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellsignal.config import augment
from cellsignal.data import geometry
from cellsignal.data.augmentation import check, output_shape, stain_codes

_DIHEDRAL = augment.HorizontalFlip | augment.VerticalFlip | augment.Transpose | augment.Rotate90
_WARPS = augment.Affine | augment.Perspective
_BILINEAR = _WARPS | augment.RandomResizedCrop
_GEOMETRY = tuple(geometry.STEPS)
_PIXELS = (augment.CoarseDropout, augment.ChannelDropout, augment.GainBias)


def needs_albumentations(augmentations: tuple[augment.Augmentation, ...]) -> str | None:
    """Say why a recipe cannot be drawn as one warp ("blur is only there"), or return None."""
    for first, a in enumerate(augmentations):
        later = augmentations[first + 1 :]
        if not isinstance(a, (*_GEOMETRY, *_PIXELS)):
            return f"{a.title} is only there"
        for b in later:
            if isinstance(a, augment.CoarseDropout) and isinstance(b, _GEOMETRY):
                return f"{b.name} after coarse_dropout is only there"
            if isinstance(a, _WARPS) and isinstance(b, _WARPS):
                return f"{b.name} after {a.name} is only there"
    return None


@dataclass(frozen=True)
class Draws:
    """Random parameters of B samples; `draws[i:j]` or `draws[indices]` selects some of them.

    Coordinates are of pixel centres: the first pixel is 0. Boxes and rows are half open.
    """

    origin: np.ndarray  # (B, 2) int: top, left of what is cut from the stored image
    # (B, 2) int: top, bottom of the stored image's rows that the warp reads, reflection at the
    # border included
    rows: np.ndarray
    # (B, 3, 3) float64: (x, y, 1) of an output pixel -> (x, y) in the input image
    matrix: np.ndarray
    # (B,) bool: else nearest neighbour, and then each output axis follows one input axis
    bilinear: np.ndarray
    dropped: np.ndarray  # (B, C) bool: channels set to grey level 0
    # (B, M, 4) int: top, bottom, left, right in the output, set to grey level 0; empty where there
    # is none
    boxes: np.ndarray
    gain: np.ndarray  # (B, C) float32
    bias: np.ndarray  # (B, C) float32
    input: tuple[int, int]  # (h0, w0) of the image that is warped
    output: tuple[int, int]  # (h, w)

    def __len__(self) -> int:
        return len(self.origin)

    def __getitem__(self, key: slice | np.ndarray) -> "Draws":
        fields = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return Draws(*(value[key] if isinstance(value, np.ndarray) else value for value in fields))

    @functools.cached_property
    def nearest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The input pixels of samples that are not bilinear: down (B, h) int64, across (B, w)
        int64, swapped (B,) bool.

        out[y, x] = in[down[y], across[x]], or in[across[x], down[y]] where swapped.
        """
        return geometry.indices(self.matrix, self.input, self.output)


class Recipe:
    """The augmentations of a stage for images of one shape, ready to be drawn.

    Args:
        augmentations: () for none, as in validation.
        channels: C.
        shape: (H, W) of the stored images, pixels.
        center_crop: side of a central square that is cut last; None for none.
        stain: (C,) int, the stain of each plane of a clip: all planes of one are dropped and lit
            together. None: each channel is its own.

    Attributes:
        numbers: K, how many uniform numbers a sample takes.
        input: (h0, w0) of the image to be warped: a crop's size if only flips and quarter turns
            come before it, else `shape`.
        output: (h, w), the same for every sample.

    Raises:
        InputError: a parameter that cannot work, a crop larger than the image, or several output
            shapes; the message names the augmentation.
    """

    numbers: int
    input: tuple[int, int]
    output: tuple[int, int]

    def __init__(
        self,
        augmentations: tuple[augment.Augmentation, ...],
        channels: int,
        shape: tuple[int, int],
        center_crop: int | None = None,
        stain: Sequence[int] | None = None,
    ):
        assert needs_albumentations(augmentations) is None, needs_albumentations(augmentations)
        self.augmentations, self.channels, self.shape = tuple(augmentations), channels, tuple(shape)
        self.center_crop = center_crop
        self._stain = stain_codes(channels, stain)
        self._stains = int(self._stain.max()) + 1
        for a in self.augmentations:
            check(a, self._stains)
        self._counts = [_numbers(a, self._stains) for a in self.augmentations]
        self.numbers = sum(self._counts)
        self.output = output_shape(self.augmentations, self.shape, channels, center_crop)
        moving = [a for a in self.augmentations if isinstance(a, _GEOMETRY)]
        first = next((a for a in moving if not isinstance(a, _DIHEDRAL)), None)
        self.input = self.shape
        if isinstance(first, augment.RandomCrop):
            self.input = (first.size, first.size)
        elif first is None and center_crop is not None:
            self.input = (center_crop, center_crop)

    def draw(self, u: np.ndarray) -> Draws:
        """Return the draws that belong to `u`, (B, K) float64 uniform in [0, 1)."""
        assert u.ndim == 2 and u.shape[1] == self.numbers, (u.shape, self.numbers)
        n = len(u)
        view = geometry.View.whole(n, self.shape)
        bilinear, dropped = np.zeros(n, bool), np.zeros((n, self._stains), bool)
        gain, bias = np.ones((n, self._stains), np.float32), np.zeros((n, self._stains), np.float32)
        boxes = np.empty((n, 0, 4), np.int64)
        for a, v in zip(self.augmentations, _split(u, self._counts), strict=True):
            fired, v = (v[:, 0] < a.p, v[:, 1:]) if hasattr(a, "p") else (np.ones(n, bool), v)
            if isinstance(a, _GEOMETRY):
                step = geometry.STEPS[type(a)][1](a, v, view.height, view.width)
                view = view.then(fired, *step)
                if isinstance(a, augment.RandomCrop):
                    view = self._cut(view)
                bilinear |= fired & isinstance(a, _BILINEAR)
            elif isinstance(a, augment.CoarseDropout):
                boxes = np.concatenate([boxes, _boxes(a, v, view) * fired[:, None, None]], axis=1)
            elif isinstance(a, augment.ChannelDropout):
                dropped |= _dropped(a, v) & fired[:, None]
            else:
                new_gain, new_bias = _gain_bias(a, v)
                new_gain = np.where(fired[:, None], new_gain, 1)
                new_bias = np.where(fired[:, None], new_bias, 0)
                gain = (gain * new_gain).astype(np.float32)
                bias = (bias * new_gain + new_bias).astype(np.float32)
        if self.center_crop is not None:
            top, left = geometry.centre(view, self.center_crop)
            corner, side = np.stack([top, top, left, left], 1), self.center_crop
            boxes = np.clip(boxes - corner[:, None], 0, side)
            view = self._cut(view.then(np.ones(n, bool), *geometry.crop(top, left, side)))
        rows = geometry.rows_read(view.matrix, bilinear, self.input, self.output)
        return Draws(
            origin=view.origin,
            rows=rows + view.origin[:, :1],
            matrix=view.matrix,
            bilinear=bilinear,
            dropped=dropped[:, self._stain],
            boxes=boxes,
            gain=gain[:, self._stain],
            bias=bias[:, self._stain],
            input=self.input,
            output=self.output,
        )

    def _cut(self, view: geometry.View) -> geometry.View:
        """After a first crop, the crop is the input."""
        return view.cut(self.input) if view.input != self.input else view


def _numbers(a: augment.Augmentation, stains: int) -> int:
    match a:
        case augment.GainBias():
            count = 2 * stains
        case augment.CoarseDropout():
            count = 1 + 4 * a.holes[1]
        case augment.ChannelDropout():
            count = 1 + stains
        case _:
            count = geometry.STEPS[type(a)][0]
    return count + hasattr(a, "p")


def _split(u: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    ends = list(itertools.accumulate(counts, initial=0))
    return [u[:, start:end] for start, end in itertools.pairwise(ends)]


def _boxes(a: augment.CoarseDropout, u: np.ndarray, view: geometry.View) -> np.ndarray:
    """Draw holes at any place, (B, M, 4) int; their sides are fractions of the image's."""
    most = a.holes[1]
    count = geometry.integer(u[:, 0], a.holes[0], most)
    sizes, places = u[:, 1:].reshape(len(u), 2, 2, most).swapaxes(0, 1)  # of (B, 2 axes, M) each
    sides = np.stack([view.height, view.width], axis=1)[:, :, None]
    extent = (sides * geometry.between(sizes, *a.size)).astype(np.int64)
    start = geometry.integer(places, 0, sides - extent)
    boxes = np.stack(
        [start[:, 0], start[:, 0] + extent[:, 0], start[:, 1], start[:, 1] + extent[:, 1]], axis=2
    )
    return boxes * (np.arange(most) < count[:, None])[:, :, None]


def _dropped(a: augment.ChannelDropout, u: np.ndarray) -> np.ndarray:
    """(B, stains) bool: a random subset of 1 to `channels` of them."""
    count = geometry.integer(u[:, 0], 1, a.channels)
    rank = u[:, 1:].argsort(axis=1, kind="stable").argsort(axis=1)
    return rank < count[:, None]


def _gain_bias(a: augment.GainBias, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z_gain, z_bias = np.split(geometry.normal(u), 2, axis=1)
    return 1 + a.gain * z_gain, a.bias * z_bias
