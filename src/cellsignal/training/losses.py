"""Define cross-entropies, and register the losses that a stage may add.

A loss of one's own: a section with a `weight` and its field in config/stage.py, and a class here
with `@register_loss("<field>")`.

A row of soft labels sums to 1, or to less: to 0 for an unlabelled image, to between where CutMix
joins it to a labelled one. Every cross-entropy is averaged over that label mass, so that what is
unlabelled neither adds to the loss nor thins it.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import nn
from torch.nn import functional

from cellsignal.config.losses import Center, Margin, Triplet
from cellsignal.config.stage import Stage
from cellsignal.models.heads import Outputs

# field of a stage -> its loss; they are added in this order
LOSSES: dict[str, type["AddedLoss"]] = {}


def register_loss(field: str) -> Callable[[type], type]:
    """Return a decorator that adds a class to `LOSSES` under a field of `Stage`."""

    def register(kind: type) -> type:
        assert field in Stage.model_fields and field not in LOSSES, field
        LOSSES[field] = kind
        return kind

    return register


class Loss(nn.Module):
    """Methods that the trainer calls on every loss."""

    # whether a batch may give a parameter of the loss no gradient
    leaves_parameters_out = False

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups {"params", "lr"} that plain SGD trains at a constant rate.

        Parameters in no group are trained with the network's.
        """
        return []


class AddedLoss(Loss):
    """Base class of the losses that a stage may add to its cross-entropy.

    Args:
        config: its section of the stage; `weight` times the loss is added.
        classes, width: K; D of the network's embedding.
        weights: (K,) of the classes, or None.
    """

    def __init__(self, config: Any, classes: int, width: int, weights: torch.Tensor | None):
        super().__init__()
        self.config = config


class SoftLabelLoss(AddedLoss):
    """Base of losses on soft labels: `forward(outputs, targets)`, targets (B, K)."""


class HardLabelLoss(AddedLoss):
    """Base of losses on hard labels: `forward(embedding, labels)`, (B, D) and (B,) int64.

    It sees the labelled images of batches that are not mixed.
    """


# cross-entropies
# --------------------------------------------------------------------------------------------------


class SoftCrossEntropy(nn.Module):
    """Cross-entropy on soft labels, summed over the batch and divided by its label mass.

    A term is -w_k * y_k * log softmax(z)_k, y smoothed by `smoothing`, and with `gamma` times
    (1 - softmax(z)_k)^gamma. With one-hot labels and no weights it is `torch.nn.CrossEntropyLoss`.
    With weights it is not divided by the batch's weight sum, so that accumulation over small
    batches is the gradient of the large one.
    """

    def __init__(self, weights: torch.Tensor | None, smoothing: float = 0.0, gamma: float = 0.0):
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)
        self.smoothing, self.gamma = smoothing, gamma

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """logits (B, K), targets (B, K), rows summing to 1 or less -> scalar; 0 if unlabelled."""
        rows = targets.sum(1, keepdim=True)
        if self.smoothing:
            targets = targets * (1 - self.smoothing) + rows * (self.smoothing / targets.shape[1])
        mass = rows.sum()
        if self.gamma:
            logs = functional.log_softmax(logits.float(), dim=1)
            targets = targets * (1 - logs.exp()).clamp(min=0) ** self.gamma
        total = functional.cross_entropy(
            logits.float(), targets, weight=self.weights, reduction="sum"
        )
        return total / torch.where(mass > 0, mass, 1)

    @staticmethod
    def class_weights(targets: np.ndarray, classes: int, stage: Stage) -> torch.Tensor | None:
        """Compute the class weights of a stage, from (N,) training labels."""
        return class_weights(targets, classes, stage.class_weights)


class BinaryCrossEntropy(nn.Module):
    """Binary cross-entropy, the mean over images and classes, for several labels an image.

    A term is -w_k y (1 - p)^gamma log p - (1 - y) p^gamma log(1 - p), p = sigmoid(z), y smoothed
    towards 1/2. With gamma 0 it is `torch.nn.BCEWithLogitsLoss`, above it the focal loss
    (arXiv:1708.02002) without its alpha, which w stands for.
    """

    def __init__(self, weights: torch.Tensor | None, smoothing: float = 0.0, gamma: float = 0.0):
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)
        self.smoothing, self.gamma = smoothing, gamma

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """logits (B, K), targets (B, K) in [0, 1] -> scalar."""
        logits = logits.float()
        targets = targets * (1 - self.smoothing) + self.smoothing / 2
        positive, negative = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        positive_focus = negative_focus = 1.0
        if self.gamma:
            positive_focus = torch.exp(self.gamma * negative)
            negative_focus = torch.exp(self.gamma * positive)
        weight = 1.0 if self.weights is None else self.weights
        positive_term = weight * targets * positive_focus * positive
        return -(positive_term + (1 - targets) * negative_focus * negative).mean()

    @staticmethod
    def class_weights(targets: np.ndarray, classes: int, stage: Stage) -> torch.Tensor | None:
        """Compute the weights of positives of a stage, from (N, K) training labels."""
        return positive_weights(targets, stage.class_weights, stage.positive_weight)


# `Task.loss_family` -> the loss on logits
CROSS_ENTROPIES = {"cross_entropy": SoftCrossEntropy, "binary_cross_entropy": BinaryCrossEntropy}


