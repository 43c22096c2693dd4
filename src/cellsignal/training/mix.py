"""MixUp and CutMix: a batch blended with a shuffled copy of itself, its labels by the same share.

One factor or box a batch. Sources: MixUp, arXiv:1710.09412; CutMix, arXiv:1905.04899. A box that
the border clips is smaller than lambda says; labels follow the pixels that were in fact replaced.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from cellsignal.config.augment import Mix


class Mixed(NamedTuple):
    """A batch after `mix_batch`; where `was_mixed` is false, the tensors that came in."""

    images: torch.Tensor
    targets: torch.Tensor
    others: tuple[torch.Tensor, ...]
    was_mixed: bool


def mix_batch(
    images: torch.Tensor,
    targets: torch.Tensor,
    mix: Mix,
    generator: torch.Generator,
    *others: torch.Tensor,
) -> Mixed:
    """Mix a batch with probability `mix.p`.

    Where both alphas are above 0, MixUp and CutMix are as likely.

    Args:
        images: (B, C, H, W) floating point, on any device. Not changed.
        targets: (B, K) floating point on the images' device. Not changed.
        generator: the only source of randomness. Every call takes one draw from it, mixed or not.
        others: (B, n) floating point on the images' device, such as cell types, to be mixed as the
            targets are. Not changed.

    Returns:
        All of the same shapes, types and device; where rows sum to 1 they still do.
    """
    for values in (images, targets, *others):
        assert values.is_floating_point(), values.dtype
    # torch has no Beta that takes a generator
    rng = np.random.default_rng(
        torch.randint(2**62, (), generator=generator, device=generator.device).item()
    )
    if rng.random() >= mix.p:
        return Mixed(images, targets, others, False)
    cut = rng.random() < 0.5 if mix.mixup > 0 and mix.cutmix > 0 else mix.cutmix > 0
    alpha = mix.cutmix if cut else mix.mixup
    own = float(rng.beta(alpha, alpha))
    partner = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    if cut:
        height, width = images.shape[2:]
        top, bottom, left, right = cutmix_box(height, width, own, rng)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
        own = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        mixed = images * own + images[partner] * (1 - own)
    shared = [values * own + values[partner] * (1 - own) for values in (targets, *others)]
    return Mixed(mixed, shared[0], tuple(shared[1:]), True)


def cutmix_box(
    height: int, width: int, own: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A box of area fraction 1 - `own` and the image's aspect, its centre evenly drawn, clipped at
    the border.

    Returns:
        top, bottom, left, right in pixels; bottom and right are one past the box.
    """
    side = math.sqrt(1 - own)
    tall, wide = round(height * side), round(width * side)
    top, left = int(rng.integers(height)) - tall // 2, int(rng.integers(width)) - wide // 2
    return max(top, 0), min(top + tall, height), max(left, 0), min(left + wide, width)
