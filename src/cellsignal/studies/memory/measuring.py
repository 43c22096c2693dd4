"""Measure the peak memory of a command: of its process, or of all its processes together.

The peak of one process is what the kernel notes (VmHWM). Worker processes share pages with it, so
the sum over processes is of the proportional set sizes (PSS), sampled while the command runs; a
peak between two samples is missed. The larger of the two is the command's peak.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.studies.memory.child import read_peak

EVERY = 0.2  # seconds between samples of the tree of processes


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        peak: bytes of its process or, where larger, of all its processes together.
        imports: bytes that a process takes which only imports the same modules; 0 where that is
            not known, as the command was stopped.
        seconds: of CPU time, worker processes included, the imports too.
        import_seconds: of CPU time, for the imports alone.
        processes: the most that ran at once.
        stopped: it took longer than it may, and the figures are those up to then.
    """

    peak: int
    imports: int
    seconds: float
    import_seconds: float
    processes: int
    stopped: bool = False

    @property
    def beside(self) -> int:
        """Bytes beside the imports."""
        return max(0, self.peak - self.imports)


@dataclass
class _Samples:
    """What is seen of a command while it runs.

    Attributes:
        status: its exit status; None where it was stopped.
        alone: peak bytes of its process, as the kernel notes it.
        tree: peak bytes of all its processes together; 0 where one ran alone.
        processes: the most that ran at once.
    """

    status: int | None = None
    alone: int = 0
    tree: int = 0
    processes: int = 1


def measure(
    words: Sequence[str],
    folder: Path,
    seconds: float | None = None,
    statuses: Collection[int] = (0,),
) -> Usage:
    """Run `cellsignal WORDS` in `folder` and measure it; its output goes to `output.log` there.

    Args:
        seconds: by the clock after which it is stopped; None waits for its end.
        statuses: exit statuses of a command that did its work.

    Raises:
        InputError: it fails; the last line of its output is named.
    """
    report = folder / "usage.json"
    before = _seconds_of_children()
    samples = _run([str(report), *words], folder, seconds)
    if samples.status is None:
        taken = _seconds_of_children() - before
        peak = max(samples.alone, samples.tree)
        return Usage(peak, 0, taken, 0.0, samples.processes, stopped=True)
    if samples.status not in statuses:
        lines = (folder / "output.log").read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        raise InputError(f"cellsignal {' '.join(words)}: exit status {samples.status}: {last}")
    command = json.loads(report.read_text(encoding="utf-8"))
    _run([str(report)], folder, log="imports.log")
    imports = json.loads(report.read_text(encoding="utf-8"))
    return Usage(
        peak=max(command["peak"], samples.tree),
        imports=imports["peak"],
        seconds=command["seconds"],
        import_seconds=imports["seconds"],
        processes=samples.processes,
    )


def _run(
    words: list[str], folder: Path, seconds: float | None = None, log: str = "output.log"
) -> _Samples:
    """Run a child to its end, or until it has taken `seconds`; return what was seen of it."""
    command = [sys.executable, "-m", "cellsignal.studies.memory.child", *words]
    samples, began = _Samples(), time.monotonic()
    with open(folder / log, "wb") as output:
        child = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            while child.poll() is None:
                if seconds is not None and time.monotonic() - began > seconds:
                    return samples
                processes = tree_of(child.pid)
                with contextlib.suppress(OSError, TypeError):  # it has ended
                    samples.alone = max(samples.alone, read_peak(child.pid))
                if len(processes) > 1:
                    samples.tree = max(samples.tree, sum(map(read_pss, processes)))
                    samples.processes = max(samples.processes, len(processes))
                time.sleep(EVERY)
        finally:
            _stop(child)
    samples.status = child.returncode
    return samples


def _stop(child: subprocess.Popen) -> None:
    """Kill a child that still runs, and its descendants."""
    if child.poll() is None:
        for process in reversed(tree_of(child.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        child.wait()


def _seconds_of_children() -> float:
    """Return the CPU seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def tree_of(process: int) -> list[int]:
    """Return a process and all its descendants that live."""
    found, waiting = [], [process]
    while waiting:
        number = waiting.pop()
        found.append(number)
        try:
            for thread in os.listdir(f"/proc/{number}/task"):
                children = Path(f"/proc/{number}/task/{thread}/children").read_text("ascii")
                waiting.extend(map(int, children.split()))
        except OSError:
            continue  # it has ended
    return found


def read_pss(process: int) -> int:
    """Return the proportional set size of a process in bytes; 0 once it has ended.

    A page that n processes share counts as 1 / n of a page.
    """
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    sizes = [line.split() for line in text.splitlines() if line.startswith("Pss:")]
    return int(sizes[0][1]) * 1024 if sizes else 0
