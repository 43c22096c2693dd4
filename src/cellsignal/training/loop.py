"""The training loop of one job: resumable to the bit, stoppable at any step.

Everything that decides the next weights is in the checkpoint: model, averaged model, optimiser, learning rate, gradient scaler, random states,
place in the epoch. Data order and augmentation need no state: they are functions of (seed, epoch, index).
"""

import logging
import math
import time
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from tqdm import tqdm

from cellsignal.data.dataset import loader
from cellsignal.data.transforms import Transform
from cellsignal.errors import InputError
from cellsignal.files import sha256
from cellsignal.models.backbones import build_model
from cellsignal.training.averaging import Average, ramp, random_view
from cellsignal.training.checkpoints import load_checkpoint, save_checkpoint
from cellsignal.training.examples import Examples, soft_labels
from cellsignal.training.forward import by_target, predict_with
from cellsignal.training.job import Job, check_belongs, identity, pixel_statistics, site_dataset
from cellsignal.training.labelling import draw_pseudo_labels, read_pseudo_labels
from cellsignal.training.logs import EpochLog
from cellsignal.training.losses import StageLoss, class_weights
from cellsignal.training.mix import mix_batch
from cellsignal.training.optimizers import build_optimizer
from cellsignal.training.schedules import LearningRate
from cellsignal.training.stopping import Stop

log = logging.getLogger(__name__)


