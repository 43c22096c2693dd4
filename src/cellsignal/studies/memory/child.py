"""Run one command of cellsignal and note what it took: `python -m ...child REPORT WORD ...`.

The report is JSON: the exit status, the peak of the process's resident memory, seconds of CPU time
of it and of its workers, and the modules that it had imported at the end. Without words the modules
of an earlier report are imported and nothing is done: what that takes is the share of the imports.
"""

import contextlib
import importlib
import json
import os
import re
import runpy
import sys
from pathlib import Path


def read_peak(process: int | str = "self") -> int:
    """Return the peak resident memory of a process so far, in bytes.

    Not `getrusage`, whose peak a process inherits from the one that started it.
    """
    text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)[1]) * 1024


def main(report: str, *words: str) -> int:
    """Run the command `words`, or import what an earlier one imported, and write the report."""
    status = 0
    if words:
        sys.argv = ["cellsignal", *words]
        try:
            runpy.run_module("cellsignal.cli", run_name="__main__")
        except SystemExit as stop:
            status = stop.code
    else:
        for name in json.loads(Path(report).read_text(encoding="utf-8"))["modules"]:
            # parts that another module must make first, or that only once can be imported
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    times = os.times()
    written = {
        "status": status,
        "peak": read_peak(),
        "seconds": times.user + times.system + times.children_user + times.children_system,
        "modules": [name for name in list(sys.modules) if name != "__main__"],
    }
    Path(report).write_text(json.dumps(written), encoding="utf-8")
    return status or 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
