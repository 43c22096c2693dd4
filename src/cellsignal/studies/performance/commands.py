"""The parsers of the benchmarks of reading, and of runs that share a machine."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.config.options import refuse_below_one
from cellsignal.studies.pages import add_out, machine, show_page, table

# word of an option -> what `readers` calls it
READER_LIBRARIES = {
    "zarr-python": "zarr-python",
    "fused": "zarr-python, fused",
    "zarrs": "zarrs",
    "tensorstore": "tensorstore",
}
READER_CODECS = {
    "zstd": "zstd 3",
    "bitshuffle-zstd": "bitshuffle + zstd 5",
    "bitshuffle-lz4": "bitshuffle + lz4",
    "lz4hc": "lz4hc 9",
}


def add_readers_study(add: Callable) -> None:
    """Add the parser of `cellsignal study readers`."""
    text = "the store beside zarr-python, zarrs and tensorstore on the same images"
    sub = add("readers", readers, text)
    sub.add_argument("--root", type=Path, help="RxRx1's folder (default: simulated sites)")
    sub.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=(),
        metavar="PX",
        help="sides of the images (default: that of the files, and half of it)",
    )
    for option, words in (
        ("libraries", READER_LIBRARIES),
        ("codecs", READER_CODECS),
        ("ways", ("single", "threads", "processes")),
    ):
        sub.add_argument(f"--{option}", nargs="+", choices=list(words), help="(default: all)")
    sub.add_argument("--rounds", type=int, default=10, help="of all readers, at most (default 10)")
    sub.add_argument(
        "--minutes", type=float, default=6, help="after which no new round begins (default 6)"
    )
    add_out(sub)


def readers(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.performance.readers_bench import WAYS, Plan
    from cellsignal.studies.performance.readers_page import command_of, readers_page

    refuse_below_one(arguments, "rounds")
    for size in arguments.sizes:
        if size < 8:
            raise InputError(f"--sizes {size}: give 8 or more")
    if not 0 <= arguments.minutes < math.inf:
        raise InputError(f"--minutes {arguments.minutes:g}: give 0 or more")
    plan = Plan(
        tuple(READER_LIBRARIES[word] for word in arguments.libraries or READER_LIBRARIES),
        tuple(READER_CODECS[word] for word in arguments.codecs or READER_CODECS),
        tuple(arguments.ways or WAYS),
        arguments.rounds,
        arguments.minutes,
    )
    words = ["--root", "data/rxrx1"] if arguments.root else []
    for option in ("sizes", "libraries", "codecs", "ways"):
        if given := getattr(arguments, option):
            words += [f"--{option}", *map(str, given)]
    words += ["--rounds", str(arguments.rounds), "--minutes", f"{arguments.minutes:g}"]
    text = readers_page(arguments.root, arguments.sizes, plan, command_of(words))
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
