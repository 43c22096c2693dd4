"""Find the size that most images of a folder have."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cellsignal.common.errors import ImageError, InputError

SHAPE_SAMPLES = 25  # how many samples' images are asked


def most_common_shape(
    root: Path,
    samples: Sequence[tuple[str, ...]],
    shape_of: Callable[[Path, tuple[str, ...]], tuple[int, int]],
) -> tuple[int, int]:
    """Return the (height, width) that most images have, from a few samples drawn at random.

    Args:
        samples: the files of each.
        shape_of: from root and files to (height, width), or an ImageError.

    Raises:
        InputError: there is no readable image.
    """
    shapes = Counter()
    if not samples:
        raise InputError(f"{root}: the metadata names no sample; there is nothing to read")
    for row in np.random.default_rng(0).permutation(len(samples)):
        try:
            shapes[shape_of(root, samples[row])] += 1
        except ImageError:
            continue
        if shapes.total() >= SHAPE_SAMPLES:
            break
    if not shapes:
        raise InputError(
            f"{root}: no readable image of the {len(samples)} samples in the metadata, first "
            f"{samples[0][0]}"
        )
    return shapes.most_common(1)[0][0]
