"""The averaged model: exponential (EMA) or of the late epochs (SWA). It validates and predicts.

Averaged weights make other activations than any of the weights they average, so BatchNorm
statistics are averaged with them (EMA) or, with `bn_recompute` and always for SWA, computed anew
from training images.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel

from cellsignal.config.losses import MeanTeacher
from cellsignal.config.stage import Stage
from cellsignal.data.views import DIHEDRAL, apply_view
from cellsignal.models.batch_norm import recompute_statistics
from cellsignal.training.ranks import ALONE, Ranks


class Average:
    """The average that a stage configures, if any."""

    def __init__(self, stage: Stage, model: nn.Module):
        self.stage, self.first_epoch = stage, 0
        self.kept: nn.Module | None = None
        if stage.ema is not None:
            from timm.utils import ModelEmaV3

            # averages BatchNorm's buffers too
            self.kept = ModelEmaV3(model, decay=stage.ema, use_warmup=True)
        elif stage.swa is not None:
            self.kept = AveragedModel(model)
            self.first_epoch = min(int(stage.swa * stage.epochs), stage.epochs - 1)

    def after_update(self, model: nn.Module, updates: int) -> None:
        if self.stage.ema is not None:
            self.kept.update(model, step=updates)

    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        """Take the weights at the end of epoch `epoch` (0-based) into SWA's mean."""
        if self.stage.swa is not None and epoch >= self.first_epoch:
            self.kept.update_parameters(model)

    @property
    def module(self) -> nn.Module | None:
        """The averaged model; None without averaging, and before SWA's first epoch has ended."""
        if self.kept is None or (self.stage.swa is not None and self.kept.n_averaged == 0):
            return None
        return self.kept.module

    @property
    def needs_statistics(self) -> bool:
        return self.module is not None and (self.stage.swa is not None or self.stage.bn_recompute)

    def recompute(self, batches: Iterable[tuple[torch.Tensor, ...]], ranks: Ranks = ALONE) -> None:
        """Set BatchNorm statistics to those of the training images of all processes.

        Args:
            batches: positional arguments of the model.
        """
        recompute_statistics(self.module, batches, pool=ranks.stack if ranks.world > 1 else None)

    def disagreement(
        self, logits: torch.Tensor, view: str, images: torch.Tensor, *others: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean squared difference to the averaged model's softmax of another view.

        The teacher standardises by the batch, as the student does, and none of its buffers changes.
        """
        teacher = self.module
        teacher.train()
        with torch.no_grad():
            buffers = {name: buffer.clone() for name, buffer in teacher.named_buffers()}
            turned = apply_view(images, view).contiguous(memory_format=torch.channels_last)
            wanted = functional_call(teacher, buffers, (turned, *others)).float().softmax(1)
        teacher.eval()
        return (logits.float().softmax(1) - wanted).square().sum(1).mean()

    def state_dict(self) -> dict[str, Any] | None:
        return None if self.kept is None else self.kept.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        if self.kept is not None:
            self.kept.load_state_dict(state)


def ramp(config: MeanTeacher, epoch: float) -> float:
    """Return the weight of consistency after `epoch` epochs (a fraction within one).

    It is exp(-5 (1 - t)^2) of the whole, t = epoch / ramp_epochs up to 1.
    """
    if config.ramp_epochs == 0:
        return config.weight
    t = min(1.0, epoch / config.ramp_epochs)
    return config.weight * math.exp(-5 * (1 - t) ** 2)


def random_view(generator: torch.Generator) -> str:
    """Draw one of the eight dihedral views."""
    return DIHEDRAL[int(torch.randint(len(DIHEDRAL), (), generator=generator))]
