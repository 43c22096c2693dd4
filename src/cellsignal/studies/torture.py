"""Kill a small whole run at random times and fill its disk: it must end in the same bytes.

The run packs, trains two stages with pseudo-labels, predicts and submits. It is killed with SIGKILL
and started again with the same command until it is done; the disk is filled while it saves. Runs
are forked from this process, which has torch imported but no thread started, so that a kill costs
seconds. Run it on the file system whose promises you doubt (`--folder`).
"""

import contextlib
import logging
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_text
from cellsignal.studies.torture_run import (
    CONFIG,
    NAME,
    PHASES,
    SEED,
    execute_run,
    import_all,
    outcome,
    phase_of,
    whole_checkpoints,
)

log = logging.getLogger(__name__)
_SIZE = {"classes": 8, "size": 24, "controls": 1, "train_experiments": 2, "test_experiments": 1}
# of the undisturbed duration: the longest that a run may live in a phase before it is killed
_LONGEST = 0.1
_IN_A_ROUND = 8  # kills of one run, at most
# how often a kill waits for the next phase; how often it comes as soon as a file is being written
_NEXT, _IN_A_SAVE = 0.3, 0.5
_PAGE = 4096  # bytes, in which a memory file system counts
_PATIENCE = 120.0  # seconds that a run may take beyond ten times the undisturbed one


@dataclass
class Result:
    """Counts of what was done to the runs.

    Attributes:
        kills: phase -> how many runs were killed in it.
        writing: kills that left a half-written temporary file behind.
        rounds: runs that were killed and finished; each ended in the undisturbed run's bytes.
        fills: saves onto a full disk; after each the last good checkpoint still existed.
        seconds: of the undisturbed run.
    """

    kills: Counter = field(default_factory=Counter)
    writing: int = 0
    rounds: int = 0
    fills: int = 0
    seconds: float = 0.0


def bench_torture(folder: Path, kills: int = 50, fills: int = 20, seed: int = 0) -> Result:
    """Kill runs and fill their disks; each must end in the same bytes as an undisturbed run.

    Args:
        folder: new or empty; after a failure it still holds the files of the run that failed.

    Raises:
        InputError: the folder is not empty; a run ended in other bytes, hung, or failed.
    """
    folder = Path(folder).resolve()
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty")
    import_all()
    rng, result = np.random.default_rng(seed), Result()
    _in_child(_simulate, folder / "raw")
    reference = _create_run(folder, "undisturbed")
    began = time.monotonic()
    _finish_run(reference, 600.0)
    result.seconds = time.monotonic() - began
    wanted = _in_child(outcome, reference)
    while sum(result.kills.values()) < kills:
        place = _create_run(folder, "killed")
        _kill_to_the_end(place, result, rng)
        _check_same(place, wanted)
        result.rounds += 1
        log.info("%d kills in %d rounds", sum(result.kills.values()), result.rounds)
        shutil.rmtree(place)
    for _ in range(3 * fills):  # more than needed: some runs have nothing left to save
        if result.fills == fills:
            break
        place = _create_run(folder, "filled")
        _fill_disk(place, result, rng)
        _finish_run(place, 10 * result.seconds + _PATIENCE)
        _check_same(place, wanted)
        log.info("%d of %d full disks", result.fills, fills)
        shutil.rmtree(place)
    return result


def torture_text(result: Result) -> str:
    """Write the counts as text."""
    kills = result.kills
    phases = ", ".join(f"{kills[phase]} in {phase}" for phase in PHASES if kills[phase])
    return (
        f"{sum(kills.values())} kills ({phases}; {result.writing} of them while a file was being "
        f"written) in {result.rounds} runs of {result.seconds:.0f} s, and {result.fills} saves "
        "onto a full disk: every run ended in the bytes of the undisturbed one."
    )


def _kill_to_the_end(place: Path, result: Result, rng: np.random.Generator) -> None:
    """Start the run and kill it, again and again, then let it finish.

    Kills come at random times or in the middle of a save. The first comes in the phase whose turn
    it is, the others in the phase that the run is in, or in the next.
    """
    killed, target = 0, result.rounds % (len(PHASES) - 1)
    deadline = time.monotonic() + 10 * result.seconds + _PATIENCE
    while time.monotonic() < deadline:
        if killed:
            target = PHASES.index(phase_of(place)) + (rng.random() < _NEXT)
        child = _start(place)
        last = killed == _IN_A_ROUND
        while child.is_alive() and (last or PHASES.index(phase_of(place)) < target):
            child.join(0.01)
        end = time.monotonic() + rng.uniform(0, _LONGEST) * result.seconds
        in_a_save = rng.random() < _IN_A_SAVE
        while child.is_alive() and time.monotonic() < end:
            if in_a_save and _writes(place, child.pid):
                break
            time.sleep(0.001)
        if child.exitcode is None:
            _kill(child)
            child.join()
        if child.exitcode == 0:
            return
        if child.exitcode != -signal.SIGKILL:
            raise InputError(f"{place}: ended with status {child.exitcode}: {_last_line(place)}")
        killed += 1
        result.kills[phase_of(place)] += 1
        result.writing += _writes(place, child.pid)
    raise InputError(f"{place}: did not finish in time")


