"""The trainings of a config on other machines, one a fold and seed, and their commands."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.config import Config, load_config
from cellsignal.data.folds import read_fold_rows

PORT = 29500  # torchrun's usual one
FROM_FILE = ("name", "runs", "submit")  # `submit` reads the config as it is in its file


@dataclass(frozen=True)
class Fold:
    """One training of a config, on one machine.

    Attributes:
        name: of its folder: fold0, ..., full; with the seed before it where several are asked for.
        sets: `--set` words that make the config train it alone.
    """

    name: str
    sets: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """A config as all machines are given it.

    Attributes:
        path: of the config, as given: relative to the repository, or of a file system that all
            machines share.
        config: with `sets` applied.
        sets: KEY=VALUE, the same for all folds.
    """

    path: Path
    config: Config
    sets: tuple[str, ...]
    folds: tuple[Fold, ...]

    def words(self, verb: str, fold: Fold) -> list[str]:
        """Return `VERB CONFIG --set ...` for one fold, without the program."""
        sets = [word for text in (*self.sets, *fold.sets) for word in ("--set", text)]
        return [verb, self.path.as_posix(), *sets]

    @property
    def submission(self) -> Path:
        """The submission, beside the runs, so that it outlives the machine with them."""
        return self.config.runs / self.config.name / "submission.csv"


def plan_work(
    path: Path | str,
    sets: Sequence[str] = (),
    folds: Iterable[int] | None = None,
    seeds: Sequence[int] | None = None,
) -> Work:
    """Read a config and make one training of each fold and seed.

    Args:
        folds: of the fold table; None: those that the config uses, and its model on all samples if
            it has one.
        seeds: None: the config's.

    Raises:
        InputError: no such config, a key that cannot be set here, no fold left.
    """
    if seeds and len(seeds) == 1:
        sets, seeds = [*sets, f"seed={seeds[0]}"], None
    config, path = load_config(path, list(sets)), Path(path)
    for text in sets:
        if text.split("=")[0].split(".")[0] in FROM_FILE:
            raise InputError(
                f"--set {text}: submit reads the file alone; write a config with `base: "
                f"{path.name}` instead"
            )
    trainings = _folds(config, folds)
    if seeds:
        trainings = tuple(
            Fold(f"seed{seed}-{fold.name}", (f"seed={seed}", *fold.sets))
            for seed in dict.fromkeys(seeds)
            for fold in trainings
        )
    return Work(path, config, tuple(sets), trainings)


def _folds(config: Config, chosen: Iterable[int] | None) -> tuple[Fold, ...]:
    known = _folds_of_table(config.folds.file)
    numbers = config.folds.use if chosen is None else list(dict.fromkeys(chosen))
    numbers = known if numbers is None else numbers
    for number in numbers:
        if number not in known:
            raise InputError(
                f"--folds {number}: {config.folds.file} has the folds {', '.join(map(str, known))}"
            )
    folds = [
        Fold(f"fold{number}", (f"folds.use=[{number}]", "folds.full=false")) for number in numbers
    ]
    if config.folds.full and chosen is None:
        folds.append(Fold("full", ("folds.use=[]", "folds.full=true")))
    if not folds:
        raise InputError(f"{config.name}: there is no fold to train; give --folds")
    return tuple(folds)


def _folds_of_table(path: Path) -> tuple[int, ...]:
    """Return the fold numbers of a table, without checking it."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; `cellsignal folds` makes it")
    numbers = read_fold_rows(path).fold
    return tuple(sorted(int(number) for number in numbers.unique() if number >= 0))


def rendezvous(nodes: str, processes: str, endpoint: str, number: str) -> str:
    """Return torchrun's options for several machines: one try, as the caller starts again.

    Args:
        number: of the meeting; another one for each command of a script, so that none meets a
            machine that is still leaving the one before.
    """
    meeting = f"--rdzv_backend c10d --rdzv_endpoint {endpoint} --rdzv_id {number}"
    return f"--nnodes {nodes} --nproc_per_node {processes} {meeting} --max_restarts 0"


def torchrun_script(
    work: Work, nodes: int, processes: int, endpoint: str, python: str = "python"
) -> str:
    """Return a bash script to start on every machine; they share at least the runs' folder."""
    if nodes < 1 or processes < 1:
        raise InputError(f"--nodes {nodes} --processes {processes}: one at least of each")
    host, colon, port = endpoint.partition(":")
    if not host or (colon and not port.isdecimal()):
        raise InputError(f"--endpoint {endpoint}: write HOST or HOST:PORT of the first machine")
    endpoint = shlex.quote(endpoint if colon else f"{host}:{PORT}")
    options = rendezvous(str(nodes), str(processes), endpoint, f'"{work.config.name}-$1"')
    lines = "\n".join(
        f"one {shlex.join(work.words(verb, fold))}"
        for fold in work.folds
        for verb in ("train", "predict")
    )
    return f"""#!/usr/bin/env bash
# {work.path} on {nodes} machines of {processes} processes. Start this on each of them, from the repository; {host} is where they meet.
# The runs must lie on a file system that all of them share. Stopped, killed or out of time: start it again on all, with as many machines.
set -uo pipefail
export CELLSIGNAL_PATIENCE_MINUTES="${{CELLSIGNAL_PATIENCE_MINUTES:-10}}"  # after which a machine that says nothing is given up
one() {{
    {python} -m cellsignal.cloud.torchrun {options} -m cellsignal "$@" || exit
}}
{lines}
"""
