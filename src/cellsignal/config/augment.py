"""The augmentations that a config may name, and their parameters.

An augmentation of one's own is a class here, derived from `Augment`, and a function in
data/transforms.py, which says how it acts. Any transform of albumentations can be named as it is.

All are applied to (H, W, C) uint8 images, in the order written. A clip is one image of many planes,
each a frame of a stain; what is drawn holds for all frames, but for `frame_blur`.
"""

import difflib
import inspect
import os
from collections.abc import Iterable
from types import ModuleType
from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from cellsignal.config.strict import Probability, Strict

Chance = Annotated[Probability, Field(description="Probability that an image is changed.")]


class Augment(Strict):
    """Base of all augmentations."""

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.name


class HorizontalFlip(Augment):
    """Mirror left and right."""

    name: Literal["horizontal_flip"]
    p: Chance = 0.5


class VerticalFlip(Augment):
    """Mirror top and bottom."""

    name: Literal["vertical_flip"]
    p: Chance = 0.5


class Transpose(Augment):
    """Exchange rows and columns."""

    name: Literal["transpose"]
    p: Chance = 0.5


class Rotate90(Augment):
    """Turn by a random multiple of 90 degrees."""

    name: Literal["rotate90"]
    p: Chance = 1.0


class Affine(Augment):
    """Turn, move and scale; pixels from outside are mirrored at the border."""

    name: Literal["affine"]
    p: Chance = 0.5
    rotate: float = Field(15.0, ge=0, le=180)
    """Largest angle in degrees, either way."""
    translate: float = Field(0.05, ge=0, le=0.5)
    """Largest move, as a fraction of the side."""
    scale: tuple[float, float] = (0.9, 1.1)
    """Range of factors."""


class RandomCrop(Augment):
    """Cut out a square at a random place."""

    name: Literal["random_crop"]
    size: int = Field(gt=0)
    """Side of the square in pixels."""


class RandomResizedCrop(Augment):
    """Cut out a rectangle at a random place and resize it."""

    name: Literal["random_resized_crop"]
    p: Chance = 1.0
    size: int | None = Field(None, gt=0)
    """Side of the output in pixels; none: the input's."""
    scale: tuple[float, float] = (0.5, 1.0)
    """Range of the rectangle's share of the area."""
    ratio: tuple[float, float] = (1.0, 1.0)
    """Range of the rectangle's width over its height."""


class SquareCropResize(Augment):
    """Cut out a square and resize it back by nearest neighbour (RxRx1, 1st place)."""

    name: Literal["square_crop_resize"]
    p: Chance = 1.0
    min_fraction: float = Field(0.5, gt=0, le=1)
    """Least side of the square, as a fraction of the image's; the side is drawn evenly."""


class Perspective(Augment):
    """Move the corners of the image."""

    name: Literal["perspective"]
    p: Chance = 0.3
    scale: tuple[float, float] = (0.02, 0.08)
    """Range of the corners' SD, as a fraction of the side."""


class GainBias(Augment):
    """Change the light: each channel times a ~ N(1, gain), plus b ~ N(0, bias), after
    normalisation. All frames of a clip are lit alike.
    """

    name: Literal["gain_bias"]
    p: Chance = 1.0
    gain: float = Field(0.1, ge=0)
    """SD of the factor."""
    bias: float = Field(0.1, ge=0)
    """SD of what is added, in normalised SDs."""


class Blur(Augment):
    """Blur by a Gaussian, the same in all channels and frames."""

    name: Literal["blur"]
    p: Chance = 0.2
    sigma: tuple[float, float] = (0.3, 1.2)
    """Range of the Gaussian's sigma, in pixels."""


class FrameBlur(Augment):
    """Blur single frames of a clip, each by its own Gaussian, the same in all channels. An image
    that is not a clip is one frame. MitoReID blurs one frame in a hundred.
    """

    name: Literal["frame_blur"]
    p: Probability = 0.01
    """Probability that a frame is blurred."""
    sigma: tuple[float, float] = (0.3, 1.2)
    """Range of the Gaussian's sigma, in pixels."""


class CoarseDropout(Augment):
    """Set rectangles to zero, the same ones in all channels and frames."""

    name: Literal["coarse_dropout"]
    p: Chance = 0.3
    holes: tuple[int, int] = (1, 4)
    """Range of the number of rectangles."""
    size: tuple[float, float] = (0.05, 0.2)
    """Range of their sides, as a fraction of the image's."""


