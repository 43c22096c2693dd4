"""Draws applied to one image on the CPU, by calls that let other threads run."""

import cv2
import numpy as np

from cellsignal.data.draws import Draws
from cellsignal.data.normalization import standardize

AT_ONCE = 3  # channels in one call of cv2.remap: twice as fast as one by one


def warp(
    image: np.ndarray, draws: Draws, i: int, shift: np.ndarray, scale: np.ndarray, out: np.ndarray
) -> None:
    """Apply sample i of the draws: geometry, dropped pixels, standardisation, gain and bias.

    Args:
        image: (C, h0, w0) uint8, `draws.input`; rows outside `draws.rows` may hold anything. It may
            be a view of a larger array.
        shift, scale: (C,) float32.
        out: (C, h, w) float32, `draws.output`, contiguous; is filled with the
            standardised image * gain + bias. Bilinear grey levels are rounded.
    """
    assert image.dtype == np.uint8 and image.shape[1:] == draws.input, (image.dtype, image.shape)
    assert out.shape == (len(image), *draws.output) and out.dtype == np.float32
    assert out.flags.c_contiguous
    levels = np.arange(256, dtype=np.float32)
    tables = standardize(levels, shift[:, None], scale[:, None])
    tables = tables * draws.gain[i][:, None] + draws.bias[i][:, None]
    boxes = [box for box in draws.boxes[i].tolist() if box[0] < box[1] and box[2] < box[3]]
    kept = [c for c, dropped in enumerate(draws.dropped[i]) if not dropped]
    for c in np.flatnonzero(draws.dropped[i]):
        out[c] = tables[c, 0]
    move = _bilinear if draws.bilinear[i] else _nearest
    warped = move(image, draws, i, kept)
    for c, plane in zip(kept, warped, strict=True):
        result = cv2.LUT(plane, tables[c], dst=out[c])
        assert np.may_share_memory(result, out)
        for top, bottom, left, right in boxes:
            out[c, top:bottom, left:right] = tables[c, 0]


def _nearest(image: np.ndarray, draws: Draws, i: int, channels: list[int]):
    """Yield the (h, w) planes.

    Picking whole rows is fast, so columns are picked as rows of the transposed plane.
    """
    down, across, swapped = (values[i] for values in draws.nearest)
    (rows, upside_down), (columns, mirrored) = map(
        _run, (across, down) if swapped else (down, across)
    )
    for c in channels:
        plane = image[c][rows]
        if isinstance(columns, slice):
            plane = plane[:, columns]
        else:
            plane = cv2.transpose(cv2.transpose(plane)[columns])
        if upside_down or mirrored:
            plane = cv2.flip(plane, -1 if upside_down and mirrored else int(mirrored))
        yield cv2.transpose(plane) if swapped else plane


def _run(index: np.ndarray) -> tuple[slice | np.ndarray, bool]:
    """Return what picks the places of `index` from an axis, and whether to flip that then.

    It is a slice where they follow each other without a gap, up or down.
    """
    first, last = int(index[0]), int(index[-1])
    step = 1 if first <= last else -1
    if last - first + step == step * len(index) and (np.diff(index) == step).all():
        return slice(min(first, last), max(first, last) + 1), step < 0
    return index, False


def _bilinear(image: np.ndarray, draws: Draws, i: int, channels: list[int]):
    """Yield the (h, w) planes, mirrored at the border; coordinates are rounded to 1/32 pixel."""
    m, (height, width) = draws.matrix[i], draws.output
    x, y = np.arange(width), np.arange(height)[:, None]
    places = [
        (m[k, 0] * x).astype(np.float32) + (m[k, 1] * y + m[k, 2]).astype(np.float32)
        for k in range(3)
    ]
    if m[2, 0] or m[2, 1]:
        places[0] /= places[2]
        places[1] /= places[2]
    maps = cv2.convertMaps(places[0], places[1], cv2.CV_16SC2)
    for start in range(0, len(channels), AT_ONCE):
        planes = cv2.merge([image[c] for c in channels[start : start + AT_ONCE]])
        yield from cv2.split(
            cv2.remap(planes, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        )
