"""Losses on angles and distances of embeddings: margins on cosines (ArcFace, CosFace) by soft
labels, triplet loss, center loss.
"""

import math
from typing import Literal

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import nn


def margin_cosines(
    cosines: torch.Tensor, targets: torch.Tensor, name: Literal["arcface", "cosface"], margin: float
) -> torch.Tensor:
    """Cosines made harder by a margin as far as they are labelled: z = y * phi + (1 - y) *
    cos(theta).

    arcface (arXiv:1801.07698): phi = cos(theta + m), and cos(theta) - m * sin(pi - m) where theta +
    m would pass pi. cosface (arXiv:1801.09414): phi = cos(theta) - m. Soft labels as in RxRx1, 1st
    place.

    Args:
        cosines: (B, K); computed in float32.
        targets: (B, K) soft labels y.
        margin: m, in radians (arcface) or as a cosine (cosface).

    Returns:
        z (B, K) float32, not yet scaled.
    """
    cosines = cosines.float()
    if name == "cosface":
        return cosines - margin * targets
    # the root's slope is infinite at theta = 0 and pi; below the rounding of 1 - cos^2 it is cut
    # off
    sines = (1 - cosines.square()).clamp(min=torch.finfo(torch.float32).eps).sqrt()
    turned = cosines * math.cos(margin) - sines * math.sin(margin)
    turned = torch.where(
        cosines > math.cos(math.pi - margin), turned, cosines - margin * math.sin(math.pi - margin)
    )
    return targets * turned + (1 - targets) * cosines


class SemiHardTripletLoss(nn.Module):
    """Mean of max(0, d(a, p) - d(a, n) + margin) over the semi-hard triplets, 0 < d(a, n) - d(a, p)
    <= margin, of a batch (FaceNet, arXiv:1503.03832).

    d is the squared Euclidean distance of embeddings, normalised unless said otherwise. A batch
    without such a triplet gives 0: so does every batch in which no label occurs twice
    (`batches.unique_labels`, or plates where each class stands once and one site is taken).
    """

    def __init__(self, margin: float, normalised: bool = True):
        super().__init__()
        distance = LpDistance(power=2, normalize_embeddings=normalised)
        self.miner = TripletMarginMiner(margin, type_of_triplets="semihard", distance=distance)
        self.loss = TripletMarginLoss(margin, distance=distance)

    def forward(self, embedding: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B, D), hard labels (B,) -> scalar."""
        return self.loss(embedding, labels, self.miner(embedding, labels))


class BatchHardTripletLoss(nn.Module):
    """Mean of max(0, d(a, p) - d(a, n) + margin) over the anchors a of a batch, p the furthest of
    its label, n the nearest of another (arXiv:1703.07737).

    d is the Euclidean distance, of embeddings as they are or of normalised ones. Anchors whose
    triplet is easy count as 0; an anchor without another image of its label, or without one of
    another label, does not count.
    """

    def __init__(self, margin: float, normalised: bool):
        super().__init__()
        distance = LpDistance(normalize_embeddings=normalised)
        self.miner = BatchHardMiner(distance=distance)
        self.loss = TripletMarginLoss(margin, distance=distance, reducer=MeanReducer())

    def forward(self, embedding: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B, D), hard labels (B,) -> scalar; 0 where there is no triplet."""
        if len(labels) < 3:
            return 0 * embedding.sum()
        return self.loss(embedding, labels, self.miner(embedding, labels))


class CenterLoss(nn.Module):
    """Mean squared distance of embeddings to their class's centre (Wen et al., ECCV 2016).

    The centres begin at 0 and are parameters: the optimiser of the network moves them, or SGD of
    their own (`center.lr`), not the paper's rule.
    """

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(classes, width))

    def forward(self, embedding: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B, D), hard labels (B,) -> scalar; 0 for B = 0."""
        return (embedding - self.centers[labels]).square().sum() / max(1, len(labels))
