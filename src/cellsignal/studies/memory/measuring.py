"""Measure the peak memory of a command: of its process, or of all its processes together.

The peak of one process is what the kernel notes (VmHWM). Worker processes share pages with it, so
the sum over processes is of the proportional set sizes (PSS), sampled while the command runs; a
peak between two samples is missed. The larger of the two is the command's peak.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cellsignal.common.errors import InputError

EVERY = 0.2  # seconds between samples of the tree of processes


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        peak: bytes of its process or, where larger, of all its processes together.
        imports: bytes that a process takes which only imports the same modules.
        seconds: of CPU time, worker processes included, the imports too.
        import_seconds: of CPU time, for the imports alone.
        processes: the most that ran at once.
    """

    peak: int
    imports: int
    seconds: float
    import_seconds: float
    processes: int

    @property
    def beside(self) -> int:
        """Bytes beside the imports."""
        return max(0, self.peak - self.imports)


def measure(words: Sequence[str], folder: Path) -> Usage:
    """Run `cellsignal WORDS` in `folder` and measure it; its output goes to `output.log` there.

    Raises:
        InputError: it fails; the last line of its output is named.
    """
    report = folder / "usage.json"
    status, tree, processes = _run([str(report), *words], folder)
    if status:
        lines = (folder / "output.log").read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        raise InputError(f"cellsignal {' '.join(words)}: exit status {status}: {last}")
    command = json.loads(report.read_text(encoding="utf-8"))
    _run([str(report)], folder, log="imports.log")
    imports = json.loads(report.read_text(encoding="utf-8"))
    return Usage(
        peak=max(command["peak"], tree),
        imports=imports["peak"],
        seconds=command["seconds"],
        import_seconds=imports["seconds"],
        processes=processes,
    )


def _run(words: list[str], folder: Path, log: str = "output.log") -> tuple[int, int, int]:
    """Run a child; return its status, the peak PSS of all its processes, and how many there were.

    The peak is 0 where one process ran alone: its own is known exactly.
    """
    command = [sys.executable, "-m", "cellsignal.studies.memory.child", *words]
    peak, most = 0, 1
    with open(folder / log, "wb") as output:
        child = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        while child.poll() is None:
            processes = tree_of(child.pid)
            if len(processes) > 1:
                peak = max(peak, sum(map(read_pss, processes)))
                most = max(most, len(processes))
            time.sleep(EVERY)
    return child.returncode, peak, most


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
