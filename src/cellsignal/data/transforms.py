"""How each augmentation acts on one image, for the path through worker processes.

An augmentation of one's own is a class in config/augment.py and a function here: with
`@through_albumentations` one that returns a transform of albumentations, with `@on_bytes` one that
returns a function of the image. What can be drawn for a whole batch (`data.draws`) also acts there.

Transforms of albumentations that are given the same seed draw the same numbers (all flips of an
image would fire together), so every transform of an image draws from one pair of generators, made
from the caller's. The outcome depends on that generator and the image alone: not on the worker, on
what came before, or on any global seed.
"""

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.config import augment
from cellsignal.config.augment import import_albumentations
from cellsignal.data.augmentation import check, output_shape, stain_codes


@dataclass(frozen=True)
class Planes:
    """What the planes of an image are: (C,) int each, from 0."""

    stain: np.ndarray
    frame: np.ndarray


# (H, W, C) uint8 and the generators that numpy and albumentations draw from -> (h, w, C) uint8
Step = Callable[[np.ndarray, np.random.Generator, random.Random], np.ndarray]
Size = tuple[int, int] | None  # (H, W) of the image, for a crop that names no size
# class of config/augment.py -> (augmentation, size) -> transform
ALBUMENTATIONS: dict[type, Callable[[Any, Size], Any]] = {}
# class of config/augment.py -> (augmentation, planes) -> step
BYTES: dict[type, Callable[[Any, Planes], Step]] = {}
_BILINEAR = {"interpolation": cv2.INTER_LINEAR}
_MIRRORED = {"border_mode": cv2.BORDER_REFLECT_101, **_BILINEAR}


def through_albumentations(kind: type) -> Callable:
    """Return a decorator that registers a function in `ALBUMENTATIONS`."""
    return lambda function: ALBUMENTATIONS.setdefault(kind, function)


def on_bytes(kind: type) -> Callable:
    """Return a decorator that registers a function in `BYTES`."""
    return lambda function: BYTES.setdefault(kind, function)


