"""`cellsignal runs soup`: its parser, which loads nothing that is not needed to start."""

import argparse
from collections.abc import Callable

from cellsignal.common.errors import InputError
from cellsignal.config.options import add_changes, find_configs, read_configs


def add_soup_command(add: Callable) -> None:
    """Add the parser of the command."""
    parser = add("soup", soup, "average the weights of runs into a new run, checked on validation")
    parser.add_argument("configs", nargs="+", metavar="RUN", help="runs, or YAMLs of them")
    add_changes(parser)
    parser.add_argument("--name", required=True, help="of the new run")
    text = "the best members while the score does not fall, or all (default greedy)"
    parser.add_argument("--method", choices=["greedy", "uniform"], default="greedy", help=text)
    text = "take the snapshots that the last stage kept, in place of what predicts"
    parser.add_argument("--snapshots", action="store_true", help=text)
    text = "with --snapshots: average nothing, make each a run <name>_e<epoch>, to be blended"
    parser.add_argument("--separate", action="store_true", help=text)
    text = "also of members that began with different weights, whose mean is seldom a network"
    parser.add_argument("--any-start", action="store_true", help=text)


def soup(arguments: argparse.Namespace) -> str:
    from cellsignal.prediction.soup_run import make_soup, separate_runs

    configs = []
    for word in arguments.configs:
        paths = find_configs(word, arguments.runs)
        for path in paths if arguments.seeds is None else paths[:1]:
            configs += read_configs(str(path), arguments.set, arguments.seeds)
    if arguments.separate:
        if not arguments.snapshots:
            raise InputError("--separate: is of --snapshots")
        made = separate_runs(configs, arguments.name)
        print("\n".join(str(config.run_folder) for config in made))
        return f"cellsignal predict {made[0].name}"
    text, config = make_soup(
        configs, arguments.name, arguments.method, arguments.snapshots, arguments.any_start
    )
    print(f"{text}\n{config.run_folder}")
    return f"cellsignal predict {config.name}"
