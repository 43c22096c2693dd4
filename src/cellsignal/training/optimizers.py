"""Optimisers by name. Norm scales and biases (one-dimensional parameters) have no weight decay."""

import torch
from torch import nn

from cellsignal.config.stage import Optimizer


def build_optimizer(model: nn.Module, config: Optimizer, fused: bool = False) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD over two parameter groups: with weight decay (matrices, kernels) and without (norms, biases).

    Args:
        fused: torch's fused step, for CUDA.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=config.betas, fused=fused)
