"""The dihedral views of test-time augmentation. A micrograph has no up: all eight are as likely."""

import torch

VIEWS = ("identity", "rot180", "hflip", "vflip", "rot90", "rot270", "transpose", "antitranspose")


def tta_views(count: int) -> tuple[str, ...]:
    """The first 1, 2, 4 or 8 views; 4 are those that keep the sides, 8 the whole dihedral group."""
    return VIEWS[:count]


def apply_view(images: torch.Tensor, view: str) -> torch.Tensor:
    """(B, C, H, W) -> the view of it. rot90 and rot270 turn counter-clockwise."""
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
