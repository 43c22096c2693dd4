"""The options of the commands that download, simulate, verify, pack and fold."""

import argparse
from pathlib import Path

from cellsignal.config.options import add_budget, add_config_options, add_set


def add_prepare(parser: argparse.ArgumentParser) -> None:
    """Add the options of `prepare`."""
    group = add_budget(add_config_options(parser)).add_mutually_exclusive_group()
    group.add_argument("--part", metavar="K/N", help="pack this part, some whole plates, by itself")
    group.add_argument("--merge", type=int, metavar="N", help="make the store of its N parts")
    text = "copy the packed store there with a file a plate, not a site; reads no raw data"
    group.add_argument("--shards", type=Path, metavar="FOLDER", help=text)
    text = "with --shards: megabytes of a file, at most (default 512)"
    parser.add_argument("--shard-mb", type=float, metavar="MB", help=text)
    text = "with --shards: delete each site's file once it is there, and the old store at the end"
    parser.add_argument("--move", action="store_true", help=text)


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Add the options of `verify`."""
    parser.add_argument("competition", nargs="?", help="its id")
    parser.add_argument("--root", type=Path, help="folder of its raw data")
    text = "read a store instead, a folder or a URL, and hold every site to its checksum"
    parser.add_argument("--store", metavar="PLACE", help=text)
    workers = "processes that read raw data (default 2)"
    parser.add_argument("--workers", type=int, default=2, help=workers)


def add_init(parser: argparse.ArgumentParser) -> None:
    """Add the options of `init`."""
    parser.add_argument("folder", type=Path, help="folder of the images")
    pattern = "how files are named, as '{plate}/{well}_s{site}_w{channel}.tif'"
    parser.add_argument("--pattern", help=pattern)
    parser.add_argument("--platemap", type=Path, help="CSV, TSV or XLSX with a row for each well")
    out = "folder of plates.yaml, where the images' is a share that others write (default: theirs)"
    parser.add_argument("--out", type=Path, help=out)
    picture = "PNG of a few sites (default runs/<folder>.init.png)"
    parser.add_argument("--picture", type=Path, help=picture)
    parser.add_argument("--force", action="store_true", help="replace a plates.yaml")


def add_samples(parser: argparse.ArgumentParser) -> None:
    """Add the options of `samples`."""
    parser.add_argument("competition", help="its id")
    parser.add_argument("--root", type=Path, required=True, help="folder of the raw data")
    parser.add_argument("--out", type=Path, help="CSV of the whole table")
    parser.add_argument(
        "--picture", type=Path, help="PNG of one site of each of four labels, and a control"
    )


def add_simulate(parser: argparse.ArgumentParser) -> None:
    """Add the options of `simulate`."""
    parser.add_argument("competition")
    parser.add_argument("--out", type=Path, help="folder (default data/<competition>_simulated)")
    quick = "the copy that the competition's quick config reads: data/<competition>_quick, seed 1"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--seed", type=int, help="of everything random (default 0)")
    parser.add_argument("--size", type=int, help="side of an image in pixels")
    parser.add_argument("--classes", type=int, help="number of treatments")
    add_set(parser, "any other parameter of the simulation")


def add_folds(parser: argparse.ArgumentParser) -> None:
    """Add the options of `folds`."""
    parser.add_argument("competition")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="CSV (default folds/<competition>.csv)")
    group = "what a fold must not split (default: the competition's first)"
    parser.add_argument("--group", help=group)
    splits = "number of folds (default 5, or one a group if fewer)"
    parser.add_argument("--splits", type=int, help=splits)
    parser.add_argument("--named", help="a published table instead, e.g. first_place")
    force = "replace a file that holds another table"
    parser.add_argument("--force", action="store_true", help=force)
    parser.add_argument("--seed", type=int, default=0)
