"""What the parts of a training take, so that it stops in time: measured and, before the first time,
estimated.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cellsignal.common.stopping import Pace, duration

if TYPE_CHECKING:
    from cellsignal.training.loop import Trainer

log = logging.getLogger(__name__)
_DISK = 50e6  # bytes/s of a save that was not measured yet: a slow disk
_ENOUGH = 20  # measured batches before an epoch is foretold


class Budget:
    """Seconds of a batch with its share of an update, of a save, and of an image that passes the
    network without a step (for validation, BatchNorm statistics, pseudo-labels); high quantiles of
    the recent ones. They change nothing of what is trained.

    Between `begin` and the last `look` of an epoch each look measures the batches since the one
    before.
    """

    def __init__(self, trainer: "Trainer"):
        self.trainer = trainer
        self.paces = {part: Pace() for part in ("batch", "save", "image")}
        weights = sum(
            tensor.numel() * tensor.element_size() for tensor in trainer.model.state_dict().values()
        )
        # weights, their average, two moments of the optimiser
        self.first_save = 4 * weights / _DISK
        self.batches = 0  # of the epoch in hand
        self.got_on = False  # whether this call has done any work
        self._told = False  # how long an epoch takes
        self._looked, self._batch = 0.0, 0  # at the look before

    # measuring
    # ----------------------------------------------------------------------------------------------

    @contextmanager
    def measuring(self, part: str, number: int = 1) -> Iterator[None]:
        """Around `number` of a part. An error is no measurement; nor does the time until the next
        look count as batches.
        """
        started = time.perf_counter()
        yield
        self._looked = time.perf_counter()
        if number:
            self.paces[part].add((self._looked - started) / number)

    def begin(self, batches: int) -> None:
        """An epoch of so many batches goes on, or begins."""
        self.batches = batches
        self._batch = self.trainer.progress["batch"]
        self._looked = time.perf_counter()

    def look(self) -> None:
        """After an update; on a GPU only where its work is waited for. Says once how many epochs
        there is time for.
        """
        now, batch = time.perf_counter(), self.trainer.progress["batch"]
        if batch > self._batch:
            self.paces["batch"].add((now - self._looked) / (batch - self._batch))
            self.got_on = True
        self._looked, self._batch = now, batch
        enough = len(self.paces["batch"]) >= _ENOUGH or batch == self.batches
        if enough and self.got_on and not self._told and self.trainer.stop.left is not None:
            log.info("%s: %s", self.trainer.job.title, self._forecast(self.trainer.stop.left))
            self._told = True

    def measured(self) -> dict[str, list[float]]:
        """What a checkpoint keeps; `take` it to go on."""
        return {part: pace.kept() for part, pace in self.paces.items()}

    def take(self, measured: dict[str, list[float]]) -> None:
        for part, seconds in measured.items():
            for one in seconds:
                self.paces[part].add(one)

    # expecting
    # ----------------------------------------------------------------------------------------------

    def coming(self) -> tuple[str, float | None]:
        """What comes before the next point at which all can be saved, and its seconds, that save
        included; None before this call has done any work: something must be tried, or commands with
        a short budget would never get on.
        """
        trainer = self.trainer
        at, save = trainer.progress["batch"], self._save()
        if self.batches and at == self.batches:  # best.pt and last.pt
            what = "the end of the epoch with its validation"
            seconds = self._images(self.images_at_end()) + 2 * save
        else:
            what = "the next step and a save"
            seconds = self._batches(trainer.stage.accumulation * trainer.ask_every) + save
            if at == 0:
                seconds += self._images(self.images_to_label())
        return what, seconds if self.got_on else None

    def place(self) -> str:
        """Where the training stands, in words."""
        done = self.trainer.progress["epoch"]
        at = self.trainer.progress["batch"]
        epochs = self.trainer.stage.epochs
        return (
            f"epoch {done + 1}/{epochs} at batch {at}/{self.batches}"
            if at
            else f"{done} of {epochs} epochs"
        )

    def images_at_end(self) -> int:
        """Images that pass the network after the epoch's last batch, in each process: for
        validation, and for the averaged model's statistics.
        """
        trainer, stage = self.trainer, self.trainer.stage
        gallery = trainer.validation.gallery
        number = (
            len(trainer.job.scored if gallery is None else gallery.positions) * self._passes
            if trainer.validates
            else 0
        )
        if (stage.swa is not None or stage.bn_recompute) and (
            trainer.validates or stage.pseudo_labels is not None
        ):
            number += len(trainer.examples.positions)
        return -(-number // trainer.ranks.world)

    def images_to_label(self) -> int:
        """Test images that pass the network before the epoch in hand begins, in each process."""
        config, trainer = self.trainer.stage.pseudo_labels, self.trainer
        none = config is None or trainer.progress["epoch"] < config.start
        return 0 if none else -(-len(trainer.job.test) * self._passes // trainer.ranks.world)

    @property
    def _passes(self) -> int:
        """How often validation and labelling see an image: once more for BatchNorm statistics of
        their own.
        """
        return 1 if self.trainer.job.config.predict.adapt == "none" else 2

    def _save(self) -> float:
        high = self.paces["save"].high
        return self.first_save if high is None else high

    def _batches(self, number: int) -> float:
        return number * (self.paces["batch"].high or 0.0)

    def _images(self, number: int) -> float:
        """Before the first time each is taken to need as long as in a step, which passes the
        network forwards and backwards.
        """
        high = self.paces["image"].high
        return number * (self._batches(1) / self.trainer.stage.batch_size if high is None else high)

    def _forecast(self, left: float) -> str:
        images = self.images_at_end() + self.images_to_label()
        epoch = (
            self.batches * (self.paces["batch"].median or 0.0) + self._images(images) + self._save()
        )
        number, left = self.trainer.progress["epoch"] + 1, max(left, 0.0)
        return f"epoch {number} takes about {duration(epoch)}; {duration(left)} left: about {left / max(epoch, 1e-9):.3g} epochs fit"