class Trainer:
    """Trains one job; `run()` begins, or goes on where its folder's `last.pt` stands."""

    def __init__(self, job: Job, device: torch.device, stop: Stop):
        self.job, self.device, self.stop = job, device, stop
        self.stage, config = job.stage, job.config
        torch.manual_seed(job.seed)
        self.generator = torch.Generator().manual_seed(job.seed + 1)
        self.pixels = pixel_statistics(config, job.store, job.train)
        self.examples = Examples(job)
        self.training = site_dataset(
            job, self.examples.positions, self.pixels, Transform(self.stage.augment, len(job.channels)), job.seed
        )
        self.image_size = self.training[(0, 0)]["image"].shape[-1]
        fresh = job.init is None and not (job.folder / "last.pt").exists()
        self.model = build_model(
            config.model, len(job.channels), job.outputs, self.image_size, len(job.cell_types), initial_weights=fresh
        )
        self.model.to(device, memory_format=torch.channels_last)
        if job.init is not None:
            self._start_from(load_checkpoint(job.init))
        labels = job.store.samples.label.to_numpy(dtype=np.int64, na_value=-1)[job.train]
        weights = class_weights(labels, job.outputs, self.stage.class_weights)
        self.loss = StageLoss(self.stage, weights, job.outputs, self.model.width).to(device)
        self.average = Average(self.stage, self.model)
        self.optimizer = build_optimizer([self.model, self.loss], self.stage.optimizer, fused=device.type == "cuda")
        planned = len(self.examples.batches(0))  # before any pseudo-label
        self.schedule = LearningRate(
            self.optimizer,
            self.stage.schedule,
            self.stage.epochs,
            math.ceil(planned / self.stage.accumulation),
            self.stage.monitor == "accuracy" and len(job.valid) > 0,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.stage.amp == "fp16")
        self.progress: dict[str, Any] = {
            "epoch": 0, "batch": 0, "updates": 0, "loss_sum": 0.0, "seen": 0, "best": None, "bad_epochs": 0, "history": [], "finished": False,
            "pseudo_labels": None,
        }  # fmt: skip

    def run(self) -> None:
        """Train to the end of the stage.

        Raises:
            Interrupted: stopped by a signal; the state is saved and the same command goes on.
            InputError: the folder's checkpoint is damaged or belongs to another training; the loss is not finite; the disk is full.
        """
        last = self.job.folder / "last.pt"
        if last.exists():
            self._resume(load_checkpoint(last), last)
        if self.progress["finished"]:
            return
        with EpochLog(self.job.folder, self.progress["history"]) as epoch_log:
            while self.progress["epoch"] < self.stage.epochs:
                self._label_test_wells()
                started, seen = time.monotonic(), self.progress["seen"]
                self._train_epoch()
                row = self._end_epoch((self.progress["seen"] - seen) / max(1e-9, time.monotonic() - started))
                epoch_log.add(row)
                self._next_epoch()
                if self._no_longer_improving():
                    log.info(
                        "%s: no better %s for %d epochs, stopped early",
                        self.job.title,
                        self.stage.monitor,
                        self.progress["bad_epochs"],
                    )
                    break
                self._save()
                self.stop.check(self.job.title)
        self.progress["finished"] = True
        self._save()

    # one epoch -------------------------------------------------------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        self.model.train()
        progress, accumulation = self.progress, self.stage.accumulation
        order = self.examples.batches(progress["epoch"])
        workers = 0 if self.training.cached is not None and self.device.type == "cpu" else self.job.config.data.workers
        bar = tqdm(desc=f"{self.job.title} epoch {progress['epoch'] + 1}/{self.stage.epochs}", total=len(order), initial=progress["batch"],
                   disable=None, leave=False)  # fmt: skip
        saved = time.monotonic()
        for batch in loader(self.training, order[progress["batch"] :], workers, pin=self.device.type == "cuda"):
            first = progress["batch"] // accumulation * accumulation
            share_of_update = 1 / min(accumulation, len(order) - first)
            self._backward(batch, share_of_update, progress["batch"] / len(order))
            progress["batch"] += 1
            bar.update()
            if progress["batch"] % accumulation and progress["batch"] < len(order):
                continue
            self._update(progress["batch"] / len(order))
            if progress["batch"] < len(order) and (
                self.stop.asked or time.monotonic() - saved > 60 * self.stage.checkpoint_minutes
            ):
                self._save()
                saved = time.monotonic()
                self.stop.check(self.job.title)
        bar.close()

    def _backward(self, batch: dict[str, torch.Tensor], share_of_update: float, share_of_epoch: float) -> None:
        images = batch["image"].to(self.device, non_blocking=True, memory_format=torch.channels_last)
        labels, cell_types = self.examples.targets(batch["index"])
        targets = soft_labels(labels, self.job.outputs).to(self.device)
        others = [] if cell_types is None else [cell_types.to(self.device)]
        hard = labels.to(self.device)
        if self.stage.mix is not None:
            mixed = mix_batch(images, targets, self.stage.mix, self.generator, *others)
            images, targets, others = mixed.images, mixed.targets, mixed.others
            hard = None if mixed.was_mixed else hard
        with self._autocast():
            outputs = self.model.outputs(images, *others)
            loss = self.loss(outputs, targets, hard)
            if self.stage.mean_teacher is not None:
                weight = ramp(self.stage.mean_teacher, self.progress["epoch"] + share_of_epoch)
                view = random_view(self.generator)
                loss = loss + weight * self.average.disagreement(outputs.logits, view, images, *others)
        value = loss.item()
        if not math.isfinite(value):
            raise InputError(
                f"{self.job.title}: the loss became {value} in epoch {self.progress['epoch'] + 1}; lower the learning rate"
            )
        self.scaler.scale(loss * share_of_update).backward()
        self.progress["loss_sum"] += value * len(images)
        self.progress["seen"] += len(images)

    def _update(self, share_of_epoch: float) -> None:
        if self.stage.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.stage.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        steps = self.schedule.steps_per_epoch
        self.schedule.step(self.progress["epoch"] * steps + share_of_epoch * steps)
        self.progress["updates"] += 1
        self.average.after_update(self.model, self.progress["updates"])

    def _autocast(self) -> torch.autocast:
        kind = torch.float16 if self.stage.amp == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, kind, enabled=self.stage.amp != "off")

    # end of an epoch -------------------------------------------------------------------------------------------------------------------

    def _end_epoch(self, rate: float) -> dict[str, Any]:
        progress = self.progress
        row = {"epoch": progress["epoch"] + 1, "train_loss": progress["loss_sum"] / progress["seen"], "valid_loss": None, "valid_accuracy": None,
               "lr": self.optimizer.param_groups[0]["lr"], "images_per_s": round(rate, 1)}  # fmt: skip
        last = row["epoch"] == self.stage.epochs
        due = row["epoch"] % self.stage.validate_every == 0 or last
        self.average.after_epoch(self.model, progress["epoch"])
        if self.average.needs_statistics and (due or self.stage.pseudo_labels is not None):
            self._recompute_statistics()
        if len(self.job.valid) and due:
            row["valid_loss"], row["valid_accuracy"] = self.validate()
        if len(self.job.valid) == 0:
            self._judge(row["train_loss"], higher_is_better=False)
        elif due:
            by_accuracy = self.stage.monitor == "accuracy"
            self._judge(row["valid_accuracy" if by_accuracy else "valid_loss"], by_accuracy)
        progress["history"].append(row)
        log.info("%s", " ".join([self.job.title, *(f"{k} {v:.4g}" for k, v in row.items() if v is not None)]))
        return row

    def _judge(self, figure: float, higher_is_better: bool) -> None:
        """Hand the monitored figure (training loss where there is no validation) to the schedule, early stopping and `best.pt`."""
        progress, sign = self.progress, 1 if higher_is_better else -1
        self.schedule.epoch_end(figure)
        margin = self.stage.early_stopping.min_delta if self.stage.early_stopping else 0.0
        if progress["best"] is None or sign * (figure - progress["best"]) > margin:
            progress.update(best=figure, bad_epochs=0)
            if len(self.job.valid):
                save_checkpoint(self.job.folder / "best.pt", self._state(slim=True))
        else:
            progress["bad_epochs"] += 1

    def _next_epoch(self) -> None:
        self.progress.update(epoch=self.progress["epoch"] + 1, batch=0, loss_sum=0.0, seen=0)

    def _no_longer_improving(self) -> bool:
        return (
            self.stage.early_stopping is not None and self.progress["bad_epochs"] >= self.stage.early_stopping.patience
        )

    def validate(self) -> tuple[float, float]:
        """Loss by sample, and accuracy by target (mean of its samples' log-probabilities), of the weights that will predict."""
        valid, samples = self.job.valid, self.job.store.samples
        logits = predict_with(self.job, self.predictor, self.pixels, valid)["identity"]
        scores = log_softmax(logits[:, : len(self.job.classes)], axis=1)
        labels = samples.label.to_numpy(dtype=np.int64, na_value=-1)[valid]
        _, merged, first = by_target(scores, samples.target_id.to_numpy()[valid].astype(str))
        accuracy = float((merged.argmax(1) == labels[first]).mean())
        return float(-scores[np.arange(len(labels)), labels].mean()), accuracy

    @property
    def predictor(self) -> torch.nn.Module:
        """The averaged model where there is one."""
        return self.average.module or self.model

    def _recompute_statistics(self) -> None:
        order = self.examples.batches(self.progress["epoch"])
        workers = 0 if self.training.cached is not None else self.job.config.data.workers

        def inputs():
            for batch in loader(self.training, order, workers):
                images = batch["image"].to(self.device, memory_format=torch.channels_last)
                cell_types = self.examples.targets(batch["index"])[1]
                yield (images,) if cell_types is None else (images, cell_types.to(self.device))

        with self._autocast():
            self.average.recompute(inputs())

    # pseudo-labels ---------------------------------------------------------------------------------------------------------------------

    def _label_test_wells(self) -> None:
        """Draw the pseudo-labels that an epoch begins with; where an interrupted epoch goes on, take those it began with."""
        config, progress = self.stage.pseudo_labels, self.progress
        if config is None or progress["epoch"] < config.start:
            return
        if progress["batch"] == 0:
            path = draw_pseudo_labels(self.job, self.predictor, self.pixels, progress["epoch"])
            progress["pseudo_labels"] = sha256(path)
        frame = read_pseudo_labels(self.job, progress["epoch"], progress["pseudo_labels"])
        self.examples.set_pseudo_labels(frame)

    # state -----------------------------------------------------------------------------------------------------------------------------

    def _state(self, slim: bool = False) -> dict[str, Any]:
        job = self.job
        state = {
            **identity(job), "channels": [job.store.channels[index] for index in job.channels], "config": job.config.model_dump(mode="json"),
            "overall": [values.tolist() for values in self.pixels.overall], "progress": self.progress, "image_size": self.image_size,
            "model": self.model.state_dict(), "averaged": None if self.average.module is None else self.average.module.state_dict(),
        }  # fmt: skip
        if slim:
            return state
        cuda = torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        return state | {
            "average": self.average.state_dict(), "loss": self.loss.state_dict(), "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(), "scaler": self.scaler.state_dict(),
            "rng": {"torch": torch.get_rng_state(), "cuda": cuda, "own": self.generator.get_state()},
        }  # fmt: skip

    def _save(self) -> None:
        save_checkpoint(self.job.folder / "last.pt", self._state(slim=self.progress["finished"]))

    def _resume(self, state: dict[str, Any], path) -> None:
        check_belongs(self.job, state, path)
        self.progress = state["progress"]
        _load(self.model, state["model"], path)
        if self.progress["finished"]:
            return
        if self.average.kept is not None:
            self.average.load_state_dict(state["average"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"]["torch"])
        self.generator.set_state(state["rng"]["own"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
        log.info(
            "%s: goes on in epoch %d at batch %d", self.job.title, self.progress["epoch"] + 1, self.progress["batch"]
        )

    def _start_from(self, state: dict[str, Any]) -> None:
        """Take the weights of the stage before, after making sure that it was held to the same fold."""
        job, path = self.job, self.job.init
        if state["fold"] != job.fold or state["held_out"] != job.held_out:
            raise InputError(
                f"{path}: was trained on other folds; its training wells could be in this stage's validation"
            )
        if not state["progress"]["finished"]:
            raise InputError(f"{path}: that stage is not finished")
        _load(self.model, state["averaged"] or state["model"], path)


def _load(model: torch.nn.Module, weights: dict[str, torch.Tensor], path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path}: weights do not fit the configured model ({str(error).splitlines()[-1].strip()})"
        ) from None
