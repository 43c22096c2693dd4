"""Stopping in time and on request: by a signal, a stop file, a preemption notice, or because the
time budget would not last to the next safe point.

Long work holds a `Stop` and asks it where all is saved, or could be saved now: `wish` says what
this process wants (several processes take the largest wish of all), `end` makes the exception. Work
measures what its parts take (`Pace`), so that what comes before the next safe point can be told
beforehand.

Environment:
    CELLSIGNAL_DEADLINE: when to be done, in seconds since the epoch. `--max-hours` sets it where it
    is not set; child processes inherit it. CELLSIGNAL_STOP_FILE: a path; while a file is there it
    is as if SIGTERM had come. CELLSIGNAL_PREEMPTION: aws or gcp; the machine's metadata service is
    asked for a preemption notice, which is as SIGTERM. CELLSIGNAL_METADATA_URL: another address of
    that service.
"""

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from types import FrameType
from urllib import error as url_errors
from urllib import request

from cellsignal.common.errors import OUT_OF_TIME, InputError, Interrupted, OutOfTime

log = logging.getLogger(__name__)
DEADLINE, STOP_FILE, PREEMPTION, METADATA_URL = (
    f"CELLSIGNAL_{name}" for name in ("DEADLINE", "STOP_FILE", "PREEMPTION", "METADATA_URL")
)
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1  # the last: Slurm's --signal=USR1@300
_LONGER = 1.25  # what was measured may take this much longer
# kept free for all else, such as the end of the process: share of the budget; least and most
# seconds
_RESERVE = 0.01, 0.5, 60.0
_POLL_S, _TIMEOUT_S = 5.0, 2.0  # of the metadata service


# the budget
# --------------------------------------------------------------------------------------------------


def _now() -> float:
    return time.time()


