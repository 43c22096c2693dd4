"""The views of test-time augmentation: the eight dihedral ones (a micrograph has no up), and the
same of the zoomed image.
"""

import torch
from torch.nn import functional

VIEWS = ("identity", "rot180", "hflip", "vflip", "rot90", "rot270", "transpose", "antitranspose")
ZOOM = 7 / 8  # of the side: what a zoomed view shows, at the size of the whole


def tta_views(count: int) -> tuple[str, ...]:
    """The first 1, 2, 4 or 8 dihedral views (4: those that keep the sides; 8: all), or 16: those
    and each zoomed.
    """
    return VIEWS[:count] if count <= len(VIEWS) else VIEWS + tuple(f"zoom_{view}" for view in VIEWS)


def apply_view(images: torch.Tensor, view: str) -> torch.Tensor:
    """(B, C, H, W) -> the view of it, square images keeping their size. rot90 and rot270 turn
    counter-clockwise.
    """
    if view.startswith("zoom_"):
        return apply_view(zoomed(images), view.removeprefix("zoom_"))
    if view == "identity":
        return images
    if view == "hflip":
        return images.flip(3)
    if view == "vflip":
        return images.flip(2)
    if view == "transpose":
        return images.transpose(2, 3)
    if view == "antitranspose":
        return images.transpose(2, 3).flip(2, 3)
    return torch.rot90(images, {"rot90": 1, "rot180": 2, "rot270": 3}[view], (2, 3))


def zoomed(images: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> its central `ZOOM` of each side, enlarged to (H, W) (bilinear)."""
    height, width = images.shape[2:]
    tall, wide = max(1, round(height * ZOOM)), max(1, round(width * ZOOM))
    top, left = (height - tall) // 2, (width - wide) // 2
    crop = images[:, :, top : top + tall, left : left + wide]
    return functional.interpolate(crop, (height, width), mode="bilinear", align_corners=False)
