"""`cellsignal study relations`: its parser, which loads nothing that is not needed to start."""

import argparse
from collections.abc import Callable

from cellsignal.config.options import refuse_below_one
from cellsignal.studies.pages import add_out, show_page

SIMULATIONS = 400


def add_relations_study(add: Callable) -> None:
    """Add the parser of the study."""
    text = "recall of planted gene relations, and coverage of its intervals"
    sub = add("relations", relations, text)
    text = f"of each coverage (default {SIMULATIONS})"
    sub.add_argument("--simulations", type=int, default=SIMULATIONS, help=text)
    sub.add_argument("--seed", type=int, default=0)
    add_out(sub)


def relations(arguments: argparse.Namespace) -> None:
    refuse_below_one(arguments, "simulations")
    from cellsignal.studies.relations.page import relations_page

    page = relations_page(arguments.simulations, arguments.seed)
    show_page(page, arguments.out)
