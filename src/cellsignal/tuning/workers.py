"""Run a phase of a search in one process or in several, each with a GPU of its own.

`python -m cellsignal.tuning.workers FOLDER PHASE WORKER [TRIAL ...]` is what a worker runs; it
resumes the unfinished trials that are named. A worker whose parent is gone saves and stops, so that
no two processes train one trial.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from cellsignal.common.errors import OUT_OF_TIME, InputError, Interrupted
from cellsignal.common.stopping import Stop
from cellsignal.common.threads import threads_of_each
from cellsignal.tuning.search import Search, load_search

SEARCH, CONFIRM = "search", "confirm"
_POLL_S = 0.2


def run_phase(search: Search, phase: str) -> None:
    """Run a phase to its end, in this process where one is enough.

    Raises:
        Interrupted: stopped by a signal or the time budget; the state is saved.
        InputError: what stopped a worker.
        RuntimeError: a worker ended by an error of its own.
    """
    stopped = _unfinished_trials(search) if phase == SEARCH else []
    if search.processes == 1:
        _work(search, phase, 0, stopped)
        return
    with contextlib.ExitStack() as stack, Stop() as stop:
        workers = [
            stack.enter_context(_start(search, phase, number, stopped[number :: search.processes]))
            for number in range(search.processes)
        ]
        while any(worker.poll() is None for worker in workers):
            status = stop.stop_status()
            if status and status != OUT_OF_TIME:  # workers have the same deadline
                _stop_all(workers)
                raise stop.make_exception(status, "tune")
            with contextlib.suppress(subprocess.TimeoutExpired):
                next(w for w in workers if w.poll() is None).wait(_POLL_S)
        statuses = [worker.returncode for worker in workers]
        if any(statuses):
            _raise_for(statuses, stop)


def _raise_for(statuses: Sequence[int], stop: Stop) -> None:
    number, status = next((n, s) for n, s in enumerate(statuses) if s)
    if OUT_OF_TIME in statuses:
        raise stop.make_exception(OUT_OF_TIME, "tune", saved="every trial so far")
    text = f"tune: worker {number} ended with status {status}; the same command resumes its trial"
    raise InputError(text)


def _stop_all(workers: Sequence[subprocess.Popen]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    for worker in workers:
        worker.wait()


def _unfinished_trials(search: Search) -> list[int]:
    """Return the trials to resume, before a worker begins others."""
    from cellsignal.tuning.journal import open_study, unfinished_trials

    return unfinished_trials(open_study(search))


@contextlib.contextmanager
def _start(search: Search, phase: str, number: int, stopped: Sequence[int]):
    """Start a worker; its input closes when this process ends, however it ends."""
    words = [sys.executable, "-m", __spec__.name, str(search.folder), phase, str(number)]
    words += map(str, stopped)
    environment = os.environ | environment_of(number, search.processes)
    worker = subprocess.Popen(words, stdin=subprocess.PIPE, env=environment, start_new_session=True)
    try:
        yield worker
    finally:
        if worker.poll() is None:
            worker.terminate()
            worker.wait()
        worker.stdin.close()


def environment_of(number: int, processes: int) -> dict[str, str]:
    """Return the variables of a worker: its GPU, or its share of the cores where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = [name.strip() for name in visible.split(",") if name.strip()]
    else:
        import torch

        devices = [str(index) for index in range(torch.cuda.device_count())]
    if devices:
        return {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]}
    return {"OMP_NUM_THREADS": str(threads_of_each(processes))}


# in a worker
# --------------------------------------------------------------------------------------------------


def _work(search: Search, phase: str, worker: int, stopped: Sequence[int]) -> None:
    from cellsignal.tuning.trials import search_trials, train_confirmation

    if phase == SEARCH:
        search_trials(search, worker, stopped)
    else:
        train_confirmation(search, worker)


def _stop_with_parent() -> None:
    """Act as on SIGTERM when the parent's end of the input closes."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main(words: Sequence[str]) -> int:
    """Run one worker's part; return its exit status."""
    folder, phase, number, *stopped = words
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s worker {number}: %(message)s", datefmt="%H:%M:%S"
    )
    _stop_with_parent()
    try:
        _work(load_search(Path(folder)), phase, int(number), [int(word) for word in stopped])
    except Interrupted as error:
        print(str(error), file=sys.stderr)
        return error.status
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
