"""Parts on top of a backbone: pooled layers, a neck, the cosine head of a margin loss.

Source of neck and cosine head: RxRx1, 1st place (BN-FC-ReLU-BN-FC-BN, then a plain and an ArcFace
head).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from cellsignal.common.errors import InputError


class Outputs(NamedTuple):
    """What a network returns for a batch. `cosines` are None without a cosine head."""

    # (B, D), what the heads see, or what a BNNeck before them sees: for losses on distances
    embedding: torch.Tensor
    logits: torch.Tensor  # (B, K), of the plain head
    cosines: torch.Tensor | None  # (B, K) float32, of the cosine head


def make_neck(inputs: int, width: int) -> nn.Sequential:
    """Make BN-FC-ReLU-BN-FC-BN, (B, inputs) -> (B, width), the FCs without bias.

    In training a batch has two images or more.
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
        """(B, D) -> (B, K) float32 in [-1, 1], up to rounding.

        In single precision also under autocast: half has no digits left near 1.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            return functional.linear(
                functional.normalize(embedding.float()), functional.normalize(self.weight.float())
            )


class PooledLayers(nn.Module):
    """A timm network cut off in the middle, whose features are means and SDs of some layers.

    The last layers of an ImageNet network know dogs; the middle ones know spots, fibres and rims,
    which is what stained cells are made of. On few images a linear classifier of such features, all
    weights as they came, is hard to beat. It has the methods of a timm network without a head.

    Attributes:
        network: timm's, without what comes after the last layer.
        num_features: D, twice the sum of the layers' channels.
    """

    def __init__(self, network: nn.Module, layers: Sequence[int], name: str):
        """Cut `network` (changed in place) after the last of `layers`, ascending numbers of its
        `feature_info`.

        Raises:
            InputError: no such layer, layers that do not ascend, or a network that cannot be cut.
        """
        super().__init__()
        self.network, self.layers = network, tuple(layers)
        if not hasattr(network, "forward_intermediates") or not hasattr(
            network, "prune_intermediate_layers"
        ):
            raise InputError(f"model.layers: {name} cannot be cut between layers")
        known = [info["num_chs"] for info in network.feature_info]
        if list(layers) != sorted(set(layers)) or min(layers) < 0 or max(layers) >= len(known):
            raise InputError(
                f"model.layers: {list(layers)}; {name} has the layers 0 to {len(known) - 1}, to "
                "be given ascending"
            )
        self.num_features = 2 * sum(known[layer] for layer in layers)
        network.prune_intermediate_layers(list(layers), prune_norm=True, prune_head=True)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, D): each layer's means, then its SDs, layer after layer."""
        maps = self.network.forward_intermediates(
            x, indices=list(self.layers), intermediates_only=True
        )
        return torch.cat([value for layer in maps for value in (layer.mean((2, 3)), _sd(layer))], 1)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The features: there is nothing left to do."""
        return features

    def reset_classifier(self, classes: int) -> None:
        """There is no classifier."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.network.set_grad_checkpointing(enable)


def _sd(layer: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) -> (B, C), smooth where all pixels agree."""
    return (layer.var((2, 3), correction=0) + 1e-8).sqrt()
