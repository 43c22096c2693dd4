"""The parsers of the benchmarks of reading, and of runs that share a machine."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cellsignal.config.options import refuse_below_one
from cellsignal.studies.pages import add_out, machine, show_page, table


def add_readers_study(add: Callable) -> None:
    """Add the parser of `cellsignal study readers`."""
    text = "the store beside zarr-python, zarrs and tensorstore on the same images"
    sub = add("readers", readers, text)
    sub.add_argument("--root", type=Path, help="RxRx1's folder (default: simulated sites)")
    sub.add_argument("--rounds", type=int, default=10, help="timed readings of each site")
    add_out(sub, "tables")


def readers(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.performance.readers_bench import readers_page

    refuse_below_one(arguments, "rounds")
    text = readers_page(arguments.root, arguments.rounds)
    show_page(text, arguments.out)


def add_neighbours_study(add: Callable) -> None:
    """Add the parser of `cellsignal study neighbours`."""
    sub = add("neighbours", neighbours, "two trainings side by side against one alone")
    sub.add_argument("--seconds", type=float, default=10, help="of each training (default 10)")
    sub.add_argument("--rounds", type=int, default=3, help="of all cases, in turn (default 3)")


def neighbours(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.performance.neighbours import bench_neighbours

    refuse_below_one(arguments, "rounds", "seconds")
    print(f"{machine()}.\n\n{table(bench_neighbours(arguments.seconds, arguments.rounds))}")
