"""Losses that ask a network not to tell experiments apart: GroupDRO, DANN and CORAL.

Each is a module called with a batch's `Domains`; what it learns is trained with the network.
"""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional


class Domains(NamedTuple):
    """A batch: (B,) losses, (B, D) embeddings, (B,) experiments, and the share of training done."""

    losses: torch.Tensor
    embedded: torch.Tensor
    domain: torch.Tensor
    progress: float


class NoPenalty(nn.Module):
    """The mean loss alone: empirical risk minimisation."""

    def __init__(self, width: int, domains: int):
        super().__init__()

    def forward(self, batch: Domains) -> torch.Tensor:
        return batch.losses.mean()


class GroupDRO(nn.Module):
    """Weight experiments by how badly they do (Sagawa et al. 2020, arXiv:1911.08731).

    Each experiment's weight grows by exp(step x its mean loss); the weights sum to 1.
    """

    def __init__(self, width: int, domains: int, step: float = 0.01):
        super().__init__()
        self.step = step
        self.register_buffer("weights", torch.full((domains,), 1 / domains))

    def forward(self, batch: Domains) -> torch.Tensor:
        count = torch.bincount(batch.domain, minlength=len(self.weights))
        total = batch.losses.new_zeros(len(self.weights)).index_add(0, batch.domain, batch.losses)
        mean = total / count.clamp(min=1)
        with torch.no_grad():
            self.weights *= torch.exp(self.step * mean)
            self.weights /= self.weights.sum()
        return (self.weights * mean).sum() / self.weights[count > 0].sum()


class _Reverse(torch.autograd.Function):
    """The identity whose gradient is turned round and scaled."""

    @staticmethod
    def forward(context, values: torch.Tensor, scale: float) -> torch.Tensor:
        context.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(context, gradient: torch.Tensor):
        return -context.scale * gradient, None


class DANN(nn.Module):
    """A second head names the experiment, and its reversed gradient reaches the network.

    Source: Ganin et al. 2016, arXiv:1505.07818, with its ramp of the scale from 0 to `weight`.
    """

    def __init__(self, width: int, domains: int, weight: float = 0.3):
        super().__init__()
        self.weight = weight
        self.head = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, domains))

    def forward(self, batch: Domains) -> torch.Tensor:
        scale = self.weight * (2 / (1 + math.exp(-10 * batch.progress)) - 1)
        logits = self.head(_Reverse.apply(batch.embedded, scale))
        return batch.losses.mean() + functional.cross_entropy(logits, batch.domain)


class CORAL(nn.Module):
    """Punish differences of means and covariances between the experiments of a batch.

    Source: Sun & Saenko 2016, arXiv:1607.01719, with the means as in WILDS' form
    (arXiv:2012.07421).
    """

    def __init__(self, width: int, domains: int, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, batch: Domains) -> torch.Tensor:
        parts = [batch.embedded[batch.domain == code] for code in batch.domain.unique()]
        parts = [part for part in parts if len(part) > 1]
        moments = [(part.mean(0), torch.cov(part.T)) for part in parts]
        terms = [
            (moments[a][0] - moments[b][0]).square().mean()
            + (moments[a][1] - moments[b][1]).square().mean()
            for a in range(len(parts))
            for b in range(a)
        ]
        loss = batch.losses.mean()
        return loss + self.weight * torch.stack(terms).mean() if terms else loss


PENALTIES: dict[str, type[nn.Module]] = {
    "none": NoPenalty,
    "group_dro": GroupDRO,
    "dann": DANN,
    "coral": CORAL,
}
