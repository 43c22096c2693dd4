"""What a job's validation says: a loss by sample, the competition's score by target and, where the
stage asks for it, how well embeddings find their class.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import log_expit, log_softmax
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.common.ties import expected_average_precision
from cellsignal.competitions.samples import label_matrix
from cellsignal.evaluation.reid import cosine_distances
from cellsignal.metrics.average_precision import macro_average_precision
from cellsignal.training.inference import (
    Pixels,
    Reading,
    logits_and_embeddings,
    plan_reading,
    predict_with,
)
from cellsignal.training.job import Job
from cellsignal.training.ranks import Ranks

log = logging.getLogger(__name__)
PER_CLASS = 4  # training samples of a class in the gallery, at most
_AT_ONCE = 1 << 24  # distances in memory at a time


@dataclass(frozen=True)
class Gallery:
    """What validation targets are sought in: the validation samples, and a few training samples of
    each class.

    Attributes:
        positions: (G,) in `job.store.samples`: the n validation samples, then the others, which are
        found but not asked. asked: n. target, label, group: (G,) int codes; equal where the
        samples' are. `group` is of what a fold does not split. compound: the same, -1 where none is
        known or it is the class itself.
    """

    positions: np.ndarray
    asked: int
    target: np.ndarray
    label: np.ndarray
    group: np.ndarray
    compound: np.ndarray

    def lists(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each validation target, sorted by its id: (m,) places in the gallery that it ranks,
        and (m,) bool, those of its class.

        Samples of its own fold group and of its own compound are left out.
        """
        for target in np.unique(self.target[: self.asked]):
            own = np.flatnonzero(self.target[: self.asked] == target)
            out = (self.target == target) | np.isin(self.group, self.group[own])
            out |= (self.compound >= 0) & np.isin(self.compound, self.compound[own])
            ranked = np.flatnonzero(~out)
            yield ranked, self.label[ranked] == self.label[own[0]]


