"""The augmentations that a config may name, and their parameters. `data.transforms` and
`training.mix` apply them.

All are applied to (H, W, C) uint8 images of any number of channels, in the order written. `p` is
the probability an image is changed. A clip is one image of many planes, each a frame of a stain.
What is drawn holds for all its frames, or the change would be taken for something that the cell
did; `frame_blur` alone is meant to be of one frame.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cellsignal.config.strict import Probability, Strict

Chance = Annotated[Probability, Field(description="Probability that an image is changed.")]


class HorizontalFlip(Strict):
    """Mirror left and right."""

    name: Literal["horizontal_flip"]
    p: Chance = 0.5


class VerticalFlip(Strict):
    """Mirror top and bottom."""

    name: Literal["vertical_flip"]
    p: Chance = 0.5


class Transpose(Strict):
    """Exchange rows and columns."""

    name: Literal["transpose"]
    p: Chance = 0.5


class Rotate90(Strict):
    """Turn by a random multiple of 90 degrees."""

    name: Literal["rotate90"]
    p: Chance = 1.0


class Affine(Strict):
    """Turn, move and scale; what comes in is mirrored at the border."""

    name: Literal["affine"]
    p: Chance = 0.5
    rotate: float = Field(15.0, ge=0, le=180)
    """Largest angle in degrees, either way."""
    translate: float = Field(0.05, ge=0, le=0.5)
    """Largest move, as a fraction of the side."""
    scale: tuple[float, float] = (0.9, 1.1)
    """Range of factors."""


class RandomCrop(Strict):
    """Cut out a square at a random place."""

    name: Literal["random_crop"]
    size: int = Field(gt=0)
    """Side of the square in pixels."""


class RandomResizedCrop(Strict):
    """Cut out a rectangle at a random place and resize it."""

    name: Literal["random_resized_crop"]
    p: Chance = 1.0
    size: int | None = Field(None, gt=0)
    """Side of the output in pixels; none: the input's."""
    scale: tuple[float, float] = (0.5, 1.0)
    """Range of the rectangle's share of the area."""
    ratio: tuple[float, float] = (1.0, 1.0)
    """Range of the rectangle's width over its height."""


class SquareCropResize(Strict):
    """Cut out a square and resize it back by nearest neighbour (RxRx1, 1st place)."""

    name: Literal["square_crop_resize"]
    p: Chance = 1.0
    min_fraction: float = Field(0.5, gt=0, le=1)
    """Least side of the square, as a fraction of the image's; the side is drawn evenly."""


class Perspective(Strict):
    """Move the corners of the image."""

    name: Literal["perspective"]
    p: Chance = 0.3
    scale: tuple[float, float] = (0.02, 0.08)
    """Range of the corners' SD, as a fraction of the side."""


class SaltAndPepper(Strict):
    """Set pixels to black or white, the same ones in all channels and frames."""

    name: Literal["salt_and_pepper"]
    p: Chance = 0.3
    amount: tuple[float, float] = (0.001, 0.01)
    """Range of the fraction of pixels."""


class GainBias(Strict):
    """Change the light: each channel times a ~ N(1, gain), plus b ~ N(0, bias), after
    normalisation. All frames of a clip are lit alike.
    """

    name: Literal["gain_bias"]
    p: Chance = 1.0
    gain: float = Field(0.1, ge=0)
    """SD of the factor."""
    bias: float = Field(0.1, ge=0)
    """SD of what is added, in normalised SDs."""


class Blur(Strict):
    """Blur by a Gaussian, the same in all channels and frames."""

    name: Literal["blur"]
    p: Chance = 0.2
    sigma: tuple[float, float] = (0.3, 1.2)
    """Range of the Gaussian's sigma, in pixels."""


class FrameBlur(Strict):
    """Blur single frames of a clip in all channels, each by a Gaussian of its own. An image that is
    no clip is one frame. MitoReID blurs one frame in a hundred.
    """

    name: Literal["frame_blur"]
    p: Probability = 0.01
    """Probability that a frame is blurred."""
    sigma: tuple[float, float] = (0.3, 1.2)
    """Range of the Gaussian's sigma, in pixels."""


class CoarseDropout(Strict):
    """Set rectangles to zero, the same ones in all channels and frames."""

    name: Literal["coarse_dropout"]
    p: Chance = 0.3
    holes: tuple[int, int] = (1, 4)
    """Range of the number of rectangles."""
    size: tuple[float, float] = (0.05, 0.2)
    """Range of their sides, as a fraction of the image's."""


class ChannelDropout(Strict):
    """Set channels to zero, in all frames of a clip."""

    name: Literal["channel_dropout"]
    p: Chance = 0.1
    channels: int = Field(1, ge=1)
    """Most channels that are set to zero."""


Augmentation = Annotated[
    HorizontalFlip
    | VerticalFlip
    | Transpose
    | Rotate90
    | Affine
    | RandomCrop
    | RandomResizedCrop
    | SquareCropResize
    | Perspective
    | SaltAndPepper
    | GainBias
    | Blur
    | FrameBlur
    | CoarseDropout
    | ChannelDropout,
    Field(discriminator="name"),
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
