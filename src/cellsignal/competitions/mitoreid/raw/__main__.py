"""Tracks from an own screen: `python -m cellsignal.competitions.mitoreid.raw FIELDS --out
data/mitoreid --library l1 --part train`.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.competitions.mitoreid.raw.process import process
from cellsignal.competitions.mitoreid.raw.settings import METHODS, Settings
from cellsignal.competitions.mitoreid.tracks import NOVEL, PARTS


def main(words: Sequence[str] | None = None) -> int:
    """Cut fields {drug}/{drug}_{time}_{w1|w2|w3}.tif into tracks of single cells; the same command
    goes on after a break.
    """
    parser = argparse.ArgumentParser(
        prog="python -m cellsignal.competitions.mitoreid.raw", description=main.__doc__
    )
    parser.add_argument("root", type=Path, help="the folder of the fields' folders")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="gets the published layout, a report and statistics.json",
    )
    parser.add_argument("--library", help="l1, l2, l3 ...; none for novel drugs")
    parser.add_argument("--part", required=True, choices=(*PARTS, NOVEL))
    parser.add_argument("--workers", type=int, default=0, help="processes, about 0.75 GB each")
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help="of the segmentation")
    parser.add_argument(
        "--white",
        type=int,
        default=Settings.white,
        help="count that becomes 255; 4095 for a 12-bit camera",
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="pixels of these fields to one of the published (300 a cell)",
    )
    given = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = replace(Settings(), method=given.method, white=given.white).scaled(given.scale)
        report = process(given.root, given.out, given.library, given.part, given.workers, settings)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.to_string(index=False, max_colwidth=80))
    return 0


if __name__ == "__main__":
    sys.exit(main())
