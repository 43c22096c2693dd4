"""The training loop of one job: resumable to the bit, stoppable at any step, the same on one
process and on several.

With a time budget it stops where what comes before the next save would no longer fit: after an
update, or after an epoch's last batch, before its validation.

Everything that decides the next weights is in the checkpoint (see `state`). Data order and
augmentation need no state: they are functions of (seed, epoch, index). Each of N processes takes
every Nth batch; all hold the same weights and figures, and the first writes the files.
"""

import logging
import math
import time
from typing import Any

import torch
from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.common.stopping import Stop
from cellsignal.data.feed import Batch, feed
from cellsignal.models.backbones import build_model
from cellsignal.models.cost import checkpoint_activations, forward_flops, training_flops
from cellsignal.training import state
from cellsignal.training.averaging import Average, ramp, random_view
from cellsignal.training.budget import Budget
from cellsignal.training.checkpoints import has_checkpoint, load_last, previous_of, save_checkpoint
from cellsignal.training.examples import Examples, soft_labels
from cellsignal.training.inputs import pixel_statistics, site_dataset
from cellsignal.training.job import Job
from cellsignal.training.labelling import draw_pseudo_labels, read_pseudo_labels
from cellsignal.training.logs import EpochLog
from cellsignal.training.mix import mix_batch
from cellsignal.training.ranks import Ranks
from cellsignal.training.schedules import LearningRate
from cellsignal.training.self_supervised import TwoViewLoss, TwoViews
from cellsignal.training.stage_loss import StageLoss
from cellsignal.training.step import Stepper
from cellsignal.training.throughput import Clock, EpochSpeed, device_peak
from cellsignal.training.validation import Validation

log = logging.getLogger(__name__)
# updates between two looks at what would make the host wait for the GPU: the loss's value, other
# processes' wish to stop
ASK_EVERY = 8


