"""Find out before a training begins, and before anything is written, whether it can be done.

A mistake that shows only in the first batch, or at the end of the first epoch, costs hours and
leaves a run folder behind. Whatever can be known from the config, the store's table and the shapes
of the images is asked here.
"""

import logging
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from cellsignal.common.errors import InputError
from cellsignal.competitions.samples import label_matrix
from cellsignal.config import Config
from cellsignal.data.views import tta_views
from cellsignal.models.backbones import build_model, check_backbone
from cellsignal.training.checkpoints import has_checkpoint
from cellsignal.training.examples import Examples
from cellsignal.training.inference import output_shapes, pixel_statistics
from cellsignal.training.job import Job, kept_samples, unit_codes
from cellsignal.training.ranks import Ranks
from cellsignal.training.self_supervised import TwoViews
from cellsignal.training.validation import draw_gallery

log = logging.getLogger(__name__)


def check_jobs(jobs: Sequence[Job], ranks: Ranks) -> None:
    """Make sure that the trainings of a config can be done; those that have begun are not asked
    again.

    Raises:
        InputError: labels with nothing to tell apart, no test sample for a stage that trains on
        them, no batch, an
            augmentation that cannot work, a backbone that there is not, weights that do not fit it,
            images too small for it, or batches too small for its BatchNorm. The message names the
            key.
    """
    fresh = [job for job in jobs if not has_checkpoint(job.folder / "last.pt")]
    if not fresh:
        return
    pixel_statistics(fresh[0].config, fresh[0].store, fresh[0].train)
    _check_stages_have_samples(jobs)
    checked = set()
    for job in fresh:
        draw_gallery(job)
        smallest = _check_examples(job, ranks)
        shapes = output_shapes(job)
        question = (
            job.stage_index,
            job.init is None,
            job.outputs,
            smallest,
            _smallest_unit(job),
            *shapes,
        )
        if question not in checked:
            _check_model(job, smallest, *shapes)
            checked.add(question)


def check_model_section(config: Config) -> None:
    """Check what needs no store: the network's name and options, its file of weights, TTA views.

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
    """Refuse a stage that trains on test samples where there are none; say of how many jobs
    something is missing.
    """
    for index, stage in enumerate(jobs[0].config.stages):
        mine = [job for job in jobs if job.stage_index == index]
        keys = ["pseudo_labels"] if stage.pseudo_labels is not None else []
        if stage.mean_teacher is not None and stage.mean_teacher.unlabelled == "test":
            keys.append("mean_teacher.unlabelled")
        for key in keys:
            without = [job.title for job in mine if not len(job.test)]
            where = f"stages.{stage.name}.{key}"
            if len(without) == len(mine):
                raise InputError(
                    f"{where}: {jobs[0].config.data.store} has no test sample to train on; leave "
                    "it out"
                )
            if without:
                log.warning(
                    "%s: %d of %d trainings have no test sample, first %s",
                    where,
                    len(without),
                    len(mine),
                    without[0],
                )
        blind = [job.title for job in mine if job.fold is not None and not len(job.valid)]
        if blind:
            log.warning(
                "%d of %d trainings have no validation sample and follow their training loss, "
                "first %s",
                len(blind),
                len(mine),
                blind[0],
            )


def _check_examples(job: Job, ranks: Ranks) -> int:
    """The number of images in the smallest batch of an epoch."""
    if job.stage.self_supervised is not None:
        examples = TwoViews(job, ranks)
    else:
        examples = Examples(job, ranks)
        _check_labels(job, examples)
        examples.weights()
        examples.controls()
    # of epoch 0 the sampler would tell what it leaves out
    return min(map(len, examples.batches(1)))


def _check_labels(job: Job, examples: Examples) -> None:
    if job.multilabel:
        truth = examples.truth[examples.known]
        if not (truth == 1).any():
            raise InputError(
                f"{job.title}: none of the {len(job.train)} training samples has any of the "
                f"{job.outputs} classes"
            )
        if len(job.scored):
            valid = label_matrix(job.store.samples.iloc[job.scored], job.outputs)
            if not ((valid == 1).any(0) & (valid == 0).any(0)).any():
                raise InputError(
                    f"{job.title}: no class has both a positive and a negative among the "
                    f"{len(job.scored)} validation samples"
                )
    elif len(np.unique(examples.labels[examples.known])) < 2:
        raise InputError(
            f"{job.title}: all {len(job.train)} training samples are of one class; there is "
            "nothing to tell apart"
        )


def _smallest_unit(job: Job) -> int:
    """Images in the smallest batch that `predict.adapt` takes statistics of; 0 without."""
    config = job.config
    codes = unit_codes(job.store.samples, config.predict.adapt)
    asked = np.concatenate([job.scored, job.test])
    if codes is None or not len(asked):
        return 0
    counts = np.bincount(codes[kept_samples(config, job.store)], minlength=codes.max() + 1)[
        np.unique(codes[asked])
    ]
    return int((counts // -(-counts // config.predict.batch_size)).min())


def _check_model(
    job: Job, smallest: int, training: tuple[int, int], predicting: tuple[int, int]
) -> None:
    """Build the network, and follow shapes through it on torch's meta device."""
    config, stage = job.config, job.stage
    name = config.model.backbone
    model = _build(job, training)
    unit = _smallest_unit(job)
    with _watching(
        model,
        partial(_refuse_training, job, smallest, training),
        also_evaluating=stage.swa is not None or stage.bn_recompute,
    ):
        _follow(job, model.train(), smallest, training, f"model.backbone: {name} cannot train on")
    with _watching(
        model, partial(_refuse_adapting, job, unit, predicting), also_evaluating=unit > 0
    ):
        _follow(
            job,
            model.eval(),
            max(1, unit),
            predicting,
            f"model.backbone: {name} cannot predict from",
        )


