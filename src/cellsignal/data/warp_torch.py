"""Draws applied to a batch of uint8 images on any device: the path of a GPU.

What depends on the draws is worked out on the host and sent along, so nothing waits for the host.
"""

import numpy as np
import torch
from torch.nn import functional

from cellsignal.data.draws import Draws
from cellsignal.data.normalization import standardize

CHUNK = 64 * 2**20  # output values at once: bounds what is needed beside the batch itself


def warp_batch(
    images: torch.Tensor, draws: Draws, shift: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Apply geometry, dropped pixels, standardisation, gain and bias to a batch.

    Args:
        images: (B, C, h0, w0) uint8, `draws.input`.
        shift, scale: (B, C) float32, on the device of the images.

    Returns:
        (B, C, h, w) float32, channels_last, on the device of the images: standardised, then times
        gain plus bias.
    """
    assert (
        images.dtype == torch.uint8
        and images.shape[0] == len(draws)
        and tuple(images.shape[2:]) == draws.input
    )
    batch, channels = images.shape[:2]
    height, width = draws.output
    out = torch.empty(
        (batch, channels, height, width), device=images.device, memory_format=torch.channels_last
    )
    at_once = max(1, CHUNK // (channels * height * width))
    for is_kind, move in ((~draws.bilinear, _nearest), (draws.bilinear, _bilinear)):
        rows = np.flatnonzero(is_kind)
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            is_run = some[-1] - some[0] + 1 == len(some)
            if is_run:  # a view of the output is filled in place
                part = some = slice(int(some[0]), int(some[-1]) + 1)
            else:
                part = _send(some, images.device)
            grey = move(images[part], draws[some])
            target = out[part] if is_run else None
            finished = _finish(grey, draws[some], shift[part], scale[part], target)
            if not is_run:
                out.index_copy_(0, part, finished)
    return out


def _send(array: np.ndarray, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _nearest(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Return (b, C, h, w) uint8 whose pixels are input pixels; or `images`, if none moves."""
    down, across, swapped = draws.nearest
    width, swapped = draws.input[1], swapped[:, None]
    down, across = np.where(swapped, down, down * width), np.where(swapped, across * width, across)
    is_down_same = np.array_equal(
        down, np.broadcast_to(np.arange(draws.output[0]) * width, down.shape)
    )
    if draws.input == draws.output and is_down_same and (across == np.arange(width)).all():
        return images
    index = _send(down, images.device)[:, :, None] + _send(across, images.device)[:, None, :]
    index = index.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).unflatten(2, draws.output)


def _bilinear(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Return (b, C, h, w) float32 grey levels, mirrored at the border, not rounded."""
    (h0, w0), (height, width) = draws.input, draws.output
    # pixel -> [-1, 1], where -1 and 1 are the centres of the first and last pixels; a side of one
    # pixel is always at -1
    to_grid = np.array([[2 / max(w0 - 1, 1), 0, -1], [0, 2 / max(h0 - 1, 1), -1], [0, 0, 1]])
    m = _send((to_grid @ draws.matrix).astype(np.float32), images.device)[:, None, None]
    x = torch.arange(width, device=images.device, dtype=torch.float32)[:, None]
    y = torch.arange(height, device=images.device, dtype=torch.float32)[:, None, None]
    grid = m[..., 0] * x + (m[..., 1] * y + m[..., 2])  # (b, h, w, 3)
    grid = grid[..., :2] / grid[..., 2:]
    return functional.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=True
    )


def _finish(
    grey: torch.Tensor,
    draws: Draws,
    shift: torch.Tensor,
    scale: torch.Tensor,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Drop pixels, standardise, and apply gain and bias to (b, C, h, w) grey levels."""
    device = grey.device
    has_boxes = (draws.boxes[..., ::2] < draws.boxes[..., 1::2]).all(-1).any()
    if draws.dropped.any() or has_boxes:
        grey = grey.where(_kept(draws, device), torch.zeros((), dtype=grey.dtype, device=device))
    if out is None:
        out = torch.empty(grey.shape, device=device, memory_format=torch.channels_last)
    standardize(grey, shift[:, :, None, None], scale[:, :, None, None], out=out)
    if (draws.gain != 1).any():
        out.mul_(_send(draws.gain, device)[:, :, None, None])
    if (draws.bias != 0).any():
        out.add_(_send(draws.bias, device)[:, :, None, None])
    return out


def _kept(draws: Draws, device: torch.device) -> torch.Tensor:
    """Return what is not dropped, (b, C, h, w) bool; h and w are 1 if there are no boxes."""
    kept = ~_send(draws.dropped, device)[:, :, None, None]
    y, x = (torch.arange(n, device=device) for n in draws.output)
    for m in range(draws.boxes.shape[1]):
        top, bottom, left, right = _send(draws.boxes[:, m].T, device)[:, :, None]
        rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
        kept = kept & ~(rows[:, None, :, None] & columns[:, None, None, :])
    return kept
