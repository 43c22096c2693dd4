"""Find the competitions: one folder each, each a subclass of `base.Competition`."""

import difflib
import importlib
import inspect
import pkgutil
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import Competition, registered


def import_folders() -> None:
    """Import every folder beside this file, so that its competitions register themselves."""
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            importlib.import_module(f"{__name__}.{module.name}")


def competition_ids() -> tuple[str, ...]:
    """Return the ids of all competitions, sorted."""
    return tuple(sorted(registered()))


def get_competition(competition_id: str) -> Competition:
    """Return the competition of an id.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    if competition_id in registered():
        return registered()[competition_id]()
    near = difflib.get_close_matches(competition_id, competition_ids(), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"unknown competition {competition_id!r}, known: {', '.join(competition_ids())}{hint}"
    )


def quick_config(competition: Competition) -> Path:
    """Return the path of a competition's quick config.

    It is `quick.yaml` in the competition's folder, or `quick_<id>.yaml` where the folder holds
    several competitions.
    """
    folder = Path(inspect.getfile(type(competition))).parent
    path = folder / f"quick_{competition.id}.yaml"
    return path if path.is_file() else folder / "quick.yaml"


import_folders()
