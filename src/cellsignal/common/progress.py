"""Say how long a piece of work takes, and how much of it is left: a bar, or lines of a log.

On a terminal it is tqdm's bar. Where the output goes to a file, which shows no bar, the log gets a
line as soon as the whole can be estimated, and others later.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from cellsignal.common.stopping import duration

log = logging.getLogger(__name__)
FIRST = 2.0  # seconds of work from which on the whole is estimated
EVERY = 20.0  # seconds between two lines
SHORT = 10.0  # seconds; work that takes less is not worth a line
Item = TypeVar("Item")


class Progress:
    """Counts finished units of work; use it as a context.

    Args:
        title: what is done, such as "packing".
        total: number of units.
        unit: of the work, in the singular.
        leave: leave a full bar on the terminal.
    """

    def __init__(self, title: str, total: int, unit: str, leave: bool = True):
        self.title, self.total, self.unit = title, total, unit
        self.done, self.is_estimated = 0, False
        self.bar = tqdm(total=total, desc=title, unit=unit, disable=None, leave=leave)
        # what comes before the first unit, such as starting processes, says nothing about the rest
        self.first: tuple[float, int] | None = None
        self.logged = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, number: int = 1) -> None:
        """Count `number` units more as done, and write a line if it is time to."""
        self.done += number
        self.bar.update(number)
        now = time.monotonic()
        if self.first is None:
            self.first = now, self.done
        seconds, measured = now - self.first[0], self.done - self.first[1]
        if not self.bar.disable or self.done >= self.total or not measured or seconds < FIRST:
            return
        left = seconds / measured * (self.total - self.done)
        is_worth_a_line = seconds + left >= SHORT
        if self.is_estimated:
            is_worth_a_line = now - self.logged >= EVERY
        self.is_estimated = True
        if is_worth_a_line:
            self.logged = now
            what = f"{self.done:,} of {self.total:,} {self.unit}s"
            log.info("%s: %s, %s left", self.title, what, duration(left))


def with_progress(items: Iterable[Item], title: str, total: int, unit: str) -> Iterator[Item]:
    """Yield the items, and count each as done when the next one is asked for."""
    with Progress(title, total, unit) as progress:
        for item in items:
            yield item
            progress.add()


class Steps:
    """Logs the steps of a long command, each before it starts, and in the end what each took.

    Args:
        names: of all steps, in order.
    """

    def __init__(self, *names: str):
        self.names = names
        self.seconds: dict[str, float] = {}
        self.current: str | None = None
        self.started = self.begun = time.monotonic()

    def begin(self, name: str) -> None:
        """Log that a step begins; the one before it has ended."""
        self._end_current()
        self.current, self.begun = name, time.monotonic()
        log.info("step %d of %d: %s", self.names.index(name) + 1, len(self.names), name)

    def finish(self) -> None:
        """Log the time of each step that began."""
        self._end_current()
        parts = ", ".join(f"{name} {duration(spent)}" for name, spent in self.seconds.items())
        log.info("took %s: %s", duration(time.monotonic() - self.started), parts)

    def _end_current(self) -> None:
        if self.current is not None:
            self.seconds[self.current] = time.monotonic() - self.begun
            self.current = None
