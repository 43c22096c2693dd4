"""Estimate how long the next part of a training takes, so that it stops in time."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from cellsignal.common.stopping import Pace, duration
from cellsignal.training.job import Job

log = logging.getLogger(__name__)
_DISK = 50e6  # bytes/s of a save that was not measured yet: a slow disk
_ENOUGH = 20  # measured batches before an epoch is estimated
# measured batches and seconds before the first line about the time that all takes, and the least
# seconds of all that are worth it
_FIRST_BATCHES, _FIRST_SECONDS, _SHORT = 4, 1.5, 10.0


class Budget:
    """Measures the seconds of batches, saves and images, and estimates those up to a save.

    A batch counts with its share of an update. An image without a step passes the network for
    validation, BatchNorm statistics or pseudo-labels. Estimates take high quantiles of the recent
    times; they change nothing of what is trained.

    Attributes:
        made_progress: whether this call has done any work.
        batches: of the epoch.

    Args:
        check_every: updates between two moments at which the training can save.
        training_images, validation_images: of all processes together.
        later: work of the trainings to come, in epochs of this one.
    """

    def __init__(
        self,
        job: Job,
        model: nn.Module,
        processes: int,
        check_every: int,
        training_images: int,
        validation_images: int,
        later: float = 0.0,
    ):
        self.job, self.stage, self.processes, self.later = job, job.stage, processes, later
        self.check_every = check_every
        self.training_images, self.validation_images = training_images, validation_images
        # BatchNorm statistics of a unit take one pass more
        self.passes = 1 if job.config.predict.adapt == "none" else 2
        tensors = model.state_dict().values()
        weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        # weights, their average, two moments of the optimiser
        self.first_save = 4 * weight_bytes / _DISK
        self.paces = {part: Pace() for part in ("batch", "save", "image")}
        self.made_progress, self.batches, self._logged = False, 0, False
        self._recorded_at, self._recorded_batch = 0.0, 0
        self._started_at, self._estimate_logged = 0.0, False

    @contextmanager
    def measure(self, part: str, number: int = 1) -> Iterator[None]:
        """Measure the seconds of `number` units of a part; after an error nothing is recorded."""
        started = time.perf_counter()
        yield
        self._recorded_at = time.perf_counter()
        if number:
            self.paces[part].add((self._recorded_at - started) / number)

    def start_epoch(self, batch: int, batches: int) -> None:
        """Begin or resume an epoch of `batches` batches at batch `batch`."""
        self.batches = batches
        self._recorded_at, self._recorded_batch = time.perf_counter(), batch
        self._started_at = self._recorded_at

    def record(self, epoch: int, batch: int, seconds_left: float | None) -> None:
        """Measure the batches since the last call; call it after an update.

        It logs, once, how long the training and those to come take; with a time budget also how
        many epochs there is time for.
        """
        now = time.perf_counter()
        if batch > self._recorded_batch:
            self.paces["batch"].add((now - self._recorded_at) / (batch - self._recorded_batch))
            self.made_progress = True
        self._recorded_at, self._recorded_batch = now, batch
        self._log_first_estimate(epoch, now)
        enough = len(self.paces["batch"]) >= _ENOUGH or batch == self.batches
        if seconds_left is None or self._logged or not (enough and self.made_progress):
            return
        seconds, left = self.estimate_epoch(epoch), max(seconds_left, 0.0)
        log.info(
            "%s: epoch %d takes about %s; %s left: about %.3g epochs fit",
            self.job.title,
            epoch + 1,
            duration(seconds),
            duration(left),
            left / max(seconds, 1e-9),
        )
        self._logged = True

    def _log_first_estimate(self, epoch: int, now: float) -> None:
        is_known = len(self.paces["batch"]) >= _FIRST_BATCHES
        if self._estimate_logged or not is_known or now - self._started_at < _FIRST_SECONDS:
            return
        self._estimate_logged = True
        here, everything = self.seconds_left(epoch - 1)
        if everything < _SHORT:
            return
        others = f", with the trainings to come {duration(everything)}" if self.later else ""
        log.info("%s: takes about %s%s", self.job.title, duration(here), others)

    def images_after(self, epoch: int) -> int:
        """Count the images without a step after an epoch's batches, in each process."""
        stage, validates, number = self.stage, self.job.validates_after(epoch), 0
        if validates:
            number += self.validation_images * self.passes
        averages = stage.swa is not None or stage.bn_recompute
        if averages and (validates or stage.pseudo_labels is not None):
            number += self.training_images
        return math.ceil(number / self.processes)

    def images_to_label(self, epoch: int) -> int:
        """Count the test images that are predicted before an epoch, in each process."""
        config = self.stage.pseudo_labels
        if config is None or epoch < config.start:
            return 0
        return math.ceil(len(self.job.test) * self.passes / self.processes)

    def estimate_epoch(self, epoch: int) -> float:
        """Estimate the seconds of an epoch and a save."""
        images = self.images_after(epoch) + self.images_to_label(epoch)
        batches = self.batches * (self.paces["batch"].median or 0.0)
        return batches + self._images(images) + self._save()

    def seconds_left(self, epoch: int) -> tuple[float, float]:
        """Estimate the seconds after an epoch: of the stage, and with the trainings to come."""
        seconds = [self.estimate_epoch(number) for number in range(self.stage.epochs)]
        here = sum(seconds[epoch + 1 :])
        return here, here + self.later * sum(seconds) / len(seconds)

    def estimate_next_save(self, epoch: int, batch: int) -> tuple[str, float | None]:
        """Name the work up to the next save, and estimate its seconds.

        None for the seconds before this call has made progress: something must be tried, or
        commands with a short budget would never get on.
        """
        if self.batches and batch == self.batches:
            name = "the end of the epoch with its validation"
            seconds = self._images(self.images_after(epoch)) + 2 * self._save()  # best.pt, last.pt
        else:
            name = "the next step and a save"
            seconds = self._batches(self.stage.accumulation * self.check_every) + self._save()
            if batch == 0:
                seconds += self._images(self.images_to_label(epoch))
        return name, seconds if self.made_progress else None

    def _save(self) -> float:
        high = self.paces["save"].high
        return self.first_save if high is None else high

    def _batches(self, number: int) -> float:
        return number * (self.paces["batch"].high or 0.0)

    def _images(self, number: int) -> float:
        # not measured yet: each as long as in a step, which passes the network both ways
        high = self.paces["image"].high
        return number * (self._batches(1) / self.stage.batch_size if high is None else high)

    def state_dict(self) -> dict[str, list[float]]:
        return {part: pace.seconds() for part, pace in self.paces.items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        for part, measured in state.items():
            for seconds in measured:
                self.paces[part].add(seconds)
