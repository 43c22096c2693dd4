"""Measure which batch size a config's stages can have here, and where an epoch's time goes."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from accelerate.utils import release_memory
from accelerate.utils.memory import should_reduce_batch_size
from torch.profiler import ProfilerActivity, profile

from cellsignal.common.stopping import Stop
from cellsignal.common.tables import aligned
from cellsignal.config import Config
from cellsignal.models.backbones import build_model
from cellsignal.models.cost import checkpoint_activations
from cellsignal.training.inference import pixel_statistics, site_dataset
from cellsignal.training.job import Job
from cellsignal.training.optim import Stepper
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import Ranks, this_process
from cellsignal.training.stage_loss import StageLoss
from cellsignal.training.trainer import Trainer

ENOUGH = 0.95  # of the best rate: the smallest batch that reaches it is fast enough
GRAIN = 8  # batch sizes are multiples of it, as tensor cores like


def bench_batch_size(config: Config, most: int = 1024, steps: int = 5) -> pd.DataFrame:
    """Try training steps of each stage's first model on random images, in growing batches.

    Batches of 8, 16, 32, ... until memory or `most` ends it, then between.

    Returns:
        One row a stage and size tried: stage, batch, fits, images_per_s (median of `steps`),
        memory_gib (peak on a GPU, else NaN).
    """
    alone, firsts = Ranks(0, 1, this_process().device), {}
    for job in jobs_of(config):
        firsts.setdefault(job.stage_index, job)
    rows = []
    for job in firsts.values():
        pixels = pixel_statistics(config, job.store, job.train)
        side = site_dataset(job, job.train[:1], pixels, job.stage.augment).image_size
        tried = search(lambda size, job=job, side=side: _try(job, side, size, steps, alone), most)
        for size, result in sorted(tried.items()):
            rows.append({"stage": job.stage.name, "batch": size, **result})
    return pd.DataFrame(rows)


def search(attempt: Callable[[int], dict], most: int) -> dict[int, dict]:
    """Find the largest size that fits: double from `GRAIN`, then bisect.

    Returns:
        Sizes tried and the result of each (`fits` and more).
    """
    tried, size = {}, GRAIN
    while size <= most:
        tried[size] = attempt(size)
        if not tried[size]["fits"]:
            break
        size *= 2
    fitting = [size for size, result in tried.items() if result["fits"]]
    low = max(fitting, default=0)
    high = min((size for size in tried if size not in fitting), default=0)
    while high - low > GRAIN and low:
        middle = (low + high) // 2 // GRAIN * GRAIN
        tried[middle] = attempt(middle)
        low, high = (middle, high) if tried[middle]["fits"] else (low, middle)
    return tried


def batch_size_text(tried: pd.DataFrame) -> str:
    """Show each stage's sizes, its largest batch that fits and the smallest fast enough."""
    lines = [("stage", "batch", "images/s", "memory, GiB")]
    for row in tried.itertuples():
        speed = f"{row.images_per_s:.1f}" if row.fits else "does not fit"
        memory = "" if pd.isna(row.memory_gib) else f"{row.memory_gib:.2f}"
        lines.append((row.stage, str(row.batch), speed, memory))
    text = [aligned(lines, right={1, 2, 3}), ""]
    for name, stage in tried[tried.fits].groupby("stage", sort=False):
        fast = stage[stage.images_per_s >= ENOUGH * stage.images_per_s.max()].batch.min()
        text.append(
            f"{name}: up to {stage.batch.max()} fits; from {fast} on it is within "
            f"{1 - ENOUGH:.0%} of the best speed"
        )
    return "\n".join(text)


def _try(job: Job, side: int, size: int, steps: int, ranks: Ranks) -> dict:
    """Run some training steps on `size` random images of the stage's training size."""
    device = ranks.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    stepper = images = None
    try:
        stepper, images = _stepper(job, side, ranks), _images(job, side, size, device)
        seconds = [_step(job, stepper, images, device) for _ in range(steps + 2)][2:]
    except Exception as error:
        if not should_reduce_batch_size(error):
            raise
        return {"fits": False, "images_per_s": float("nan"), "memory_gib": float("nan")}
    finally:
        release_memory(stepper, images)
        del stepper, images
    memory = (
        torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
    )
    return {"fits": True, "images_per_s": size / statistics.median(seconds), "memory_gib": memory}


def _stepper(job: Job, side: int, ranks: Ranks) -> Stepper:
    model = build_model(
        job.config.model,
        len(job.channels),
        job.outputs,
        side,
        len(job.cell_types),
        initial_weights=False,
    )
    model.to(ranks.device, memory_format=torch.channels_last)
    if job.stage.gradient_checkpointing:
        checkpoint_activations(model, tuple(_images(job, side, 2, ranks.device)))
    loss = StageLoss(job.stage, None, job.outputs, model.width).to(ranks.device)
    model.train()
    return Stepper(model, loss, job.stage, ranks)


def _images(job: Job, side: int, size: int, device: torch.device) -> list[torch.Tensor]:
    images = torch.randn(size, len(job.channels), side, side, device=device).contiguous(
        memory_format=torch.channels_last
    )
    types = len(job.cell_types)
    return (
        [images, torch.eye(types, device=device)[torch.arange(size) % types]]
        if job.config.model.cell_type_vector
        else [images]
    )


def _step(job: Job, stepper: Stepper, inputs: list[torch.Tensor], device: torch.device) -> float:
    images, *others = inputs
    labels = torch.arange(len(images), device=device) % job.outputs
    targets = torch.nn.functional.one_hot(labels, job.outputs).float()
    started = time.perf_counter()
    with stepper.autocast():
        loss, _ = stepper.forward(images, targets, labels, *others)
    stepper.backward(loss)
    stepper.update()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def bench_profile(config: Config, rows: int = 15) -> str:
    """Train the config's first stage for three epochs in a folder of its own, and profile the
    third.

    Returns:
        The epoch's line of throughput, of the second epoch, without the profiler, and the
        profiler's table of operations by their own time.
    """
    device = this_process().device
    with tempfile.TemporaryDirectory(prefix="cellsignal_profile_") as folder:
        stage = config.stages[0].model_copy(update={"validate_every": config.stages[0].epochs})
        job = jobs_of(
            config.model_copy(update={"runs": Path(folder), "stages": (stage, *config.stages[1:])})
        )[0]
        with Stop() as stop:
            trainer = Trainer(job, Ranks(0, 1, device), stop)
            trainer.train_epoch()  # what is set up once
            trainer.next_epoch()
            speed = trainer.train_epoch()
            trainer.next_epoch()
            activities = [
                ProfilerActivity.CPU,
                *([ProfilerActivity.CUDA] if device.type == "cuda" else []),
            ]
            with profile(activities=activities) as profiler:
                trainer.train_epoch()
    by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    operations = profiler.key_averages()
    table = operations.table(sort_by=by, row_limit=rows, max_name_column_width=40)
    return f"{job.title}: {speed.line()}\n\n{table}"
