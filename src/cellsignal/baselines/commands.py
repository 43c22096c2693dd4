"""`cellsignal baseline`: what trivial methods score on the folds of a config."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cellsignal.common.errors import InputError
from cellsignal.config.options import add_config_options, config_of, next_command

if TYPE_CHECKING:
    from cellsignal.config import Config
    from cellsignal.prediction.entry import Entry

LEADERBOARD = Path("submissions/leaderboard.csv")


def add_baseline_commands(add: Callable) -> None:
    """Add the parser of the command."""
    sub = add("baseline", baseline, "score trivial methods on the folds of a config")
    add_config_options(sub)
    only = "these alone: chance, majority, position, cells, intensity, classical, cp_measure, "
    only += "imagenet, untrained (default: all)"
    sub.add_argument("--only", nargs="+", metavar="NAME", help=only)
    nuclei = "channel in which cells are counted, by name or number"
    sub.add_argument("--nuclei", metavar="CHANNEL", help=nuclei)
    sub.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    weights = "ImageNet weights of tf_efficientnet_lite0, in place of the package's"
    sub.add_argument("--weights", type=Path, help=weights)
    sub.add_argument("--leaderboard", type=Path, default=LEADERBOARD)
    over_time = "of clips: hand-made features over time by three classifiers, instead"
    sub.add_argument("--over-time", action="store_true", help=over_time)
    answers = "with --over-time: test on the queries (default: the drugs that fold 0 holds out)"
    sub.add_argument("--answers", type=Path, help=answers)


def baseline(arguments: argparse.Namespace) -> str:
    from cellsignal.baselines.comparison import baselines_of_run
    from cellsignal.baselines.measuring import TITLES

    config = config_of(arguments)
    if arguments.over_time:
        from cellsignal.profiles.clip_classifiers import baseline as measure

        print(measure(config, arguments.answers))
        return next_command("train", arguments)
    if arguments.answers is not None:
        raise InputError("--answers: is an option of --over-time")
    names = tuple(arguments.only or TITLES)
    unknown = [name for name in names if name not in TITLES]
    if unknown:
        raise InputError(f"--only {unknown[0]}: is no baseline; there are {', '.join(TITLES)}")
    if arguments.workers < 0:
        raise InputError(f"--workers: a number from 0, not {arguments.workers}")
    if arguments.weights is not None and not arguments.weights.is_file():
        raise InputError(f"{arguments.weights}: no such file")
    text = baselines_of_run(
        config,
        names,
        _predictions(config),
        arguments.leaderboard,
        nuclei=arguments.nuclei,
        workers=arguments.workers,
        weights=arguments.weights,
    )
    print(f"{text}\n\n{config.run_folder / 'baselines.csv'}")
    return next_command("score", arguments)


def _predictions(config: "Config") -> "Entry | None":
    """Return the run's predictions; None if there are none yet."""
    from cellsignal.prediction.entry import open_entry, with_part
    from cellsignal.prediction.freshness import config_predictions

    if not any((config.run_folder / "predictions").glob("*.npz")):
        return None
    files = config_predictions(config, all_seeds=False)
    entry = open_entry(files, config.submit, root=config.data.root)
    return entry if with_part(entry.final(), "oof") else None
