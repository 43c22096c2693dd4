"""Build the optimiser, learning-rate schedule and mixed precision of a stage.

N processes that take one batch each make the step that one process makes of N accumulated
batches: the mean of the batches' gradients, each batch standardised by itself.
"""

import contextlib
import logging
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from cellsignal.config.stage import Optimizer, Stage
from cellsignal.models.heads import Outputs
from cellsignal.training.losses import Loss
from cellsignal.training.ranks import Ranks

log = logging.getLogger(__name__)
# as torch's OneCycleLR: peak / 25 at the start, the 10,000th of that at the end
ONECYCLE_START, ONECYCLE_END = 25, 1e4
ONECYCLE_RISE = 0.2  # share of the steps, where a config names no warm-up


def compute_dtype(amp: Literal["auto", "off", "bf16", "fp16"], device: torch.device) -> torch.dtype:
    """Return float32, bfloat16 or float16.

    "auto" is bfloat16 where the hardware has it, else float16 on a GPU and float32 on a CPU.
    Emulated bfloat16 is slow: ten times on CPUs without AVX-512, slower than float32 on GPUs
    before Ampere (T4, P100, V100).
    """
    if amp != "auto":
        return {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32


def autocast(amp: str, device: torch.device) -> torch.autocast:
    """Return the mixed-precision context of `compute_dtype`; it changes nothing for float32."""
    dtype = compute_dtype(amp, device)
    mixed = dtype != torch.float32
    return torch.autocast(device.type, dtype if mixed else torch.bfloat16, enabled=mixed)


def _cpu_has_bfloat16() -> bool:
    # torch's own check, which has no public name
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and supported())


def build_optimizer(
    modules: nn.Module | Sequence[nn.Module],
    config: Optimizer,
    fused: bool = True,
    leave_out: Collection[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """Build AdamW, Adam or SGD; norms and biases have no weight decay unless `decay_all`.

    Args:
        modules: what is trained: the network, and losses that learn something of their own.
        fused: use torch's fused step; the same but for rounding.
        leave_out: parameters that another optimiser trains.
    """
    modules = [modules] if isinstance(modules, nn.Module) else modules
    left_out = {id(parameter) for parameter in leave_out}
    parameters = [p for module in modules for p in module.parameters()]
    parameters = [p for p in parameters if p.requires_grad and id(p) not in left_out]
    decayed = [p for p in parameters if p.ndim > 1 or config.decay_all]
    others = [p for p in parameters if p.ndim <= 1 and not config.decay_all]
    decays = ((decayed, config.weight_decay), (others, 0.0))
    groups = [{"params": group, "weight_decay": decay} for group, decay in decays if group]
    if config.name in ("sgd", "nesterov"):
        nesterov = config.name == "nesterov"
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=fused
        )
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, fused=fused)


