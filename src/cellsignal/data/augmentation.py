"""Check augmentations, and compute the shape of images after them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.config import augment

TRIES = 64  # draws of a transform of albumentations, to see which channels it changes


def stain_codes(channels: int, stain: Sequence[int] | None) -> np.ndarray:
    """Return (C,) int, the stains of C planes numbered from 0; None makes each plane a stain."""
    assert stain is None or len(stain) == channels, (channels, stain)
    return np.arange(channels) if stain is None else pd.factorize(np.asarray(stain))[0]


def check(a: augment.Augmentation, stains: int) -> None:
    """Refuse parameters that cannot work for images of so many stains.

    Raises:
        InputError: names the augmentation and the key.
    """
    for key, value in a:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise InputError(f"{a.name}: {key} {value} is a range and must not descend")
    match a:
        case augment.ChannelDropout() if a.channels >= stains:
            raise InputError(f"channel_dropout: channels {a.channels} of {stains} leaves none")
        case augment.CoarseDropout() if a.size[1] >= 1 or a.size[0] < 0:
            raise InputError(
                f"coarse_dropout: size {a.size} is a fraction of the side and must stay below 1"
            )
        case augment.CoarseDropout() if a.holes[0] < 1:
            raise InputError(f"coarse_dropout: holes {a.holes} must be 1 or more")
        case augment.Affine() if a.scale[0] <= 0:
            raise InputError(f"affine: scale {a.scale} must be above 0")
        case augment.RandomResizedCrop() if a.scale[0] < 0 or a.scale[1] > 1:
            raise InputError(
                f"random_resized_crop: scale {a.scale} is a fraction of the area, from 0 to 1"
            )
        case augment.RandomResizedCrop() if a.ratio[0] <= 0:
            raise InputError(f"random_resized_crop: ratio {a.ratio} must be above 0")
        case augment.Perspective() if a.scale[0] < 0:
            raise InputError(f"perspective: scale {a.scale} must not be below 0")


def output_shape(
    augmentations: tuple[augment.Augmentation, ...],
    shape: tuple[int, int],
    channels: int,
    center_crop: int | None = None,
) -> tuple[int, int]:
    """Return the one (height, width) in which images of `shape` come out of all augmentations.

    Raises:
        InputError: several shapes, which no batch can hold, or a crop larger than the image; names
        the augmentation.
    """
    shapes, changing = {shape}, []
    for a in augmentations:
        if isinstance(a, augment.RandomCrop):
            _fits("random_crop: size", a.size, shapes)
        p = getattr(a, "p", 1.0)
        changed = {new for old in shapes for new in _shapes(a, old, channels)}
        if changed != shapes:
            changing.append(a.title)
        shapes = changed if p >= 1 else shapes | changed if p > 0 else shapes
    if center_crop is not None:
        _fits("center_crop:", center_crop, shapes)
        shapes = {(center_crop, center_crop)}
    if len(shapes) > 1:
        names = ", ".join(changing)
        several = " and ".join(f"{w}x{h}" for h, w in sorted(shapes))
        raise InputError(
            f"{names}: images of {shape[1]}x{shape[0]} pixels come out as {several}, and a batch "
            "needs one shape"
        )
    return shapes.pop()


def _shapes(a: augment.Augmentation, shape: tuple[int, int], channels: int) -> set[tuple[int, int]]:
    match a:
        case augment.Albumentations():
            return try_albumentations(a, shape, channels)
        case augment.Transpose():
            return {shape[::-1]}
        case augment.Rotate90():
            return {shape, shape[::-1]}
        case augment.RandomCrop() | augment.RandomResizedCrop() if a.size is not None:
            return {(a.size, a.size)}
        case augment.SquareCropResize():
            return {(min(shape), min(shape))}
    return {shape}


def _fits(what: str, size: int, shapes: set[tuple[int, int]]) -> None:
    for height, width in shapes:
        if min(height, width) < size:
            raise InputError(f"{what} {size} exceeds the image, {width}x{height} pixels")


def try_albumentations(
    a: augment.Albumentations, shape: tuple[int, int], channels: int
) -> set[tuple[int, int]]:
    """Run a named transform on images of zeros and of noise, and return the shapes that come out.

    Raises:
        InputError: it does not take images of so many channels, gives back another type or number
            of channels, or leaves some channels as they are.
    """
    transform = a.build(p=1.0)
    transform.set_random_seed(0)
    zeros = np.zeros((*shape, channels), np.uint8)
    noise = np.random.default_rng(0).integers(60, 180, zeros.shape, dtype=np.uint8)
    changed, shapes = np.zeros(channels, bool), set()
    for image in [zeros] + TRIES * [noise]:
        try:
            result = transform(image=image.copy())["image"]
        except Exception as error:  # whatever a transform raises for what it cannot do
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"{a.title}: cannot take images of {channels} channels and {shape[1]}x{shape[0]} "
                f"pixels ({reason})"
            ) from None
        is_image = isinstance(result, np.ndarray) and result.dtype == np.uint8
        if not is_image or result.shape[2:] != (channels,):
            kind = f"{getattr(result, 'dtype', '')} {getattr(result, 'shape', '')}".strip()
            raise InputError(
                f"{a.title}: makes {kind} of uint8 images of {channels} channels, and uint8 with "
                "as many channels is needed"
            )
        shapes.add(result.shape[:2])
        if result.shape == image.shape and image is noise:
            changed |= (result != noise).any((0, 1))
        if changed.all() or shapes != {shape}:
            break
    if shapes == {shape} and not changed.any():
        raise InputError(f"{a.title}: changes nothing in images of {channels} channels")
    if shapes == {shape} and not changed.all():
        numbers = ", ".join(str(number + 1) for number in np.flatnonzero(~changed))
        raise InputError(f"{a.title}: leaves channels {numbers} of {channels} as they are")
    return shapes
