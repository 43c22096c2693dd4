"""The parsers of the benchmarks of reading."""

import argparse
from collections.abc import Callable
from pathlib import Path


def add_readers_study(add: Callable) -> None:
    """Add the parser of `cellsignal study readers`."""
    text = "the store beside zarr-python, zarrs and tensorstore on the same images"
    sub = add("readers", readers, text)
    sub.add_argument("--root", type=Path, help="RxRx1's folder (default: simulated sites)")
    sub.add_argument("--rounds", type=int, default=10, help="timed readings of each site")
    sub.add_argument("--out", type=Path, help="file for the tables (Markdown)")


def readers(arguments: argparse.Namespace) -> None:
    from cellsignal.common.files import write_text
    from cellsignal.studies.performance.readers_bench import readers_page

    text = readers_page(arguments.root, arguments.rounds)
    if arguments.out is not None:
        write_text(arguments.out, text)
    print(text, end="")
