"""Checks before a training begins, and before anything is written, whether it can be done.

A mistake that shows only in the first batch, or at the end of the first epoch, costs hours and
leaves a run folder behind.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from cellsignal.common.errors import InputError
from cellsignal.config import Config
from cellsignal.data.views import tta_views
from cellsignal.models.backbones import build_model, check_backbone, see_channels
from cellsignal.training.adaptation import plan_comparison, smallest_batch, warn_of_units
from cellsignal.training.checkpoints import has_checkpoint
from cellsignal.training.examples import Examples
from cellsignal.training.inference import output_shapes, pixel_statistics
from cellsignal.training.job import Job
from cellsignal.training.ranks import Ranks
from cellsignal.training.self_supervised import TwoViews
from cellsignal.training.validation import draw_gallery

log = logging.getLogger(__name__)


def check_jobs(jobs: Sequence[Job], ranks: Ranks) -> None:
    """Make sure that the trainings of a config that have not begun yet can be done.

    Raises:
        InputError: labels with nothing to tell apart, no test sample for a stage that trains on
            them, no batch, an augmentation that cannot work, an unknown backbone, weights that do
            not fit it, images too small for it, or batches too small for its BatchNorm.
    """
    new = [job for job in jobs if not has_checkpoint(job.folder / "last.pt")]
    if not new:
        return
    pixel_statistics(new[0].config, new[0].store, new[0].train)
    for job in new:
        if job.config.predict.adapt_wells != "all" and len(job.scored) + len(job.test):
            plan_comparison(job)
    if ranks.first:
        warn_of_units(new[0], np.unique(np.concatenate([job.scored for job in new])))
    _check_stages_have_samples(jobs)
    checked = set()
    for job in new:
        draw_gallery(job)
        batch = _check_examples(job, ranks)
        unit = smallest_batch(job, np.concatenate([job.scored, job.test]))
        shapes = output_shapes(job)
        case = (job.stage_index, job.init is None, job.outputs, batch, unit, *shapes)
        if case not in checked:
            _check_model(job, batch, unit, *shapes)
            checked.add(case)


def check_model_section(config: Config) -> None:
    """Check the model section without a store: network, options, weights file, TTA views.

    Raises:
        InputError: no such network, option or view; no such file, where no training has begun
            that took it.
    """
    model = config.model
    check_backbone(model)
    tta_views(config.predict.tta)
    begun = any(has_checkpoint(path) for path in config.run_folder.glob("*/*/*/last.pt"))
    if model.weights is not None and not begun and not model.weights.is_file():
        raise InputError(f"model.weights: {model.weights}: no such file of weights")


def _check_stages_have_samples(jobs: Sequence[Job]) -> None:
    """Raise if a stage trains on test samples and no job has any."""
    for index, stage in enumerate(jobs[0].config.stages):
        stage_jobs = [job for job in jobs if job.stage_index == index]
        keys = ["pseudo_labels"] if stage.pseudo_labels is not None else []
        if stage.mean_teacher is not None and stage.mean_teacher.unlabelled == "test":
            keys.append("mean_teacher.unlabelled")
        for key in keys:
            without = [job.title for job in stage_jobs if not len(job.test)]
            if len(without) == len(stage_jobs):
                raise InputError(
                    f"stages.{stage.name}.{key}: {jobs[0].config.data.store} has no test sample to "
                    "train on; leave it out"
                )
            if without:
                log.warning(
                    "stages.%s.%s: %d of %d trainings have no test sample, first %s",
                    stage.name,
                    key,
                    len(without),
                    len(stage_jobs),
                    without[0],
                )
        blind = [job.title for job in stage_jobs if job.fold is not None and not len(job.valid)]
        if blind:
            log.warning(
                "%d of %d trainings have no validation sample and follow their training loss, "
                "first %s",
                len(blind),
                len(stage_jobs),
                blind[0],
            )


def _check_examples(job: Job, ranks: Ranks) -> int:
    """Check labels, and return the number of images in the smallest batch of an epoch."""
    if job.stage.self_supervised is not None:
        examples = TwoViews(job, ranks)
    else:
        examples = Examples(job, ranks)
        validation = job.encode_targets(job.scored)
        job.task.check_targets(examples.encoded[examples.known], validation, job.title)
        examples.weights()
        examples.controls()
    # of epoch 0 the sampler would tell what it leaves out
    return min(map(len, examples.batches(1)))


def _check_model(
    job: Job, batch: int, unit: int, training: tuple[int, int], predicting: tuple[int, int]
) -> None:
    """Build the network, and follow shapes through it on torch's meta device."""
    config, stage = job.config, job.stage
    model = _build(job, training)
    averages = stage.swa is not None or stage.bn_recompute
    message = (
        f"stages.{stage.name}.batch_size: batches of {batch} image of {_pixels(training)} leave "
        f"BatchNorm one value a channel ({{layer}} of {config.model.backbone}); write "
        "batch_size: 2 or more"
    )
    with _refusing_single_values(model, message, evaluating=averages):
        _follow(job, model.train(), batch, training, "train on")
    message = (
        f"predict.adapt: {config.predict.adapt}: one has {unit} image of {_pixels(predicting)} a "
        f"batch, which leaves BatchNorm one value a channel ({{layer}} of {config.model.backbone});"
        " write adapt: none, or a larger unit or predict.batch_size"
    )
    with _refusing_single_values(model, message, evaluating=unit > 0):
        _follow(job, model.eval(), max(1, unit), predicting, "predict from")


def _build(job: Job, shape: tuple[int, int]) -> nn.Module:
    config, channels, types = job.config, len(job.channels), len(job.cell_types)
    side, fresh, names = shape[1], job.init is None, job.channel_names
    sizes = (channels, job.outputs, side, types)
    with _explaining(f"{config.model.backbone} cannot be built for {_pixels(shape)}"):
        model = build_model(config.model, *sizes, initial_weights=fresh, names=names)
    see_channels(model, config.predict.channels)
    return model


def _follow(job: Job, model: nn.Module, size: int, shape: tuple[int, int], purpose: str) -> None:
    tensors = (*model.named_parameters(), *model.named_buffers())
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    channels, name = len(job.channels), job.config.model.backbone
    inputs = [torch.empty(size, channels, *shape, device="meta")]
    if job.config.model.cell_type_vector:
        inputs.append(torch.empty(size, len(job.cell_types), device="meta"))
    problem = f"{name} cannot {purpose} {channels} channels of {_pixels(shape)}"
    with _explaining(problem), torch.no_grad():
        functional_call(model, state, tuple(inputs))


@contextmanager
def _explaining(problem: str) -> Iterator[None]:
    """Turn the errors of a network's library, each with its own classes, into one line."""
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0][:160] if lines else type(error).__name__
        raise InputError(f"model.backbone: {problem} ({reason})") from error


@contextmanager
def _refusing_single_values(model: nn.Module, message: str, evaluating: bool) -> Iterator[None]:
    """Refuse that a BatchNorm layer takes statistics of one value a channel.

    Args:
        message: with a place for the `layer`.
        evaluating: whether layers in evaluation mode take statistics, too.
    """

    def check(name: str, layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        x = inputs[0]
        if (layer.training or evaluating) and x.numel() // x.shape[1] < 2:
            raise InputError(message.format(layer=name))

    hooks = [
        module.register_forward_pre_hook(partial(check, name))
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _pixels(shape: tuple[int, int]) -> str:
    return f"{shape[1]}x{shape[0]} pixels"
