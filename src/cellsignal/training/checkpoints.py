"""Checkpoints that are whole or not there, never unpickled, refused where they do not belong, and
the last good one kept.

A training's `last.pt` has the one before it beside it, as `last.previous.pt`, until its stage is
finished: where `last.pt` is found damaged the training goes on from that.
"""

import functools
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path
from cellsignal.config import Config
from cellsignal.training.run_config import what_differs

log = logging.getLogger(__name__)
FORMAT = "cellsignal-checkpoint-1"


def save_checkpoint(path: Path, state: dict[str, Any], *, keep: bool = False) -> None:
    """Write `state` (tensors, numbers, strings, containers of them) atomically.

    Args:
        keep: the one before, which must be good, as `previous_of(path)`. At every moment `path` is
        a whole file; where the file system
            has no hard links, `path` or `previous_of(path)` is.

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
    """The checkpoint before that at `path`: last.pt -> last.previous.pt."""
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
    # stays where both were the same file already: a kill came between this and the new file's
    # renaming
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
        reason = (
            str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        )
        raise InputError(f"{path}: corrupt or foreign checkpoint ({reason})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of cellsignal (no {FORMAT!r} mark)")
    return state


def has_checkpoint(path: Path) -> bool:
    """Whether there is a file at `path`, or the previous one."""
    return path.exists() or previous_of(path).exists()


def load_last(path: Path) -> tuple[dict[str, Any], Path]:
    """The checkpoint at `path`, or, with a warning, the previous one where that is damaged or lost;
    and the file it is from.

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


def check_config(state: dict[str, Any], config: Config, path: Path) -> None:
    """Refuse a checkpoint of another config.

    Raises:
        InputError: it names the keys that differ, of those that matter to the weights.
    """
    different = what_differs(state["config"], config)
    if different:
        raise InputError(
            f"{path}: is of another config; rename this one or move that away "
            f"({'; '.join(different[:5])})"
        )
