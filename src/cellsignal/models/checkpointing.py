"""Gradient checkpointing: activations are dropped on the way forward and computed again on the way
back (arXiv:1604.06174).

A BatchNorm layer inside such a piece sees every batch twice and would move its running statistics
twice. Two moves of momentum 1 - sqrt(1 - m) are one of m.
"""

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cellsignal.common.errors import InputError


def checkpoint_activations(model: nn.Module, example: tuple[torch.Tensor, ...]) -> None:
    """Switch it on in the model's backbone; running statistics still move as they would without.

    Which layers run twice is counted on one pass of `example`, two or more images on the model's
    device, which leaves weights and buffers as they were.

    Raises:
        InputError: a network that has no such option.
    """
    try:
        getattr(model, "backbone", model).set_grad_checkpointing(True)
    except (AttributeError, AssertionError):
        name = type(getattr(model, "backbone", model)).__name__
        raise InputError(f"gradient_checkpointing: {name} has no such option") from None
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    counted = [int(norm.num_batches_tracked) for norm in norms]
    was_training = model.training
    with torch.random.fork_rng(devices=[example[0].device] if example[0].is_cuda else []):
        model.train().outputs(*example).logits.sum().backward()
    for norm, count in zip(norms, counted, strict=True):
        if int(norm.num_batches_tracked) - count == 2 and norm.momentum is not None:
            norm.momentum = 1 - math.sqrt(1 - norm.momentum)
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
    model.train(was_training)
