"""The LeNet-like network of the Uppsala lab on BBBC021 (2019), for images of any size and number of
channels.

The lab's is Keras code, so its conventions are kept: "same" padding, which for stride 2 is
lopsided; max pooling without padding; Glorot-uniform weights and zero biases. For 3x256x256 and 6
classes it has 1,121,062 parameters, as the lab's.
"""

import torch
from torch import nn
from torch.nn import functional

from cellsignal.common.errors import InputError
from cellsignal.models.heads import Outputs

SMALLEST = 63  # pixels a side that leave one position after a stride of 2 and pools of 2, 4 and 4


class LeNet(nn.Module):
    """Three 5x5 convolutions (16, 32, 64), each max-pooled (2, 4, 4), a dense layer of 1024, and
    the head.

    Raises:
        InputError: `image_size` below 63 pixels, where nothing is left after the last pool.
    """

    def __init__(self, channels: int, classes: int, image_size: int, dropout: float = 0.0):
        super().__init__()
        if image_size < SMALLEST:
            raise InputError(
                f"lenet: needs images of {SMALLEST} pixels or more a side, got {image_size}"
            )
        self.image_size, self.width = image_size, 1024
        positions = ((image_size + 1) // 2 // 2 // 4 // 4) ** 2
        self.conv1 = nn.Conv2d(channels, 16, 5, stride=2)
        self.conv2 = nn.Conv2d(16, 32, 5, padding="same")
        self.conv3 = nn.Conv2d(32, 64, 5, padding="same")
        self.dense = nn.Linear(64 * positions, self.width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.width, classes)
        for layer in (self.conv1, self.conv2, self.conv3, self.dense, self.head):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def embed(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, image_size, image_size) -> (B, 1024): what the head sees, before dropout.
        `cell_type` is not looked at.
        """
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise InputError(
                f"lenet: built for {self.image_size} pixels a side, got images of "
                f"{tuple(x.shape[-2:])}"
            )
        x = functional.max_pool2d(
            functional.relu(self.conv1(same_padding(x, kernel=5, stride=2))), 2
        )
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 4)
        x = functional.max_pool2d(functional.relu(self.conv3(x)), 4)
        return functional.relu(self.dense(x.flatten(1)))

    def forward(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, image_size, image_size) -> logits (B, classes)."""
        return self.outputs(x).logits

    def outputs(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> Outputs:
        """(B, C, image_size, image_size) -> embedding and logits; there is no cosine head."""
        embedding = self.embed(x)
        return Outputs(embedding, self.head(self.dropout(embedding)), None)


def same_padding(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Pad the last two axes with zeros as TensorFlow's "same" does: to ceil(n / stride) outputs,
    the odd zero after.

    Args:
        x: (..., H, W).
    """
    pads = []
    for n in (x.shape[-1], x.shape[-2]):  # torch lists the last axis first
        total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads)