class Validation:
    """The validation of a job, and which of its figures the stage follows.

    Images are read when first needed, and kept where `data.cache_gib` allows.

    Raises:
        InputError: the stage follows retrieval, and no validation target has a match to find.
    """

    def __init__(self, job: Job, pixels: Pixels, ranks: Ranks):
        self.job, self.pixels, self.ranks = job, pixels, ranks
        self.gallery = draw_gallery(job)
        self.positions = job.scored if self.gallery is None else self.gallery.positions
        if self.gallery is not None:
            has_match = [match.any() for _, match in self.gallery.lists()]
            log.info(
                "%s: retrieval of %d of %d validation targets among %d samples",
                job.title,
                sum(has_match),
                len(has_match),
                len(self.positions),
            )
        self.score = f"valid_{job.score_name}"
        self.reading: Reading | None = None

    @property
    def images(self) -> int:
        """How many images the validation predicts."""
        return len(self.positions)

    @property
    def columns(self) -> tuple[str, ...]:
        """The figures' names in a row of the log."""
        columns = ("valid_loss", self.score)
        return columns if self.gallery is None else (*columns, "valid_retrieval")

    @property
    def monitored(self) -> str:
        """The column that schedule, early stopping and `best.pt` follow.

        It is the training loss where nothing is validated.
        """
        if len(self.job.scored) == 0:
            return "train_loss"
        columns = {"loss": "valid_loss", "retrieval": "valid_retrieval"}
        return columns.get(self.job.stage.monitor, self.score)

    @property
    def higher_is_better(self) -> bool:
        return not self.monitored.endswith("loss")

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Return the figures by column; the same in every process.

        Raises:
            InputError: embeddings that are not finite; see `loss_and_score`.
        """
        job, gallery = self.job, self.gallery
        samples = job.store.samples.iloc[job.scored]
        if self.reading is None:
            self.reading = plan_reading(job, self.pixels, self.positions, self.ranks)
        if gallery is None:
            logits = predict_with(job, model, self.reading, ranks=self.ranks)["identity"]
            figures = loss_and_score(job, logits, samples)
        else:
            logits, embeddings = logits_and_embeddings(job, model, self.reading, self.ranks)
            if not np.isfinite(embeddings).all():
                raise InputError(
                    f"{job.title}: validation embeddings are not finite; lower the learning rate"
                )
            figures = loss_and_score(job, logits[: gallery.asked], samples)
            figures = (*figures, retrieval(gallery, embeddings))
        return dict(zip(self.columns, figures, strict=True))


def loss_and_score(job: Job, logits: np.ndarray, samples: pd.DataFrame) -> tuple[float, float]:
    """Cross-entropy by sample, and accuracy by target (of its samples' summed log-probabilities);
    for multi-label competitions binary cross-entropy, and macro average precision of the targets'
    mean logits.

    Args:
        logits: (n, job.outputs) of the n rows of `samples`.

    Raises:
        InputError: no class of a multi-label competition has both a positive and a negative among
        the samples.
    """
    target_id = samples.target_id.to_numpy().astype(str)
    if job.competition.multilabel:
        truth = label_matrix(samples, job.outputs).astype(float)
        loss = -(truth * log_expit(logits) + (1 - truth) * log_expit(-logits)).mean()
        targets, merged, first = by_target(logits, target_id)
        mean = merged / np.bincount(np.searchsorted(targets, target_id))[:, None]
        return float(loss), macro_average_precision(truth[first], mean)
    scores = log_softmax(logits[:, : len(job.classes)], axis=1)
    labels = samples.label.to_numpy(dtype=np.int64, na_value=-1)
    _, merged, first = by_target(scores, target_id)
    return float(-scores[np.arange(len(labels)), labels].mean()), float(
        (merged.argmax(1) == labels[first]).mean()
    )


def draw_gallery(job: Job) -> Gallery | None:
    """The validation samples and up to `PER_CLASS` training treatments of each class, drawn at
    random by the job's seed. Test samples are none of them.

    None where the stage does not follow retrieval, or validates nothing. Where each class is of one
    compound alone, as in RxRx1, the compound is the question: then only the fold group is left out
    of a target's list.

    Raises:
        InputError: no validation target has a sample of its class in its list; the stage is named.
    """
    if job.stage.monitor != "retrieval" or len(job.scored) == 0:
        return None
    samples = job.store.samples
    trained = job.train[(samples.role.iloc[job.train] == "treatment").to_numpy()]
    order = np.random.default_rng(job.seed).permutation(trained)
    drawn = order[samples.iloc[order].groupby("label").cumcount().to_numpy() < PER_CLASS]
    known = samples.iloc[np.concatenate([job.scored, trained])]
    several = bool((known.groupby("label")["compound"].nunique() > 1).any())
    positions = np.concatenate([job.scored, np.sort(drawn)])
    inside = samples.iloc[positions]
    target, label, group, compound = (
        pd.factorize(inside[name], sort=True)[0]
        for name in ("target_id", "label", job.folds.group, "compound")
    )
    gallery = Gallery(
        positions,
        len(job.scored),
        target,
        label,
        group,
        compound if several else np.full(len(positions), -1),
    )
    if not any(match.any() for _, match in gallery.lists()):
        other = (
            f"{job.folds.group} and compound"
            if several and job.folds.group != "compound"
            else job.folds.group
        )
        raise InputError(
            f"stages.{job.stage.name}.monitor: retrieval: no validation target of {job.title} has "
            f"a sample of its class of another {other}"
        )
    return gallery


def retrieval(gallery: Gallery, embeddings: np.ndarray) -> float:
    """Mean average precision of ranking the gallery for each validation target by the cosine
    distance to the mean of its samples' embeddings.

    Targets without a match are skipped. Equal distances count as a random order
    (`cellsignal.common.ties`).

    Args:
        embeddings: (G, D), finite.
    """
    _, asked, _ = by_target(embeddings[: gallery.asked], gallery.target[: gallery.asked])

    size, lists, precisions = max(1, _AT_ONCE // len(embeddings)), gallery.lists(), []
    for start in range(0, len(asked), size):
        for distance in cosine_distances(asked[start : start + size], embeddings):
            places, match = next(lists)
            precisions.append(expected_average_precision(distance[places], match))
    return float(np.nanmean(precisions))


def by_target(
    scores: np.ndarray, target_id: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum the scores (n, K) of samples over the samples of a target.

    Returns:
        The T target ids, sorted; (T, K) sums; (T,) the first sample of each.
    """
    targets, first, inverse = np.unique(target_id, return_index=True, return_inverse=True)
    merged = np.zeros((len(targets), scores.shape[1]))
    np.add.at(merged, inverse, scores)
    return targets, merged, first
