"""The small networks of the idr0088 bootcamp project, for images of any size and number of
channels.

Keras code again: 3x3 convolutions with "same" padding, each followed by ReLU and a 2x2 max pool;
Glorot-uniform weights, zero biases. For 3x224x224 and one class the plain one has 6,441,985
parameters, as the project's.
"""

import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.models.heads import Outputs

# name -> (filters of the convolutions, widths of the dense layers, slope of the activation below
# zero)
VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], float]] = {
    "scratch_cnn": ((32, 64), (32,), 0.0),
    "scratch_cnn_conv3": ((32, 64, 64), (32,), 0.0),
    "scratch_cnn_dense2": ((32, 64), (32, 32), 0.0),
    "scratch_cnn_leaky": ((32, 64), (32,), 0.2),
}


class ScratchCnn(nn.Module):
    """Convolutions and pools, dense layers, dropout, and the head.

    Raises:
        InputError: an image too small for the pools.
    """

    def __init__(
        self, variant: str, channels: int, classes: int, image_size: int, dropout: float = 0.0
    ):
        super().__init__()
        filters, dense, slope = VARIANTS[variant]
        side = image_size // 2 ** len(filters)
        if side < 1:
            raise InputError(
                f"{variant}: needs images of {2 ** len(filters)} pixels or more a side, got "
                f"{image_size}"
            )
        self.variant, self.image_size, self.width = variant, image_size, dense[-1]
        widths = (channels, *filters)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding="same")
            for before, after in zip(widths, filters, strict=False)
        )
        sizes = (filters[-1] * side**2, *dense)
        self.dense = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip(sizes, dense, strict=False)
        )
        self.activation = nn.LeakyReLU(slope)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.width, classes)
        for layer in (*self.convolutions, *self.dense, self.head):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def embed(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, image_size, image_size) -> (B, D): what the head sees, before dropout. `cell_type`
        is not looked at.
        """
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise InputError(
                f"{self.variant}: built for {self.image_size} pixels a side, got images of "
                f"{tuple(x.shape[-2:])}"
            )
        for layer in self.convolutions:
            x = self.pool(self.activation(layer(x)))
        x = x.flatten(1)
        for layer in self.dense:
            x = self.activation(layer(x))
        return x

    def forward(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, image_size, image_size) -> logits (B, classes)."""
        return self.outputs(x).logits

    def outputs(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> Outputs:
        """(B, C, image_size, image_size) -> embedding and logits; there is no cosine head."""
        embedding = self.embed(x)
        return Outputs(embedding, self.head(self.dropout(embedding)), None)
