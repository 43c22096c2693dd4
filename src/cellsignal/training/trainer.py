"""The training of one job: build, train an epoch, validate, save.

It can stop after any update. On a CPU, a resumed training ends in the same bits as one that was
never stopped; N processes give the result of one with N times the accumulation. With a time budget
it stops early if the work up to the next save would take longer than the time left.

Everything that decides the next weights is in `Trainer.state_dict`. Data order and augmentation
need no state: they are functions of (seed, epoch, index). Each of N processes takes every Nth
batch; all hold the same weights and metrics, and rank 0 writes the files.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.common.stopping import Stop
from cellsignal.data.feed import Batch, feed
from cellsignal.models.backbones import build_model
from cellsignal.models.cost import checkpoint_activations, forward_flops, training_flops
from cellsignal.training.averaging import Average, ramp, random_view
from cellsignal.training.budget import Budget
from cellsignal.training.checkpoints import (
    has_checkpoint,
    load_last,
    load_weights,
    previous_of,
    save_checkpoint,
    start_from,
    state_of_rank,
)
from cellsignal.training.examples import Examples
from cellsignal.training.identity import check_belongs, check_config, identity
from cellsignal.training.inference import pixel_statistics, reading_workers, site_dataset
from cellsignal.training.job import Job
from cellsignal.training.mix import mix_batch
from cellsignal.training.optim import LearningRate, Stepper
from cellsignal.training.pseudo_labels import draw_pseudo_labels, read_pseudo_labels
from cellsignal.training.ranks import Ranks
from cellsignal.training.self_supervised import TwoViewLoss, TwoViews
from cellsignal.training.stage_loss import StageLoss
from cellsignal.training.throughput import Clock, EpochLog, EpochSpeed, device_peak
from cellsignal.training.validation import Validation

log = logging.getLogger(__name__)
# updates between two checks on a GPU or with several processes: a check synchronises them
CHECK_EVERY = 8


def _start_progress() -> dict[str, Any]:
    return {
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


class Trainer:
    """Trains one job; `run()` starts or resumes it."""

    # build
    # ----------------------------------------------------------------------------------------------

    def __init__(self, job: Job, ranks: Ranks, stop: Stop, later: float = 0.0):
        # later: the work of the trainings to come, in epochs of this one
        self.job, self.stage, self.stop = job, job.stage, stop
        self.ranks, self.device = ranks, ranks.device
        torch.manual_seed(job.seed)
        self.generator = torch.Generator().manual_seed(job.seed + 1 + 1_000_003 * ranks.rank)
        self.pixels = pixel_statistics(job.config, job.store, job.train)
        self.validation = Validation(job, self.pixels, ranks)
        has_labels = self.stage.self_supervised is None
        self.examples = Examples(job, ranks) if has_labels else TwoViews(job, ranks)
        self.training = site_dataset(
            job, self.examples.positions, self.pixels, self.stage.augment, job.seed, ranks.device
        )
        self.model = self._build_model()
        self.loss = self._build_loss().to(self.device)
        self.average = Average(self.stage, self.model)
        self.stepper = Stepper(self.model, self.loss, self.stage, ranks)
        # pseudo-labels that later epochs add are not counted here
        updates_per_epoch = math.ceil(len(self.examples.batches(0)) / self.stage.accumulation)
        self.schedule = LearningRate(
            self.stepper.optimizer, self.stage, updates_per_epoch, self.validation.higher_is_better
        )
        if ranks.rank:
            # dropout differs among the processes, initial weights do not
            torch.manual_seed(job.seed + ranks.rank)
        # sum over the images that this process has seen in the epoch
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.progress = _start_progress()
        # a single process on a CPU never waits and checks after each update
        self.check_every = 1 if self.device.type == "cpu" and ranks.world == 1 else CHECK_EVERY
        images = len(self.examples.positions), self.validation.images
        self.budget = Budget(job, self.model, ranks.world, self.check_every, *images, later)
        self.last_is_readable, self.saved_at = True, time.monotonic()
        self.status = 0  # exit status with which all processes stop (`Stop.stop_status`); 0: go on

    def _build_model(self) -> torch.nn.Module:
        job, config, names = self.job, self.job.config.model, self.job.channel_names
        channels, types, side = len(names), len(job.cell_types), self.training.image_size
        fresh = job.init is None and not has_checkpoint(job.folder / "last.pt")
        shape = (channels, job.outputs, side, types)
        model = build_model(config, *shape, initial_weights=fresh, names=names)
        model.to(self.device, memory_format=torch.channels_last)
        self.flops = forward_flops(model, channels, self.training.output, types)
        if self.stage.gradient_checkpointing:
            images = torch.zeros(2, channels, *self.training.output, device=self.device)
            inputs = [images.contiguous(memory_format=torch.channels_last)]
            if config.cell_type_vector:
                inputs.append(torch.zeros(2, types, device=self.device))
            checkpoint_activations(model, tuple(inputs))
        if job.init is not None:
            start_from(job, model, side)
        return model

    def _build_loss(self) -> torch.nn.Module:
        job, width = self.job, self.model.width
        if self.stage.self_supervised is not None:
            return TwoViewLoss(self.stage.self_supervised, width)
        weights, controls = self.examples.weights(), self.examples.controls()
        return StageLoss(self.stage, weights, job.outputs, width, job.task.loss_family, controls)

    @property
    def predictor(self) -> torch.nn.Module:
        """The model that validates and predicts: the averaged model if the stage averages."""
        return self.average.module or self.model

    # run
    # ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end of the stage.

        Raises:
            Interrupted: stopped by a signal or the time budget; the same command resumes.
            InputError: the folder's checkpoints are damaged or belong to another config or
                training; the loss is not finite; the disk is full.
        """
        last = self.job.folder / "last.pt"
        if has_checkpoint(last):
            state, path = load_last(last)
            self.last_is_readable = path == last
            self.load_state_dict(state, path)
        progress, epochs = self.progress, self.stage.epochs
        if progress["finished"]:
            return
        with EpochLog(self.job, progress["history"], writes=self.ranks.first) as epoch_log:
            while progress["epoch"] < epochs:
                self._label_test_wells()
                speed = self.train_epoch()
                with self.budget.measure("image", self.budget.images_after(progress["epoch"])):
                    row = self._end_epoch(speed)
                self.budget.made_progress = True
                epoch_log.add(row, speed, *self.budget.seconds_left(progress["epoch"]))
                self.next_epoch()
                if self._stopped_improving():
                    break
                if progress["epoch"] < epochs:
                    self._save()
                    self._stop_if_asked()
        progress["finished"] = True
        self._save()
        if self.ranks.first:
            previous_of(last).unlink(missing_ok=True)

    # train an epoch
    # ----------------------------------------------------------------------------------------------

    def _label_test_wells(self) -> None:
        """Choose the epoch's pseudo-labels; a resumed epoch reads the ones it started with."""
        config, progress = self.stage.pseudo_labels, self.progress
        if config is None or progress["epoch"] < config.start:
            return
        if progress["batch"] == 0:
            with self.budget.measure("image", self.budget.images_to_label(progress["epoch"])):
                progress["pseudo_labels"] = draw_pseudo_labels(
                    self.job, self.predictor, self.pixels, progress["epoch"], self.ranks
                )
        frame = read_pseudo_labels(self.job, progress["epoch"], progress["pseudo_labels"])
        self.examples.set_pseudo_labels(frame)

    def train_epoch(self) -> EpochSpeed:
        """Train on the remaining batches of the epoch."""
        self.model.train()
        progress, first = self.progress, self.stage.drop_predicted_controls
        self.loss.dropping = first is not None and progress["epoch"] >= first
        order = self.examples.batches(progress["epoch"])
        bar = tqdm(
            desc=f"{self.job.title} epoch {progress['epoch'] + 1}/{self.stage.epochs}",
            total=len(order),
            initial=progress["batch"],
            disable=None if self.ranks.first else True,
            leave=False,
        )
        peak = device_peak(self.device, self.stepper.dtype)
        clock, self.saved_at = Clock(self.device), time.monotonic()
        self.budget.start_epoch(progress["batch"], len(order))
        stream = self._feed(order[progress["batch"] :])
        with bar:
            while progress["batch"] < len(order):
                with clock.waiting():
                    batch = next(stream)
                updated = self._train_batch(batch, len(order))
                clock.step_done(len(batch.index))
                bar.update()
                is_mid_epoch = updated and progress["batch"] < len(order)
                if is_mid_epoch and progress["updates"] % self.check_every == 0:
                    self._check()
        speed = clock.speed(training_flops(self.flops, self.stage.gradient_checkpointing), peak)
        self._check()
        return speed

    def _train_batch(self, batch: Batch, batches: int) -> bool:
        """Train on one of the epoch's batches; return whether it ended an update."""
        index, accumulation = self.progress["batch"], self.stage.accumulation
        share_of_update = 1 / min(accumulation, batches - index // accumulation * accumulation)
        ends_update = (index + 1) % accumulation == 0 or index + 1 == batches
        with self.stepper.exchange_gradients(ends_update):
            loss = self._batch_loss(batch, index / batches)
            self.stepper.backward(loss * share_of_update)
        # stays on the device: the host does not wait for it
        self.loss_sum += loss.detach().double() * len(batch.index)
        self.progress["seen"] += len(batch.index)
        self.progress["batch"] += 1
        if ends_update:
            self._update(self.progress["batch"] / batches)
        return ends_update

    def _batch_loss(self, batch: Batch, share_of_epoch: float) -> torch.Tensor:
        targets, labels, cell_types = self.examples.targets(batch.index, self.device)
        images, others = batch.images, [] if cell_types is None else [cell_types]
        if self.stage.mix is not None:
            mixed = mix_batch(images, targets, self.stage.mix, self.generator, *others)
            images, targets, others = mixed.images, mixed.targets, mixed.others
            labels = None if mixed.was_mixed else labels
        with self.stepper.autocast():
            loss, logits = self.stepper.forward(images, targets, labels, *others)
            if self.stage.mean_teacher is not None:
                weight = ramp(self.stage.mean_teacher, self.progress["epoch"] + share_of_epoch)
                view = random_view(self.generator)
                loss = loss + weight * self.average.disagreement(logits, view, images, *others)
        return loss

    def _update(self, share_of_epoch: float) -> None:
        self.stepper.update()
        steps = self.schedule.steps_per_epoch
        self.schedule.step(self.progress["epoch"] * steps + share_of_epoch * steps)
        self.progress["updates"] += 1
        self.average.after_update(self.model, self.progress["updates"])

    def _feed(self, batches: Sequence) -> Iterator[Batch]:
        workers = reading_workers(self.job, self.training, self.device)
        return feed(self.training, batches, workers, self.device)

    def next_epoch(self) -> None:
        self.progress.update(epoch=self.progress["epoch"] + 1, batch=0, seen=0)
        self.loss_sum.zero_()

    # validate
    # ----------------------------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        """Compute the validation metrics with the weights that will predict."""
        return self.validation.measure(self.predictor)

    def _end_epoch(self, speed: EpochSpeed) -> dict[str, Any]:
        """Average the weights, validate, update `best.pt`; return the epoch's row of the log."""
        progress = self.progress
        sums = self.ranks.gather([progress["seen"], float(self.loss_sum)])
        seen, loss_sum = (sum(values) for values in zip(*sums, strict=True))
        row = {
            "epoch": progress["epoch"] + 1,
            "train_loss": loss_sum / seen,
            **dict.fromkeys(self.validation.columns),
            "lr": self.stepper.optimizer.param_groups[0]["lr"],
            **speed.columns(self.ranks.world),
        }
        self.average.after_epoch(self.model, progress["epoch"])
        validates = self.job.validates_after(progress["epoch"])
        snapshot = row["epoch"] in self.stage.snapshot_epochs
        predicts = validates or snapshot or self.stage.pseudo_labels is not None
        if self.average.needs_statistics and predicts:
            self._recompute_statistics()
        if len(self.job.scored) and validates:
            row |= self.validate()
        if row[self.validation.monitored] is not None:
            self._update_best(row[self.validation.monitored])
        progress["history"].append(row)
        if snapshot and self.ranks.first:
            save_checkpoint(self.job.snapshot(row["epoch"]), self._weights_state())
        return row

    def _update_best(self, figure: float) -> None:
        """Save `best.pt` if the monitored metric is better, else count a bad epoch.

        The learning-rate schedule sees the metric, too.
        """
        progress, sign = self.progress, 1 if self.validation.higher_is_better else -1
        self.schedule.epoch_end(figure)
        if progress["best"] is None or sign * (figure - progress["best"]) > 0:
            progress.update(best=figure, bad_epochs=0)
            if len(self.job.scored) and self.ranks.first:
                save_checkpoint(self.job.folder / "best.pt", self._weights_state())
        else:
            progress["bad_epochs"] += 1

    def _stopped_improving(self) -> bool:
        patience, bad = self.stage.early_stopping, self.progress["bad_epochs"]
        if patience is None or bad < patience:
            return False
        text = "%s: %s has not improved for %d validations, stopping early"
        log.info(text, self.job.title, self.stage.monitor, bad)
        return True

    def _recompute_statistics(self) -> None:
        def inputs() -> Iterator[tuple[torch.Tensor, ...]]:
            order = self.examples.batches(self.progress["epoch"])
            for batch in self._feed(order):
                cell_types = self.examples.targets(batch.index, self.device).cell_types
                yield (batch.images,) if cell_types is None else (batch.images, cell_types)

        with self.stepper.autocast():
            self.average.recompute(inputs(), self.ranks)

    # save and stop
    # ----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Check the loss and the clock; save, and then stop, if it is time to."""
        total = float(self.loss_sum)
        if not math.isfinite(total):
            raise InputError(
                f"{self.job.title}: the loss became {total} in epoch "
                f"{self.progress['epoch'] + 1}; lower the learning rate"
            )
        self.budget.record(self.progress["epoch"], self.progress["batch"], self.stop.seconds_left)
        due = time.monotonic() - self.saved_at > 60 * self.stage.checkpoint_minutes
        if self._agree_to_save(due):
            self._save()
            self._stop_if_asked()
            self.saved_at = time.monotonic()

    def _agree_to_save(self, due: bool) -> bool:
        """Gather `status` from all processes; return whether all must save, as due or to stop."""
        epoch, batch = self.progress["epoch"], self.progress["batch"]
        status = self.stop.stop_status(self.budget.estimate_next_save(epoch, batch)[1])
        statuses, dues = zip(*self.ranks.gather([status, due]), strict=True)
        self.status = max(statuses)
        return dues[0] or self.status > 0

    def _stop_if_asked(self) -> None:
        """Raise `Interrupted` if any process has to stop; call it just after a save."""
        self._agree_to_save(False)
        if not self.status:
            return
        epoch, batch, epochs = self.progress["epoch"], self.progress["batch"], self.stage.epochs
        saved = f"{epoch} of {epochs} epochs"
        if batch:
            saved = f"epoch {epoch + 1}/{epochs} at batch {batch}/{self.budget.batches}"
        next_step, seconds = self.budget.estimate_next_save(epoch, batch)
        raise self.stop.make_exception(self.status, self.job.title, saved, next_step, seconds)

    def _save(self) -> None:
        """Write `last.pt`; every process must call this and waits until it is written."""
        with self.budget.measure("save"):
            state = self.state_dict()
            if self.ranks.first:
                save_checkpoint(self.job.folder / "last.pt", state, keep=self.last_is_readable)
            self.ranks.barrier()
        self.last_is_readable = True

    def _weights_state(self) -> dict[str, Any]:
        """Return what prediction and the next stage need from a checkpoint."""
        job, averaged = self.job, self.average.module
        return {
            **identity(job),
            "channels": list(job.channel_names),
            "config": job.config.model_dump(mode="json"),
            "overall": [values.tolist() for values in self.pixels.overall],
            "progress": self.progress,
            "image_size": self.training.image_size,
            "model": self.model.state_dict(),
            "averaged": None if averaged is None else averaged.state_dict(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything that decides the next weights; every process must call it.

        Each process has its own random states and sum of losses; the rest is the same in all. For
        a finished stage only the weights are kept.
        """
        if self.progress["finished"]:
            return self._weights_state()
        cuda = self.device.type == "cuda"
        rank_state = {
            "torch": torch.get_rng_state(),
            "own": self.generator.get_state(),
            "loss_sum": self.loss_sum.cpu(),
            "seen": self.progress["seen"],
            "cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
        }
        return {
            **self._weights_state(),
            "average": self.average.state_dict(),
            "loss": self.loss.state_dict(),
            **self.stepper.state_dict(),
            "schedule": self.schedule.state_dict(),
            "processes": self.ranks.gather(rank_state),
            "seconds": self.budget.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """Restore a checkpoint of the same job, read from `path`.

        Raises:
            InputError: another config, training or number of processes wrote it.
        """
        check_config(state, self.job.config, path)
        check_belongs(self.job, state, path)
        self.progress = state["progress"]
        load_weights(self.model, state["model"], path)
        if self.progress["finished"]:
            return
        rank_state = state_of_rank(state, self.ranks, path)
        self.average.load_state_dict(state["average"])
        self.loss.load_state_dict(state["loss"])
        self.stepper.load_state_dict(state, path)
        self.schedule.load_state_dict(state["schedule"])
        self.budget.load_state_dict(state.get("seconds", {}))
        self.progress["seen"] = rank_state["seen"]
        self.loss_sum.copy_(rank_state["loss_sum"])
        torch.set_rng_state(rank_state["torch"])
        self.generator.set_state(rank_state["own"])
        if rank_state["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(rank_state["cuda"], self.device)
        place = self.progress["epoch"] + 1, self.progress["batch"]
        log.info("%s: resumes in epoch %d at batch %d", self.job.title, *place)
