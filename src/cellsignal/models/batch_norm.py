"""Recompute BatchNorm statistics: per plate (AdaBN), or for an averaged model.

A plate's stain and lamp shift every layer's activations; standardising them by the plate's own
statistics takes that out. No label is looked at.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from cellsignal.common.errors import InputError

# layer -> (mean, variance), each (C,)
Statistics = dict[_BatchNorm, tuple[torch.Tensor, torch.Tensor]]
# this process's (n,) float64 on the CPU -> that of all processes, (processes, n), by rank
Pool = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class _Moments:
    """Count, mean and summed squared deviations of a layer's inputs, by channel."""

    count: int = 0
    mean: torch.Tensor | float = 0.0
    squares: torch.Tensor | float = 0.0

    def add(self, count: int, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Pool a batch of this biased variance, in double precision."""
        self.merge(_Moments(count, mean.double(), variance.double() * count))

    def merge(self, other: "_Moments") -> None:
        """Pool the moments of other values, exactly and stably (Chan, Golub & LeVeque 1983)."""
        if other.count == 0:
            return
        total, delta = self.count + other.count, other.mean - self.mean
        self.mean = self.mean + delta * (other.count / total)
        self.squares = self.squares + other.squares + delta**2 * (self.count * other.count / total)
        self.count = total

    def packed(self, channels: int) -> torch.Tensor:
        """Return (1 + 2 x channels,) float64 on the CPU: count, mean, squares; or zeros."""
        if self.count == 0:
            return torch.zeros(1 + 2 * channels, dtype=torch.float64)
        return torch.cat([self.mean.new_tensor([self.count]), self.mean, self.squares]).cpu()

    @classmethod
    def unpacked(cls, values: torch.Tensor) -> "_Moments":
        mean, squares = values[1:].chunk(2)
        return cls(int(values[0]), mean, squares)


@contextmanager
def unit_statistics(
    model: nn.Module, batches: Iterable[tuple[torch.Tensor, ...]], forward: Callable | None = None
) -> Iterator[None]:
    """Standardise by the statistics of these images within a `with` (AdaBN, arXiv:1603.04779).

    The model is in evaluation mode. With one batch, outputs are those of training mode with all
    images in one batch. With several, each layer's statistics are pooled over all of them, but were
    computed behind layers that standardised each batch by itself: give evenly sized batches in
    random or plate order, of more than one image. A plate is adapted whole on one rank. Buffers and
    training flags are restored bit for bit afterwards, also after an exception.

    Args:
        batches: positional arguments of `forward`, on the model's device.
        forward: what to call; the model itself unless given. Mixed precision is the caller's;
            moments are taken in single precision.

    Raises:
        InputError: no batch, or a layer that sees one value a channel.
    """
    statistics = _statistics(model, batches, forward, unbiased=False)
    with _restored(model):
        model.eval()
        _set(statistics)
        yield


def recompute_statistics(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, ...]],
    forward: Callable | None = None,
    pool: Pool | None = None,
) -> None:
    """Set the running statistics of a weight-averaged model to those of the training images.

    Averaged weights make other activations (arXiv:1803.05407, section 3.2). The variance is of all
    batches together, unbiased: `torch.optim.swa_utils.update_bn` averages the batches' variances
    and so leaves out what lies between them, which batches of one plate make large. Arguments and
    errors as for `unit_statistics`.

    With `pool` the images are those of all processes: each gives its own batches, also none, and
    all end with the same bits. `pool` is called once, by every process, or by none if the model has
    no BatchNorm. It gets (count, mean (C,), squares (C,)) of all layers end to end.
    """
    _set(_statistics(model, batches, forward, unbiased=True, pool=pool))


def _statistics(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, ...]],
    forward: Callable | None,
    unbiased: bool,
    pool: Pool | None = None,
) -> Statistics:
    """Measure every BatchNorm layer over some batches, each standardised by itself."""
    run = model if forward is None else forward
    layers = {module: name for name, module in model.named_modules() if _tracks(module)}
    if not layers:
        return {}
    moments = {layer: _Moments() for layer in layers}
    with _restored(model), torch.no_grad():
        model.eval()
        hooks = [
            layer.register_forward_pre_hook(partial(_observe, layers[layer], moments[layer]))
            for layer in layers
        ]
        try:
            for batch in batches:
                run(*batch)
        finally:
            for hook in hooks:
                hook.remove()
    if pool is not None:
        moments = _pool_processes(moments, pool)
    seen = {layer: m for layer, m in moments.items() if m.count}
    if not seen:
        raise InputError("BatchNorm statistics: there is not one image to take them of")
    return {layer: (m.mean, m.squares / (m.count - unbiased)) for layer, m in seen.items()}


def _pool_processes(moments: dict[_BatchNorm, _Moments], pool: Pool) -> dict[_BatchNorm, _Moments]:
    """Merge in rank order on the CPU, so that every process computes the same bits."""
    gathered = pool(torch.cat([mine.packed(layer.num_features) for layer, mine in moments.items()]))
    merged = {layer: _Moments() for layer in moments}
    for values in gathered.cpu():
        parts = values.split([1 + 2 * layer.num_features for layer in moments])
        for total, part in zip(merged.values(), parts, strict=True):
            total.merge(_Moments.unpacked(part))
    return merged


def _observe(name: str, moments: _Moments, layer: _BatchNorm, inputs: tuple[torch.Tensor]) -> None:
    """Add a batch's moments before its layer, which then normalises the batch by its own."""
    x = inputs[0]
    count = x.numel() // x.shape[1]
    if count < 2:
        raise InputError(
            f"BatchNorm statistics: {name} sees one value a channel in a batch of {len(x)}; give "
            "more images a batch"
        )
    mean, variance = torch.zeros_like(layer.running_mean), torch.ones_like(layer.running_var)
    # several times as fast as torch.var_mean
    functional.batch_norm(x, mean, variance, training=True, momentum=1.0)
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