class Transform:
    """The augmentations of a stage, ready to be applied to images of `channels` channels.

    `image` applies all but `gain_bias` in the order written; `signal` applies `gain_bias`, which is
    defined on normalised values and so always comes after normalisation, wherever it is written.

    Args:
        augmentations: () for none.
        channels: C.
        stain: (C,) int, the stain of each plane of a clip: all planes of one are dropped and lit
            together. None: each channel is its own.
        frame: (C,) int, the frame of each plane, blurred together by `frame_blur`. None: all one.
        shape: (H, W) of the images, where all are alike: then every sample must come out in one
            shape, as batches need.

    Attributes:
        output: (h, w) of every sample; None where `shape` is not given.

    Raises:
        InputError: a parameter that cannot work, such as dropping all channels or a crop larger
            than `shape`; the message names the augmentation.
    """

    def __init__(
        self,
        augmentations: tuple[augment.Augmentation, ...],
        channels: int,
        stain: Sequence[int] | None = None,
        frame: Sequence[int] | None = None,
        shape: tuple[int, int] | None = None,
    ):
        assert frame is None or len(frame) == channels, (channels, frame)
        self.augmentations = tuple(augmentations)
        self.channels = channels
        self.stain = stain
        self.frame = frame
        self.shape = shape
        self.output = None if shape is None else output_shape(self.augmentations, shape, channels)
        self._stain = stain_codes(channels, stain)
        self._gain_bias = [a for a in self.augmentations if isinstance(a, augment.GainBias)]
        frames = np.zeros(channels, int) if frame is None else np.asarray(frame)
        planes = Planes(self._stain, frames)
        self._steps = [
            _make_step(a, planes) for a in self.augmentations if not isinstance(a, augment.GainBias)
        ]

    def __reduce__(self):
        return Transform, (self.augmentations, self.channels, self.stain, self.frame, self.shape)

    def image(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment one image.

        Args:
            image: (H, W, C) uint8, not changed; without augmentations it is returned as it is.
            rng: the only source of randomness.

        Returns:
            (h, w, C) uint8; h and w are H and W unless a crop or a quarter turn changes them.

        Raises:
            InputError: a crop larger than the image.
        """
        assert image.dtype == np.uint8, image.dtype
        assert image.shape[2:] == (self.channels,), image.shape
        if not self._steps:
            return image
        # albumentations draws from both kinds of generator
        python = random.Random(int(rng.integers(2**63)))
        for step in self._steps:
            image = step(image, rng, python)
        return image

    def signal(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Apply gain and bias: x * a + b, a ~ N(1, gain) and b ~ N(0, bias) for each stain.

        Args:
            x: (C, h, w) float32, normalised: a channel's SD is 1, the unit of `bias`. Not changed.

        Returns:
            (C, h, w) float32.
        """
        stains = int(self._stain.max()) + 1
        for lighting in self._gain_bias:
            if rng.random() < lighting.p:
                gain = rng.normal(1.0, lighting.gain, stains).astype(np.float32)[self._stain]
                bias = rng.normal(0.0, lighting.bias, stains).astype(np.float32)[self._stain]
                x = x * gain[:, None, None] + bias[:, None, None]
        return x


def _make_step(a: augment.Augmentation, planes: Planes) -> Step:
    check(a, int(planes.stain.max()) + 1)
    try:
        if type(a) in BYTES:
            return BYTES[type(a)](a, planes)
        build = functools.cache(functools.partial(ALBUMENTATIONS[type(a)], a))
        build(None)
    except ValueError as error:
        raise InputError(f"{a.title}: {' '.join(str(error).split())}") from None
    keeps_shape = isinstance(a, augment.RandomResizedCrop) and a.size is None

    def step(image: np.ndarray, rng: np.random.Generator, python: random.Random) -> np.ndarray:
        shape = image.shape[:2]
        if isinstance(a, augment.RandomCrop) and min(shape) < a.size:
            raise InputError(
                f"random_crop: size {a.size} exceeds the image, {shape[1]}x{shape[0]} pixels"
            )
        transform = build(shape if keeps_shape else None)
        transform.set_random_state(rng, python)
        return transform(image=image)["image"]

    return step


# through albumentations
# --------------------------------------------------------------------------------------------------


@through_albumentations(augment.Albumentations)
def named(a: augment.Albumentations, size: Size) -> Any:
    return a.build()


def _by_name(name: str) -> Callable[[Any, Size], Any]:
    return lambda a, size: getattr(import_albumentations(), name)(p=a.p)


ALBUMENTATIONS |= {
    augment.HorizontalFlip: _by_name("HorizontalFlip"),
    augment.VerticalFlip: _by_name("VerticalFlip"),
    augment.Transpose: _by_name("Transpose"),
    augment.Rotate90: _by_name("RandomRotate90"),
}


@through_albumentations(augment.Affine)
def affine(a: augment.Affine, size: Size) -> Any:
    return import_albumentations().Affine(
        scale=a.scale,
        keep_ratio=True,
        rotate=(-a.rotate, a.rotate),
        translate_percent=(-a.translate, a.translate),
        **_MIRRORED,
        p=a.p,
    )


@through_albumentations(augment.RandomCrop)
def random_crop(a: augment.RandomCrop, size: Size) -> Any:
    return import_albumentations().RandomCrop(a.size, a.size, p=1.0)


@through_albumentations(augment.RandomResizedCrop)
def random_resized_crop(a: augment.RandomResizedCrop, size: Size) -> Any:
    size = (a.size, a.size) if a.size else size or (1, 1)
    return import_albumentations().RandomResizedCrop(
        size, scale=a.scale, ratio=a.ratio, **_BILINEAR, p=a.p
    )


@through_albumentations(augment.Perspective)
def perspective(a: augment.Perspective, size: Size) -> Any:
    return import_albumentations().Perspective(scale=a.scale, keep_size=True, **_MIRRORED, p=a.p)


@through_albumentations(augment.Blur)
def blur(a: augment.Blur, size: Size) -> Any:
    # 0: the kernel's size follows sigma
    return import_albumentations().GaussianBlur(sigma_limit=a.sigma, blur_limit=0, p=a.p)


@through_albumentations(augment.CoarseDropout)
def coarse_dropout(a: augment.CoarseDropout, size: Size) -> Any:
    return import_albumentations().CoarseDropout(
        a.holes, hole_height_range=a.size, hole_width_range=a.size, fill=0, p=a.p
    )


# on bytes
# --------------------------------------------------------------------------------------------------


@on_bytes(augment.ChannelDropout)
def channel_dropout(a: augment.ChannelDropout, planes: Planes) -> Step:
    """Set all planes of some stains to zero.

    Which ones is seen by what happens to a pixel that has a channel for each stain.
    """
    transform = import_albumentations().ChannelDropout((1, a.channels), fill=0, p=a.p)
    pixel = np.ones((1, 1, planes.stain.max() + 1), np.uint8)

    def step(image: np.ndarray, rng: np.random.Generator, python: random.Random) -> np.ndarray:
        transform.set_random_state(rng, python)
        dropped = transform(image=pixel)["image"][0, 0] == 0
        if dropped.any():
            image = image.copy()
            image[:, :, dropped[planes.stain]] = 0
        return image

    return step


@on_bytes(augment.FrameBlur)
def frame_blur(a: augment.FrameBlur, planes: Planes) -> Step:
    """Blur each frame with probability `p`."""
    transform = blur(augment.Blur(name="blur", p=1.0, sigma=a.sigma), None)
    planes_of = [np.flatnonzero(planes.frame == frame) for frame in np.unique(planes.frame)]

    def step(image: np.ndarray, rng: np.random.Generator, python: random.Random) -> np.ndarray:
        blurred = np.flatnonzero(rng.random(len(planes_of)) < a.p)
        if len(blurred):
            image = image.copy()
        for frame in blurred:
            transform.set_random_state(rng, python)
            image[:, :, planes_of[frame]] = transform(image=image[:, :, planes_of[frame]])["image"]
        return image

    return step


@on_bytes(augment.SquareCropResize)
def square_crop_resize(a: augment.SquareCropResize, planes: Planes) -> Step:
    """Cut a square of random integer side at a random place, and resize it to the shorter side.

    Nearest neighbour by pixel centres, so the picture is not shifted.
    """

    def step(image: np.ndarray, rng: np.random.Generator, python: random.Random) -> np.ndarray:
        if rng.random() >= a.p:
            return image
        height, width, channels = image.shape
        full = min(height, width)
        side = int(rng.integers(max(1, round(a.min_fraction * full)), full + 1))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        crop = image[top : top + side, left : left + side]
        resized = cv2.resize(crop, (full, full), interpolation=cv2.INTER_NEAREST_EXACT)
        return resized.reshape(full, full, channels)  # OpenCV drops a single channel's axis

    return step
