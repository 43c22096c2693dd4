"""Checkpoints that are whole or not there, never unpickled, and refused where they do not belong."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from cellsignal.errors import InputError
from cellsignal.files import atomic_path

FORMAT = "cellsignal-checkpoint-1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, containers of them) atomically.

    Raises:
        InputError: the disk is full; the checkpoint before it is untouched.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save({"format": FORMAT, **state}, temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk this way
            raise OSError(None, f"torch: {str(error).splitlines()[0]}") from error


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
    except Exception as error:  # the zip and tensor readers raise many kinds; each means the same to the user
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: corrupt or foreign checkpoint ({reason})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of cellsignal (no {FORMAT!r} mark)")
    return state
