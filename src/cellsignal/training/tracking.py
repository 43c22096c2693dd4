"""Send the curves of a training to trackers, from threads that the training never waits for.

Each tracker has a thread and a bounded queue. What raises, hangs or lags costs curves, never time:
the epochs that were not sent are named in one line, stay in `log.csv`, and are sent when the
training is resumed. `tracking.json` in the job's folder holds what finds a training again in its
tracker, and the last epoch that was sent.
"""

import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cellsignal.common.files import write_json
from cellsignal.training.trackers import CLIENTS, Client, load_error

log = logging.getLogger(__name__)
QUEUED = 256  # epochs that wait to be sent; more are dropped
NOTE = "tracking.json"
_hung: set[str] = set()  # trackers that did not end in time: not begun again in this process
_noting = threading.Lock()
Row = Mapping[str, float]


class Tracker:
    """Sends the epochs of one training to one program."""

    def __init__(self, name: str, make: Callable[[str | None], Client], folder: Path, epochs: int):
        """Start the thread.

        Args:
            make: the id of an earlier call -> the client.
            folder: of the job.
            epochs: that the training resumes after; 0: it begins, perhaps anew.
        """
        self.name, self._make, self._folder = name, make, folder
        note = read_note(folder).get(name, {})
        begins_anew = not epochs and note.get("epoch", 0) > 0
        self._id = None if begins_anew else note.get("id")
        # a killed training does the epoch after its last checkpoint again
        self._sent = self._last = min(int(note.get("epoch", 0)), epochs)
        self._given, self._done, self._error = 0, 0, ""
        self._finished = False
        self._queue: queue.Queue[tuple[int, Row] | None] = queue.Queue(QUEUED)
        self._thread = threading.Thread(target=self._work, name=f"tracking {name}", daemon=True)
        self._thread.start()

    def add(self, epoch: int, figures: Row) -> None:
        """Queue the figures of an epoch, unless an earlier call sent them."""
        if epoch <= self._last:
            return
        self._last = epoch
        self._given += 1
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait((epoch, dict(figures)))

    def end(self, finished: bool) -> None:
        """Ask the thread to send what waits and to end."""
        self._finished = finished
        with contextlib.suppress(queue.Full):  # the program hangs: `wait` says so
            self._queue.put_nowait(None)

    def wait(self, started: float) -> None:
        """Wait until the thread ends or the time is up; say what was not sent, in one line."""
        patience = CLIENTS[self.name].patience
        self._thread.join(max(0.0, started + patience - time.monotonic()))
        if self._thread.is_alive():
            _hung.add(self.name)
            self._error = self._error or f"does not answer for {patience:g} s"
        missing = self._given - self._done
        if self._error or missing:
            log.warning(
                "tracking: %s: %s; %d of %d epochs not sent, %s has all",
                self.name,
                self._error or "too slow",
                missing,
                self._given,
                self._folder / "log.csv",
            )

    def _work(self) -> None:
        client = None
        try:
            client = self._make(self._id)
            self._write_note(client)
            while (item := self._queue.get()) is not None:
                client.add(*item)
                self._done += 1
                if item[0] == self._sent + 1:  # after a gap a resumed training sends the rest
                    self._sent = item[0]
                    self._write_note(client)
            client.close(self._finished)
        except Exception as error:
            # whatever a client or its server does, the training goes on
            self._error = " ".join(f"{type(error).__name__}: {error}".split())[:300]

    def _write_note(self, client: Client) -> None:
        with _noting:
            notes = read_note(self._folder)
            notes[self.name] = {"id": client.id, "epoch": self._sent}
            write_json(self._folder / NOTE, notes)


def read_note(folder: Path) -> dict[str, Any]:
    """Return what `tracking.json` of a job says; {} if there is none, or a damaged one."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


class Tracking:
    """The trackers of one training.

    Args:
        names: of the trackers; one whose package is not installed is left out.
        folder: of the job.
        title: such as "demo/seed0/fold1/all/all".
        config: the dumped config.
        history: rows of the epochs so far; those that were not sent are sent first.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        title: str,
        config: Mapping[str, Any],
        history: Sequence[Mapping[str, Any]],
    ):
        self._trackers = [
            Tracker(
                name,
                lambda id, name=name: CLIENTS[name](folder, title, config, id),
                folder,
                len(history),
            )
            for name in names
            if name not in _hung and not load_error(name)
        ]
        for row in history:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Send an epoch's row of the log; what is not known is left out."""
        figures = {name: float(value) for name, value in row.items() if value is not None}
        epoch = int(figures.pop("epoch"))
        for tracker in self._trackers:
            tracker.add(epoch, figures)

    def close(self, finished: bool = True) -> None:
        """End all trackers, within the patience that each has (`Client.patience`)."""
        for tracker in self._trackers:
            tracker.end(finished)
        started = time.monotonic()
        for tracker in self._trackers:
            tracker.wait(started)
