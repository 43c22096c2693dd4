"""What an image costs a network in floating-point operations, and gradient checkpointing."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from cellsignal.common.errors import InputError


def forward_flops(
    model: nn.Module, channels: int, size: int | tuple[int, int], cell_types: int = 0
) -> float:
    """Return the FLOPs of one image through the model in evaluation mode, 2 x multiply-adds.

    Convolutions, matrix products and attention count; norms, activations, pooling and biases do
    not. Only shapes are worked out (torch's meta device): nothing is computed or allocated, and
    weights, buffers and modes are as before.

    Args:
        model: on any device; a network of `build_model`, or one that takes images alone.
        channels, size: of the image; size is a side or (height, width).
        cell_types: length of the one-hot vector that goes with the image; 0: none.
    """
    tensors = (*model.named_parameters(), *model.named_buffers())
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    height, width = (size, size) if isinstance(size, int) else size
    inputs = [torch.empty(1, channels, height, width, device="meta")]
    if cell_types:
        inputs.append(torch.empty(1, cell_types, device="meta"))
    with _evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(model, state, tuple(inputs))
    return float(counter.get_total_flops())


def training_flops(forward: float, checkpointed: bool = False) -> float:
    """Return the FLOPs of one image in training: three forward passes, or four if checkpointed.

    Back to the inputs and back to the weights cost a forward each. It is a rule, as torch's counter
    takes the backward pass of grouped convolutions for that of dense ones (EfficientNet-B0: 41
    forwards). It is 2 % too much for a ResNet50 or DenseNet161 of six
    channels, whose stem needs no gradient of the images; and up to 15 % too much for a checkpointed
    DenseNet161, of which timm computes only the 1x1 convolutions again (46 % of its forward pass).
    """
    return (4 if checkpointed else 3) * forward


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode, and afterwards each module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def checkpoint_activations(model: nn.Module, example: tuple[torch.Tensor, ...]) -> None:
    """Switch gradient checkpointing on in the model's backbone (arXiv:1604.06174).

    Activations are dropped on the way forward and computed again on the way back. A BatchNorm layer
    in such a piece sees every batch twice; two moves of its running statistics with momentum
    1 - sqrt(1 - m) are one of m, so they move as they would without.

    Args:
        example: two or more images on the model's device. Which layers run twice is counted on one
            pass of them, which leaves weights and buffers as they were.

    Raises:
        InputError: a network that has no such option.
    """
    backbone = getattr(model, "backbone", model)
    try:
        backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):
        raise InputError(
            f"gradient_checkpointing: {type(backbone).__name__} has no such option"
        ) from None
    modules = model.modules()
    norms = [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]
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
