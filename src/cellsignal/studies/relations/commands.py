"""`cellsignal study relations`: its parser, which loads nothing that is not needed to start."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_text

SIMULATIONS = 400


def add_relations_study(add: Callable) -> None:
    """Add the parser of the study."""
    text = "recall of planted gene relations, and coverage of its intervals"
    sub = add("relations", relations, text)
    text = f"of each coverage (default {SIMULATIONS})"
    sub.add_argument("--simulations", type=int, default=SIMULATIONS, help=text)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", type=Path, help="file for the page (Markdown)")


def relations(arguments: argparse.Namespace) -> None:
    if arguments.simulations < 1:
        raise InputError(f"--simulations: at least 1, not {arguments.simulations}")
    from cellsignal.studies.relations.page import relations_page

    page = relations_page(arguments.simulations, arguments.seed)
    print(page, end="")
    if arguments.out is not None:
        write_text(arguments.out, page)
