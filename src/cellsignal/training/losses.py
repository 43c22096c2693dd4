"""Cross-entropy on soft labels, with class weights and label smoothing."""

from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def class_weights(labels: np.ndarray, classes: int, mode: Literal["none", "balanced", "sqrt"]) -> torch.Tensor | None:
    """(K,) float32 weights: n / (K * count) ("balanced", as scikit-learn's), its square root ("sqrt"), or None.

    A class without a training sample gets weight 1.
    """
    if mode == "none":
        return None
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = np.where(counts > 0, len(labels) / (np.maximum(counts, 1) * classes), 1.0)
    return torch.tensor(weights**0.5 if mode == "sqrt" else weights, dtype=torch.float32)


class SoftCrossEntropy(nn.Module):
    """Mean over the batch of -sum_k w_k * y_k * log softmax(z)_k, y smoothed by `smoothing`.

    With one-hot labels and no weights it is `torch.nn.CrossEntropyLoss`. With weights it is not divided by the batch's weight sum, so that
    accumulation over small batches is the gradient of the large one.
    """

    def __init__(self, weights: torch.Tensor | None, smoothing: float = 0.0):
        super().__init__()
        self.register_buffer("weights", weights)
        self.smoothing = smoothing

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """logits (B, K), soft targets (B, K) summing to 1 -> scalar."""
        return functional.cross_entropy(logits.float(), targets, weight=self.weights, label_smoothing=self.smoothing)
