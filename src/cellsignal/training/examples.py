"""The images that train in an epoch, with their labels, in batches."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from cellsignal.common.errors import InputError
from cellsignal.competitions.samples import label_matrix
from cellsignal.data.samplers import EpochBatches, balanced_batches, identity_batches
from cellsignal.training.job import Job, cell_type_vectors, unit_codes
from cellsignal.training.losses import class_weights, positive_weights
from cellsignal.training.ranks import ALONE, Ranks


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
        labels: (n,) int64, the output of each; -1 where it is not known.
        truth: (n, K) of a multi-label competition, whose `labels` are 0 where these are known.
    """

    def __init__(self, job: Job, ranks: Ranks = ALONE):
        stage, samples = job.stage, job.store.samples
        self.job, self.ranks = job, ranks
        self.consistent = stage.mean_teacher is not None and stage.mean_teacher.unlabelled == "test"
        uses_test = self.consistent or stage.pseudo_labels is not None
        self.positions = np.concatenate([job.train, job.test]) if uses_test else job.train
        self.known = np.arange(len(self.positions)) < len(job.train)
        labels = output_codes(job)[self.positions]
        self.truth: np.ndarray | None = None
        if job.multilabel:
            self.truth = label_matrix(samples.iloc[self.positions], job.outputs)
            labels = np.where(np.isnan(self.truth).any(1), -1, 0)
        self.labels = np.where(self.known, labels, -1)
        self.target_id = samples.target_id.to_numpy()[self.positions].astype(str)
        units = unit_codes(samples, stage.batches.unit)
        self.units = None if units is None else units[self.positions]
        vectors = cell_type_vectors(job)
        self.cell_types = None if vectors is None else vectors[self.positions]

    def set_pseudo_labels(self, frame: pd.DataFrame) -> None:
        """Label the test wells that `frame` (target_id, label) names, and no others."""
        label_of = dict(zip(frame.target_id, frame.label, strict=True))
        test = np.flatnonzero(~self.known)
        self.labels[test] = [label_of.get(target, -1) for target in self.target_id[test]]

    def batches(self, epoch: int) -> list[list[tuple[int, int]]]:
        """Return this process's batches of an epoch, of (epoch, index) keys into `positions`.

        Without consistency, images without a label stay out.
        """
        stage, batches = self.job.stage, self.job.stage.batches
        seed, rank, world = self.job.seed, self.ranks.rank, self.ranks.world
        used = np.flatnonzero((self.labels >= 0) | self.consistent)
        labels = self.labels[used]
        if batches.identities is not None:
            order = identity_batches(
                labels, batches.identities, batches.images, seed, epoch, rank, world
            )
        elif batches.balanced:
            order = balanced_batches(self._groups(used), stage.batch_size, seed, epoch, rank, world)
        else:
            order = EpochBatches(
                None if self.units is None else self.units[used],
                labels,
                stage.batch_size,
                seed,
                epoch,
                unique_labels=batches.unique_labels,
                rank=rank,
                world=world,
            )
        return [[(number, int(used[index])) for number, index in batch] for batch in order]

    def weights(self) -> torch.Tensor | None:
        """Compute the loss's class weights from the samples whose labels are known."""
        stage = self.job.stage
        if self.truth is not None:
            truth = self.truth[self.known]
            return positive_weights(truth, stage.class_weights, stage.positive_weight)
        return class_weights(self.labels[self.known], self.job.outputs, stage.class_weights)

    def controls(self) -> list[int]:
        """Return the classes of the negative controls among the training samples.

        Raises:
            InputError: the stage needs them, and there are none, or nothing else.
        """
        stage, samples = self.job.stage, self.job.store.samples
        negative = (samples.role == "negative_control").to_numpy()[self.positions] & self.known
        classes = np.unique(self.labels[negative]).tolist() if self.truth is None else []
        if stage.drop_predicted_controls is not None and not 0 < len(classes) < self.job.outputs:
            raise InputError(
                f"stages.{stage.name}.drop_predicted_controls: {len(classes)} of the "
                f"{self.job.outputs} classes that train are negative controls"
            )
        return classes

    def _groups(self, used: np.ndarray) -> np.ndarray:
        """Return (n, G) bool, what balanced batches draw equally often: the classes.

        For multi-label tasks "none of them" is one more.
        """
        if self.truth is None:
            return self.labels[used][:, None] == np.arange(self.job.outputs)
        has = self.truth[used] == 1
        return np.column_stack([has, ~has.any(1)])

    def targets(self, index: np.ndarray, device: torch.device) -> Targets:
        """Return the targets of some indices into `positions`, on a device."""
        cell_types = None
        if self.cell_types is not None:
            cell_types = self.cell_types[index].to(device, non_blocking=True)
        if self.truth is not None:
            truth = torch.from_numpy(self.truth[index]).to(device, non_blocking=True)
            return Targets(truth, None, cell_types)
        labels = torch.from_numpy(self.labels[index]).to(device, non_blocking=True)
        return Targets(soft_labels(labels, self.job.outputs), labels, cell_types)


def output_codes(job: Job) -> np.ndarray:
    """Return (N,) int64, the output that stands for each sample of the store; -1 for none."""
    samples = job.store.samples
    if job.stage.target == "compound":
        return pd.Index(job.compounds).get_indexer(samples.compound).astype(np.int64)
    return samples.label.to_numpy(dtype=np.int64, na_value=-1)


def soft_labels(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return (B, K) float32 one-hot of (B,) int64; a row of zeros where the label is -1."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).float()
