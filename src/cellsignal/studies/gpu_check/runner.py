"""Make the checks within a budget of time: a check that fails, dies or hangs stops no other.

Checks are made in worker processes. A worker that hangs is killed with all that it started; after a
failure a new one is begun, since an error on a GPU may spoil its process.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellsignal.studies.gpu_check.packages import NEEDED, missing_modules
from cellsignal.studies.gpu_check.plan import LANES, Check
from cellsignal.studies.gpu_check.table import Row, one_line

_POLL = 0.02  # seconds
LEAST = 5.0  # seconds: with less time left a check is not begun
# seconds of the budget that the checks leave to what comes after them, at most a third of it
_KEPT_FOR_SPEED = 100.0
_STARTING = 60.0  # seconds more that a worker's first check may take: it imports torch

Done = Callable[[Row], None]


@dataclass(frozen=True)
class Budget:
    """The time of the whole call, from when it is made."""

    seconds: float
    started: float

    @classmethod
    def of_minutes(cls, minutes: float) -> "Budget":
        return cls(60 * minutes, time.monotonic())

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)


class Worker:
    """A process that makes checks for one lane; it is started when a check needs it."""

    def __init__(self, folder: Path, kind: str, lane: str, environment: dict[str, str]):
        self.folder, self.kind, self.environment = folder, kind, environment
        self.log = folder / f"{lane}.log"
        self.process: subprocess.Popen | None = None
        self.answers = 0

    def make(self, check: Check, seconds: float) -> Row:
        """Make a check; one that does not end in time, or ends its process, has failed."""
        fresh = self.process is None or self.process.poll() is not None
        if check.alone or fresh:
            self.end()
            self._start()
        self.answers += 1
        answer = self.folder / "answers" / f"{check.name}_{os.getpid()}_{self.answers}.json"
        request = {"name": check.name, "function": check.function, "seconds": seconds}
        text = json.dumps(request | {"answer": str(answer)}) + "\n"
        started = time.monotonic()
        with contextlib.suppress(OSError):  # it died: seen below
            self.process.stdin.write(text)
            self.process.stdin.flush()
        row = self._wait(check, answer, seconds, started)
        if row.verdict == "fail" or row.reason.startswith("no time") or check.alone:
            self.end()
        return row

    def _wait(self, check: Check, answer: Path, seconds: float, started: float) -> Row:
        while True:
            ended, spent = self.process.poll(), time.monotonic() - started
            if answer.is_file():
                return Row(**json.loads(answer.read_text(encoding="utf-8")))
            if ended is not None:
                how = f"signal {-ended}" if ended < 0 else f"status {ended}"
                reason = f"its process ended with {how}: {self._last_line()}"
                return Row(check.name, "fail", one_line(reason), round(spent, 2))
            if spent > seconds:
                if seconds < check.seconds:
                    reason = f"no time: ended after {seconds:.0f} s, as the whole call's were over"
                    return Row(check.name, "skipped", reason, round(spent, 2))
                reason = f"timed out after {seconds:.0f} s"
                return Row(check.name, "fail", reason, round(spent, 2))
            time.sleep(_POLL)

    def _start(self) -> None:
        (self.folder / "answers").mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cellsignal.studies.gpu_check.worker"]
        with open(self.log, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*command, str(self.folder), self.kind],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                env=self.environment,
                start_new_session=True,
            )

    def end(self) -> None:
        """End the process and all that it started."""
        if self.process is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process = None

    def _last_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def make_checks(
    checks: Sequence[Check],
    folder: Path,
    kind: str,
    budget: Budget,
    done: Done,
    environment: dict[str, str] | None = None,
    beside: bool = True,
) -> None:
    """Make all checks; `done` is called with the row of each as it ends.

    Args:
        folder: for their files and logs; may hold those of an earlier call.
        kind: "cuda", or "cpu" for a dry run.
        environment: of the workers; this process's own unless given.
        beside: make the lane "beside" at the same time as the lane "checks", else after it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing, lock = set(missing_modules()), threading.Lock()

    def report(row: Row) -> None:
        with lock:
            done(row)

    own = dict(environment or os.environ)
    workers = {lane: Worker(folder, kind, lane, own) for lane in LANES}

    def run_lane(lane: str) -> None:
        for check in checks:
            if check.lane == lane:
                report(_make_or_skip(check, workers[lane], budget, missing))
        workers[lane].end()

    other = threading.Thread(target=run_lane, args=("beside",), daemon=True)
    try:
        if beside:
            other.start()
        run_lane("checks")
        if not beside:
            other.start()
        other.join()
        run_lane("alone")
    finally:
        for worker in workers.values():
            worker.end()


def _make_or_skip(check: Check, worker: Worker, budget: Budget, missing: set[str]) -> Row:
    lacking = [NEEDED[name][0] for name in check.needs if name in missing and name in NEEDED]
    if lacking:
        return Row(check.name, "skipped", f"no {', '.join(lacking)}")
    kept = 0.0
    if check.lane != "alone":
        kept = min(_KEPT_FOR_SPEED, budget.seconds / 3)
    left, fresh = budget.left, check.alone or worker.process is None
    seconds = min(check.seconds + (_STARTING if fresh else 0), left - kept)
    if left - kept < max(LEAST, check.least):
        text = f"no time: {max(0.0, left):.0f} s of {budget.seconds:.0f} s are left"
        if kept:
            text += f", of which {kept:.0f} s are kept for the throughput"
        return Row(check.name, "skipped", text)
    return worker.make(check, seconds)


def child_environment(paths: Sequence[Path], base: dict[str, str]) -> dict[str, Any]:
    """Return the environment of the workers: `paths` come first on Python's path."""
    before = [base["PYTHONPATH"]] if base.get("PYTHONPATH") else []
    return base | {
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *before]),
        "PYTHONUNBUFFERED": "1",
    }
