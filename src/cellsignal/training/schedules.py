"""The learning rate of a stage as a multiple of the optimiser's own, step by step."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from cellsignal.config.stage import Schedule


class LearningRate:
    """Drives an optimiser's learning rate: `step()` after every optimiser step, `epoch_end(figure)` after every epoch.

    Args:
        optimizer: its `lr` is the peak.
        schedule: the config section.
        epochs, steps_per_epoch: the stage's length in optimiser steps.
        higher_is_better: direction of the figure given to `epoch_end` (for plateau).
    """

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule, epochs: int, steps_per_epoch: int, higher_is_better: bool
    ):
        self.schedule, self.epochs, self.steps_per_epoch = schedule, epochs, steps_per_epoch
        self.total = epochs * steps_per_epoch
        self.sign = 1.0 if higher_is_better else -1.0
        self.plateau = {"best": -math.inf, "bad": 0, "scale": 1.0}
        if schedule.name == "onecycle":
            peak = [group["lr"] for group in optimizer.param_groups]
            rise = max(schedule.pct_start, 2 / (self.total + 1))  # torch divides by the rise less one step
            self.torch = OneCycleLR(
                optimizer, peak, total_steps=self.total + 1, pct_start=rise, cycle_momentum=False
            )
        else:
            self.torch = LambdaLR(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """The multiple at optimiser step `step` (0-based), all schedules but onecycle."""
        warmup = self.schedule.warmup_epochs * self.steps_per_epoch
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.schedule.name == "cosine":
            end = (self.schedule.over_epochs or self.epochs) * self.steps_per_epoch
            share = min(1.0, (step - warmup) / max(1.0, end - warmup))
            low = self.schedule.min_lr_ratio
            return low + (1 - low) * (1 + math.cos(math.pi * share)) / 2
        if self.schedule.name == "exponential":
            return self.schedule.gamma ** (step // self.steps_per_epoch)
        return self.plateau["scale"]

    def step(self, position: float) -> None:
        """Set the rate of the update that comes `position` steps after the stage's begin; a fraction where an epoch has more batches than planned."""
        self.torch.last_epoch = min(position, self.total) - 1
        self.torch.step()

    def epoch_end(self, figure: float) -> None:
        """Plateau: scale down after more than `patience` epochs without a better figure (as torch's ReduceLROnPlateau, threshold 0)."""
        if self.schedule.name != "plateau":
            return
        if self.sign * figure > self.plateau["best"]:
            self.plateau.update(best=self.sign * figure, bad=0)
            return
        self.plateau["bad"] += 1
        if self.plateau["bad"] > self.schedule.patience:
            self.plateau.update(bad=0, scale=self.plateau["scale"] * self.schedule.factor)
            for group, lr in zip(self.torch.optimizer.param_groups, self.torch.base_lrs, strict=True):
                group["lr"] = lr * self.factor(self.torch.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        return {
            "torch": {k: v for k, v in self.torch.state_dict().items() if k not in ("lr_lambdas", "_anneal_func_type")},
            "plateau": dict(self.plateau),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.plateau.update(state["plateau"])
        vars(self.torch).update(state["torch"])
