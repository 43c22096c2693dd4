"""Write a soup as an ordinary run, and tell what it is worth."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from cellsignal.common.errors import InputError
from cellsignal.common.files import (
    provenance,
    refuse_unwritable,
    temporary_prefix,
    write_json,
    write_text,
)
from cellsignal.common.tables import aligned
from cellsignal.config import Config, dump_config
from cellsignal.metrics.intervals import range_text
from cellsignal.prediction.predict import checkpoint_path
from cellsignal.prediction.soup import Chosen, Kitchen, Nested
from cellsignal.prediction.soup_members import Member, check_alike, find_members
from cellsignal.training.checkpoints import load_checkpoint, save_checkpoint

Method = Literal["greedy", "uniform"]
METHODS: tuple[Method, ...] = ("greedy", "uniform")
RECORD = "soup.json"
_EXISTS = "exists already; give another --name"


def make_soup(
    configs: Sequence[Config],
    name: str,
    method: Method = "greedy",
    snapshots: bool = False,
    any_start: bool = False,
) -> tuple[str, Config]:
    """Choose, measure and write a soup; return what it is worth as text, and its config.

    Args:
        configs: of the runs and seeds.
        name: of the new run.
        snapshots: take the runs' snapshots in place of what predicts.
        any_start: write it also where members began with different weights.

    Raises:
        InputError: the run exists, weights that cannot be averaged, or members of different starts.
    """
    config = new_config(configs[0], name)
    members = find_members(configs, snapshots)
    check_alike(members)
    kitchen = Kitchen(members)
    if not kitchen.has_validation:
        raise InputError(f"{members[0].title}: no fold has validation samples to check a soup on")
    apart = kitchen.different_starts()
    if apart is not None:
        barrier = _barrier(kitchen, apart)
        if not any_start:
            raise InputError(f"{barrier}; blend their predictions, or --any-start writes the soup")
    chosen = kitchen.greedy() if method == "greedy" else tuple(range(len(members)))
    nested, why = None, ""
    try:
        nested = kitchen.nested()
    except InputError as error:
        why = str(error)
    text = [soup_text(kitchen, chosen, nested, why), *([f"warning: {barrier}"] if apart else [])]
    write_run(kitchen, chosen, config, _record(kitchen, chosen, method, nested, apart is not None))
    return "\n".join(text), config


def separate_runs(configs: Sequence[Config], name: str) -> list[Config]:
    """Write each snapshot of a run as a run of its own, for blends and submissions.

    Args:
        configs: of the run, one for each seed.
        name: the runs are called <name>_e<epoch>.

    Raises:
        InputError: a run exists, or no snapshots.
    """
    members = find_members(configs, snapshots=True)
    kitchen = Kitchen(members)
    made = [new_config(member.config, f"{name}_e{member.epoch}") for member in members]
    _refuse_same_place(members, made)
    for number, config in enumerate(made):
        member = Kitchen([members[number]])
        write_run(member, (0,), config, _record(kitchen, (number,), "snapshot", None, False))
    return made


def _refuse_same_place(members: Sequence[Member], made: Sequence[Config]) -> None:
    """Refuse snapshots of several runs that would be one run."""
    places: dict[Path, str] = {}
    for member, config in zip(members, made, strict=True):
        other = places.setdefault(config.run_folder, member.title)
        if other != member.title:
            raise InputError(
                f"{config.run_folder}: would hold both {other} and {member.title}; give "
                "--separate one run at a time"
            )


def new_config(config: Config, name: str) -> Config:
    """Return the config of the new run.

    Raises:
        InputError: it exists already, or a name that no run may have.
    """
    try:
        made = Config.model_validate(config.model_dump() | {"name": name})
    except ValueError:
        raise InputError(f"--name {name!r}: is no name of a run") from None
    if made.run_folder.exists():
        raise InputError(f"{made.run_folder}: {_EXISTS}")
    return made


def _barrier(kitchen: Kitchen, apart: tuple[int, int]) -> str:
    """Say that two members began differently, and what lies half way between them."""
    names = [kitchen.members[number].title for number in apart]
    ends = [f"{kitchen.score([number]):.4f}" for number in apart]
    middle = kitchen.score(apart)
    return (
        f"{names[1]}: began with other weights than {names[0]}, and the mean of such weights is "
        f"seldom a network: {names[0]} {ends[0]}, {names[1]} {ends[1]}, their mean {middle:.4f}"
    )


def soup_text(kitchen: Kitchen, chosen: Chosen, nested: Nested | None, why: str = "") -> str:
    """Return the members, the uniform and the greedy soup, and the nested gain."""
    every, greedy = tuple(range(len(kitchen.members))), kitchen.greedy()
    lines = [("what", "validation score", "in the soup")]
    for number, member in enumerate(kitchen.members):
        mark = "yes" if number in chosen else ""
        lines.append((member.title, f"{kitchen.score([number]):.4f}", mark))
    lines.append((f"uniform soup of {len(every)}", f"{kitchen.score(every):.4f}", ""))
    lines.append((f"greedy soup of {len(greedy)}", f"{kitchen.score(greedy):.4f}", ""))
    logits = sum(kitchen.predict([number]) for number in every) / len(every)
    lines.append((f"mean logits of {len(every)}", f"{kitchen.score_logits(logits):.4f}", ""))
    note = f"nested gain: none ({why})"
    if nested is not None:
        ends = range_text(nested.low, nested.high, 4, "+") or "no interval"
        note = (
            f"nested gain of the greedy soup over the best member, each chosen on one half of the "
            f"{nested.unit}s and measured on the other: {nested.soup - nested.member:+.4f} "
            f"({nested.soup:.4f}, {nested.member:.4f}; 95 % {ends})"
        )
    caution = "scores of what was chosen by them flatter; quote the nested gain"
    return "\n".join([aligned(lines, {1}), "", note, caution])


def _record(
    kitchen: Kitchen, chosen: Chosen, method: str, nested: Nested | None, apart: bool
) -> dict[str, Any]:
    members = [kitchen.members[number] for number in chosen]
    paths = [member.path(job) for member in members for job in member.last_jobs]
    return provenance(
        {str(path): path for path in paths},
        method=method,
        members=[member.title for member in members],
        offered=[member.title for member in kitchen.members],
        different_starts=apart,
        validation=kitchen.score(chosen) if kitchen.has_validation else None,
        nested=None if nested is None else vars(nested),
        torch=torch.__version__,
    )


def write_run(kitchen: Kitchen, chosen: Chosen, config: Config, record: dict[str, Any]) -> None:
    """Write the run whole or not at all: into a temporary folder, which then gets its name.

    The stages before the last are the first member's.
    """
    first = kitchen.members[0]
    with _new_folder(config.run_folder) as temporary:
        for job in first.jobs:
            target = temporary / job.folder.relative_to(first.config.run_folder)
            if job in first.last_jobs:
                state = kitchen.cook(first.last_jobs.index(job), chosen)
            else:
                state = load_checkpoint(job.folder / "last.pt")
            _write_states(state, target, _names(first, job), config)
        write_text(temporary / "config.yaml", dump_config(config))
        write_json(temporary / RECORD, record)
        write_json(temporary / "provenance.json", record)


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder of this process alone, which is renamed when the block ends.

    Raises:
        InputError: the place cannot be written, or another process made the folder meanwhile.
    """
    temporary = None
    try:
        with refuse_unwritable(folder, "give another --runs"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            prefix = temporary_prefix(folder)
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=prefix, suffix=".tmp"))
            temporary.chmod(folder.parent.stat().st_mode & 0o777)
        yield temporary
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.exists():
                raise
            raise InputError(f"{folder}: {_EXISTS}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if folder.parent.is_dir() and not any(folder.parent.iterdir()):
            folder.parent.rmdir()


def _names(member: Member, job: Any) -> list[str]:
    """The checkpoints that a job of the run is read from."""
    return sorted({"last.pt", checkpoint_path(member.config, job).name})


def _write_states(state: dict[str, Any], folder: Path, names: list[str], config: Config) -> None:
    """Write a checkpoint that belongs to the new config, finished and with no log of its own."""
    progress = state["progress"] | {"finished": True, "history": [], "best": None}
    state = state | {"config": config.model_dump(mode="json"), "progress": progress}
    for name in names:
        save_checkpoint(folder / name, {key: state[key] for key in state if key in _KEPT})


# of a finished training's checkpoint
_KEPT = (
    *("competition", "classes", "outputs", "class_space", "stage", "key", "fold", "held_out"),
    *("training_samples", "training_labels", "channels", "config", "overall", "progress"),
    *("image_size", "model", "averaged"),
)
