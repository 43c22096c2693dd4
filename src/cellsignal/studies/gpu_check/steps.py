"""A small network, its training step and a batch that it can learn, as the trainer makes them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from cellsignal.config.schema import Model
from cellsignal.config.stage import Stage
from cellsignal.models.backbones import build_model
from cellsignal.models.cost import checkpoint_activations
from cellsignal.studies.gpu_check.room import Room
from cellsignal.training.optim import Stepper
from cellsignal.training.ranks import Ranks
from cellsignal.training.stage_loss import StageLoss

CLASSES = 8
CHANNELS = 6


@dataclass(frozen=True)
class Batch:
    """Images (B, C, size, size) in channels_last and their one-hot targets, on the device."""

    images: torch.Tensor
    targets: torch.Tensor
    labels: torch.Tensor


def learnable_batch(room: Room, images: int, size: int) -> Batch:
    """Return noise with a class's own brightness in each channel."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % CLASSES
    level = torch.randn(CLASSES, CHANNELS, generator=generator)[labels]
    noise = torch.randn(images, CHANNELS, size, size, generator=generator)
    x = (noise + level[:, :, None, None]).to(room.device, memory_format=torch.channels_last)
    labels = labels.to(room.device)
    return Batch(x, functional.one_hot(labels, CLASSES).float(), labels)


def build_stepper(
    room: Room,
    size: int,
    *,
    backbone: str = "resnet10t",
    channels_last: bool = True,
    checkpointed: bool = False,
    **stage: Any,
) -> Stepper:
    """Return the stepper of a network of fixed initial weights; `stage` are keys of a stage."""
    torch.manual_seed(0)
    config = Stage(name="check", epochs=1, batch_size=16, **stage)
    model = build_model(Model(backbone=backbone), CHANNELS, CLASSES, size, initial_weights=False)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(room.device, memory_format=layout).train()
    if checkpointed:
        checkpoint_activations(model, (learnable_batch(room, 2, size).images,))
    loss = StageLoss(config, None, CLASSES, model.width).to(room.device)
    return Stepper(model, loss, config, Ranks(0, 1, room.device))


def train_steps(stepper: Stepper, batch: Batch, steps: int) -> list[float]:
    """Train on one batch; return the losses."""
    losses = []
    for _ in range(steps):
        losses.append(backward(stepper, batch).detach().clone())
        stepper.update()
    return [float(loss) for loss in losses]


def backward(stepper: Stepper, batch: Batch) -> torch.Tensor:
    """Compute the gradients of one batch; return its loss."""
    with stepper.autocast():
        loss, _ = stepper.forward(batch.images, batch.targets, batch.labels)
    stepper.backward(loss)
    return loss


def gradients(stepper: Stepper) -> torch.Tensor:
    """Return all gradients of the network, end to end, in double precision on the CPU."""
    parts = [p.grad.detach().double().cpu().flatten() for p in stepper.model.parameters()]
    return torch.cat(parts)


def weights(stepper: Stepper) -> torch.Tensor:
    """Return all weights of the network, end to end, in double precision on the CPU."""
    parts = [p.detach().double().cpu().flatten() for p in stepper.model.parameters()]
    return torch.cat(parts)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return |a - b| / |b|, of Euclidean norms."""
    return float((a - b).norm() / b.norm())


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 as such, without TF32, with the same kernels each time."""
    cudnn = torch.backends.cudnn
    names = ("allow_tf32", "deterministic", "benchmark")
    before = {name: getattr(cudnn, name) for name in names}
    try:
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = False, True, False
        yield
    finally:
        for name, value in before.items():
            setattr(cudnn, name, value)