def _build(job: Job, shape: tuple[int, int]) -> nn.Module:
    config = job.config
    try:
        return build_model(
            config.model,
            len(job.channels),
            job.outputs,
            shape[1],
            len(job.cell_types),
            initial_weights=job.init is None,
        )
    except InputError:
        raise
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise InputError(
            f"model.backbone: {config.model.backbone} cannot be built for {_pixels(shape)} "
            f"({_reason(error)})"
        ) from error


def _follow(job: Job, model: nn.Module, size: int, shape: tuple[int, int], complaint: str) -> None:
    tensors = (*model.named_parameters(), *model.named_buffers())
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    inputs = [torch.empty(size, len(job.channels), *shape, device="meta")]
    if job.config.model.cell_type_vector:
        inputs.append(torch.empty(size, len(job.cell_types), device="meta"))
    try:
        with torch.no_grad():
            functional_call(model, state, tuple(inputs))
    except InputError:
        raise
    # each library its own
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        raise InputError(
            f"{complaint} {len(job.channels)} channels of {_pixels(shape)} ({_reason(error)})"
        ) from error


@contextmanager
def _watching(model: nn.Module, refuse, also_evaluating: bool):
    """Call `refuse` with a BatchNorm layer's name where it would take statistics of one value a
    channel.
    """

    def look(name: str, layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        x = inputs[0]
        if (layer.training or also_evaluating) and x.numel() // x.shape[1] < 2:
            refuse(name)

    norms = [
        (name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)
    ]
    hooks = [module.register_forward_pre_hook(partial(look, name)) for name, module in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _refuse_training(job: Job, size: int, shape: tuple[int, int], layer: str) -> None:
    raise InputError(
        f"stages.{job.stage.name}.batch_size: batches of {size} image of {_pixels(shape)} leave "
        "BatchNorm one value a channel "
        f"({layer} of {job.config.model.backbone}); write batch_size: 2 or more"
    )


def _refuse_adapting(job: Job, size: int, shape: tuple[int, int], layer: str) -> None:
    config = job.config
    raise InputError(
        f"predict.adapt: {config.predict.adapt}: one has {size} image of {_pixels(shape)} a "
        "batch, which leaves BatchNorm one value a "
        f"channel ({layer} of {config.model.backbone}); write adapt: none, or a larger unit or "
        "predict.batch_size"
    )


def _pixels(shape: tuple[int, int]) -> str:
    return f"{shape[1]}x{shape[0]} pixels"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