def _fill_disk(place: Path, result: Result, rng: np.random.Generator) -> None:
    """Train, then fill the disk; the last good checkpoint must survive, byte for byte."""
    child = _start(place)
    checkpoint = place / "runs" / NAME / SEED / "fold0" / "first" / "all" / "last.pt"
    while child.is_alive() and not checkpoint.exists():
        time.sleep(0.02)
    child.join(rng.uniform(0, 0.2) * result.seconds)
    _kill(child)
    child.join()
    before = _in_child(whole_checkpoints, place)
    if not before:
        raise InputError(f"{place}: no checkpoint was written before the run was killed")
    room = int(rng.uniform(0.05, 0.95) * max(size for size, _ in before.values()))
    with _full_disk(place, room):
        child = _start(place, room)
        child.join(10 * result.seconds + _PATIENCE)
        if child.exitcode == 0:
            return  # nothing was left to save
        message = _last_line(place)
        full = re.match(r"error: .*(could not be written|No space left)", message)
        if child.exitcode != 2 or not full:
            raise InputError(
                f"{place}: on a full disk it ended with status {child.exitcode}: {message}"
            )
    after = _in_child(whole_checkpoints, place)
    lost = [name for name in before if name not in after]
    if lost:
        raise InputError(f"{place}: {lost[0]} was lost when the disk was full")
    result.fills += 1


@contextlib.contextmanager
def _full_disk(place: Path, room: int) -> Iterator[None]:
    """Put `place` on a disk with `room` bytes free.

    The disk is a memory file system if this user may mount one; if not, the limit on file sizes in
    `_run` has to do.
    """
    sizes = [file.stat().st_size for file in place.rglob("*") if file.is_file()]
    used = sum(-(-size // _PAGE) * _PAGE for size in sizes)
    aside = place.with_name(place.name + ".aside")
    place.rename(aside)
    place.mkdir()
    options = f"size={used + room}"
    command = ["mount", "-t", "tmpfs", "-o", options, "none", place]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    if not mounted:
        place.rmdir()
        aside.rename(place)
        yield
        return
    try:
        shutil.copytree(aside, place, dirs_exist_ok=True)
        yield
    finally:
        shutil.rmtree(aside)
        shutil.copytree(place, aside)
        subprocess.run(["umount", place], check=True)
        place.rmdir()
        aside.rename(place)


def _create_run(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir(parents=True)
    write_text(place / "config.yaml", CONFIG.lstrip())
    return place


def _check_same(place: Path, wanted: dict[str, str]) -> None:
    result = _in_child(outcome, place)
    names = sorted(wanted.keys() | result.keys())
    different = [name for name in names if wanted.get(name) != result.get(name)]
    if different:
        names = ", ".join(different)
        raise InputError(f"{place}: ended in other bytes than the undisturbed run: {names}")
    left = [path for path in place.rglob("*.tmp") if path.is_file()]
    if left:
        raise InputError(f"{place}: {len(left)} half-written files were left behind: {left[0]}")


def _finish_run(place: Path, seconds: float) -> None:
    child = _start(place)
    child.join(seconds)
    if child.exitcode is None:
        _kill(child)
        raise InputError(f"{place}: hangs")
    if child.exitcode:
        raise InputError(f"{place}: ended with status {child.exitcode}: {_last_line(place)}")


# processes
# --------------------------------------------------------------------------------------------------

_FORK = multiprocessing.get_context("fork")


def _start(place: Path, largest_file: int | None = None) -> Any:
    """Start `COMMANDS` in `place`, in a new process group; the output goes to <place>.log."""
    child = _FORK.Process(target=execute_run, args=(place, largest_file))
    child.start()
    return child


def _kill(child: Any) -> None:
    """Send SIGKILL to the run and all its processes."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has no process group yet, or has just ended
        child.kill()


def _writes(place: Path, process: int) -> bool:
    """Return whether a half-written file of the process exists."""
    # os.walk ignores folders that vanish meanwhile
    names = (name for _, _, files in os.walk(place) for name in files)
    return any(f"-{process}." in name and name.endswith(".tmp") for name in names)


def _simulate(root: Path) -> None:
    from cellsignal.competitions.rxrx1.simulate import simulate_rxrx1

    simulate_rxrx1(root, 0, **_SIZE)


def _in_child(function, *arguments: Any) -> Any:
    """Call a function in a forked process, so that its threads do not stay in this one."""
    ours, theirs = _FORK.Pipe()

    def call() -> None:
        try:
            theirs.send((True, function(*arguments)))
        except Exception as error:
            theirs.send((False, f"{type(error).__name__}: {error}"))

    child = _FORK.Process(target=call)
    child.start()
    succeeded, result = ours.recv()
    child.join()
    if not succeeded:
        raise InputError(result)
    return result


def _last_line(place: Path) -> str:
    lines = place.with_suffix(".log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
