"""Optimisers by name. Norm scales and biases (one-dimensional parameters) have no weight decay,
unless the config says so.
"""

from collections.abc import Collection, Sequence

import torch
from torch import nn

from cellsignal.config.stage import Optimizer


def build_optimizer(
    modules: nn.Module | Sequence[nn.Module],
    config: Optimizer,
    fused: bool = True,
    leave_out: Collection[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD over two parameter groups: with weight decay (matrices, kernels) and
    without (norms, biases; none with `decay_all`).

    Args:
        modules: what is trained: the network, and losses that learn something of their own.
        fused: torch's fused step: one pass over each tensor; the same but for rounding.
        leave_out: parameters that another optimiser trains.
    """
    modules = [modules] if isinstance(modules, nn.Module) else modules
    left_out = {id(parameter) for parameter in leave_out}
    parameters = [
        parameter
        for module in modules
        for parameter in module.parameters()
        if parameter.requires_grad and id(parameter) not in left_out
    ]
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
    return kind(groups, lr=config.lr, fused=fused)
