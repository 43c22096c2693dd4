"""The loss of a stage: cross-entropy on soft labels, binary where an image may have several, and
what a config adds to it (margin, triplet, center loss).

A row of soft labels sums to 1, or to less: to 0 for an unlabelled image, to between where CutMix
joins it to a labelled one. Every cross-entropy is averaged over that label mass, so that what is
unlabelled neither adds to the loss nor thins it.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cellsignal.config.stage import Stage
from cellsignal.models.heads import Outputs
from cellsignal.training.metric_losses import (
    BatchHardTripletLoss,
    CenterLoss,
    SemiHardTripletLoss,
    margin_cosines,
)


def class_weights(
    labels: np.ndarray, classes: int, mode: Literal["none", "balanced", "sqrt"]
) -> torch.Tensor | None:
    """(K,) float32 weights: n / (K * count) ("balanced", as scikit-learn's), its square root
    ("sqrt"), or None.

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
    """(K,) float32 weights of the positives of a multi-label task: negatives / positives of each
    class, its root, `same` for all, or None.

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


class BinaryCrossEntropy(nn.Module):
    """Mean over images and classes of -w_k y (1 - p)^gamma log p - (1 - y) p^gamma log(1 - p), p =
    sigmoid(z), y smoothed towards 1/2.

    With gamma 0 it is `torch.nn.BCEWithLogitsLoss`, above it the focal loss (arXiv:1708.02002)
    without its alpha, which w stands for.
    """

    def __init__(self, weights: torch.Tensor | None, smoothing: float = 0.0, gamma: float = 0.0):
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)
        self.smoothing, self.gamma = smoothing, gamma

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """logits (B, K), targets (B, K) in [0, 1] -> scalar."""
        logits, targets = logits.float(), targets * (1 - self.smoothing) + self.smoothing / 2
        positive, negative = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        hard = (
            (torch.exp(self.gamma * negative), torch.exp(self.gamma * positive))
            if self.gamma
            else (1.0, 1.0)
        )
        weight = 1.0 if self.weights is None else self.weights
        return -(weight * targets * hard[0] * positive + (1 - targets) * hard[1] * negative).mean()


class SoftCrossEntropy(nn.Module):
    """Sum over the batch of -sum_k w_k * y_k * log softmax(z)_k over the batch's label mass, y
    smoothed by `smoothing`.

    With one-hot labels and no weights it is `torch.nn.CrossEntropyLoss`. With weights it is not
    divided by the batch's weight sum, so that accumulation over small batches is the gradient of
    the large one. With `gamma` each term is multiplied by (1 - softmax(z)_k)^gamma.
    """

    def __init__(self, weights: torch.Tensor | None, smoothing: float = 0.0, gamma: float = 0.0):
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)
        self.smoothing, self.gamma = smoothing, gamma

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """logits (B, K), soft targets (B, K) whose rows sum to 1 or less -> scalar; 0 where the
        whole batch is unlabelled.
        """
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


class StageLoss(nn.Module):
    """`cross_entropy` x CE(logits) + margin's weight x CE(scale x cosines with margin) + triplet's
    and center's weight x theirs.

    Class weights act in both cross-entropies, label smoothing in the plain one. Triplet and center
    loss need hard labels: they are left out of a mixed batch. Its state holds what the losses learn
    themselves, the centres, and nothing else.

    Attributes:
        dropping: whether an image that is none of a negative control, but is taken for one, is left
        out (`drop_predicted_controls`).

    Args:
        controls: the classes of negative controls, for `dropping`.
    """

    def __init__(
        self,
        stage: Stage,
        weights: torch.Tensor | None,
        classes: int,
        width: int,
        multilabel: bool = False,
        controls: Sequence[int] = (),
    ):
        super().__init__()
        self.stage, self.dropping = stage, False
        self.register_buffer(
            "is_control",
            torch.isin(torch.arange(classes), torch.tensor(list(controls), dtype=torch.int64)),
            persistent=False,
        )
        kind = BinaryCrossEntropy if multilabel else SoftCrossEntropy
        self.cross_entropy = kind(
            weights, stage.label_smoothing, stage.focal.gamma if stage.focal else 0.0
        )
        self.margin_cross_entropy = SoftCrossEntropy(weights)
        triplets = {"semihard": SemiHardTripletLoss, "hard": BatchHardTripletLoss}
        triplet = stage.triplet
        self.triplet = (
            triplets[triplet.mining](triplet.margin, triplet.normalised) if triplet else None
        )
        self.center = CenterLoss(classes, width) if stage.center else None

    def forward(
        self, outputs: Outputs, targets: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """The loss of one batch, in single precision whatever the outputs' type.

        Args:
            targets: (B, K) soft labels; rows sum to 1 or less, but for multi-label tasks.
            labels: (B,) int64, the same as classes for triplet and center loss; -1 leaves an image
            out of them. None: the batch is mixed.

        Returns:
            Scalar with a graph; 0 where nothing is labelled.
        """
        stage = self.stage
        if self.dropping:
            targets, labels = self._without_predicted_controls(outputs.logits, targets, labels)
        loss = stage.cross_entropy * self.cross_entropy(outputs.logits, targets)
        if stage.margin is not None:
            assert outputs.cosines is not None, "a margin loss on a network without cosine head"
            cosines = margin_cosines(
                outputs.cosines, targets, stage.margin.name, stage.margin.margin
            )
            loss = loss + stage.margin.weight * self.margin_cross_entropy(
                stage.margin.scale * cosines, targets
            )
        if labels is None:
            return loss
        known = labels >= 0
        for part, config in ((self.triplet, stage.triplet), (self.center, stage.center)):
            if part is not None:
                loss = loss + config.weight * part(outputs.embedding.float()[known], labels[known])
        return loss

    def _without_predicted_controls(
        self, logits: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Targets and labels with the images unlabelled that hold nothing of a negative control and
        are predicted as one.
        """
        holds_control = targets[:, self.is_control].sum(1) > 0
        dropped = self.is_control[logits.argmax(1)] & ~holds_control
        return targets * ~dropped[:, None], None if labels is None else torch.where(
            dropped, -1, labels
        )
