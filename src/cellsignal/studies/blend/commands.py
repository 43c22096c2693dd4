"""`cellsignal study blend`."""

import argparse
from collections.abc import Callable

from cellsignal.studies.pages import add_out, show_page


def add_blend_study(add: Callable) -> None:
    """Add the parser of the study."""
    text = "what blends are worth in simulated competitions, nested and on fresh units"
    sub = add("blend", blend, text)
    sub.add_argument("--competitions", type=int, help="(default 20)")
    sub.add_argument("--seed", type=int, default=0)
    add_out(sub)


def blend(arguments: argparse.Namespace) -> None:
    from cellsignal.common.errors import InputError
    from cellsignal.studies.blend.competitions import COMPETITIONS
    from cellsignal.studies.blend.page import blend_page

    given = arguments.competitions
    count = COMPETITIONS if given is None else given
    if count < 1:
        raise InputError(f"--competitions {count}: at least 1")
    text = blend_page(count, arguments.seed)
    show_page(text, arguments.out)