class WithLoss(nn.Module):
    """The network and its loss as one module, since both may learn."""

    def __init__(
        self, model: nn.Module, loss: nn.Module, compile_mode: str = "off", uses_logits: bool = True
    ):
        super().__init__()
        self.model, self.loss, self.uses_logits = model, loss, uses_logits
        self.run = model.outputs
        if compile_mode != "off":
            self.run = torch.compile(model.outputs, mode=compile_mode)

    def forward(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        labels: torch.Tensor | None,
        *others: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss and the logits of one batch."""
        outputs: Outputs = self.run(images, *others)
        loss = self.loss(outputs, targets, labels)
        # DistributedDataParallel takes for used what an output hangs on: logits that no loss looks
        # at must not hold the graph of the heads
        return loss, outputs.logits if self.uses_logits else outputs.logits.detach()


class Stepper:
    """Makes optimiser steps of losses; holds optimisers and gradient scaler.

    Attributes:
        optimizer: of the network and of what the losses learn; the schedule drives it.
        loss_optimizer: of the losses' groups of their own (`Loss.parameter_groups`), or None.
        forward: the network with its loss; its gradients are averaged over the processes.
        dtype: what the network computes in.
    """

    def __init__(self, model: nn.Module, loss: Loss, stage: Stage, ranks: Ranks):
        self.model, self.loss, self.stage, self.ranks = model, loss, stage, ranks
        # a stage without labels leaves the heads out
        uses_logits = stage.self_supervised is None
        left_out = not uses_logits or loss.leaves_parameters_out
        together = WithLoss(model, loss, stage.compile, uses_logits)
        self.forward = ranks.wrap(together, unused=left_out)
        groups = loss.parameter_groups()
        self.loss_optimizer = torch.optim.SGD(groups) if groups else None
        self.loss_parameters = [parameter for group in groups for parameter in group["params"]]
        modules = [model, loss]
        self.optimizer = build_optimizer(modules, stage.optimizer, leave_out=self.loss_parameters)
        self.dtype = compute_dtype(stage.amp, ranks.device)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.dtype == torch.float16)
        self.running = [buffer for buffer in model.buffers() if buffer.is_floating_point()]

    def autocast(self) -> torch.autocast:
        return autocast(self.stage.amp, self.ranks.device)

    def exchange_gradients(self, ends_update: bool) -> contextlib.AbstractContextManager:
        """Return the context of a batch: only a step's last one exchanges gradients."""
        if ends_update or self.ranks.world == 1:
            return contextlib.nullcontext()
        return self.forward.no_sync()

    def backward(self, loss: torch.Tensor) -> None:
        self.scaler.scale(loss).backward()

    def update(self) -> None:
        """Make the step, and set running BatchNorm statistics to the processes' mean."""
        if self.stage.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            groups = self.optimizer.param_groups
            parameters = [parameter for group in groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.stage.clip_norm)
        self.scaler.step(self.optimizer)
        # none where all batches were mixed
        if any(parameter.grad is not None for parameter in self.loss_parameters):
            self.scaler.step(self.loss_optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.loss_optimizer is not None:
            self.loss_optimizer.zero_grad(set_to_none=True)
        if self.ranks.world > 1 and self.running:
            _average(self.running, self.ranks)

    def state_dict(self) -> dict[str, Any]:
        losses = self.loss_optimizer
        return {
            "optimizer": self.optimizer.state_dict(),
            # its name in older checkpoints
            "center_optimizer": None if losses is None else losses.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """Load the state of `state_dict`, read from the checkpoint at `path`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.loss_optimizer is not None:
            self.loss_optimizer.load_state_dict(state["center_optimizer"])
        if bool(state["scaler"]) == self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        else:
            log.warning(
                "%s: was saved by a device that computes in another number format than %s; goes on "
                "in this one",
                path,
                self.dtype,
            )


@torch.no_grad()
def _average(tensors: Sequence[torch.Tensor], ranks: Ranks) -> None:
    """Set each tensor to its mean over the processes, in one exchange."""
    flat = torch.cat([tensor.reshape(-1).double() for tensor in tensors])
    ranks.add_up(flat)
    means = (flat / ranks.world).split([tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean.view_as(tensor))


class LearningRate:
    """Drives an optimiser's learning rate, after every update and every epoch.

    Args:
        optimizer: its `lr` is the peak.
        steps_per_epoch: updates of an epoch of the stage.
        higher_is_better: direction of the figure given to `epoch_end` (for plateau).
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        stage: Stage,
        steps_per_epoch: int,
        higher_is_better: bool,
    ):
        self.schedule, self.epochs, self.steps_per_epoch = (
            stage.schedule,
            stage.epochs,
            steps_per_epoch,
        )
        self.total = self.epochs * steps_per_epoch
        self.sign = 1.0 if higher_is_better else -1.0
        self.plateau = {"best": -math.inf, "bad": 0, "scale": 1.0}
        self.optimizer = optimizer
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.step(0)

    def step(self, position: float) -> None:
        """Set the rate of the update that comes `position` steps after the stage's begin.

        It is a fraction where an epoch has more batches than planned.
        """
        self.position = min(position, self.total)
        self._set_rates()

    def epoch_end(self, figure: float) -> None:
        """Scale a plateau's rate down after more than `patience` epochs without a better figure.

        As torch's ReduceLROnPlateau with threshold 0. Other schedules do not change.
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

    def _set_rates(self) -> None:
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            if self.schedule.name == "onecycle":
                group["lr"] = self._onecycle(peak, self.position)
            else:
                group["lr"] = peak * self._factor(self.position)

    def _factor(self, step: float) -> float:
        """Return the multiple of the peak at a 0-based step, for all schedules but onecycle."""
        warmup = self.schedule.warmup_epochs * self.steps_per_epoch
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.schedule.name == "cosine":
            end = (self.schedule.over_epochs or self.epochs) * self.steps_per_epoch
            length = max(1.0, (end - warmup) / self.schedule.cycles)
            done = (step - warmup) / length
            share = done % 1 if step < end else min(1.0, done)
            low = self.schedule.min_lr_ratio
            return low + (1 - low) * (1 + math.cos(math.pi * share)) / 2
        if self.schedule.name == "exponential":
            return self.schedule.factor ** (step // self.steps_per_epoch)
        return self.plateau["scale"]

    def _onecycle(self, peak: float, step: float) -> float:
        """Return the rate of torch's OneCycleLR of one step more than the stage has."""
        # the peak comes after the first step
        share = self.schedule.warmup_epochs / self.epochs or ONECYCLE_RISE
        rise = max(share, 2 / (self.total + 1))
        top = rise * (self.total + 1) - 1
        start = peak / ONECYCLE_START
        if step <= top:
            return _follow_cosine(start, peak, step / top)
        return _follow_cosine(peak, start / ONECYCLE_END, (step - top) / (self.total - top))

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "plateau": dict(self.plateau)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.plateau.update(state["plateau"])
        # older checkpoints hold torch's own scheduler
        self.position = state["position"] if "position" in state else state["torch"]["last_epoch"]


def _follow_cosine(start: float, end: float, share: float) -> float:
    """Go from `start` (share 0) to `end` (share 1) along half a cosine."""
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