class Trainer:
    """Trains one job; `run()` begins, or goes on where its folder's `last.pt` stands."""

    def __init__(self, job: Job, ranks: Ranks, stop: Stop):
        self.job, self.ranks, self.device, self.stop = job, ranks, ranks.device, stop
        self.stage, config = job.stage, job.config
        torch.manual_seed(job.seed)
        self.generator = torch.Generator().manual_seed(job.seed + 1 + 1_000_003 * ranks.rank)
        self.pixels = pixel_statistics(config, job.store, job.train)
        self.validation = Validation(job, self.pixels, ranks)
        self.examples = (
            Examples(job, ranks) if self.stage.self_supervised is None else TwoViews(job, ranks)
        )
        self.training = site_dataset(
            job, self.examples.positions, self.pixels, self.stage.augment, job.seed, ranks.device
        )
        self.image_size = self.training.image_size
        fresh = job.init is None and not has_checkpoint(job.folder / "last.pt")
        self.model = build_model(
            config.model,
            len(job.channels),
            job.outputs,
            self.image_size,
            len(job.cell_types),
            initial_weights=fresh,
        )
        self.model.to(self.device, memory_format=torch.channels_last)
        self.flops = forward_flops(
            self.model, len(job.channels), self.training.output, len(job.cell_types)
        )
        if self.stage.gradient_checkpointing:
            checkpoint_activations(self.model, self._example(2))
        if job.init is not None:
            state.start_from(job, self.model, self.image_size)
        self.loss = self._loss().to(self.device)
        self.average = Average(self.stage, self.model)
        self.stepper = Stepper(self.model, self.loss, self.stage, ranks)
        # of an epoch, before any pseudo-label
        updates = math.ceil(len(self.examples.batches(0)) / self.stage.accumulation)
        self.schedule = LearningRate(
            self.stepper.optimizer,
            self.stage.schedule,
            self.stage.epochs,
            updates,
            self.validation.higher_is_better,
        )
        if ranks.rank:
            # dropout differs among the processes, initial weights do not
            torch.manual_seed(job.seed + ranks.rank)
        # of this process, over the epoch's images
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.progress: dict[str, Any] = {
            "epoch": 0,
            "batch": 0,
            "updates": 0,
            "seen": 0,
            "best": None,
            "bad_epochs": 0,
            "history": [],
            "finished": False,
            "pseudo_labels": None,
        }
        self.budget = Budget(self)
        self.last_is_good = True
        self.status = 0  # with which all processes agreed to stop, of `Stop.wish`

    def _loss(self) -> torch.nn.Module:
        job, width = self.job, self.model.width
        if self.stage.self_supervised is not None:
            return TwoViewLoss(self.stage.self_supervised, width)
        weights, controls = self.examples.weights(), self.examples.controls()
        family = "binary" if job.multilabel else "softmax"
        return StageLoss(self.stage, weights, job.outputs, width, family, controls)

    def _example(self, size: int) -> tuple[torch.Tensor, ...]:
        """`size` images of zeros, with cell types where the model takes them."""
        images = torch.zeros(
            size, len(self.job.channels), *self.training.output, device=self.device
        )
        images = images.contiguous(memory_format=torch.channels_last)
        types = len(self.job.cell_types)
        return (
            (images, torch.zeros(size, types, device=self.device))
            if self.job.config.model.cell_type_vector
            else (images,)
        )

    def run(self) -> None:
        """Train to the end of the stage.

        Raises:
            Interrupted: stopped by a signal, or by the time budget (`OutOfTime`); the state is
            saved and the same command goes on. InputError: the folder's checkpoints are damaged, or
            of another config or training; the loss is not finite; the disk is full.
        """
        last = self.job.folder / "last.pt"
        if has_checkpoint(last):
            found, path = load_last(last)
            self.last_is_good = path == last
            state.resume(self, found, path)
        if self.progress["finished"]:
            return
        with EpochLog(
            self.job.folder, self.progress["history"], writes=self.ranks.first
        ) as epoch_log:
            while self.progress["epoch"] < self.stage.epochs:
                self._label_test_wells()
                speed = self.train_epoch()
                with self.budget.measuring("image", self.budget.images_at_end()):
                    row = self._end_epoch(speed)
                self.budget.got_on = True
                epoch_log.add(row)
                self.next_epoch()
                if self._no_longer_improving():
                    log.info(
                        "%s: no better %s for %d epochs, stopped early",
                        self.job.title,
                        self.stage.monitor,
                        self.progress["bad_epochs"],
                    )
                    break
                if self.progress["epoch"] < self.stage.epochs:
                    self._save()
                    self._stop_if_asked()
        self.progress["finished"] = True
        self._save()
        if self.ranks.first:
            previous_of(last).unlink(missing_ok=True)

    # one epoch
    # ----------------------------------------------------------------------------------------------

    def train_epoch(self) -> EpochSpeed:
        self.model.train()
        progress = self.progress
        accumulation = self.stage.accumulation
        dropping = self.stage.drop_predicted_controls
        self.loss.dropping = dropping is not None and progress["epoch"] >= dropping
        order = self.examples.batches(progress["epoch"])
        bar = tqdm(
            desc=f"{self.job.title} epoch {progress['epoch'] + 1}/{self.stage.epochs}",
            total=len(order),
            initial=progress["batch"],
            disable=None if self.ranks.first else True,
            leave=False,
        )
        peak = device_peak(self.device, self.stepper.dtype)
        clock, saved = Clock(self.device), time.monotonic()
        self.budget.begin(len(order))
        stream = feed(self.training, order[progress["batch"] :], self._workers(), self.device)
        while progress["batch"] < len(order):
            with clock.waiting():
                batch = next(stream)
            first = progress["batch"] // accumulation * accumulation
            share_of_update = 1 / min(accumulation, len(order) - first)
            ends = (progress["batch"] + 1) % accumulation == 0 or progress["batch"] + 1 == len(
                order
            )
            self._backward(batch, share_of_update, progress["batch"] / len(order), ends)
            progress["batch"] += 1
            if ends:
                self._update(progress["batch"] / len(order))
            clock.step_done(len(batch.index))
            bar.update()
            if (
                ends
                and progress["batch"] < len(order)
                and progress["updates"] % self.ask_every == 0
            ):
                self._check_loss()
                self.budget.look()
                if self._wishes_to_save(
                    time.monotonic() - saved > 60 * self.stage.checkpoint_minutes
                ):
                    self._save()
                    self._stop_if_asked()
                    saved = time.monotonic()
        bar.close()
        speed = clock.speed(training_flops(self.flops, self.stage.gradient_checkpointing), peak)
        self._check_loss()
        self.budget.look()
        if self._wishes_to_save(time.monotonic() - saved > 60 * self.stage.checkpoint_minutes):
            self._save()
            self._stop_if_asked()
        return speed

    def _workers(self) -> int:
        in_memory = self.training.kept is not None and self.device.type == "cpu"
        return 0 if in_memory else self.job.config.data.workers

    def _backward(
        self, batch: Batch, share_of_update: float, share_of_epoch: float, ends_update: bool
    ) -> None:
        images = batch.images
        labels, cell_types = self.examples.targets(batch.index)
        hard = labels.to(self.device, non_blocking=True)
        if self.job.multilabel:
            targets, hard = hard, None
        else:
            targets = soft_labels(hard, self.job.outputs)
        others = [] if cell_types is None else [cell_types.to(self.device, non_blocking=True)]
        if self.stage.mix is not None:
            mixed = mix_batch(images, targets, self.stage.mix, self.generator, *others)
            images, targets, others = mixed.images, mixed.targets, mixed.others
            hard = None if mixed.was_mixed else hard
        with self.stepper.last(ends_update):
            with self.stepper.autocast():
                loss, logits = self.stepper.forward(images, targets, hard, *others)
                if self.stage.mean_teacher is not None:
                    weight = ramp(self.stage.mean_teacher, self.progress["epoch"] + share_of_epoch)
                    view = random_view(self.generator)
                    loss = loss + weight * self.average.disagreement(logits, view, images, *others)
            self.stepper.backward(loss * share_of_update)
        # stays on the device: the host does not wait for it
        self.loss_sum += loss.detach().double() * len(images)
        self.progress["seen"] += len(images)

    def _update(self, share_of_epoch: float) -> None:
        self.stepper.update()
        steps = self.schedule.steps_per_epoch
        self.schedule.step(self.progress["epoch"] * steps + share_of_epoch * steps)
        self.progress["updates"] += 1
        self.average.after_update(self.model, self.progress["updates"])

    @property
    def ask_every(self) -> int:
        """Updates between two looks at the loss and at the signals: one where that makes no one
        wait.
        """
        return 1 if self.device.type == "cpu" and self.ranks.world == 1 else ASK_EVERY

    def _wishes_to_save(self, due: bool) -> bool:
        """Whether it is time, by the first process's clock, or any process wishes to stop; the same
        answer in all.
        """
        wishes, dues = zip(
            *self.ranks.gather([self.stop.wish(self.budget.coming()[1]), due]), strict=True
        )
        self.status = max(wishes)
        return dues[0] or self.status > 0

    def _stop_if_asked(self) -> None:
        """After a save."""
        self._wishes_to_save(False)
        if self.status:
            raise self.stop.end(
                self.status, self.job.title, self.budget.place(), *self.budget.coming()
            )

    def _check_loss(self) -> None:
        total = float(self.loss_sum)
        if not math.isfinite(total):
            raise InputError(
                f"{self.job.title}: the loss became {total} in epoch "
                f"{self.progress['epoch'] + 1}; lower the learning rate"
            )

    @property
    def validates(self) -> bool:
        """Whether the stage validates after the epoch in hand."""
        epoch = self.progress["epoch"] + 1
        return epoch % self.stage.validate_every == 0 or epoch == self.stage.epochs

    # end of an epoch
    # ----------------------------------------------------------------------------------------------

    def _end_epoch(self, speed: EpochSpeed) -> dict[str, Any]:
        progress = self.progress
        self._check_loss()
        seen, loss_sum = (
            sum(values)
            for values in zip(
                *self.ranks.gather([progress["seen"], float(self.loss_sum)]), strict=True
            )
        )
        columns = self.validation.columns
        row = {
            "epoch": progress["epoch"] + 1,
            "train_loss": loss_sum / seen,
            **dict.fromkeys(columns),
            "lr": self.stepper.optimizer.param_groups[0]["lr"],
            **speed.columns(self.ranks.world),
        }
        due = self.validates
        self.average.after_epoch(self.model, progress["epoch"])
        if self.average.needs_statistics and (due or self.stage.pseudo_labels is not None):
            self._recompute_statistics()
        if len(self.job.scored) and due:
            row |= self.validate()
        if row[self.validation.monitored] is not None:
            self._judge(row[self.validation.monitored])
        progress["history"].append(row)
        figures = [
            f"{name} {row[name]:.4g}"
            for name in ("epoch", "train_loss", *columns, "lr")
            if row[name] is not None
        ]
        log.info("%s", " ".join([self.job.title, *figures, f"({speed.line()})"]))
        return row

    def _judge(self, figure: float) -> None:
        """Hand the monitored figure (training loss where there is no validation) to the schedule,
        early stopping and `best.pt`.
        """
        progress, sign = self.progress, 1 if self.validation.higher_is_better else -1
        self.schedule.epoch_end(figure)
        if progress["best"] is None or sign * (figure - progress["best"]) > 0:
            progress.update(best=figure, bad_epochs=0)
            if len(self.job.scored) and self.ranks.first:
                save_checkpoint(self.job.folder / "best.pt", state.slim(self))
        else:
            progress["bad_epochs"] += 1

    def next_epoch(self) -> None:
        self.progress.update(epoch=self.progress["epoch"] + 1, batch=0, seen=0)
        self.loss_sum.zero_()

    def _no_longer_improving(self) -> bool:
        return (
            self.stage.early_stopping is not None
            and self.progress["bad_epochs"] >= self.stage.early_stopping
        )

    def validate(self) -> dict[str, float]:
        """The validation's figures of the weights that will predict."""
        return self.validation.measure(self.predictor)

    @property
    def predictor(self) -> torch.nn.Module:
        """The averaged model where there is one."""
        return self.average.module or self.model

    def _recompute_statistics(self) -> None:
        def inputs():
            for batch in feed(
                self.training,
                self.examples.batches(self.progress["epoch"]),
                self._workers(),
                self.device,
            ):
                cell_types = self.examples.targets(batch.index)[1]
                yield (
                    (batch.images,)
                    if cell_types is None
                    else (batch.images, cell_types.to(self.device))
                )

        with self.stepper.autocast():
            self.average.recompute(inputs(), self.ranks)

    # pseudo-labels
    # ----------------------------------------------------------------------------------------------

    def _label_test_wells(self) -> None:
        """Draw the pseudo-labels that an epoch begins with; where an interrupted epoch goes on,
        take those it began with.
        """
        config, progress = self.stage.pseudo_labels, self.progress
        if config is None or progress["epoch"] < config.start:
            return
        if progress["batch"] == 0:
            with self.budget.measuring("image", self.budget.images_to_label()):
                progress["pseudo_labels"] = draw_pseudo_labels(
                    self.job, self.predictor, self.pixels, progress["epoch"], self.ranks
                )
        frame = read_pseudo_labels(self.job, progress["epoch"], progress["pseudo_labels"])
        self.examples.set_pseudo_labels(frame)

    def _save(self) -> None:
        """Write `last.pt`; every process takes part and goes on when it is there."""
        with self.budget.measuring("save"):
            whole = state.slim(self) if self.progress["finished"] else state.whole(self)
            if self.ranks.first:
                save_checkpoint(self.job.folder / "last.pt", whole, keep=self.last_is_good)
            self.ranks.barrier()
        self.last_is_good = True
