"""Write checkpoints atomically, and read them without pickle.

A training's `last.pt` has the one before it beside it, as `last.previous.pt`, until its stage is
finished: where `last.pt` is damaged the training resumes from that.
"""

import functools
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path
from cellsignal.models.backbones import build_model
from cellsignal.training.identity import check_config, class_space
from cellsignal.training.job import Job
from cellsignal.training.ranks import Ranks

log = logging.getLogger(__name__)
FORMAT = "cellsignal-checkpoint-1"


def save_checkpoint(path: Path, state: dict[str, Any], *, keep: bool = False) -> None:
    """Write `state` (tensors, numbers, strings, containers of them) atomically.

    Args:
        keep: keep the one before, which must be good, as `previous_of(path)`. At every moment
            `path` is a whole file; where the file system has no hard links, `path` or
            `previous_of(path)` is.

    Raises:
        InputError: the disk is full; the checkpoint before it is untouched.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save({"format": FORMAT, **state}, temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk this way
            raise OSError(None, f"torch: {str(error).splitlines()[0]}") from error
        if keep and path.is_file():
            _keep(path)


def previous_of(path: Path) -> Path:
    """Return the path of the checkpoint before: last.pt -> last.previous.pt."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _keep(path: Path) -> None:
    """Give the file a second name, in the place of the previous one."""
    second = path.with_name(f".{path.name}.link.tmp")
    second.unlink(missing_ok=True)
    try:
        os.link(path, second)
    except OSError:  # no hard links here
        os.replace(path, previous_of(path))
        return
    os.replace(second, previous_of(path))
    # left where both were the same file already: a kill came before the new file's renaming
    second.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Nothing in it is executed (`weights_only=True`).

    Raises:
        InputError: no such file, damaged (a checksum does not match), or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise InputError(f"{path}: corrupt checkpoint (checksum of {damaged!r} does not match)")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    # the zip and tensor readers raise many kinds; each means the same to the user
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0][:120] if lines else type(error).__name__
        raise InputError(f"{path}: corrupt or foreign checkpoint ({reason})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of cellsignal (no {FORMAT!r} mark)")
    return state


def has_checkpoint(path: Path) -> bool:
    """Return whether there is a file at `path`, or the previous one."""
    return path.exists() or previous_of(path).exists()


def load_last(path: Path) -> tuple[dict[str, Any], Path]:
    """Read the checkpoint at `path`; if it is damaged or lost, warn and read the previous one.

    Returns:
        The state and the file it is from.

    Raises:
        InputError: neither can be read.
    """
    previous = previous_of(path)
    try:
        return load_checkpoint(path), path
    except InputError as error:
        if not previous.is_file():
            raise
        broken = error
    try:
        state = load_checkpoint(previous)
    except InputError as error:
        raise InputError(
            f"{broken}; and the one before it, {error}; move both away to start this training anew"
        ) from None
    _warn_once(f"{broken}; going on from the one before it, {previous.name}")
    return state, previous


@functools.cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Load weights into a network.

    Raises:
        InputError: they do not fit; names the checkpoint at `path`.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{path}: weights do not fit the configured model ({reason})") from None


def start_from(job: Job, model: nn.Module, image_size: int) -> None:
    """Load the previous stage's weights; its heads only if the class space is the same.

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
    if class_space(state) != job.class_space:
        heads, initial = _head_names(job, image_size), model.state_dict()
        weights = {name: tensor for name, tensor in weights.items() if name not in heads}
        weights |= {name: initial[name] for name in heads}
    load_weights(model, weights, path)


def _head_names(job: Job, image_size: int) -> set[str]:
    """Return the names of the weights whose shape changes with the number of classes."""

    def shapes(outputs: int) -> dict[str, torch.Size]:
        model = build_model(
            job.config.model,
            len(job.channels),
            outputs,
            image_size,
            len(job.cell_types),
            initial_weights=False,
            names=job.channel_names,
        )
        return {name: tensor.shape for name, tensor in model.state_dict().items()}

    with torch.random.fork_rng(devices=[]):
        narrow, wide = shapes(job.outputs), shapes(job.outputs + 1)
    return {name for name, shape in narrow.items() if wide[name] != shape}


def state_of_rank(state: dict[str, Any], ranks: Ranks, path: Path) -> dict[str, Any]:
    """Return the part of a checkpoint that belongs to this process.

    Raises:
        InputError: it is of another number of processes, or of a CPU where this is a GPU.
    """
    processes = state["processes"]
    if len(processes) != ranks.world:
        raise InputError(
            f"{path}: was saved by {len(processes)} processes, these are {ranks.world}; go on "
            "with as many, or move it away to start anew"
        )
    rank_state = processes[ranks.rank]
    if ranks.device.type == "cuda" and rank_state["cuda"] is None:
        raise InputError(f"{path}: was saved on a CPU; go on there, or move it away to start anew")
    return rank_state