def hours_of(text: str) -> float:
    """The value of `--max-hours`.

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
    """Within the block the work has this many hours from now, or until the environment's deadline
    where that is set.

    Raises:
        InputError: either is no such number.
    """
    hours = None if max_hours is None else hours_of(max_hours)
    if read_deadline() is not None or hours is None:
        yield
        return
    os.environ[DEADLINE] = repr(_now() + 3600 * hours)
    try:
        yield
    finally:
        os.environ.pop(DEADLINE, None)


def read_deadline() -> float | None:
    """CELLSIGNAL_DEADLINE, seconds since the epoch; None where it is not set.

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
    """What one kind of work takes: seconds of the most recent times."""

    def __init__(self, kept: int = 64):
        self._seconds: deque[float] = deque(maxlen=kept)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    @property
    def high(self) -> float | None:
        """A time that nineteen of twenty keep to: of less than twenty, the longest; None where
        nothing was measured.
        """
        ordered = sorted(self._seconds)
        return ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else None

    @property
    def median(self) -> float | None:
        ordered = sorted(self._seconds)
        return ordered[len(ordered) // 2] if ordered else None

    def __len__(self) -> int:
        return len(self._seconds)

    def kept(self) -> list[float]:
        """The seconds, oldest first; `add` them to another to go on from here."""
        return list(self._seconds)


# stopping
# --------------------------------------------------------------------------------------------------


class Stop:
    """Notes signals, the stop file and preemption notices while in its `with` block; a second
    signal of a kind acts at once, as usual.

    Outside of a `with` block it knows the deadline and the stop file alone.

    Attributes:
        asked: the signal that came, or that a stop file or notice stands for.

    Raises:
        InputError: the environment's deadline or CELLSIGNAL_PREEMPTION cannot be.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._why: str | None = None
        self.deadline = read_deadline()
        share, least, most = _RESERVE
        self._reserve = min(max(share * ((self.deadline or 0) - _now()), least), most)
        self._file = Path(os.environ[STOP_FILE]) if os.environ.get(STOP_FILE) else None
        self._looked = -math.inf
        self._cloud = os.environ.get(PREEMPTION) or None
        if self._cloud is not None and self._cloud not in NOTICES:
            raise InputError(
                f"environment: {PREEMPTION} is {self._cloud!r}, not {' or '.join(NOTICES)}"
            )
        self._before: dict[int, object] = {}
        self._left = threading.Event()

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        if self._cloud is not None:
            threading.Thread(
                target=self._watch, args=(self._cloud,), name="preemption", daemon=True
            ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked, self._why = number, None
        signal.signal(number, self._before[number])

    def _watch(self, cloud: str) -> None:
        if preempted(cloud, self._left):
            self._ask(f"a preemption notice of {cloud}")

    def _ask(self, why: str) -> None:
        if self.asked is None:
            self.asked, self._why = int(signal.SIGTERM), f"{why}, as by SIGTERM"

    @property
    def left(self) -> float | None:
        """Seconds of the budget that work can use; None without a budget."""
        return None if self.deadline is None else self.deadline - self._reserve - _now()

    def fits(self, seconds: float) -> bool:
        """Whether work that took so long is expected to end within the budget. It may take a
        quarter longer.
        """
        return self.left is None or _LONGER * seconds <= self.left

    def wish(self, seconds: float | None = None) -> int:
        """The exit status with which to stop, 0 to go on; of several processes' wishes the largest
        holds.

        Args:
            seconds: that go by before the next point at which one can stop; None where nothing is
            known, or nothing done yet: then the
                budget must be used up, so that each call of a command gets on.
        """
        now = time.monotonic()
        if self._file is not None and now - self._looked >= 1:
            self._looked = now
            if self._file.exists():
                self._ask(f"the stop file {self._file}")
        if self.asked is not None:
            return 128 + self.asked
        return 0 if self.fits(0.0 if seconds is None else seconds) else OUT_OF_TIME

    def end(
        self,
        status: int,
        title: str,
        saved: str = "state",
        coming: str = "next step",
        seconds: float | None = None,
    ) -> Interrupted:
        """The exception for a status of `wish`. Raise it when all is saved.

        Args:
            saved: what is saved.
            coming: what would come next, and (`seconds`) how long it was expected to take.
        """
        if status != OUT_OF_TIME:
            return Interrupted(
                title, status - 128, self._why if self.asked == status - 128 else None
            )
        left = max(self.left or 0.0, 0.0)
        estimate = (
            "" if seconds is None else f"{coming} would take about {duration(_LONGER * seconds)}, "
        )
        return OutOfTime(title, saved, f"{estimate}{duration(left)} left")

    def check(
        self,
        title: str,
        saved: str = "state",
        coming: str = "next step",
        seconds: float | None = None,
    ) -> None:
        """Raise what `wish` asks for, if anything; for a process that is alone. Call it when all is
        saved.
        """
        status = self.wish(seconds)
        if status:
            raise self.end(status, title, saved, coming, seconds)

    def finish(self, title: str) -> None:
        """Raise `Interrupted` if a signal came while the last of the work was done, so that it is
        not lost on what follows.
        """
        status = self.wish()
        if status and status != OUT_OF_TIME:
            raise self.end(status, title)


def duration(seconds: float) -> str:
    """Such as "12 s", "3.4 min" or "8.5 h"."""
    if seconds < 90:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# preemption notices
# --------------------------------------------------------------------------------------------------


class _NoRedirect(request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _ask_service(url: str, headers: dict[str, str], method: str = "GET") -> str:
    """A metadata service's answer, at most 64 KiB. It is on this machine: no proxy, no redirect."""
    opener = request.build_opener(request.ProxyHandler({}), _NoRedirect)
    with opener.open(
        request.Request(url, headers=headers, method=method), timeout=_TIMEOUT_S
    ) as answer:
        return answer.read(1 << 16).decode("utf-8", "replace")


def _aws_notice(base: str) -> bool:
    """A spot interruption, told two minutes before it: instance-action exists then, and gives 404
    otherwise.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html; a
    token first, as IMDSv2 wants it.
    """
    token = _ask_service(
        f"{base}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT"
    )
    try:
        return bool(
            _ask_service(
                f"{base}/latest/meta-data/spot/instance-action",
                {"X-aws-ec2-metadata-token": token.strip()},
            )
        )
    except url_errors.HTTPError as answer:
        if answer.code == 404:
            return False
        raise


def _gcp_notice(base: str) -> bool:
    """A preemption, told thirty seconds before it:
    https://cloud.google.com/compute/docs/instances/create-use-preemptible.
    """
    return (
        _ask_service(
            f"{base}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"}
        ).strip()
        == "TRUE"
    )


NOTICES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "aws": ("http://169.254.169.254", _aws_notice),
    "gcp": ("http://metadata.google.internal", _gcp_notice),
}


def preempted(cloud: str, left: threading.Event) -> bool:
    """Wait for a preemption notice (True), or until `left` is set (False). Failures are told once
    and then passed over.
    """
    base, notice = NOTICES[cloud]
    base, told = os.environ.get(METADATA_URL, base).rstrip("/"), False
    while not left.is_set():
        try:
            if notice(base):
                return True
        except (OSError, ValueError, HTTPException) as error:  # urllib's own errors are OSErrors
            if not told:
                log.warning(
                    "preemption notices of %s: %s does not answer (%s); asking on",
                    cloud,
                    base,
                    error,
                )
                told = True
        left.wait(_POLL_S)
    return False
