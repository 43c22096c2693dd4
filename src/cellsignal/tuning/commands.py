"""The command `tune`: search settings, and measure the winner where it was not chosen."""

import argparse
import json
import os
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cellsignal.common.errors import InputError
from cellsignal.common.files import hold_alone
from cellsignal.config.options import add_budget, add_config_options, config_of

if TYPE_CHECKING:
    from cellsignal.config import Config
    from cellsignal.tuning.search import Search

HALVING = 2  # of the trials with 1, 2, 4 ... folds, the best half goes on


def add_tune_command(add: Callable) -> None:
    """Add the parser of the command."""
    sub = add("tune", tune, "search settings of a config; measures the winner again; resumes")
    add_config_options(sub)
    text = "YAML of what varies: key: {low, high, log, step} or {choices: [...]} (docs/tune.md)"
    sub.add_argument("--space", type=Path, required=True, metavar="YAML", help=text)
    text = "trials in all, those of earlier calls counted (default 20)"
    sub.add_argument("--trials", type=int, default=20, metavar="N", help=text)
    text = "start no trial when the trials have trained for so long, summed over processes"
    sub.add_argument("--hours", type=float, metavar="H", help=text)
    sub.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the drawn values (default 0)"
    )
    text = "trials at a time, each in a process with a GPU of its own (default 1)"
    sub.add_argument("--processes", type=int, default=1, metavar="N", help=text)
    text = "the best 1/N go on after 1, N, N*N ... folds; 0: all do (default 2)"
    sub.add_argument("--halving", type=int, default=HALVING, metavar="N", help=text)
    text = "folds to search on (default: all that are not left out)"
    sub.add_argument("--folds", type=int, nargs="+", metavar="K", help=text)
    text = "folds whose groups the search never sees; the winner is measured on them (default: "
    text += "the last third, if enough groups remain)"
    sub.add_argument("--left-out", type=int, nargs="+", metavar="K", help=text)
    text = "other seeds that base and winner are trained with to measure the gain (default 3; 0: "
    text += "the gain is not measured)"
    sub.add_argument("--confirm-seeds", type=int, default=3, metavar="N", help=text)
    text = "of the search; its runs are NAME_trial000 ... (default: the config's)"
    sub.add_argument("--name", help=text)
    add_budget(sub)


def tune(arguments: argparse.Namespace) -> str:
    from cellsignal.tuning.journal import load_optuna, mend_journal
    from cellsignal.tuning.search import LOCK, search_folder

    load_optuna()
    _refuse_numbers(arguments)
    named = [] if arguments.name is None else [f"name={json.dumps(arguments.name)}"]
    config = config_of(argparse.Namespace(**vars(arguments) | {"set": [*arguments.set, *named]}))
    folder = search_folder(config.runs, config.name)
    search, table = _plan(arguments, config)
    folder.mkdir(parents=True, exist_ok=True)
    with hold_alone(folder / LOCK, str(folder)):
        mend_journal(search.journal)
        return _run(search, config, table, arguments)


def _run(search: "Search", config: "Config", table: Path, arguments: argparse.Namespace) -> str:
    """Search, measure the winner, and print it; return the next command."""
    from cellsignal.tuning.journal import best_trial, open_study
    from cellsignal.tuning.preparation import prepare_search
    from cellsignal.tuning.results import WINNER, final_gain, in_search_gain, write_results
    from cellsignal.tuning.search import refuse_lost_trials
    from cellsignal.tuning.workers import CONFIRM, SEARCH, run_phase

    prepare_search(search, config, table)
    refuse_lost_trials(search, len(open_study(search).get_trials(deepcopy=False)))
    run_phase(search, SEARCH)
    study = open_study(search)
    best, gain = best_trial(study), None
    if best is not None:
        if search.confirm_seeds and in_search_gain(search, best)[0].difference > 0:
            run_phase(search, CONFIRM)
        gain = final_gain(search, study)
    print(write_results(search, study, gain))
    winner = search.folder / WINNER
    if winner.is_file():
        return f"cellsignal run {shlex.quote(str(winner))}"
    return _next_search(arguments)


def _next_search(arguments: argparse.Namespace) -> str:
    """Return the command that goes on with twice the trials and the hours."""
    words = ["cellsignal", "tune", arguments.config, "--space", str(arguments.space)]
    words += [word for change in arguments.set for word in ("--set", change)]
    defaults = {
        "name": None,
        "folds": None,
        "left_out": None,
        "seeds": None,
        "seed": 0,
        "halving": HALVING,
        "processes": 1,
        "confirm_seeds": 3,
    }
    for name, default in defaults.items():
        value = getattr(arguments, name)
        if value != default:
            values = value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    if arguments.hours is not None:
        words += ["--hours", f"{2 * arguments.hours:g}"]
    return shlex.join([*words, "--trials", str(2 * arguments.trials)])


def _plan(arguments: argparse.Namespace, config: "Config") -> tuple["Search", Path]:
    """Check config, space and folds; return the search and the config's fold table."""
    from cellsignal.config import dump_config
    from cellsignal.tuning.preparation import divide
    from cellsignal.tuning.search import Search
    from cellsignal.tuning.space import read_space

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / f"{config.name}.yaml"
        base.write_text(dump_config(config), encoding="utf-8")
        space = read_space(arguments.space, base)
    search = Search(
        name=config.name,
        runs=config.runs,
        space=space,
        division=divide(config, arguments.folds, arguments.left_out),
        seed=arguments.seed,
        halving=arguments.halving,
        trials=arguments.trials,
        hours=arguments.hours,
        processes=arguments.processes,
        confirm_seeds=arguments.confirm_seeds,
    )
    return search, config.folds.file


def _refuse_numbers(arguments: argparse.Namespace) -> None:
    for name, least in (("trials", 1), ("processes", 1), ("confirm_seeds", 0), ("seed", 0)):
        value = getattr(arguments, name)
        if value < least:
            raise InputError(f"--{name.replace('_', '-')} {value}: give {least} or more")
    if arguments.halving < 0 or arguments.halving == 1:
        raise InputError(f"--halving {arguments.halving}: give 2 or more, or 0 for none")
    if arguments.hours is not None and not 0 < arguments.hours < float("inf"):
        raise InputError(f"--hours {arguments.hours}: give a number of hours above 0")
    if int(os.environ.get("WORLD_SIZE", "1") or 1) > 1:
        raise InputError("tune: starts its own processes (--processes N); leave torchrun out")
