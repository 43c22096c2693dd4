"""One process of several in a kernel: `python -m cellsignal.kernels.rank FILE VERB ...`.

torchrun makes every exit status but 0 a 1. So a process that stopped with everything saved writes its status to FILE and ends well.
"""

import os
import runpy
import sys
from pathlib import Path

from cellsignal.errors import OUT_OF_TIME
from cellsignal.files import write_text


def run(file: Path, words: list[str]) -> int:
    """Run one verb as `python -m cellsignal` does; its status, or 0 where it was out of time (75) or stopped by a signal (128 + n). Not 0 goes to `file`."""
    sys.argv = ["cellsignal", *words]
    try:
        runpy.run_module("cellsignal", run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    if status and os.environ.get("RANK", "0") == "0":
        write_text(file, str(status))
    return 0 if status == OUT_OF_TIME or status > 128 else status


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
