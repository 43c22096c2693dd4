"""`cellsignal study channels`: its parser, which loads nothing that is not needed to start."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cellsignal.config.options import refuse_below_one, refuse_repeated_seeds
from cellsignal.studies.pages import add_out, show_page


def add_channels_study(add: Callable) -> None:
    """Add the parser of the study."""
    text = "one network of stains for two simulated data sets against a network for each"
    sub = add("channels", channels, text)
    sub.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default 0 1 2)")
    sub.add_argument("--epochs", type=int, default=30, help="of each set (default 30)")
    text = "folder of the simulated images and of what is done (default runs/channels)"
    sub.add_argument("--work", type=Path, default=Path("runs/channels"), help=text)
    add_out(sub)


def channels(arguments: argparse.Namespace) -> None:
    """Run the study, as far as it is not done, and print its page."""
    refuse_below_one(arguments, "epochs")
    refuse_repeated_seeds(arguments.seeds)
    from cellsignal.studies.channels.page import channels_page, measure

    records = [measure(seed, arguments.epochs, arguments.work) for seed in arguments.seeds]
    text = channels_page(records, arguments.seeds, arguments.epochs)
    show_page(text, arguments.out)
