"""Make tracks of a screen of your own.

python -m cellsignal.competitions.mitoreid.raw FIELDS --out data/mitoreid --library l1 --part train
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.competitions.mitoreid.metadata import NOVEL, PARTS
from cellsignal.competitions.mitoreid.raw import METHODS, Settings
from cellsignal.competitions.mitoreid.raw.process import process


def main(words: Sequence[str] | None = None) -> int:
    """Cut fields {drug}/{drug}_{time}_{w1|w2|w3}.tif into tracks of cells; run again to resume."""
    parser = argparse.ArgumentParser(
        prog="python -m cellsignal.competitions.mitoreid.raw", description=main.__doc__
    )
    add = parser.add_argument
    add("root", type=Path, help="the folder of the fields' folders")
    add("--out", type=Path, required=True, help="gets the tracks, a report and statistics.json")
    add("--library", help="l1, l2, l3 ...; none for novel drugs")
    add("--part", required=True, choices=(*PARTS, NOVEL))
    add("--workers", type=int, default=0, help="processes, about 0.75 GB each")
    add("--method", choices=METHODS, default=METHODS[0], help="of the segmentation")
    white = "count that becomes 255; 4095 for a 12-bit camera"
    add("--white", type=int, default=Settings.white, help=white)
    scale = "pixels of these fields to one of the published (300 a cell)"
    add("--scale", type=float, default=1.0, help=scale)
    arguments = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = replace(Settings(), method=arguments.method, white=arguments.white).scaled(
            arguments.scale
        )
        report = process(
            arguments.root,
            arguments.out,
            arguments.library,
            arguments.part,
            arguments.workers,
            settings,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.to_string(index=False, max_colwidth=80))
    return 0


if __name__ == "__main__":
    sys.exit(main())
