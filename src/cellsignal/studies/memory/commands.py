"""The parser of the benchmark of memory."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cellsignal.studies.pages import add_out, show_page

PARTS = ("submission", "profiles", "images")


def add_memory_study(add: Callable) -> None:
    """Add the parser of `cellsignal study memory`."""
    text = "peak memory of commands at RxRx1's full size, on simulated inputs"
    sub = add("memory", memory, text)
    what = f"what is measured (default all: {', '.join(PARTS)})"
    sub.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=what)
    text = "share of the experiments and wells (default 1, the full size)"
    sub.add_argument("--scale", type=float, default=1.0, metavar="SHARE", help=text)
    folder = "folder of the inputs, which are kept there and used again (default: a temporary one)"
    sub.add_argument("--folder", type=Path, help=folder)
    add_out(sub, "table")


def memory(arguments: argparse.Namespace) -> None:
    import tempfile

    from cellsignal.common.errors import InputError
    from cellsignal.studies.memory.page import memory_page

    if not 0 < arguments.scale <= 1:
        raise InputError(f"--scale: a share above 0 and up to 1, not {arguments.scale}")
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        text = memory_page(arguments.folder.absolute(), arguments.parts, arguments.scale)
    else:
        with tempfile.TemporaryDirectory(prefix="cellsignal-memory-") as folder:
            text = memory_page(Path(folder), arguments.parts, arguments.scale)
    show_page(text, arguments.out)
