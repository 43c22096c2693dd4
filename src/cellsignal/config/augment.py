"""The augmentations a config may name, and their parameters. What they do is in `data.transforms`
(per image) and `training.mix`.

All are applied to (H, W, C) uint8 images of any number of channels, in the order written. `p` is
the probability an image is changed. A clip is one image of many planes, each a frame of a stain.
What is drawn holds for all its frames, or the change would be taken for something that the cell
did; `frame_blur` alone is meant to be of one frame.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cellsignal.config.strict import Probability, Strict


class HorizontalFlip(Strict):
    name: Literal["horizontal_flip"]
    p: Probability = 0.5


class VerticalFlip(Strict):
    name: Literal["vertical_flip"]
    p: Probability = 0.5


class Transpose(Strict):
    name: Literal["transpose"]
    p: Probability = 0.5


class Rotate90(Strict):
    """A random multiple of 90 degrees."""

    name: Literal["rotate90"]
    p: Probability = 1.0


class Affine(Strict):
    """Fine rotation (degrees either way), translation (fraction of the side) and scaling (range of
    factors), mirrored at the border.
    """

    name: Literal["affine"]
    p: Probability = 0.5
    rotate: float = Field(15.0, ge=0, le=180)
    translate: float = Field(0.05, ge=0, le=0.5)
    scale: tuple[float, float] = (0.9, 1.1)


class RandomCrop(Strict):
    """A square of `size` pixels at a random place. The output is `size` x `size`."""

    name: Literal["random_crop"]
    size: int = Field(gt=0)


class RandomResizedCrop(Strict):
    """A crop of area fraction `scale` and aspect `ratio`, resized to `size` (None: the input's
    size).
    """

    name: Literal["random_resized_crop"]
    p: Probability = 1.0
    size: int | None = Field(None, gt=0)
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)


class SquareCropResize(Strict):
    """A square crop of integer side drawn evenly from [min_size, side], resized back by nearest
    neighbour (RxRx1, 1st place).
    """

    name: Literal["square_crop_resize"]
    p: Probability = 1.0
    min_fraction: float = Field(0.5, gt=0, le=1)


class Perspective(Strict):
    name: Literal["perspective"]
    p: Probability = 0.3
    scale: tuple[float, float] = (0.02, 0.08)


class SaltAndPepper(Strict):
    """A fraction of pixels set to black or white, the same pixels in all channels and frames."""

    name: Literal["salt_and_pepper"]
    p: Probability = 0.3
    amount: tuple[float, float] = (0.001, 0.01)


class GainBias(Strict):
    """Lighting: each channel times a ~ N(1, gain), plus b ~ N(0, bias), in units of the normalised
    SD. Always after normalisation.

    All frames of a clip are lit alike.
    """

    name: Literal["gain_bias"]
    p: Probability = 1.0
    gain: float = Field(0.1, ge=0)
    bias: float = Field(0.1, ge=0)


class Blur(Strict):
    """Gaussian blur with sigma (pixels) drawn from the range, the same for all channels and frames."""

    name: Literal["blur"]
    p: Probability = 0.2
    sigma: tuple[float, float] = (0.3, 1.2)


class FrameBlur(Strict):
    """Single frames of a clip out of focus: each with probability `p`, in all channels, by a
    Gaussian of its own sigma (pixels).

    An image that is no clip is one frame. MitoReID blurs one frame in a hundred.
    """

    name: Literal["frame_blur"]
    p: Probability = 0.01
    sigma: tuple[float, float] = (0.3, 1.2)


class CoarseDropout(Strict):
    """Some rectangles set to zero, the same ones in all channels and frames."""

    name: Literal["coarse_dropout"]
    p: Probability = 0.3
    holes: tuple[int, int] = (1, 4)
    size: tuple[float, float] = (0.05, 0.2)


class ChannelDropout(Strict):
    """Up to `channels` channels set to zero, in all frames of a clip."""

    name: Literal["channel_dropout"]
    p: Probability = 0.1
    channels: int = Field(1, ge=1)


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
    """MixUp and CutMix of a batch: one box or one factor a batch, lambda ~ Beta(alpha, alpha),
    labels mixed by the true share.

    `p` is the probability that a batch is mixed; where both alphas are above 0, each is taken half
    of the times. Sources: MixUp, arXiv:1710.09412; CutMix, arXiv:1905.04899.
    """

    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)
    p: Probability = 1.0

    @model_validator(mode="after")
    def _one_at_least(self) -> "Mix":
        if self.mixup == 0 and self.cutmix == 0:
            raise ValueError("give mixup or cutmix (or both) an alpha above 0, or leave `mix` out")
        return self
