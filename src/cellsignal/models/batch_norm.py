"""BatchNorm statistics other than those that training left behind: of one plate's own images (AdaBN), or of an averaged model.

A plate's stain and lamp shift every layer's activations; standardising them by the plate's own statistics takes that out. No label is looked at.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from cellsignal.errors import InputError

Statistics = dict[_BatchNorm, tuple[torch.Tensor, torch.Tensor]]  # layer -> (mean, variance), each (C,)


@dataclass
class _Moments:
    """Of all batches of one layer's inputs, by channel: values, mean and summed squares of the deviations from it."""

    count: int = 0
    mean: torch.Tensor | float = 0.0
    squares: torch.Tensor | float = 0.0

    def add(self, count: int, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Pool a batch of this biased variance, exactly and stably (Chan, Golub & LeVeque 1983), in double precision."""
        total, delta = self.count + count, mean.double() - self.mean
        self.mean = self.mean + delta * (count / total)
        self.squares = self.squares + variance.double() * count + delta**2 * (self.count * count / total)
        self.count = total


@contextmanager
def unit_statistics(
    model: nn.Module, batches: Iterable[tuple[torch.Tensor, ...]], forward: Callable | None = None
) -> Iterator[None]:
    """Within it the model is in evaluation mode and standardises by the statistics of these images (AdaBN, arXiv:1603.04779).

    With one batch, outputs are those of training mode with all images in one batch. With several, each layer's statistics are pooled over all of them, but
    were computed behind layers that standardised each batch by itself. Give evenly sized batches in random or plate order, of more than one image.
    Dropout and stochastic depth are off. Statistics are of this process's images: a plate is adapted whole on one rank.

    Args:
        batches: positional arguments of `forward`, on the model's device.
        forward: what to call; the model itself unless given. Mixed precision is the caller's; moments are taken in single precision.

    Buffers and training flags are restored bit for bit afterwards, also after an exception. A model without BatchNorm is only put into evaluation mode.

    Raises:
        InputError: no batch, or a layer that sees one value a channel.
    """
    statistics = _statistics(model, batches, forward, unbiased=False)
    with _restored(model):
        model.eval()
        _set(statistics)
        yield


def recompute_statistics(
    model: nn.Module, batches: Iterable[tuple[torch.Tensor, ...]], forward: Callable | None = None
) -> None:
    """Set the running statistics of a weight-averaged model to those of the training images, since averaged weights make other activations.

    The source is arXiv:1803.05407, section 3.2. The variance is of all batches together, unbiased: `torch.optim.swa_utils.update_bn` averages the batches'
    variances and so leaves out what lies between them, which batches of one plate make large. Arguments and errors as for `unit_statistics`.
    """
    _set(_statistics(model, batches, forward, unbiased=True))


def _statistics(
    model: nn.Module, batches: Iterable[tuple[torch.Tensor, ...]], forward: Callable | None, unbiased: bool
) -> Statistics:
    """Every tracking BatchNorm layer's statistics over some batches, each standardised by itself; the model is left as it was."""
    run = model if forward is None else forward
    layers = {module: name for name, module in model.named_modules() if _tracks(module)}
    if not layers:
        return {}
    moments = {layer: _Moments() for layer in layers}
    with _restored(model), torch.no_grad():
        model.eval()
        hooks = [layer.register_forward_pre_hook(partial(_observe, layers[layer], moments[layer])) for layer in layers]
        try:
            for batch in batches:
                run(*batch)
        finally:
            for hook in hooks:
                hook.remove()
    seen = {layer: m for layer, m in moments.items() if m.count}
    if not seen:
        raise InputError("BatchNorm statistics: there is not one image to take them of")
    return {layer: (m.mean, m.squares / (m.count - unbiased)) for layer, m in seen.items()}


def _observe(name: str, moments: _Moments, layer: _BatchNorm, inputs: tuple[torch.Tensor]) -> None:
    """Before a layer in evaluation mode: pool the batch's moments, and standardise this batch by its own."""
    x = inputs[0]
    count = x.numel() // x.shape[1]
    if count < 2:
        raise InputError(
            f"BatchNorm statistics: {name} sees one value a channel in a batch of {len(x)}; give more images a batch"
        )
    mean, variance = torch.zeros_like(layer.running_mean), torch.ones_like(layer.running_var)
    functional.batch_norm(x, mean, variance, training=True, momentum=1.0)  # several times as fast as torch.var_mean
    variance *= (count - 1) / count
    moments.add(count, mean, variance)
    _set({layer: (mean, variance)})


@torch.no_grad()
def _set(statistics: Statistics) -> None:
    for layer, (mean, variance) in statistics.items():
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    flags = {module: module.training for module in model.modules()}
    before = {m: (m.running_mean.clone(), m.running_var.clone()) for m in flags if _tracks(m)}
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag
        _set(before)


def _tracks(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None
