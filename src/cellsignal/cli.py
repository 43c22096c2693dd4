"""Parse the command line, run the command, turn errors into an exit status."""

import argparse
import contextlib
import errno
import logging
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from cellsignal import __version__
from cellsignal.baselines.commands import add_baseline_commands
from cellsignal.cloud.commands import add_cloud_commands
from cellsignal.common.errors import InputError, Interrupted
from cellsignal.common.places import refuse_urls
from cellsignal.common.stopping import time_budget
from cellsignal.common.threads import share_processors
from cellsignal.config.options import (
    add_budget,
    add_config_options,
    command_group,
    configs_of,
    next_command,
)
from cellsignal.data.commands import add_data_commands
from cellsignal.export.commands import add_export_command
from cellsignal.kaggle.commands import add_kaggle_commands
from cellsignal.prediction.commands import add_prediction_commands
from cellsignal.profiles.commands import add_profile_commands
from cellsignal.quality.commands import add_quality_commands
from cellsignal.report.commands import (
    add_explore_command,
    add_report_commands,
    add_runs_commands,
)

BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Returns:
        0; 1 if an audit failed; 2 for bad input or a full disk, with one line on stderr; 128 +
        signal when stopped; 75 when the time budget (`--max-hours`) is used up. Finished work is
        always saved.
    """
    arguments = build_parser().parse_args(argv)
    share_processors()
    logging.basicConfig(
        level=logging.WARNING if arguments.quiet else logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
    )
    try:
        refuse_urls(vars(arguments))
        with time_budget(getattr(arguments, "max_hours", None)):
            following = arguments.run(arguments)
    except InputError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        return 0
    except OSError as error:
        return _refuse(_disk_message(error))
    except KeyboardInterrupt:
        print("stopped; finished work is kept", file=sys.stderr)
        return 130
    except Interrupted as error:
        print(str(error), file=sys.stderr)
        return error.status
    if isinstance(following, int):
        return following
    if following and not arguments.quiet:
        print(f"next: {following}", file=sys.stderr)
    return 0


def _refuse(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT


def _disk_message(error: OSError) -> str:
    """Describe an error of a disk or a file name in one line; raise any other error again."""
    if error.errno == errno.ENAMETOOLONG:
        name = Path(str(error.filename)).name
        length = len(name.encode())
        return f"{name[:40]}...: a name of {length} bytes is too long for this file system"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = error.filename or "writing"
        return f"{place}: {error.strerror}; finished work is kept, run again to resume"
    raise error


@cache
def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands, in the order of the work; every call returns the same."""
    parser = argparse.ArgumentParser(
        prog="cellsignal",
        description="Train, submit and score on microscopy competitions.",
        formatter_class=partial(argparse.HelpFormatter, indent_increment=1),
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("-q", "--quiet", action="store_true", help="only results and warnings")
    add = command_group(parser, "command")
    add_data_commands(add)
    add_explore_command(add)
    with _at_home("audit"):
        from cellsignal.audit.commands import add_audit_command

        text = "look for leaks between what trains and what is scored"
        add_audit_command(add("audit", None, text))
    add_quality_commands(add)
    add_baseline_commands(add)
    sub = add("train", train, "train every fold and stage of a config; resumes")
    add_budget(add_config_options(sub))
    add_prediction_commands(add)
    _add_run(add)
    with _at_home("tuning"):
        from cellsignal.tuning.commands import add_tune_command

        add_tune_command(add)
    add_report_commands(add)
    add_export_command(add)
    add_runs_commands(add("runs", None, "list, compare and delete runs"))
    add_profile_commands(
        add("profiles", None, "embeddings and well profiles: match, retrieve, ...")
    )
    with _at_home("studies"):
        from cellsignal.studies.commands import add_study_commands

        add_study_commands(add("study", None, "audits, benchmarks and ablations of docs/results"))
    add_kaggle_commands(add("kaggle", None, "a config as a chain of Kaggle kernels"))
    add_cloud_commands(add("cloud", None, "task files for other machines, and what they cost"))
    return parser


@contextlib.contextmanager
def _at_home(room: str):
    """Leave a room's verbs out in a Kaggle kernel: its script has no place for all rooms."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != f"cellsignal.{room}":
            raise


def _add_run(add: Callable) -> None:
    sub = add("run", run, "all of it, from prepare to score and report; resumes")
    add_budget(add_config_options(sub))
    sub.add_argument("--answers", type=Path, help="true test labels, for scoring alone")
    splits = "folds, where the fold table is made (default 3, or one a group if fewer)"
    sub.add_argument("--splits", type=int, help=splits)


def train(arguments: argparse.Namespace) -> str:
    from cellsignal.training.run import train as train_config

    for config in configs_of(arguments):
        train_config(config)
    return next_command("predict", arguments)


def run(arguments: argparse.Namespace) -> str:
    from cellsignal.pipeline import run_all

    configs = configs_of(arguments)
    for config in configs:
        run_all(config, arguments.answers, splits=arguments.splits)
    return next_command("submit", arguments) if len(configs) > 1 else "cellsignal leaderboard"


if __name__ == "__main__":
    sys.exit(main())
