"""Views of test-time augmentation, by name.

A view of one's own is one more function here with `@register_view`; it can then be named in
`predict.tta`.
"""

import difflib
from collections.abc import Callable

import torch
from torch.nn import functional

from cellsignal.common.errors import InputError

# name -> function of (B, C, H, W) that keeps B and C, and the size of square images
VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
ZOOM = 7 / 8  # of the side: what a zoomed view shows, at the size of the whole


def register_view(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
    """Add a function to `VIEWS` under its own name."""
    assert function.__name__ not in VIEWS, function.__name__
    VIEWS[function.__name__] = function
    return function


@register_view
def identity(images: torch.Tensor) -> torch.Tensor:
    return images


@register_view
def rot180(images: torch.Tensor) -> torch.Tensor:
    return torch.rot90(images, 2, (2, 3))


@register_view
def hflip(images: torch.Tensor) -> torch.Tensor:
    return images.flip(3)


@register_view
def vflip(images: torch.Tensor) -> torch.Tensor:
    return images.flip(2)


@register_view
def rot90(images: torch.Tensor) -> torch.Tensor:
    """Turn by 90 degrees counter-clockwise."""
    return torch.rot90(images, 1, (2, 3))


@register_view
def rot270(images: torch.Tensor) -> torch.Tensor:
    """Turn by 270 degrees counter-clockwise."""
    return torch.rot90(images, 3, (2, 3))


@register_view
def transpose(images: torch.Tensor) -> torch.Tensor:
    return images.transpose(2, 3)


@register_view
def antitranspose(images: torch.Tensor) -> torch.Tensor:
    return images.transpose(2, 3).flip(2, 3)


DIHEDRAL = tuple(VIEWS)  # a micrograph has no up


def zoom(images: torch.Tensor) -> torch.Tensor:
    """Enlarge the central `ZOOM` of each side to the whole size, (B, C, H, W), bilinearly."""
    height, width = images.shape[2:]
    tall, wide = max(1, round(height * ZOOM)), max(1, round(width * ZOOM))
    top, left = (height - tall) // 2, (width - wide) // 2
    crop = images[:, :, top : top + tall, left : left + wide]
    return functional.interpolate(crop, (height, width), mode="bilinear", align_corners=False)


def _zoomed(view: str) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: VIEWS[view](zoom(images))


for _view in DIHEDRAL:
    VIEWS[f"zoom_{_view}"] = _zoomed(_view)

# words of `predict.tta`; configs may also give the number of views
PRESETS: dict[str, tuple[str, ...]] = {
    "none": ("identity",),
    "half_turn": DIHEDRAL[:2],
    "flips": DIHEDRAL[:4],
    "d4": DIHEDRAL,
    "d4_zoom": (*DIHEDRAL, *(f"zoom_{view}" for view in DIHEDRAL)),
}


def tta_views(tta: int | str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the views that `predict.tta` asks for.

    Args:
        tta: a preset, a preset's number of views (1, 2, 4, 8, 16), or names of `VIEWS`.

    Raises:
        InputError: no such preset or view; the nearest names are given.
    """
    if isinstance(tta, int):
        return next(views for views in PRESETS.values() if len(views) == tta)
    if isinstance(tta, str):
        _check_name(tta, PRESETS, "preset (several views are a list)")
        return PRESETS[tta]
    for view in tta:
        _check_name(view, VIEWS, "view")
    return tuple(tta)


def apply_view(images: torch.Tensor, view: str) -> torch.Tensor:
    """Return a view of (B, C, H, W) images."""
    return VIEWS[view](images)


def _check_name(name: str, known: dict, kind: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"predict.tta: no {kind} {name!r}; {hint}")
