"""The commands `report` and `runs`: pages of runs; list, compare, average and delete them."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.config.options import RUNS, command_group, run_names
from cellsignal.prediction.soup_command import add_soup_command


def add_report_commands(add: Callable) -> None:
    """Add the parser of the page of runs."""
    text = "one HTML page of a run, or of several side by side; at any time"
    sub = add("report", report, text)
    what = "a run, its config or folder, or a submission (.csv)"
    sub.add_argument("runs", nargs="+", metavar="RUN", help=what)
    sub.add_argument("--answers", type=Path, help="true test labels: shows the test score")
    sub.add_argument("--out", type=Path, help="the page (default: in the folder of the run)")


def add_explore_command(add: Callable) -> None:
    """Add the parser of the page of a data set."""
    text = "one HTML page of a data set, before any training"
    sub = add("explore", explore, text)
    sub.add_argument("competition", help="its id")
    sub.add_argument("--root", type=Path, required=True, help="folder of the raw data")
    config = "draw its augmentations; read its store, if there is one, in place of the files"
    sub.add_argument("--config", help=config)
    most = "images that are read to measure brightness (default 400)"
    sub.add_argument("--images", type=int, default=400, metavar="N", help=most)
    sub.add_argument("--out", type=Path, help="the page (default: ROOT.explore.html)")


def add_runs_commands(parser: argparse.ArgumentParser) -> None:
    """Add the parsers of the commands; without one the runs are listed."""
    parser.set_defaults(run=list_runs)
    parser.add_argument("--runs", type=Path, default=RUNS, help=f"folder of runs (default {RUNS})")
    add = command_group(parser, "what", required=False)
    text = "settings that differ, and the paired difference of out-of-fold scores"
    sub = add("compare", compare, text)
    sub.add_argument("first", help="name of a run, or a config")
    sub.add_argument("second")
    add_soup_command(add)
    sub = add("delete", delete, "remove the folder of a run, with its weights and predictions")
    sub.add_argument("name", help="a run, or one of its seeds: NAME or NAME/seed0")
    sub.add_argument("--yes", action="store_true", help="do not ask")


def report(arguments: argparse.Namespace) -> None:
    from cellsignal.report.html.writer import write_html_report

    print(write_html_report(arguments.runs, arguments.answers, arguments.out))


def explore(arguments: argparse.Namespace) -> str:
    from cellsignal.config.options import read_configs
    from cellsignal.report.html.explore.writer import write_exploration

    if arguments.images < 1:
        raise InputError(f"--images {arguments.images}: at least 1")
    config = read_configs(arguments.config)[0] if arguments.config else None
    competition, root = arguments.competition, arguments.root
    print(
        write_exploration(
            competition, root, config=config, most=arguments.images, out=arguments.out
        )
    )
    return shlex.join(["cellsignal", "verify", competition, "--root", str(root)])


def list_runs(arguments: argparse.Namespace) -> str | None:
    from cellsignal.report import runs

    print(runs.list_runs(arguments.runs))
    names = run_names(arguments.runs)
    if len(names) < 2 or arguments.runs != RUNS:
        return None
    return f"cellsignal runs compare {names[0]} {names[1]}"


def compare(arguments: argparse.Namespace) -> str:
    from cellsignal.report.runs import compare_runs

    print(compare_runs(arguments.first, arguments.second))
    return shlex.join(["cellsignal", "submit", arguments.first, arguments.second])


def delete(arguments: argparse.Namespace) -> str:
    from cellsignal.report.runs import delete_run, find_run_folder, folder_size

    folder = find_run_folder(arguments.name, arguments.runs)
    if not arguments.yes and not _agrees(f"delete {folder}, {folder_size(folder)}? [y/N] "):
        raise InputError(f"{folder}: is kept; --yes deletes it without asking")
    delete_run(folder)
    print(f"deleted {folder}")
    return "cellsignal runs"


def _agrees(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False
