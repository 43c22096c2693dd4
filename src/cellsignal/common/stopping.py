"""Stop in time and on request: signals, a stop file, preemption notices, a time budget.

Long work holds a `Stop` and asks it after each save for `stop_status`; several processes take the
largest status of all. Work measures how long its parts take (`Pace`), so that the time to the next
save can be estimated.

Environment:
    CELLSIGNAL_DEADLINE: when to be done, in seconds since the epoch. `--max-hours` sets it where it
        is not set; child processes inherit it.
    CELLSIGNAL_STOP_FILE: a path; a file there acts as SIGTERM.
    CELLSIGNAL_PREEMPTION: see `preemption`.
"""

import contextlib
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from cellsignal.common.errors import OUT_OF_TIME, InputError, Interrupted, OutOfTime
from cellsignal.common.preemption import NOTICES, PREEMPTION, wait_for_notice

DEADLINE, STOP_FILE = "CELLSIGNAL_DEADLINE", "CELLSIGNAL_STOP_FILE"
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1  # the last: Slurm's --signal=USR1@300
_LONGER = 1.25  # what was measured may take this much longer
# left for the end of the process: share of the budget, least and most seconds
_RESERVE = 0.01, 0.5, 60.0


# the budget
# --------------------------------------------------------------------------------------------------


def _now() -> float:
    return time.time()


def parse_hours(text: str) -> float:
    """Parse the value of `--max-hours`.

    Raises:
        InputError: not a finite number above 0.
    """
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not (math.isfinite(hours) and hours > 0):
        raise InputError(f"--max-hours {text}: give a number of hours above 0")
    return hours


@contextlib.contextmanager
def time_budget(max_hours: str | None) -> Iterator[None]:
    """Give the block this many hours from now, unless the environment has a deadline.

    Raises:
        InputError: either is no such number.
    """
    hours = None if max_hours is None else parse_hours(max_hours)
    if read_deadline() is not None or hours is None:
        yield
        return
    os.environ[DEADLINE] = repr(_now() + 3600 * hours)
    try:
        yield
    finally:
        os.environ.pop(DEADLINE, None)


def read_deadline() -> float | None:
    """Read CELLSIGNAL_DEADLINE, in seconds since 1970; None if it is not set.

    Raises:
        InputError: it is not a finite number.
    """
    text = os.environ.get(DEADLINE)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"environment: {DEADLINE} is {text!r}, not seconds since the epoch")
    return value


class Pace:
    """Seconds that one kind of work took the last times."""

    def __init__(self, kept: int = 64):
        self._seconds: deque[float] = deque(maxlen=kept)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    @property
    def high(self) -> float | None:
        """Return the 95th percentile; None if nothing was measured."""
        ordered = sorted(self._seconds)
        return ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else None

    @property
    def median(self) -> float | None:
        ordered = sorted(self._seconds)
        return ordered[len(ordered) // 2] if ordered else None

    def __len__(self) -> int:
        return len(self._seconds)

    def seconds(self) -> list[float]:
        """The seconds, oldest first; `add` them to another `Pace` to resume."""
        return list(self._seconds)


# stopping
# --------------------------------------------------------------------------------------------------


class Stop:
    """Note signals, the stop file and preemption notices within a `with` block.

    A second signal of a kind acts at once, as usual. Outside of the block only the deadline and the
    stop file count.

    Attributes:
        signal_number: the signal that came, or as which a stop file or notice acts.

    Raises:
        InputError: the environment's deadline or CELLSIGNAL_PREEMPTION is wrong.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._why: str | None = None
        self.deadline = read_deadline()
        share, least, most = _RESERVE
        self._reserve = min(max(share * ((self.deadline or 0) - _now()), least), most)
        self._file = Path(os.environ[STOP_FILE]) if os.environ.get(STOP_FILE) else None
        self._file_checked_at = -math.inf
        self._cloud = os.environ.get(PREEMPTION) or None
        if self._cloud is not None and self._cloud not in NOTICES:
            raise InputError(
                f"environment: {PREEMPTION} is {self._cloud!r}, not {' or '.join(NOTICES)}"
            )
        self._before: dict[int, object] = {}
        self._block_ended = threading.Event()

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note_signal)
        if self._cloud is not None:
            threading.Thread(
                target=self._watch, args=(self._cloud,), name="preemption", daemon=True
            ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._block_ended.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal_number, self._why = number, None
        signal.signal(number, self._before[number])

    def _watch(self, cloud: str) -> None:
        if wait_for_notice(cloud, self._block_ended):
            self._act_as_sigterm(f"a preemption notice of {cloud}")

    def _act_as_sigterm(self, why: str) -> None:
        if self.signal_number is None:
            self.signal_number, self._why = int(signal.SIGTERM), f"{why}, as by SIGTERM"

    @property
    def seconds_left(self) -> float | None:
        """Seconds of the budget that work can use; None without a budget."""
        return None if self.deadline is None else self.deadline - self._reserve - _now()

    def fits(self, seconds: float) -> bool:
        """Return whether work that took so long, and a quarter more, ends within the budget."""
        return self.seconds_left is None or _LONGER * seconds <= self.seconds_left

    def stop_status(self, seconds: float | None = None) -> int:
        """Return the exit status with which to stop now, or 0 to go on.

        Args:
            seconds: until the next save, as estimated; None where nothing is measured yet: then
                only a budget that is used up stops, so that each call of a command does something.
        """
        now = time.monotonic()
        if self._file is not None and now - self._file_checked_at >= 1:
            self._file_checked_at = now
            if self._file.exists():
                self._act_as_sigterm(f"the stop file {self._file}")
        if self.signal_number is not None:
            return 128 + self.signal_number
        return 0 if self.fits(0.0 if seconds is None else seconds) else OUT_OF_TIME

    def make_exception(
        self,
        status: int,
        title: str,
        saved: str = "state",
        next_step: str = "next step",
        seconds: float | None = None,
    ) -> Interrupted:
        """Make the exception for a stop status. Raise it when all is saved.

        Args:
            saved: what is saved.
            next_step: what would come next; `seconds`: how long it was expected to take.
        """
        if status != OUT_OF_TIME:
            number = status - 128
            return Interrupted(title, number, self._why if self.signal_number == number else None)
        left = max(self.seconds_left or 0.0, 0.0)
        estimate = ""
        if seconds is not None:
            estimate = f"{next_step} would take about {duration(_LONGER * seconds)}, "
        return OutOfTime(title, saved, f"{estimate}{duration(left)} left")

    def check(
        self,
        title: str,
        saved: str = "state",
        next_step: str = "next step",
        seconds: float | None = None,
    ) -> None:
        """Raise `Interrupted` if it is time to stop; for a single process, when all is saved."""
        status = self.stop_status(seconds)
        if status:
            raise self.make_exception(status, title, saved, next_step, seconds)

    def raise_if_signalled(self, title: str) -> None:
        """Raise `Interrupted` if a signal came while the last of the work was done."""
        status = self.stop_status()
        if status and status != OUT_OF_TIME:
            raise self.make_exception(status, title)


def duration(seconds: float) -> str:
    """Write seconds such as "12 s", "3.4 min" or "8.5 h"."""
    if seconds < 90:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
