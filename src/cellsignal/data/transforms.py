"""Random changes of one training image, as the config lists them. The only module that knows
albumentations.

Albumentations is imported when the first `Transform` is built, not with this module. What it does
with its seeds needs care: transforms given the same seed draw the same numbers (all flips of an
image would fire together), so here every transform of an image draws from one pair of generators,
made from the caller's. The outcome depends on that generator and the image alone: not on the
worker, on what came before, or on any global seed.
"""

import functools
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.config import augment
from cellsignal.data.draws import check, output_shape, stain_codes

_Step = Callable[[np.ndarray, np.random.Generator, random.Random], np.ndarray]


class Transform:
    """The augmentations of a stage, ready to be applied to images of `channels` channels.

    `image` applies all but `gain_bias` in the order written; `signal` applies `gain_bias`, which is
    defined on normalised values and so always comes after normalisation, wherever it is written.
    Can be sent to worker processes.

    Args:
        augmentations: () for none.
        channels: C.
        stain: (C,) int, the stain of each plane of a clip: all planes of one are dropped and lit
        together. None: each channel is its own. frame: (C,) int, the frame of each plane: those of
        one are blurred together by `frame_blur`. None: there is one frame. shape: (H, W) of the
        images, where all are alike: then every sample must come out in one shape, as batches need.

    Attributes:
        output: (h, w) of every sample; None where `shape` is not given.

    Raises:
        InputError: a parameter that cannot work, such as dropping all channels, a crop larger than
        `shape`, or several
            output shapes; the message names the augmentation.
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
        self.output = None if shape is None else output_shape(self.augmentations, shape)
        self._stain = stain_codes(channels, stain)
        self._gain_bias = [a for a in self.augmentations if isinstance(a, augment.GainBias)]
        frames = np.zeros(channels, int) if frame is None else np.asarray(frame)
        self._steps = [
            _step(a, self._stain, frames)
            for a in self.augmentations
            if not isinstance(a, augment.GainBias)
        ]

    def __reduce__(self):
        return Transform, (self.augmentations, self.channels, self.stain, self.frame, self.shape)

    def image(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment one image.

        Args:
            image: (H, W, C) uint8, any H and W. It is not changed; without augmentations it is
            given back as it is. rng: the only source of randomness.

        Returns:
            (h, w, C) uint8. h and w are H and W unless a crop or, for images that are not square, a
            quarter turn or transposition changes them.

        Raises:
            InputError: a crop larger than the image.
        """
        assert image.dtype == np.uint8 and image.shape[2:] == (self.channels,), (
            image.dtype,
            image.shape,
        )
        if not self._steps:
            return image
        # albumentations draws from both kinds of generator
        python = random.Random(int(rng.integers(2**63)))
        for step in self._steps:
            image = step(image, rng, python)
        return image

    def signal(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Gain and bias: x * a + b, with a ~ N(1, gain) and b ~ N(0, bias) drawn for each stain of
        the image.

        Args:
            x: (C, h, w) float32, normalised: a channel's SD is 1, and `bias` is in units of it. It
            is not changed. rng: the only source of randomness.

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


def _step(augmentation: augment.Augmentation, stain: np.ndarray, frame: np.ndarray) -> _Step:
    """`stain`: (C,) int from 0; `frame`: (C,) int."""
    stains = int(stain.max()) + 1
    check(augmentation, stains)
    if isinstance(augmentation, augment.SquareCropResize):
        return functools.partial(_square_crop_resize, augmentation)
    build = functools.cache(functools.partial(_albumentation, augmentation))
    try:
        build(None)
    except ValueError as error:
        raise InputError(f"{augmentation.name}: {' '.join(str(error).split())}") from None
    if isinstance(augmentation, augment.ChannelDropout):
        return functools.partial(_channel_dropout, build(None), stain)
    if isinstance(augmentation, augment.FrameBlur):
        planes = [np.flatnonzero(frame == one) for one in np.unique(frame)]
        return functools.partial(_frame_blur, augmentation.p, build(None), planes)

    def step(image: np.ndarray, rng: np.random.Generator, python: random.Random) -> np.ndarray:
        shape = image.shape[:2]
        if isinstance(augmentation, augment.RandomCrop) and min(shape) < augmentation.size:
            raise InputError(
                f"random_crop: size {augmentation.size} exceeds the image, {shape[1]}x{shape[0]} "
                "pixels"
            )
        keeps_shape = (
            isinstance(augmentation, augment.RandomResizedCrop) and augmentation.size is None
        )
        transform = build(shape if keeps_shape else None)
        transform.set_random_state(rng, python)
        return transform(image=image)["image"]

    return step


def _albumentation(a: augment.Augmentation, shape: tuple[int, int] | None) -> Any:
    """The albumentations transform of one augmentation. `shape`: (height, width) of a crop that
    names no size.
    """
    # else the import asks a server for its newest version
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A

    bilinear_mirrored = {"interpolation": cv2.INTER_LINEAR, "border_mode": cv2.BORDER_REFLECT_101}
    match a:
        case augment.HorizontalFlip():
            return A.HorizontalFlip(p=a.p)
        case augment.VerticalFlip():
            return A.VerticalFlip(p=a.p)
        case augment.Transpose():
            return A.Transpose(p=a.p)
        case augment.Rotate90():
            return A.RandomRotate90(p=a.p)
        case augment.Affine():
            either_way = {
                "rotate": (-a.rotate, a.rotate),
                "translate_percent": (-a.translate, a.translate),
            }
            return A.Affine(
                scale=a.scale, keep_ratio=True, **either_way, **bilinear_mirrored, p=a.p
            )
        case augment.RandomCrop():
            return A.RandomCrop(a.size, a.size, p=1.0)
        case augment.RandomResizedCrop():
            size = (a.size, a.size) if a.size else shape or (1, 1)
            return A.RandomResizedCrop(
                size, scale=a.scale, ratio=a.ratio, interpolation=cv2.INTER_LINEAR, p=a.p
            )
        case augment.Perspective():
            return A.Perspective(scale=a.scale, keep_size=True, **bilinear_mirrored, p=a.p)
        case augment.SaltAndPepper():
            return A.SaltAndPepper(amount=a.amount, p=a.p)
        case augment.Blur():
            # 0: the kernel's size follows sigma
            return A.GaussianBlur(sigma_limit=a.sigma, blur_limit=0, p=a.p)
        case augment.FrameBlur():
            # of a frame that is blurred
            return A.GaussianBlur(sigma_limit=a.sigma, blur_limit=0, p=1.0)
        case augment.CoarseDropout():
            return A.CoarseDropout(
                a.holes, hole_height_range=a.size, hole_width_range=a.size, fill=0, p=a.p
            )
        case augment.ChannelDropout():
            return A.ChannelDropout((1, a.channels), fill=0, p=a.p)
    raise AssertionError(f"no transform for {a.name}")


def _channel_dropout(
    transform: Any,
    stain: np.ndarray,
    image: np.ndarray,
    rng: np.random.Generator,
    python: random.Random,
) -> np.ndarray:
    """All planes of some stains set to zero: which ones is seen by what happens to a pixel that has
    a channel for each stain.
    """
    transform.set_random_state(rng, python)
    dropped = transform(image=np.ones((1, 1, stain.max() + 1), np.uint8))["image"][0, 0] == 0
    if dropped.any():
        image = image.copy()
        image[:, :, dropped[stain]] = 0
    return image


def _frame_blur(
    p: float,
    blur: Any,
    planes: list[np.ndarray],
    image: np.ndarray,
    rng: np.random.Generator,
    python: random.Random,
) -> np.ndarray:
    """Each frame blurred with probability `p`. `planes`: of each frame, the indices of its planes."""
    fired = np.flatnonzero(rng.random(len(planes)) < p)
    if len(fired):
        image = image.copy()
    for f in fired:
        blur.set_random_state(rng, python)
        image[:, :, planes[f]] = blur(image=image[:, :, planes[f]])["image"]
    return image


def _square_crop_resize(
    config: augment.SquareCropResize,
    image: np.ndarray,
    rng: np.random.Generator,
    python: random.Random,
) -> np.ndarray:
    """A square of random integer side at a random place, resized to the shorter side S: (H, W, C)
    -> (S, S, C).

    Nearest neighbour by pixel centres, so the picture is not shifted.
    """
    if rng.random() >= config.p:
        return image
    height, width = image.shape[:2]
    full = min(height, width)
    side = int(rng.integers(max(1, round(config.min_fraction * full)), full + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    crop = image[top : top + side, left : left + side]
    resized = cv2.resize(crop, (full, full), interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.reshape(full, full, image.shape[2])  # OpenCV drops a single channel's axis
