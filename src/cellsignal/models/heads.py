"""What stands on a backbone's pooled features: the neck, the plain head, which predicts, and the
head of cosines, which a margin loss trains.

Source: RxRx1, 1st place (BN-FC-ReLU-BN-FC-BN, then a plain and an ArcFace head).
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional


class Outputs(NamedTuple):
    """What a network says of a batch. `cosines` are None in a network without a cosine head."""

    # (B, D), what the heads see, or what a BNNeck before them sees: for losses on distances
    embedding: torch.Tensor
    logits: torch.Tensor  # (B, K), of the plain head
    cosines: torch.Tensor | None  # (B, K) float32, of the cosine head


def neck(inputs: int, width: int) -> nn.Sequential:
    """(B, inputs) -> (B, width): BN-FC-ReLU-BN-FC-BN, the FCs without bias. In training a batch has
    two images or more.
    """
    return nn.Sequential(
        nn.BatchNorm1d(inputs),
        nn.Linear(inputs, width, bias=False),
        nn.ReLU(),
        nn.BatchNorm1d(width),
        nn.Linear(width, width, bias=False),
        nn.BatchNorm1d(width),
    )


class CosineHead(nn.Module):
    """Cosine of the angle between an embedding and each class's direction, both normalised."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, K) float32 in [-1, 1], up to rounding. In single precision also under
        autocast: half has no digits left near 1.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            return functional.linear(
                functional.normalize(embedding.float()), functional.normalize(self.weight.float())
            )
