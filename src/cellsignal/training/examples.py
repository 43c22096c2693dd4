"""Which images train in an epoch, with which labels, in which batches: the labelled ones, and test
wells that take part without a known label.
"""

import numpy as np
import pandas as pd
import torch

from cellsignal.common.errors import InputError
from cellsignal.competitions.samples import label_matrix
from cellsignal.data.samplers import EpochBatches, balanced_batches, identity_batches
from cellsignal.training.job import Job, cell_type_vectors, unit_codes
from cellsignal.training.losses import class_weights, positive_weights
from cellsignal.training.ranks import ALONE, Ranks


class Examples:
    """The images of a job's training set, with labels that pseudo-labelling may change between
    epochs.

    Attributes:
        positions: (n,) places in `job.store.samples`: what is labelled, then the test treatments
        where the stage uses them. labels: (n,) int64, which of the job's outputs is true of each;
        -1 where that is not known.
    """

    def __init__(self, job: Job, ranks: Ranks = ALONE):
        stage, samples = job.stage, job.store.samples
        self.job, self.ranks = job, ranks
        self.consistent = stage.mean_teacher is not None and stage.mean_teacher.unlabelled == "test"
        uses_test = self.consistent or stage.pseudo_labels is not None
        self.positions = np.concatenate([job.train, job.test]) if uses_test else job.train
        self.known = np.arange(len(self.positions)) < len(job.train)
        labels = output_codes(job)[self.positions]
        # (n, K) of a multi-label competition, whose `labels` are 0 where these are known
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
        unlabelled = np.flatnonzero(~self.known)
        self.labels[unlabelled] = [
            label_of.get(target, -1) for target in self.target_id[unlabelled]
        ]

    def batches(self, epoch: int) -> list[list[tuple[int, int]]]:
        """This process's batches of an epoch, of (epoch, index) keys into `positions`. Without
        consistency, images without a label stay out.
        """
        stage = self.job.stage
        used = np.flatnonzero((self.labels >= 0) | self.consistent)
        batches, seed, ranks = stage.batches, self.job.seed, self.ranks
        if batches.identities is not None:
            order = identity_batches(
                self.labels[used],
                batches.identities,
                batches.images,
                seed,
                epoch,
                ranks.rank,
                ranks.world,
            )
            return [[(number, int(used[index])) for number, index in batch] for batch in order]
        if batches.balanced:
            order = balanced_batches(
                self._groups(used), stage.batch_size, seed, epoch, ranks.rank, ranks.world
            )
            return [[(number, int(used[index])) for number, index in batch] for batch in order]
        units = None if self.units is None else self.units[used]
        order = EpochBatches(
            units,
            self.labels[used],
            stage.batch_size,
            seed,
            epoch,
            unique_labels=batches.unique_labels,
            rank=ranks.rank,
            world=ranks.world,
        )
        return [[(number, int(used[index])) for number, index in batch] for batch in order]

    def weights(self) -> torch.Tensor | None:
        """What the loss weights the classes by (`class_weights`, `positive_weight`), from the
        samples whose labels are known.
        """
        stage = self.job.stage
        if self.truth is not None:
            return positive_weights(
                self.truth[self.known], stage.class_weights, stage.positive_weight
            )
        return class_weights(self.labels[self.known], self.job.outputs, stage.class_weights)

    def controls(self) -> list[int]:
        """The classes of the negative controls among the training samples.

        Raises:
            InputError: the stage needs them, and there are none, or nothing else.
        """
        stage, samples = self.job.stage, self.job.store.samples
        negative = (samples.role == "negative_control").to_numpy()[self.positions] & self.known
        found = np.unique(self.labels[negative]).tolist() if self.truth is None else []
        if stage.drop_predicted_controls is not None and not 0 < len(found) < self.job.outputs:
            raise InputError(
                f"stages.{stage.name}.drop_predicted_controls: {len(found)} of the "
                f"{self.job.outputs} classes that train are negative controls"
            )
        return found

    def _groups(self, used: np.ndarray) -> np.ndarray:
        """(n, G) bool, what balanced batches draw equally often: the classes; for multi-label tasks
        "none of them" too.
        """
        if self.truth is None:
            return self.labels[used][:, None] == np.arange(self.job.outputs)
        has = self.truth[used] == 1
        return np.column_stack([has, ~has.any(1)])

    def targets(self, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Labels (B,) int64, -1 where there is none, or (B, K) float32 of a multi-label
        competition; and cell types (B, T) where the model takes them.
        """
        labels = torch.from_numpy((self.labels if self.truth is None else self.truth)[index])
        return labels, None if self.cell_types is None else self.cell_types[index]


def output_codes(job: Job) -> np.ndarray:
    """(N,) int64 for all samples of the store: which output stands for each, by label or by
    compound as the stage's target is; -1 for none.
    """
    samples = job.store.samples
    if job.stage.target == "compound":
        return pd.Index(job.compounds).get_indexer(samples.compound).astype(np.int64)
    return samples.label.to_numpy(dtype=np.int64, na_value=-1)


def soft_labels(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """(B,) int64 -> (B, K) float32 one-hot, on the labels' device; a row of zeros where the label
    is -1.
    """
    return (labels[:, None] == torch.arange(classes, device=labels.device)).float()