class ChannelDropout(Augment):
    """Set channels to zero, in all frames of a clip."""

    name: Literal["channel_dropout"]
    p: Chance = 0.1
    channels: int = Field(1, ge=1)
    """Most channels that are set to zero."""


class Albumentations(Augment):
    """Any transform of albumentations by its own name and parameters, on the CPU:
    `- {albumentations: GaussNoise, std_range: [0.1, 0.2], p: 0.5}`.

    Before training it is tried on images of the config's channels, and refused if it does not take
    them or leaves some as they are.
    """

    name: Literal["albumentations"]
    transform: str
    """The transform's name, such as GaussNoise."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """What the transform is made with."""
    p: Probability
    """Probability that an image is changed; the transform's own where none is given."""

    @property
    def title(self) -> str:
        return f"albumentations: {self.transform}"

    @model_validator(mode="before")
    @classmethod
    def _check_name(cls, tree: Any) -> Any:
        name = tree.get("transform")
        transform = list_albumentations().get(name)
        if transform is None:
            hint = _hint(str(name), list_albumentations(), "")
            raise ValueError(f"albumentations has no transform {name!r}{hint}")
        return {"p": inspect.signature(transform.__init__).parameters["p"].default} | tree

    @model_validator(mode="after")
    def _check_parameters(self) -> "Albumentations":
        transform = list_albumentations()[self.transform]
        known = set(inspect.signature(transform.__init__).parameters) - {"self", "p"}
        for key in self.parameters:
            if key not in known:
                hint = _hint(key, known, f" (it has {', '.join(sorted(known))})")
                raise ValueError(f"{self.transform} has no parameter {key!r}{hint}")
        self.build()
        return self

    def build(self, p: float | None = None) -> Any:
        """Make the transform, with another probability if `p` is given.

        Raises:
            ValueError: a parameter with a wrong value; names its key.
        """
        kind, p = list_albumentations()[self.transform], self.p if p is None else p
        try:
            return kind(**self.parameters, p=p)
        except (TypeError, ValueError) as error:
            if isinstance(error.__cause__, ValidationError):
                first = error.__cause__.errors()[0]
                key = first["loc"][0] if first["loc"] else "parameters"
                message = first["msg"].removeprefix("Value error, ")
                raise ValueError(f"{self.transform}: {key}: {message}") from None
            raise ValueError(f"{self.transform}: {' '.join(str(error).split())}") from None


# base classes, and what takes functions
_NO_TRANSFORMS = {"Lambda", "BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D"}


def import_albumentations() -> ModuleType:
    """Return albumentations, imported without asking its server for the newest version."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations


def list_albumentations() -> dict[str, type]:
    """Return the transforms that a config may name."""
    library = import_albumentations()
    return {
        name: value
        for name, value in vars(library).items()
        if inspect.isclass(value)
        and issubclass(value, library.BasicTransform)
        and name not in _NO_TRANSFORMS
    }


def _hint(word: str, names: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(word, list(names), 1)
    return f" (did you mean {near[0]!r}?)" if near else otherwise


def _read_short_form(tree: Any) -> Any:
    """Read `{albumentations: GaussNoise, p: ..., ...}` as its name, transform and parameters."""
    if not isinstance(tree, dict) or "albumentations" not in tree:
        return tree
    read = {"name": "albumentations", "transform": tree["albumentations"]}
    if "p" in tree:
        read["p"] = tree["p"]
    own_keys = ("albumentations", "name", "p")
    return read | {"parameters": {key: tree[key] for key in tree if key not in own_keys}}


Augmentation = Annotated[
    Union[tuple(Augment.__subclasses__())],  # noqa: UP007
    Field(discriminator="name"),
    BeforeValidator(_read_short_form),
]


class Mix(Strict):
    """MixUp and CutMix of a batch: one box or one factor a batch, labels mixed by the true share.

    Where both are given, each is taken half of the times.
    """

    mixup: float = Field(0.0, ge=0)
    """Alpha of MixUp (arXiv:1710.09412): the share is drawn from Beta(alpha, alpha)."""
    cutmix: float = Field(0.0, ge=0)
    """Alpha of CutMix (arXiv:1905.04899)."""
    p: Probability = 1.0
    """Probability that a batch is mixed."""

    @model_validator(mode="after")
    def _one_at_least(self) -> "Mix":
        if self.mixup == 0 and self.cutmix == 0:
            raise ValueError("give mixup or cutmix (or both) an alpha above 0, or leave `mix` out")
        return self
