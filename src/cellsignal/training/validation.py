"""The validation of a job: a loss by sample, the competition's score by target, retrieval."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.common.ties import expected_average_precision
from cellsignal.competitions.targets import sum_by_target
from cellsignal.evaluation.reid import cosine_distances
from cellsignal.training.control_offsets import Comparison, plan_offsets, unit_offsets
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


class Validation:
    """Computes the validation metrics of a job, and names the monitored one.

    Images are read when first needed, and kept where `data.cache_gib` allows.

    Attributes:
        columns: the figures' names in a row of the log.

    Raises:
        InputError: the stage follows retrieval, and no validation target has a match to find.
    """

    def __init__(self, job: Job, pixels: Pixels, ranks: Ranks):
        self.job, self.pixels, self.ranks = job, pixels, ranks
        self.score = f"valid_{job.competition.task.monitored}"
        self.columns: tuple[str, ...] = ("valid_loss", self.score)
        self.positions = job.scored
        self.gallery = draw_gallery(job)
        self.reading: Reading | None = None
        self.comparison: Comparison | None = None
        if self.gallery is None:
            return
        self.columns += ("valid_retrieval",)
        self.positions = self.gallery.positions
        has_match = [match.any() for _, match in self.gallery.lists()]
        log.info(
            "%s: retrieval of %d of %d validation targets among %d samples",
            job.title,
            sum(has_match),
            len(has_match),
            len(self.positions),
        )

    @property
    def images(self) -> int:
        """How many images the validation predicts."""
        return len(self.positions)

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
            InputError: embeddings that are not finite, or labels that cannot be scored.
        """
        job, gallery = self.job, self.gallery
        if self.reading is None:
            self.reading = plan_reading(job, self.pixels, self.positions, self.ranks)
            self.comparison = plan_offsets(job, self.pixels)
        more = {"offsets": unit_offsets(job, model, self.comparison), "ranks": self.ranks}
        if gallery is None:
            logits = predict_with(job, model, self.reading, **more)["identity"]
        else:
            logits, embeddings = logits_and_embeddings(job, model, self.reading, **more)
            logits = logits[: gallery.queries]
            if not np.isfinite(embeddings).all():
                raise InputError(
                    f"{job.title}: validation embeddings are not finite; lower the learning rate"
                )
        samples = job.store.samples.iloc[job.scored]
        figures = job.competition.task.validation_scores(logits, samples, len(job.classes))
        if gallery is not None:
            figures = (*figures, retrieval(gallery, embeddings))
        return dict(zip(self.columns, figures, strict=True))


@dataclass(frozen=True)
class Gallery:
    """Gallery for validation: the targets themselves, and a few training samples per class.

    Attributes:
        positions: (G,) in `job.store.samples`: the validation samples, then the others.
        queries: how many of these are validation samples.
        target, label, group: (G,) int codes; equal where the samples' are. `group` is of what a
            fold does not split.
        compound: the same, -1 where none is known or it is the class itself.
    """

    positions: np.ndarray
    queries: int
    target: np.ndarray
    label: np.ndarray
    group: np.ndarray
    compound: np.ndarray

    def lists(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the list of each validation target, sorted by its id.

        It is (m,) places in the gallery and (m,) bool, those of the target's class. Samples of its
        own fold group and of its own compound are left out.
        """
        query_target = self.target[: self.queries]
        for target in np.unique(query_target):
            rows = np.flatnonzero(query_target == target)
            out = (self.target == target) | np.isin(self.group, self.group[rows])
            out |= (self.compound >= 0) & np.isin(self.compound, self.compound[rows])
            ranked = np.flatnonzero(~out)
            yield ranked, self.label[ranked] == self.label[rows[0]]


def draw_gallery(job: Job) -> Gallery | None:
    """Draw up to `PER_CLASS` training treatments of each class beside the validation samples.

    None where the stage does not follow retrieval, or validates nothing. Where each class is of one
    compound alone, as in RxRx1, the compound is the question: then only the fold group is left out
    of a target's list.

    Raises:
        InputError: no validation target has a sample of its class in its list.
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
    columns = ("target_id", "label", job.folds.group, "compound")
    codes = [pd.factorize(samples[name].iloc[positions], sort=True)[0] for name in columns]
    if not several:
        codes[3] = np.full(len(positions), -1)
    gallery = Gallery(positions, len(job.scored), *codes)
    if not any(match.any() for _, match in gallery.lists()):
        other = job.folds.group
        if several and other != "compound":
            other += " and compound"
        raise InputError(
            f"stages.{job.stage.name}.monitor: retrieval: no validation target of {job.title} has "
            f"a sample of its class of another {other}"
        )
    return gallery


def retrieval(gallery: Gallery, embeddings: np.ndarray) -> float:
    """Return the mean average precision of ranking the gallery for each validation target.

    The ranking is by cosine distance to the mean of the target's embeddings. Targets without a
    match are skipped. Equal distances count as a random order (`cellsignal.common.ties`).

    Args:
        embeddings: (G, D), finite.
    """
    n = gallery.queries
    _, queries, _ = sum_by_target(embeddings[:n], gallery.target[:n])
    size, lists, precisions = max(1, _AT_ONCE // len(embeddings)), gallery.lists(), []
    for start in range(0, len(queries), size):
        for distance in cosine_distances(queries[start : start + size], embeddings):
            places, match = next(lists)
            precisions.append(expected_average_precision(distance[places], match))
    return float(np.nanmean(precisions))
