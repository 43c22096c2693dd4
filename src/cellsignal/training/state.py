"""What a checkpoint holds of a training, and how a training goes on from one.

Model, averaged model, loss, optimiser, learning rate, gradient scaler and place in the epoch are
the same in every process; random states and the sum of the epoch's losses are each process's own.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cellsignal.common.errors import InputError
from cellsignal.models.backbones import build_model
from cellsignal.training.checkpoints import check_config, load_last
from cellsignal.training.job import Job, check_belongs, identity, told_apart

if TYPE_CHECKING:
    from cellsignal.training.loop import Trainer

log = logging.getLogger(__name__)


def slim(trainer: "Trainer") -> dict[str, Any]:
    """What prediction and the next stage need."""
    job, averaged = trainer.job, trainer.average.module
    return {
        **identity(job),
        "channels": [job.store.channels[index] for index in job.channels],
        "config": job.config.model_dump(mode="json"),
        "overall": [values.tolist() for values in trainer.pixels.overall],
        "progress": trainer.progress,
        "image_size": trainer.image_size,
        "model": trainer.model.state_dict(),
        "averaged": None if averaged is None else averaged.state_dict(),
    }


def whole(trainer: "Trainer") -> dict[str, Any]:
    """All that decides the next weights. Every process must ask for it."""
    mine = {
        "torch": torch.get_rng_state(),
        "own": trainer.generator.get_state(),
        "loss_sum": trainer.loss_sum.cpu(),
        "seen": trainer.progress["seen"],
        "cuda": torch.cuda.get_rng_state(trainer.device) if trainer.device.type == "cuda" else None,
    }
    stepper = trainer.stepper
    own_groups = None if stepper.loss_optimizer is None else stepper.loss_optimizer.state_dict()
    return slim(trainer) | {
        "average": trainer.average.state_dict(),
        "loss": trainer.loss.state_dict(),
        "optimizer": stepper.optimizer.state_dict(),
        "center_optimizer": own_groups,  # its name in checkpoints of before
        "schedule": trainer.schedule.state_dict(),
        "scaler": stepper.scaler.state_dict(),
        "processes": trainer.ranks.gather(mine),
        "seconds": trainer.budget.measured(),
    }


def resume(trainer: "Trainer", state: dict[str, Any], path: Path) -> None:
    """Go on where a checkpoint of the same job stands.

    Raises:
        InputError: it is of another config or training, or of another number of processes.
    """
    check_config(state, trainer.job.config, path)
    check_belongs(trainer.job, state, path)
    trainer.progress = state["progress"]
    _load(trainer.model, state["model"], path)
    if trainer.progress["finished"]:
        return
    processes, ranks = state["processes"], trainer.ranks
    if len(processes) != ranks.world:
        raise InputError(
            f"{path}: was saved by {len(processes)} processes, these are {ranks.world}; go on "
            "with as many, or move it away to start anew"
        )
    if trainer.average.kept is not None:
        trainer.average.load_state_dict(state["average"])
    trainer.loss.load_state_dict(state["loss"])
    trainer.stepper.optimizer.load_state_dict(state["optimizer"])
    if trainer.stepper.loss_optimizer is not None:
        trainer.stepper.loss_optimizer.load_state_dict(state["center_optimizer"])
    trainer.schedule.load_state_dict(state["schedule"])
    if bool(state["scaler"]) == trainer.stepper.scaler.is_enabled():
        trainer.stepper.scaler.load_state_dict(state["scaler"])
    else:
        log.warning(
            "%s: was saved by a device that computes in other numbers than %s; goes on in these",
            path,
            trainer.stepper.dtype,
        )
    trainer.budget.take(state.get("seconds", {}))
    mine = processes[ranks.rank]
    trainer.progress["seen"] = mine["seen"]
    trainer.loss_sum.copy_(mine["loss_sum"])
    torch.set_rng_state(mine["torch"])
    trainer.generator.set_state(mine["own"])
    if trainer.device.type == "cuda":
        if mine["cuda"] is None:
            raise InputError(
                f"{path}: was saved on a CPU; go on there, or move it away to start anew"
            )
        torch.cuda.set_rng_state(mine["cuda"], trainer.device)
    progress = trainer.progress
    log.info(
        "%s: goes on in epoch %d at batch %d",
        trainer.job.title,
        progress["epoch"] + 1,
        progress["batch"],
    )


def start_from(job: Job, model: torch.nn.Module, image_size: int) -> None:
    """Take the weights of the stage before, after making sure that it was held to the same fold;
    its heads only where they tell the same apart.

    Raises:
        InputError: it is of another config, was trained on other folds, or is not finished.
    """
    state, path = load_last(job.init)
    check_config(state, job.config, path)
    if state["fold"] != job.fold or state["held_out"] != job.held_out:
        raise InputError(
            f"{path}: was trained on other folds; its training wells could be in this stage's "
            "validation"
        )
    if not state["progress"]["finished"]:
        raise InputError(f"{path}: that stage is not finished")
    weights = state["averaged"] or state["model"]
    if told_apart(state) != job.told_apart:
        heads = _head_names(job, image_size)
        weights = {name: tensor for name, tensor in weights.items() if name not in heads}
        weights |= {name: tensor for name, tensor in model.state_dict().items() if name in heads}
    _load(model, weights, path)


def _head_names(job: Job, image_size: int) -> set[str]:
    """The names of a network's weights that depend on what it tells apart: those that have another
    shape where it has one class more.
    """

    def shapes(outputs: int) -> dict[str, torch.Size]:
        model = build_model(
            job.config.model,
            len(job.channels),
            outputs,
            image_size,
            len(job.cell_types),
            initial_weights=False,
        )
        return {name: tensor.shape for name, tensor in model.state_dict().items()}

    with torch.random.fork_rng(devices=[]):
        own, wider = shapes(job.outputs), shapes(job.outputs + 1)
    return {name for name, shape in own.items() if wider[name] != shape}


def _load(model: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path}: weights do not fit the configured model "
            f"({str(error).splitlines()[-1].strip()})"
        ) from None
