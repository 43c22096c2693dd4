"""The parser of the benchmark of memory."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from cellsignal.studies.pages import add_out, show_page

PARTS = ("submission", "profiles", "images")
MINUTES = 30.0


def add_memory_study(add: Callable) -> None:
    """Add the parser of `cellsignal study memory`."""
    text = "peak memory of commands at RxRx1's full size, on simulated inputs"
    sub = add("memory", memory, text)
    what = f"what is measured (default all: {', '.join(PARTS)})"
    sub.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=what)
    text = "share of the experiments and wells (default 1, the full size)"
    sub.add_argument("--scale", type=float, default=1.0, metavar="SHARE", help=text)
    folder = "folder of the inputs and rows, which are kept there: the study goes on where it was "
    folder += "stopped (default: a temporary one)"
    sub.add_argument("--folder", type=Path, help=folder)
    text = f"by the clock that one command may take, then it is stopped (default {MINUTES:g})"
    sub.add_argument("--minutes", type=float, default=MINUTES, help=text)
    text = "measure the commands of these verbs again, such as submit"
    sub.add_argument("--again", nargs="+", default=(), metavar="VERB", help=text)
    add_out(sub)


def memory(arguments: argparse.Namespace) -> None:
    import tempfile

    from cellsignal.common.errors import InputError
    from cellsignal.studies.memory.page import memory_page

    if not 0 < arguments.scale <= 1:
        raise InputError(f"--scale: a share above 0 and up to 1, not {arguments.scale}")
    if not arguments.minutes > 0:
        raise InputError(f"--minutes: above 0, not {arguments.minutes}")
    signal.signal(signal.SIGTERM, _stop)  # so that the command that is measured is stopped, too
    options = {name: getattr(arguments, name) for name in ("minutes", "again", "out")}
    if arguments.folder is not None:
        folder = arguments.folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        text = memory_page(folder, arguments.parts, arguments.scale, **options)
    else:
        with tempfile.TemporaryDirectory(prefix="cellsignal-memory-") as folder:
            text = memory_page(Path(folder), arguments.parts, arguments.scale, **options)
    show_page(text, arguments.out)


def _stop(number: int, frame: object) -> None:
    sys.exit(128 + number)
