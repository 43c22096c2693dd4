"""One optimiser step: the network with its loss, mixed precision, gradients of several small
batches and of several processes as one.

N processes that take one batch each make the step that one process makes of N accumulated batches:
the mean of the batches' gradients, each batch standardised by itself.
"""

import contextlib
from collections.abc import Sequence

import torch
from torch import nn

from cellsignal.config.stage import Stage
from cellsignal.models.heads import Outputs
from cellsignal.training.optimizers import build_optimizer
from cellsignal.training.precision import autocast, compute_dtype
from cellsignal.training.ranks import Ranks
from cellsignal.training.stage_loss import StageLoss


class WithLoss(nn.Module):
    """The network and its loss as one module, since both may learn: (loss, logits) of one batch."""

    def __init__(
        self, model: nn.Module, loss: StageLoss, compile_mode: str = "off", uses_logits: bool = True
    ):
        super().__init__()
        self.model, self.loss, self.uses_logits = model, loss, uses_logits
        self.run = (
            model.outputs
            if compile_mode == "off"
            else torch.compile(model.outputs, mode=compile_mode)
        )

    def forward(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        labels: torch.Tensor | None,
        *others: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        outputs: Outputs = self.run(images, *others)
        # DistributedDataParallel takes for used what an output hangs on: logits that no loss looks
        # at must not hold the graph of the heads
        return self.loss(
            outputs, targets, labels
        ), outputs.logits if self.uses_logits else outputs.logits.detach()


class Stepper:
    """What turns losses into steps; holds optimisers and gradient scaler.

    Attributes:
        optimizer: of the network, which the schedule drives; also of what the losses learn, unless
        it has groups of its own. loss_optimizer: of these groups (`Loss.parameter_groups`), or
        None. forward: the network with its loss, averaged over the
        processes in its gradients. dtype: in what the network computes.
    """

    def __init__(self, model: nn.Module, loss: StageLoss, stage: Stage, ranks: Ranks):
        self.model, self.loss, self.stage, self.ranks = model, loss, stage, ranks
        # a stage without labels leaves the heads out
        uses_logits = stage.self_supervised is None
        left_out = not uses_logits or loss.leaves_parameters_out
        self.forward = ranks.wrap(
            WithLoss(model, loss, stage.compile, uses_logits), unused=left_out
        )
        groups = loss.parameter_groups()
        self.loss_optimizer = torch.optim.SGD(groups) if groups else None
        self.loss_parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = build_optimizer(
            [model, loss], stage.optimizer, leave_out=self.loss_parameters
        )
        self.dtype = compute_dtype(stage.amp, ranks.device)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.dtype == torch.float16)
        self.running = [buffer for buffer in model.buffers() if buffer.is_floating_point()]

    def autocast(self) -> torch.autocast:
        return autocast(self.stage.amp, self.ranks.device)

    def last(self, ends_update: bool) -> contextlib.AbstractContextManager:
        """Around forward and backward of one batch: gradients are exchanged with a step's last one
        alone.
        """
        return (
            contextlib.nullcontext()
            if ends_update or self.ranks.world == 1
            else self.forward.no_sync()
        )

    def backward(self, loss: torch.Tensor) -> None:
        self.scaler.scale(loss).backward()

    def update(self) -> None:
        """Make the step, and the processes' running BatchNorm statistics one: their mean."""
        if self.stage.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = [
                parameter for group in self.optimizer.param_groups for parameter in group["params"]
            ]
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


@torch.no_grad()
def _average(tensors: Sequence[torch.Tensor], ranks: Ranks) -> None:
    """Set each tensor to its mean over the processes, in one exchange."""
    flat = torch.cat([tensor.reshape(-1).double() for tensor in tensors])
    ranks.add_up(flat)
    for tensor, mean in zip(
        tensors, (flat / ranks.world).split([tensor.numel() for tensor in tensors]), strict=True
    ):
        tensor.copy_(mean.view_as(tensor))
