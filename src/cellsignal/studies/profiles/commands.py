"""`cellsignal study profiles`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cellsignal.studies.pages import add_out, show_page


def add_profiles_study(add: Callable) -> None:
    """Add the parser of the study."""
    text = "replicates, targets, position and mechanisms of real CellProfiler profiles"
    sub = add("profiles", profiles, text)
    text = "profiles of CPJUMP1's replicate compound plates"
    sub.add_argument("--cpjump1", type=Path, nargs="+", required=True, help=text)
    text = "JUMP-Target-1_compound_metadata.tsv"
    sub.add_argument("--annotations", type=Path, required=True, help=text)
    sub.add_argument("--bbbc021", type=Path, required=True, help="profiles of BBBC021")
    add_out(sub, "tables")


def profiles(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.profiles.page import profiles_page

    page = profiles_page(arguments.cpjump1, arguments.annotations, arguments.bbbc021)
    show_page(page, arguments.out)
