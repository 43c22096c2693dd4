"""The images that train in an epoch, with their labels, in batches."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from cellsignal.common.errors import InputError
from cellsignal.data.samplers import EpochBatches, balanced_batches, identity_batches
from cellsignal.training.job import Job, cell_type_vectors, unit_codes
from cellsignal.training.losses import CROSS_ENTROPIES
from cellsignal.training.ranks import ALONE, Ranks

Batches = list[list[tuple[int, int]]]  # of (epoch, index) keys


class Targets(NamedTuple):
    """What the loss and the network need beside the images of a batch.

    Attributes:
        targets: (B, K) float32; a row of zeros where the label is not known.
        labels: (B,) int64, -1 where it is not known; None where an image may have several.
        cell_types: (B, T), None where the model does not take them.
    """

    targets: torch.Tensor
    labels: torch.Tensor | None
    cell_types: torch.Tensor | None


class Examples:
    """The images of a job's training set, with labels that pseudo-labelling may change.

    Attributes:
        positions: (n,) places in `job.store.samples`: what is labelled, then the test treatments
            where the stage uses them.
        encoded: (n,) int64 outputs, or (n, K) where an image may have several; -1 or NaN where they
            are not known.
    """

    def __init__(self, job: Job, ranks: Ranks = ALONE):
        stage, samples = job.stage, job.store.samples
        self.job, self.ranks = job, ranks
        self.consistent = stage.mean_teacher is not None and stage.mean_teacher.unlabelled == "test"
        uses_test = self.consistent or stage.pseudo_labels is not None
        self.positions = np.concatenate([job.train, job.test]) if uses_test else job.train
        self.known = np.arange(len(self.positions)) < len(job.train)
        self.encoded = job.encode_targets(self.positions)
        self.encoded[~self.known] = -1 if self.encoded.ndim == 1 else np.nan
        self.target_id = samples.target_id.to_numpy()[self.positions].astype(str)
        units = unit_codes(samples, stage.batches.unit)
        self.units = None if units is None else units[self.positions]
        vectors = cell_type_vectors(job)
        self.cell_types = None if vectors is None else vectors[self.positions]

    @property
    def labels(self) -> np.ndarray:
        """Return the label of each image for the batch samplers, (n,) int64; -1 if unknown."""
        return self.job.task.batch_labels(self.encoded)

    def set_pseudo_labels(self, frame: pd.DataFrame) -> None:
        """Label the test wells that `frame` (target_id, label) names, and no others."""
        label_of = dict(zip(frame.target_id, frame.label, strict=True))
        test = np.flatnonzero(~self.known)
        self.encoded[test] = [label_of.get(target, -1) for target in self.target_id[test]]

    def batches(self, epoch: int) -> Batches:
        """Return this process's batches of an epoch; indices are into `positions`.

        Without consistency, images without a label stay out.
        """
        job, stage, batches = self.job, self.job.stage, self.job.stage.batches
        place = (job.seed, epoch, self.ranks.rank, self.ranks.world)
        labels = self.labels
        used = np.flatnonzero((labels >= 0) | self.consistent)
        order: Iterable[list[tuple[int, int]]]
        if batches.images is not None:
            identities = stage.batch_size // batches.images
            order = identity_batches(labels[used], identities, batches.images, *place)
        elif batches.labels == "balanced":
            groups = job.task.balance_groups(self.encoded[used], job.outputs)
            order = balanced_batches(groups, stage.batch_size, *place)
        else:
            units = None if self.units is None else self.units[used]
            seed, epoch, rank, world = place
            order = EpochBatches(
                units,
                labels[used],
                stage.batch_size,
                seed,
                epoch,
                unique_labels=batches.labels == "unique",
                rank=rank,
                world=world,
            )
        return [[(number, int(used[index])) for number, index in batch] for batch in order]

    def weights(self) -> torch.Tensor | None:
        """Compute the loss's class weights from the samples whose labels are known."""
        loss = CROSS_ENTROPIES[self.job.task.loss_family]
        return loss.class_weights(self.encoded[self.known], self.job.outputs, self.job.stage)

    def controls(self) -> list[int]:
        """Return the classes of the negative controls among the training samples.

        Raises:
            InputError: the stage needs them, and there are none, or nothing else.
        """
        stage, samples = self.job.stage, self.job.store.samples
        negative = (samples.role == "negative_control").to_numpy()[self.positions] & self.known
        classes = np.unique(self.labels[negative]).tolist()
        if stage.drop_predicted_controls is not None and not 0 < len(classes) < self.job.outputs:
            raise InputError(
                f"stages.{stage.name}.drop_predicted_controls: {len(classes)} of the "
                f"{self.job.outputs} classes that train are negative controls"
            )
        return classes

    def targets(self, index: np.ndarray, device: torch.device) -> Targets:
        """Return the targets of some indices into `positions`, on a device."""
        cell_types = None
        if self.cell_types is not None:
            cell_types = self.cell_types[index].to(device, non_blocking=True)
        encoded = torch.from_numpy(self.encoded[index]).to(device, non_blocking=True)
        if encoded.ndim == 2:
            return Targets(encoded, None, cell_types)
        return Targets(soft_labels(encoded, self.job.outputs), encoded, cell_types)


def soft_labels(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Encode (B,) int64 labels as (B, K) float32 one-hot; a row of zeros for the label -1."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).float()
