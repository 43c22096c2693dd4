"""The module that is exported: bytes in, logits and probabilities out.

Normalisation is part of it, so that who runs the file needs nothing of this package.
"""

import dataclasses

import numpy as np
import torch
from torch import nn

from cellsignal.config.schema import Normalization
from cellsignal.data.normalization import SMALLEST_SD, standardize

# (B, C) inputs that a model takes where plates or experiments standardise their images
UNIT_INPUTS = ("shift", "scale")


class ExportedModel(nn.Module):
    """A trained network behind its normalisation.

    Attributes:
        by: `normalization.by` of the run: what decides shift and scale. "none" and "global" are
            constants of the graph, "image" is computed in it, "experiment" and "plate" are inputs.
    """

    def __init__(
        self,
        network: nn.Module,
        normalization: Normalization,
        overall: tuple[np.ndarray, np.ndarray],
        classes: int,
        *,
        frames: int = 1,
        center_crop: int | None = None,
        several: bool = False,
    ):
        """Wrap a network in evaluation mode.

        Args:
            overall: (C,) mean and SD of the training pixels, of the channels that the network sees.
            classes: outputs that are kept; those of control wells follow them.
            frames: of a clip, whose frames share their channel's statistics.
            several: several classes may be true: probabilities are sigmoids.
        """
        super().__init__()
        self.network, self.by, self.classes = network, normalization.by, classes
        self.frames, self.center_crop, self.several = frames, center_crop, several
        shift, scale = np.zeros_like(overall[0]), np.full_like(overall[0], 255)
        if self.by == "global":
            shift, scale = overall[0], np.maximum(overall[1], SMALLEST_SD)
        for name, values in zip(UNIT_INPUTS, (shift, scale), strict=True):
            tensor = torch.from_numpy(np.array(values, np.float32))
            self.register_buffer(f"fixed_{name}", tensor)

    @property
    def takes_statistics(self) -> bool:
        """Whether shift and scale are inputs."""
        return self.by in ("experiment", "plate")

    def forward(
        self,
        images: torch.Tensor,
        shift: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
        cell_type: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return logits and probabilities, (B, K) float32 each.

        Args:
            images: (B, C, H, W) uint8.
            shift, scale: (B, C) float32 in grey levels, where plates or experiments have them.
            cell_type: (B, T) float32 one-hot, where the network takes it.
        """
        grey = images.to(torch.float32)
        if self.by == "image":
            shift, scale = self._statistics(grey)
        elif not self.takes_statistics:
            shift, scale = self.fixed_shift[None], self.fixed_scale[None]
        if self.center_crop is not None:
            side = self.center_crop
            top, left = (grey.shape[2] - side) // 2, (grey.shape[3] - side) // 2
            grey = grey[:, :, top : top + side, left : left + side]
        x = standardize(grey, shift[:, :, None, None], scale[:, :, None, None])
        logits = self.network(x) if cell_type is None else self.network(x, cell_type)
        logits = logits[:, : self.classes].float()
        probabilities = logits.sigmoid() if self.several else logits.softmax(1)
        return {"logits": logits, "probabilities": probabilities}

    def _statistics(self, grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each image's own shift and scale, (B, C); a clip's channel shares its frames'."""
        batch, planes = grey.shape[:2]
        pixels = grey.reshape(batch, planes // self.frames, self.frames, *grey.shape[2:])
        mean = pixels.mean((2, 3, 4), keepdim=True)
        sd = (pixels - mean).square().mean((2, 3, 4)).sqrt().clamp(min=SMALLEST_SD)
        mean = mean[:, :, 0, 0, 0]
        if self.frames == 1:
            return mean, sd
        return mean.repeat_interleave(self.frames, 1), sd.repeat_interleave(self.frames, 1)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """A batch for an exported model, by the names of its inputs."""

    images: np.ndarray
    shift: np.ndarray | None = None
    scale: np.ndarray | None = None
    cell_type: np.ndarray | None = None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The inputs that the model takes, in the order of `ExportedModel.forward`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def rows(self, count: int) -> "Inputs":
        """Return `count` rows: the first ones, and again from the first where there are fewer."""
        order = np.arange(count) % len(self.images)
        return Inputs(**{name: value[order] for name, value in self.arrays.items()})


def run_eager(model: ExportedModel, inputs: Inputs) -> dict[str, np.ndarray]:
    """Return the outputs of the module itself, in float32."""
    tensors = {name: torch.from_numpy(value) for name, value in inputs.arrays.items()}
    with torch.inference_mode():
        return {name: value.numpy() for name, value in model(**tensors).items()}
