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


def add_epoch_study(add: Callable) -> None:
    """Add the parser of `cellsignal study epoch`."""
    text = "a training epoch fed from stores against the same steps on one batch in memory"
    sub = add("epoch", epoch, text)
    sub.add_argument("--root", type=Path, help="RxRx1's folder (default: simulated sites)")
    sub.add_argument("--backbone", default="resnet10t", help="timm's name (default resnet10t)")
    sub.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[64, 128, 256],
        help="sides of the crops in pixels (default 64 128 256)",
    )
    sub.add_argument("--seconds", type=float, default=5, help="of each epoch (default 5)")
    sub.add_argument("--rounds", type=int, default=5, help="epochs of each, in turn (default 5)")
    sub.add_argument("--workers", type=int, default=2, help="threads that read (default 2)")
    add_out(sub, "table")


def epoch(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.performance.epoch import epoch_text

    refuse_below_one(arguments, "rounds", "seconds", "workers", "sizes")
    text = epoch_text(
        arguments.root,
        arguments.backbone,
        arguments.sizes,
        arguments.workers,
        arguments.seconds,
        arguments.rounds,
    )
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
