"""Stopping on request: the step in hand is finished and saved, then the command ends with the signal's usual status."""

import signal
from types import FrameType

from cellsignal.errors import Interrupted


class Stop:
    """Notes SIGINT and SIGTERM while in its `with` block. A second signal acts at once, as usual."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
        signal.signal(number, self._before[number])

    def check(self, title: str) -> None:
        """Raise `Interrupted` if a signal has come. Call it when the state is saved."""
        if self.asked is not None:
            raise Interrupted(title, self.asked)
