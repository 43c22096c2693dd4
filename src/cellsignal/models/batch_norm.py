"""Recompute BatchNorm statistics: per plate (AdaBN), or for an averaged model.

A plate's stain and lamp shift every layer's activations; standardising them by the plate's own
statistics takes that out. No label is looked at. Statistics of control wells do not depend on what
else is on the plate, but controls are no treatments: `measure_offsets` learns how these differ.
Ideas: plate batches of BEN (doi:10.1101/2022.10.14.512286), controls of arXiv:2604.20824.
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


@dataclass(frozen=True)
class Offset:
    """How the statistics of a layer's training batches differ from those of controls.

    Attributes:
        shift: (C,) difference of the means, in SDs of the controls.
        ratio: (C,) ratio of the variances. Both with the layer's epsilon added to variances.
    """

    shift: torch.Tensor
    ratio: torch.Tensor

    def apply(
        self, mean: torch.Tensor, variance: torch.Tensor, epsilon: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean and variance of treatments that those of controls foretell."""
        widened = variance + epsilon
        shifted = mean + self.shift.to(mean) * widened.sqrt()
        return shifted, (self.ratio.to(variance) * widened - epsilon).clamp(min=0)


# layer -> what to add to statistics of controls
Offsets = dict[_BatchNorm, Offset]


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
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, ...]],
    forward: Callable | None = None,
    offsets: Offsets | None = None,
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
        offsets: the images are of controls, and every layer takes the statistics that these
            foretell (`measure_offsets`), also while the next layers' are taken.

    Raises:
        InputError: no batch, or a layer that sees one value a channel.
    """
    statistics = _statistics(model, batches, forward, unbiased=False, offsets=offsets)
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
    offsets: Offsets | None = None,
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
            layer.register_forward_pre_hook(
                partial(_observe, layers[layer], moments[layer], (offsets or {}).get(layer))
            )
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
    measured = {layer: (m.mean, m.squares / (m.count - unbiased)) for layer, m in seen.items()}
    for layer, offset in (offsets or {}).items():
        if layer in measured:
            measured[layer] = offset.apply(*measured[layer], layer.eps)
    return measured


def _pool_processes(moments: dict[_BatchNorm, _Moments], pool: Pool) -> dict[_BatchNorm, _Moments]:
    """Merge in rank order on the CPU, so that every process computes the same bits."""
    gathered = pool(torch.cat([mine.packed(layer.num_features) for layer, mine in moments.items()]))
    merged = {layer: _Moments() for layer in moments}
    for values in gathered.cpu():
        parts = values.split([1 + 2 * layer.num_features for layer in moments])
        for total, part in zip(merged.values(), parts, strict=True):
            total.merge(_Moments.unpacked(part))
    return merged


def _observe(
    name: str,
    moments: _Moments,
    offset: Offset | None,
    layer: _BatchNorm,
    inputs: tuple[torch.Tensor],
) -> None:
    """Add a batch's moments before its layer, which then normalises the batch by its own."""
    x = inputs[0]
    count = x.numel() // x.shape[1]
    if count < 2:
        raise InputError(
            f"BatchNorm statistics: {name} sees one value a channel in a batch of {len(x)}; give "
            "more images a batch"
        )
    mean, variance = _batch_moments(layer, x)
    moments.add(count, mean, variance)
    if offset is not None:
        mean, variance = offset.apply(mean, variance, layer.eps)
    _set({layer: (mean, variance)})


def _batch_moments(layer: _BatchNorm, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and biased variance of a batch by channel, in single precision."""
    count = x.numel() // x.shape[1]
    mean, variance = torch.zeros_like(layer.running_mean), torch.ones_like(layer.running_var)
    # several times as fast as torch.var_mean
    functional.batch_norm(x, mean, variance, training=True, momentum=1.0)
    variance *= (count - 1) / count
    return mean, variance


def _compare(name: str, sums: list, controls: int, layer: _BatchNorm, x: torch.Tensor) -> None:
    """Add the shift and the logarithm of the ratio of a batch, then standardise as in training."""
    parts = x[:controls], x[controls:]
    if min(part.numel() // part.shape[1] for part in parts) < 2:
        sizes = f"{controls} controls or {len(parts[1])} training images"
        raise InputError(f"BatchNorm statistics: {name} sees one value a channel of {sizes}")
    (mean, variance), (trained, spread) = (_batch_moments(layer, part) for part in parts)
    widened = variance.double() + layer.eps
    sums[0] += (trained - mean).double() / widened.sqrt()
    sums[1] += ((spread.double() + layer.eps) / widened).log()
    sums[2] += 1
    _set({layer: (trained, spread)})


def measure_offsets(
    model: nn.Module,
    batches: Iterable[tuple[int, tuple[torch.Tensor, ...]]],
    forward: Callable | None = None,
) -> Offsets:
    """Measure how statistics of training images differ from those of their unit's controls.

    Each batch is of one unit. Its layers standardise by the training images, as training did; what
    the same layers see of the controls beside them is compared. Shifts and logarithms of ratios are
    averaged over the batches. The model comes back bit for bit.

    Args:
        batches: (number of controls, positional arguments of `forward`): the controls first, then
            images of the unit that trained.

    Raises:
        InputError: no batch, or a part in which a layer sees one value a channel.
    """
    run = model if forward is None else forward
    layers = {module: name for name, module in model.named_modules() if _tracks(module)}
    sums, controls = {layer: [0.0, 0.0, 0] for layer in layers}, 0

    def compare(name: str, layer: _BatchNorm, inputs: tuple[torch.Tensor]) -> None:
        _compare(name, sums[layer], controls, layer, inputs[0])

    with _restored(model), torch.no_grad():
        model.eval()
        hooks = [
            layer.register_forward_pre_hook(partial(compare, name))
            for layer, name in layers.items()
        ]
        try:
            for controls, batch in batches:  # noqa: B007 (`compare` reads it)
                run(*batch)
        finally:
            for hook in hooks:
                hook.remove()
    if layers and not any(number for _, _, number in sums.values()):
        raise InputError("BatchNorm statistics: there is not one unit to compare with controls")
    return {
        layer: Offset(shift / number, (logs / number).exp())
        for layer, (shift, logs, number) in sums.items()
        if number
    }


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
