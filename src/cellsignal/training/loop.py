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
from torch.nn import functional
from tqdm import tqdm

from cellsignal.data.dataset import EpochBatches, SiteDataset, in_order, loader
from cellsignal.data.transforms import Transform
from cellsignal.errors import InputError
from cellsignal.models.backbones import build_model
from cellsignal.training.checkpoints import load_checkpoint, save_checkpoint
from cellsignal.training.job import Job, check_belongs, identity, pixel_statistics
from cellsignal.training.logs import EpochLog
from cellsignal.training.losses import SoftCrossEntropy, class_weights
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
        self.mix_generator = torch.Generator().manual_seed(job.seed + 1)
        pixels = pixel_statistics(config, job.store, job.train)
        self.overall = pixels.overall
        self.training = self._dataset(job.train, pixels, Transform(self.stage.augment, len(job.store.channels)))
        self.validation = self._dataset(job.valid, pixels, None)
        self.image_size = self.training[(0, 0)]["image"].shape[-1]
        fresh = job.init is None and not (job.folder / "last.pt").exists()
        self.model = build_model(
            config.model, len(job.store.channels), len(job.classes), self.image_size, initial_weights=fresh
        )
        self.model.to(device, memory_format=torch.channels_last)
        if job.init is not None:
            self._start_from(load_checkpoint(job.init))
        self.ema = _averaged(self.model, self.stage.ema)
        self.optimizer = build_optimizer(self.model, self.stage.optimizer, fused=device.type == "cuda")
        self.batches = EpochBatches.count(len(self.training), self.stage.batch_size)
        self.steps = math.ceil(self.batches / self.stage.accumulation)
        self.schedule = LearningRate(
            self.optimizer,
            self.stage.schedule,
            self.stage.epochs,
            self.steps,
            self.stage.monitor == "accuracy" and len(job.valid) > 0,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.stage.amp == "fp16")
        weights = class_weights(self.training.labels, len(job.classes), self.stage.class_weights)
        self.loss = SoftCrossEntropy(weights, self.stage.label_smoothing).to(device)
        self.progress: dict[str, Any] = {
            "epoch": 0, "batch": 0, "updates": 0, "loss_sum": 0.0, "seen": 0, "best": None, "bad_epochs": 0, "history": [], "finished": False,
        }  # fmt: skip

    def _dataset(self, positions: np.ndarray, pixels, transform: Transform | None) -> SiteDataset:
        samples, config = self.job.store.samples.iloc[positions], self.job.config
        return SiteDataset(
            self.job.store, samples.row.to_numpy(), samples.label.to_numpy(dtype=np.int64), pixels.shift[positions], pixels.scale[positions],
            transform, self.job.seed, None if transform else config.predict.center_crop, config.data.cache_gib,
        )  # fmt: skip

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
        order = EpochBatches(
            len(self.training), self.stage.batch_size, self.job.seed, progress["epoch"], progress["batch"]
        )
        workers = 0 if self.training.cached is not None and self.device.type == "cpu" else self.job.config.data.workers
        bar = tqdm(desc=f"{self.job.title} epoch {progress['epoch'] + 1}/{self.stage.epochs}", total=self.batches, initial=progress["batch"],
                   disable=None, leave=False)  # fmt: skip
        saved = time.monotonic()
        for batch in loader(self.training, order, workers, pin=self.device.type == "cuda"):
            first = progress["batch"] // accumulation * accumulation
            self._backward(batch, share=1 / min(accumulation, self.batches - first))
            progress["batch"] += 1
            bar.update()
            if progress["batch"] % accumulation and progress["batch"] < self.batches:
                continue
            self._update()
            if progress["batch"] < self.batches and (
                self.stop.asked or time.monotonic() - saved > 60 * self.stage.checkpoint_minutes
            ):
                self._save()
                saved = time.monotonic()
                self.stop.check(self.job.title)
        bar.close()

    def _backward(self, batch: dict[str, torch.Tensor], share: float) -> None:
        images = batch["image"].to(self.device, non_blocking=True, memory_format=torch.channels_last)
        targets = functional.one_hot(batch["label"].to(self.device), len(self.job.classes)).float()
        if self.stage.mix is not None:
            images, targets = mix_batch(images, targets, self.stage.mix, self.mix_generator)
        with self._autocast():
            logits = self.model(images)
        loss = self.loss(logits, targets)
        value = loss.item()
        if not math.isfinite(value):
            raise InputError(
                f"{self.job.title}: the loss became {value} in epoch {self.progress['epoch'] + 1}; lower the learning rate"
            )
        self.scaler.scale(loss * share).backward()
        self.progress["loss_sum"] += value * len(images)
        self.progress["seen"] += len(images)

    def _update(self) -> None:
        if self.stage.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.stage.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.progress["updates"] += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.progress["updates"])

    def _autocast(self) -> torch.autocast:
        kind = torch.float16 if self.stage.amp == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, kind, enabled=self.stage.amp != "off")

    # end of an epoch -------------------------------------------------------------------------------------------------------------------

    def _end_epoch(self, rate: float) -> dict[str, Any]:
        progress = self.progress
        row = {"epoch": progress["epoch"] + 1, "train_loss": progress["loss_sum"] / progress["seen"], "valid_loss": None, "valid_accuracy": None,
               "lr": self.optimizer.param_groups[0]["lr"], "images_per_s": round(rate, 1)}  # fmt: skip
        due = row["epoch"] % self.stage.validate_every == 0 or row["epoch"] == self.stage.epochs
        if len(self.validation) and due:
            row["valid_loss"], row["valid_accuracy"] = self.validate()
        if len(self.validation) == 0:
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
            if len(self.validation):
                save_checkpoint(self.job.folder / "best.pt", self._state(slim=True))
        else:
            progress["bad_epochs"] += 1

    def _next_epoch(self) -> None:
        self.progress.update(epoch=self.progress["epoch"] + 1, batch=0, loss_sum=0.0, seen=0)

    def _no_longer_improving(self) -> bool:
        return (
            self.stage.early_stopping is not None and self.progress["bad_epochs"] >= self.stage.early_stopping.patience
        )

    @torch.inference_mode()
    def validate(self) -> tuple[float, float]:
        """Loss by sample, and accuracy by target (mean of its samples' log-probabilities), of the weights that will predict."""
        model = self.model if self.ema is None else self.ema.module
        model.eval()
        parts = []
        workers = 0 if self.validation.cached is not None else self.job.config.data.workers
        for batch in loader(
            self.validation, in_order(len(self.validation), self.job.config.predict.batch_size), workers
        ):
            with self._autocast():
                logits = model(batch["image"].to(self.device, memory_format=torch.channels_last))
            parts.append(logits.float().log_softmax(1).cpu().numpy())
        scores, labels = np.concatenate(parts), self.validation.labels
        targets, inverse = np.unique(
            self.job.store.samples.target_id.to_numpy()[self.job.valid].astype(str), return_inverse=True
        )
        merged, truth = np.zeros((len(targets), scores.shape[1])), np.empty(len(targets), np.int64)
        np.add.at(merged, inverse, scores)
        truth[inverse] = labels
        return float(-scores[np.arange(len(labels)), labels].mean()), float((merged.argmax(1) == truth).mean())

    # state -----------------------------------------------------------------------------------------------------------------------------

    def _state(self, slim: bool = False) -> dict[str, Any]:
        job = self.job
        state = {
            **identity(job), "channels": list(job.store.channels), "config": job.config.model_dump(mode="json"),
            "overall": [values.tolist() for values in self.overall], "progress": self.progress, "image_size": self.image_size,
            "model": self.model.state_dict(), "ema": None if self.ema is None else self.ema.module.state_dict(),
        }  # fmt: skip
        if slim:
            return state
        cuda = torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        return state | {
            "optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(), "scaler": self.scaler.state_dict(),
            "rng": {"torch": torch.get_rng_state(), "cuda": cuda, "mix": self.mix_generator.get_state()},
        }  # fmt: skip

    def _save(self) -> None:
        save_checkpoint(self.job.folder / "last.pt", self._state(slim=self.progress["finished"]))

    def _resume(self, state: dict[str, Any], path) -> None:
        check_belongs(self.job, state, path)
        self.progress = state["progress"]
        _load(self.model, state["model"], path)
        if self.ema is not None:
            _load(self.ema.module, state["ema"], path)
        if self.progress["finished"]:
            return
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"]["torch"])
        self.mix_generator.set_state(state["rng"]["mix"])
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
        _load(self.model, state["ema"] or state["model"], path)


def _load(model: torch.nn.Module, weights: dict[str, torch.Tensor], path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path}: weights do not fit the configured model ({str(error).splitlines()[-1].strip()})"
        ) from None


def _averaged(model: torch.nn.Module, decay: float | None):
    """timm's exponential moving average of weights and buffers (BatchNorm's too), its decay warmed up."""
    if decay is None:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay, use_warmup=True)
