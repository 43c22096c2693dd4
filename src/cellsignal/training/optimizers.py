"""Optimisers by name. Norm scales and biases (one-dimensional parameters) have no weight decay,
unless the config says so.
"""

from collections.abc import Sequence

import torch
from torch import nn

from cellsignal.config.stage import Optimizer


def center_optimizer(
    parameters: Sequence[nn.Parameter], lr: float, weight: float
) -> torch.optim.Optimizer:
    """Plain SGD for the centres of a center loss that is `weight` times the stage's: their step is
    `lr` x the gradient of the loss before `weight`.
    """
    return torch.optim.SGD(parameters, lr=lr / weight)


def build_optimizer(
    modules: nn.Module | Sequence[nn.Module], config: Optimizer, fused: bool = True
) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD over two parameter groups: with weight decay (matrices, kernels) and
    without (norms, biases; none with `decay_all`).

    Args:
        modules: what is trained: the network, and losses that learn something of their own.
        fused: torch's fused step: one pass over each tensor; the same but for rounding.
    """
    modules = [modules] if isinstance(modules, nn.Module) else modules
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1 or config.decay_all]
    others = [p for p in parameters if p.ndim <= 1 and not config.decay_all]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused
        )
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=config.betas, fused=fused)
