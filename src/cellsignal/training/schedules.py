"""The learning rate of a stage as a multiple of the optimiser's own, step by step."""

import math
from typing import Any

from torch.optim import Optimizer

from cellsignal.config.stage import Schedule

# as torch's OneCycleLR: peak / 25 at the start, the 10,000th of that at the end
ONECYCLE_START, ONECYCLE_END = 25, 1e4


class LearningRate:
    """Drives an optimiser's learning rate: `step()` after every optimiser step, `epoch_end(figure)`
    after every epoch.

    Args:
        optimizer: its `lr` is the peak.
        schedule: the config section.
        epochs, steps_per_epoch: the stage's length in optimiser steps.
        higher_is_better: direction of the figure given to `epoch_end` (for plateau).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule,
        epochs: int,
        steps_per_epoch: int,
        higher_is_better: bool,
    ):
        self.schedule, self.epochs, self.steps_per_epoch = schedule, epochs, steps_per_epoch
        self.total = epochs * steps_per_epoch
        self.sign = 1.0 if higher_is_better else -1.0
        self.plateau = {"best": -math.inf, "bad": 0, "scale": 1.0}
        self.optimizer = optimizer
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.step(0)

    def rate(self, peak: float, step: float) -> float:
        """Compute the learning rate at optimiser step `step` (0-based)."""
        return (
            self._onecycle(peak, step)
            if self.schedule.name == "onecycle"
            else peak * self.factor(step)
        )

    def factor(self, step: float) -> float:
        """Compute the multiple of the peak at optimiser step `step` (0-based), all schedules but
        onecycle.
        """
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

    def _onecycle(self, peak: float, step: float) -> float:
        """Go up to the peak and down to the end, each along half a cosine, as torch's OneCycleLR of
        one step more.
        """
        # the peak comes after the first step
        rise = max(self.schedule.pct_start, 2 / (self.total + 1))
        top = rise * (self.total + 1) - 1
        start = peak / ONECYCLE_START
        if step <= top:
            return _follow_cosine(start, peak, step / top)
        return _follow_cosine(peak, start / ONECYCLE_END, (step - top) / (self.total - top))

    def step(self, position: float) -> None:
        """Set the rate of the update that comes `position` steps after the stage's begin; a
        fraction where an epoch has more batches than planned.
        """
        self.position = min(position, self.total)
        self._set_rates()

    def _set_rates(self) -> None:
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = self.rate(peak, self.position)

    def epoch_end(self, figure: float) -> None:
        """Plateau: scale down after more than `patience` epochs without a better figure (as torch's
        ReduceLROnPlateau, threshold 0).
        """
        if self.schedule.name != "plateau":
            return
        if self.sign * figure > self.plateau["best"]:
            self.plateau.update(best=self.sign * figure, bad=0)
            return
        self.plateau["bad"] += 1
        if self.plateau["bad"] > self.schedule.patience:
            self.plateau.update(bad=0, scale=self.plateau["scale"] * self.schedule.factor)
            self._set_rates()

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "plateau": dict(self.plateau)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.plateau.update(state["plateau"])
        # of older checkpoints
        self.position = state["position"] if "position" in state else state["torch"]["last_epoch"]


def _follow_cosine(start: float, end: float, share: float) -> float:
    """Go from `start` (share 0) to `end` (share 1) along half a cosine."""
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
