"""`cellsignal study shift`: its parser, which loads nothing that is not needed to start."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.config.options import refuse_repeated_seeds
from cellsignal.studies.pages import add_out, show_page

SEEDS = (0, 1, 2, 3, 4)


def add_shift_study(add: Callable) -> None:
    """Add the parser of the study."""
    text = "what batch effects and label shift do to networks, AdaBN, controls and embeddings"
    sub = add("shift", shift, text)
    sub.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    text = "folder of finished parts, from which it resumes (default runs/study_shift)"
    sub.add_argument("--folder", type=Path, default=Path("runs/study_shift"), help=text)
    sub.add_argument("--networks", nargs="+", help="only these (default: all)")
    text = "train nothing: the page of what is finished in the folder"
    sub.add_argument("--finished", action="store_true", help=text)
    add_out(sub)


def shift(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.shift.networks import RECIPES
    from cellsignal.studies.shift.page import shift_page
    from cellsignal.studies.shift.run import run_bench
    from cellsignal.studies.shift.simulated_plates import Design

    networks = arguments.networks or list(RECIPES)
    unknown = [name for name in networks if name not in RECIPES]
    if unknown:
        raise InputError(f"--networks {unknown[0]}: no such network; {', '.join(RECIPES)}")
    refuse_repeated_seeds(arguments.seeds)
    design = Design()
    seeds, finished = arguments.seeds, arguments.finished
    frame = run_bench(arguments.folder, seeds, networks, design, finished)
    text = shift_page(frame, seeds, design, finished)
    show_page(text, arguments.out)
