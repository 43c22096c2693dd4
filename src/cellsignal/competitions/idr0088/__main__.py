"""Make the committed fold tables from the annotation alone.

python -m cellsignal.competitions.idr0088 idr0088_moa --annotation FILE --out FILE
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import balance_table
from cellsignal.competitions.idr0088.metadata import FILE
from cellsignal.competitions.idr0088.moa import FOLDS, deal_compounds


def main(words: Sequence[str] | None = None) -> int:
    """Make a fold table, write it, and print how even it is in every class."""
    parser = argparse.ArgumentParser(
        prog="python -m cellsignal.competitions.idr0088", description=main.__doc__
    )
    parser.add_argument("competition", choices=("idr0088_gpcr", "idr0088_moa"))
    parser.add_argument("--annotation", type=Path, required=True, help=f"{FILE}, or the CSV in it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=FOLDS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    try:
        competition = get_competition(arguments.competition)
        known, classes = competition.known_compounds(arguments.annotation)
        table = deal_compounds(known, len(classes), arguments.splits, arguments.seed)
        write_csv(arguments.out, table)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{balance_table(table, classes)}\n{arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
