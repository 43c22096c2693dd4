"""Average the weights of several trainings into one network, chosen and checked on validation.

Source: Wortsman et al., Model soups, ICML 2022, arXiv:2203.05482. The uniform soup is the mean of
all members; the greedy one begins with the best member and takes each next one in if the validation
score does not fall. BatchNorm statistics are computed anew from training images, since averaged
weights make other activations. Every fold averages its own models, and a set of members is scored
on the validation samples of all folds together.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from cellsignal.common.errors import InputError
from cellsignal.data.feed import feed
from cellsignal.metrics.paired import compare_scores
from cellsignal.metrics.reliability import split_units
from cellsignal.models.backbones import see_channels
from cellsignal.models.batch_norm import recompute_statistics
from cellsignal.prediction.predict import checkpoint_pixels, network_of
from cellsignal.prediction.soup_members import Member, average_weights, predicting
from cellsignal.training.control_offsets import plan_offsets, unit_offsets
from cellsignal.training.examples import Examples
from cellsignal.training.inference import (
    Pixels,
    plan_reading,
    predict_with,
    reading_workers,
    site_dataset,
)
from cellsignal.training.job import Job
from cellsignal.training.optim import autocast
from cellsignal.training.ranks import this_process

log = logging.getLogger(__name__)
Chosen = tuple[int, ...]  # members, by number


@dataclass(frozen=True)
class Nested:
    """What a greedy soup gains over the best member, chosen on one half of the units.

    Attributes:
        soup, member: scores of the half that did not choose, both halves together.
        low, high: 95 % interval of the gain over units; NaN where there is none.
        unit: what a unit is.
    """

    soup: float
    member: float
    low: float
    high: float
    unit: str


class Kitchen:
    """Makes and scores soups of some members.

    Attributes:
        members: see `soup_members.find_members`; alike.
    """

    def __init__(self, members: Sequence[Member]):
        self.members = list(members)
        self.jobs = members[0].last_jobs
        self.logits: dict[Chosen, np.ndarray] = {}

    @property
    def has_validation(self) -> bool:
        """Whether some fold has samples to score a soup on."""
        return any(len(job.scored) for job in self.jobs)

    @cached_property
    def samples(self):
        """The validation samples of all folds, a row each."""
        positions = np.concatenate([job.scored for job in self.jobs])
        return self.jobs[0].store.samples.iloc[positions].reset_index(drop=True)

    @property
    def unit(self) -> str:
        """What folds do not split, and so counts as one draw."""
        return self.jobs[0].folds.group

    def score(self, chosen: Sequence[int], rows: np.ndarray | None = None) -> float:
        """Return the competition's validation score of the soup of some members.

        Args:
            rows: of `samples`; all by default.
        """
        return self.score_logits(self.predict(chosen), rows)

    def score_logits(self, logits: np.ndarray, rows: np.ndarray | None = None) -> float:
        """Return the validation score of (n, K) logits of `samples`, or of some rows of them."""
        rows = np.arange(len(logits)) if rows is None else rows
        job = self.jobs[0]
        part = self.samples.iloc[rows]
        return job.competition.task.validation_scores(logits[rows], part, len(job.classes))[1]

    def predict(self, chosen: Sequence[int]) -> np.ndarray:
        """Return (n, K) logits of `samples` by the soup of some members; kept."""
        key = tuple(sorted(chosen))
        if key not in self.logits:
            parts = []
            for number, job in enumerate(self.jobs):
                if len(job.scored):
                    state = self.cook(number, key)
                    parts.append(_predict_validation(job, state))
            self.logits[key] = np.concatenate(parts)
            titles = ", ".join(self.members[number].title for number in key)
            log.info("%s: %.4f", titles, self.score_logits(self.logits[key]))
        return self.logits[key]

    def cook(self, number: int, chosen: Sequence[int]) -> dict[str, Any]:
        """Return the checkpoint of a fold's soup, with the config of the first member.

        Args:
            number: of one of `jobs`.
            chosen: members; of one, or of the same weights, it is the member bit for bit.
        """
        members = [self.members[index] for index in sorted(chosen)]
        states = [member.load(member.last_jobs[number]) for member in members]
        weights = [predicting(state) for state in states]
        mean, same = average_weights(weights, [member.title for member in members])
        sizes = {str(state["image_size"]) for state in states}
        if len(sizes) > 1:
            raise InputError(
                f"{members[0].title}: members of several image sizes ({min(sizes)} ...)"
            )
        state = states[0] | {"model": mean, "averaged": None}
        if not same:
            job = self.jobs[number]
            model = network_of(job, state)
            if any(isinstance(module, _BatchNorm) for module in model.modules()):
                batches = _training_batches(job, checkpoint_pixels(job, state))
                with autocast(job.stage.amp, this_process().device):
                    recompute_statistics(model, batches)
                state["model"] = {name: t.cpu() for name, t in model.state_dict().items()}
        return state

    def different_starts(self) -> tuple[int, int] | None:
        """Return two members that began with different weights in some fold; None if none did."""
        for number in range(len(self.jobs)):
            starts = [member.start(member.last_jobs[number]) for member in self.members]
            for index, start in enumerate(starts):
                if start != starts[0]:
                    return 0, index
        return None

    def greedy(self, rows: np.ndarray | None = None) -> Chosen:
        """Choose members one after the other, the best first, by the score of some rows."""
        alone = [self.score([number], rows) for number in range(len(self.members))]
        order = np.argsort(-np.array(alone), kind="stable").tolist()
        chosen, best = [order[0]], alone[order[0]]
        for number in order[1:]:
            score = self.score([*chosen, number], rows)
            if score >= best:
                chosen, best = [*chosen, number], score
        return tuple(sorted(chosen))

    def nested(self) -> Nested:
        """Measure the greedy soup on units that did not choose it.

        Raises:
            InputError: there is one unit alone.
        """
        units = self.samples[self.unit].to_numpy()
        halves = split_units(units)
        soup = np.zeros_like(self.predict([0]))
        member = soup.copy()
        for chooses, measured in (halves, halves[::-1]):
            soup[measured] = self.predict(self.greedy(chooses))[measured]
            alone = [self.score([number], chooses) for number in range(len(self.members))]
            member[measured] = self.predict([int(np.argmax(alone))])[measured]

        def scores(rows: np.ndarray) -> tuple[float, float]:
            return self.score_logits(soup, rows), self.score_logits(member, rows)

        paired = compare_scores(scores, units, len(units))
        return Nested(paired.first, paired.second, paired.low, paired.high, self.unit)


def _predict_validation(job: Job, state: dict[str, Any]) -> np.ndarray:
    """Return (n, K) logits of a job's validation samples, as `predict` would compute them."""
    model, pixels = network_of(job, state), checkpoint_pixels(job, state)
    see_channels(model, job.config.predict.channels)
    offsets = unit_offsets(job, model, plan_offsets(job, pixels))
    reading = plan_reading(job, pixels, job.scored)
    return predict_with(job, model, reading, offsets=offsets)["identity"]


def _training_batches(job: Job, pixels: Pixels) -> Iterator[tuple[torch.Tensor, ...]]:
    """The augmented training images of the first epoch, as the training's averaged model sees."""
    device = this_process().device
    examples = Examples(job)
    dataset = site_dataset(job, examples.positions, pixels, job.stage.augment, job.seed)
    workers = reading_workers(job, dataset, device)
    for batch in feed(dataset, examples.batches(0), workers, device):
        cell_types = examples.targets(batch.index, device).cell_types
        yield (batch.images,) if cell_types is None else (batch.images, cell_types)