def class_weights(
    labels: np.ndarray, classes: int, mode: Literal["none", "balanced", "sqrt"]
) -> torch.Tensor | None:
    """Return (K,) float32 weights n / (K * count), as scikit-learn's, their roots, or None.

    A class without a training sample gets weight 1.
    """
    if mode == "none":
        return None
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = np.where(counts > 0, len(labels) / (np.maximum(counts, 1) * classes), 1.0)
    return torch.tensor(weights**0.5 if mode == "sqrt" else weights, dtype=torch.float32)


def positive_weights(
    truth: np.ndarray, mode: Literal["none", "balanced", "sqrt"], same: float | None
) -> torch.Tensor | None:
    """Return (K,) float32 weights negatives / positives, their roots, `same` for all, or None.

    A class without a positive gets weight 1.

    Args:
        truth: (N, K), 1 where a training sample has the class.
    """
    if same is not None:
        return torch.full((truth.shape[1],), same, dtype=torch.float32)
    if mode == "none":
        return None
    positives = truth.sum(0)
    weights = np.where(positives > 0, (len(truth) - positives) / np.maximum(positives, 1), 1.0)
    return torch.tensor(weights**0.5 if mode == "sqrt" else weights, dtype=torch.float32)


# what a stage may add
# --------------------------------------------------------------------------------------------------


@register_loss("margin")
class MarginLoss(SoftLabelLoss):
    """Cross-entropy of scaled cosines made harder by a margin (ArcFace, CosFace)."""

    def __init__(self, config: Margin, classes: int, width: int, weights: torch.Tensor | None):
        super().__init__(config, classes, width, weights)
        self.cross_entropy = SoftCrossEntropy(weights)

    def forward(self, outputs: Outputs, targets: torch.Tensor) -> torch.Tensor:
        assert outputs.cosines is not None, "a margin loss on a network without cosine head"
        config = self.config
        cosines = margin_cosines(outputs.cosines, targets, config.name, config.margin)
        return self.cross_entropy(config.scale * cosines, targets)


def margin_cosines(
    cosines: torch.Tensor, targets: torch.Tensor, name: Literal["arcface", "cosface"], margin: float
) -> torch.Tensor:
    """Return y * phi + (1 - y) * cos(theta): cosines made harder as far as they are labelled.

    arcface (arXiv:1801.07698): phi = cos(theta + m), and cos(theta) - m * sin(pi - m) where theta +
    m would pass pi. cosface (arXiv:1801.09414): phi = cos(theta) - m. Soft labels as in RxRx1, 1st
    place.

    Args:
        cosines: (B, K); computed in float32.
        targets: (B, K) soft labels y.
        margin: m, in radians (arcface) or as a cosine (cosface).
    """
    cosines = cosines.float()
    if name == "cosface":
        return cosines - margin * targets
    # the root's slope is infinite at theta = 0 and pi: cut off below the rounding of 1 - cos^2
    sines = (1 - cosines.square()).clamp(min=torch.finfo(torch.float32).eps).sqrt()
    turned = cosines * math.cos(margin) - sines * math.sin(margin)
    beyond_pi = cosines <= math.cos(math.pi - margin)
    turned = torch.where(beyond_pi, cosines - margin * math.sin(math.pi - margin), turned)
    return targets * turned + (1 - targets) * cosines


@register_loss("triplet")
class TripletLoss(HardLabelLoss):
    """Mean of max(0, d(a, p) - d(a, n) + margin) over triplets of a batch.

    semihard (FaceNet, arXiv:1503.03832): all with 0 < d(a, n) - d(a, p) <= margin, d the squared
    Euclidean distance. hard (arXiv:1703.07737): for each anchor the furthest of its label and the
    nearest of another, d the Euclidean distance; easy ones count as 0, anchors without such a pair
    not at all. A batch without a triplet gives 0, such as one in which no label occurs twice.
    """

    def __init__(self, config: Triplet, classes: int, width: int, weights: torch.Tensor | None):
        super().__init__(config, classes, width, weights)
        if config.mining == "semihard":
            distance = LpDistance(power=2, normalize_embeddings=config.normalised)
            self.miner = TripletMarginMiner(
                config.margin, type_of_triplets="semihard", distance=distance
            )
            self.loss = TripletMarginLoss(config.margin, distance=distance)
        else:
            distance = LpDistance(normalize_embeddings=config.normalised)
            self.miner = BatchHardMiner(distance=distance)
            self.loss = TripletMarginLoss(config.margin, distance=distance, reducer=MeanReducer())

    def forward(self, embedding: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.config.mining == "hard" and len(labels) < 3:
            return 0 * embedding.sum()
        return self.loss(embedding, labels, self.miner(embedding, labels))


@register_loss("center")
class CenterLoss(HardLabelLoss):
    """Mean squared distance of embeddings to their class's centre (Wen et al., ECCV 2016).

    The centres begin at 0 and are parameters: the optimiser of the network moves them, or plain
    SGD (`center.lr`: the step of the loss before its weight), not the paper's rule.
    """

    def __init__(self, config: Center, classes: int, width: int, weights: torch.Tensor | None):
        super().__init__(config, classes, width, weights)
        self.centers = nn.Parameter(torch.zeros(classes, width))

    def forward(self, embedding: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (embedding - self.centers[labels]).square().sum() / max(1, len(labels))

    def parameter_groups(self) -> list[dict[str, Any]]:
        if self.config.lr is None:
            return []
        return [{"params": [self.centers], "lr": self.config.lr / self.config.weight}]
