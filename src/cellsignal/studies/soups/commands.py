"""`cellsignal study soups`: its parser, which loads nothing that is not needed to start."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cellsignal.config.options import refuse_below_one, refuse_repeated_seeds
from cellsignal.studies.pages import add_out, show_page


def add_soups_study(add: Callable) -> None:
    """Add the parser of the study."""
    text = "snapshots, soups of weights, EMA and SWA against one run and against ensembles"
    sub = add("soups", soups, text)
    sub.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default 0 1 2)")
    text = "of every training from its start to its end, a multiple of 6 (default 30)"
    sub.add_argument("--epochs", type=int, default=30, help=text)
    text = "folder of the simulated plates and of the runs (default runs/soups)"
    sub.add_argument("--work", type=Path, default=Path("runs/soups"), help=text)
    add_out(sub)


def soups(arguments: argparse.Namespace) -> None:
    """Run the study, as far as it is not done, and print its page."""
    refuse_below_one(arguments, "epochs")
    refuse_repeated_seeds(arguments.seeds)
    from cellsignal.studies.soups.bench import measure
    from cellsignal.studies.soups.page import soups_page
    from cellsignal.studies.soups.rows import check_epochs

    check_epochs(arguments.epochs)
    records = [measure(seed, arguments.epochs, arguments.work) for seed in arguments.seeds]
    show_page(soups_page(records, arguments.seeds, arguments.epochs), arguments.out)
