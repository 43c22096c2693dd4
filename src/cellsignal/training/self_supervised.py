"""A stage without labels: two views of each image, and a loss that compares them.

They stand in the trainer's places of `Examples` and `StageLoss`; all else is the trainer's own. The
projection belongs to the loss, so the network that a checkpoint hands on is without it.

SimCLR's loss is written here: pytorch-metric-learning's NTXentLoss, with which the tests compare
it, needs memory of the cube of the batch. VICReg is that library's.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cellsignal.common.errors import InputError
from cellsignal.config.losses import SelfSupervised
from cellsignal.data.samplers import EpochBatches
from cellsignal.models.heads import Outputs
from cellsignal.training.examples import Targets, soft_labels
from cellsignal.training.job import (
    Job,
    cell_type_vectors,
    kept_samples,
    protocol_parts,
    unit_codes,
    without_labels,
)
from cellsignal.training.losses import Loss
from cellsignal.training.ranks import ALONE, Ranks


def images_without_labels(job: Job) -> np.ndarray:
    """Return positions in `job.store.samples` of what a self-supervised stage trains on, ascending.

    No label is looked at, and nothing of the groups that the job's fold holds out is among them.

    Raises:
        InputError: the test split is asked for, and the config's protocol says itself what trains.
    """
    samples, images = job.store.samples, job.stage.self_supervised.images
    chosen = np.zeros(len(samples), bool)
    chosen[job.train] = True
    if images != "labelled":
        if images == "all" and protocol_parts(job.config, job.competition, samples) is not None:
            raise InputError(
                f"stages.{job.stage.name}.self_supervised.images: the protocol "
                f"{job.config.protocol!r} says what trains; write train"
            )
        more = kept_samples(job.config, job.store)
        if images == "train":
            more = more & without_labels(job)
        if job.key != "all":
            more = more & (samples.cell_type == job.key).to_numpy()
        chosen |= more
    chosen &= ~samples[job.folds.group].astype(str).isin(job.held_out).to_numpy()
    assert not chosen[job.valid].any(), "a validation sample is in self-supervised training"
    return np.flatnonzero(chosen)


class TwoViews:
    """The images of a stage without labels, each twice, in the place of `Examples`.

    Index i and index n + i are the same image, and augmented anew each, since every draw is a
    function of (seed, epoch, index).

    Attributes:
        positions: (2n,) places in `job.store.samples`: the n images, and again.
    """

    def __init__(self, job: Job, ranks: Ranks = ALONE):
        images = images_without_labels(job)
        self.job, self.ranks = job, ranks
        self.positions = np.concatenate([images, images])
        units = unit_codes(job.store.samples, job.stage.batches.unit)
        self.units = None if units is None else units[images]
        vectors = cell_type_vectors(job)
        self.cell_types = None if vectors is None else vectors[self.positions]

    def batches(self, epoch: int) -> list[list[tuple[int, int]]]:
        """Return this process's batches of an epoch: b first views, then their second views."""
        images = len(self.positions) // 2
        order = EpochBatches(
            self.units,
            np.full(images, -1),
            self.job.stage.batch_size,
            self.job.seed,
            epoch,
            rank=self.ranks.rank,
            world=self.ranks.world,
        )
        return [batch + [(number, images + index) for number, index in batch] for batch in order]

    def targets(self, index: np.ndarray, device: torch.device) -> Targets:
        """Return targets without any label, on a device."""
        labels = torch.full((len(index),), -1, device=device)
        cell_types = None if self.cell_types is None else self.cell_types[index].to(device)
        return Targets(soft_labels(labels, self.job.outputs), labels, cell_types)


class TwoViewLoss(Loss):
    """Compares the projections of two views of each image; in the place of `StageLoss`.

    Its state is the projection.

    Args:
        width: D, of the network's embedding.
    """

    def __init__(self, config: SelfSupervised, width: int):
        super().__init__()
        self.config = config
        self.projection = projection_head(width, config.projection)
        self.vicreg: nn.Module | None = None
        if config.loss == "vicreg":
            from pytorch_metric_learning.losses import VICRegLoss

            self.vicreg = VICRegLoss()

    def forward(
        self, outputs: Outputs, targets: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the loss of 2b views, the first of each image and then the second, in float32.

        Args:
            outputs: of which the embedding alone counts.
            targets, labels: as of `StageLoss`; not looked at.
        """
        with torch.autocast(outputs.embedding.device.type, enabled=False):
            first, second = self.projection(outputs.embedding.float()).chunk(2)
            if self.vicreg is not None:
                return self.vicreg(first, ref_emb=second)
            return nt_xent(first, second, self.config.temperature)


def projection_head(width: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Build SimCLR's g (arXiv:2002.05709), (B, width) -> (B, widths[-1]).

    FC-BN-ReLU for every width but the last, then FC.
    """
    layers: list[nn.Module] = []
    for inner in widths[:-1]:
        layers += [nn.Linear(width, inner, bias=False), nn.BatchNorm1d(inner), nn.ReLU()]
        width = inner
    return nn.Sequential(*layers, nn.Linear(width, widths[-1]))


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return SimCLR's loss, equation 1 of arXiv:2002.05709.

    For each of the 2n views it is the cross-entropy of picking its partner among the 2n - 1 others,
    by softmax of cosine / temperature; the mean of these.

    Args:
        first, second: (n, D), row i of both of image i.
    """
    z = functional.normalize(torch.cat([first, second]))
    similarity = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    partner = torch.arange(len(z), device=z.device).roll(len(first))
    return functional.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)
