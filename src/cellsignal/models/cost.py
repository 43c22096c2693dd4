"""What one image costs a network, in floating-point operations: with the time it takes, how near a
training is to what the machine can do.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def forward_flops(
    model: nn.Module, channels: int, size: int | tuple[int, int], cell_types: int = 0
) -> float:
    """FLOPs of one image through the model in evaluation mode, 2 x multiply-adds.

    Convolutions, matrix products and attention count; norms, activations, pooling and biases do
    not. Only shapes are worked out (torch's meta device): nothing is computed or allocated, and
    weights, buffers and modes are as before.

    Args:
        model: on any device; a network of `build_model`, or one that takes images alone.
        channels, size: of the image, (channels, size, size) or, where size is (height, width),
        (channels, *size). cell_types: length of the one-hot vector that goes with the image; 0:
        none.
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
    """FLOPs of one image in training: forward, back to the inputs and back to the weights cost a
    forward each; gradient checkpointing adds another.

    A rule, as torch's counter takes the backward pass of grouped convolutions for that of dense
    ones (EfficientNet-B0: 41 forwards). It is 2 % too much for a ResNet50 or DenseNet161 of six
    channels, whose stem needs no gradient of the images; and up to 15 % too much for a checkpointed
    DenseNet161, of which timm computes only the 1x1 convolutions again (46 % of its forward pass).
    """
    return (4 if checkpointed else 3) * forward


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each module's own again: some may have been frozen one by
    one.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
