"""The options of every command that takes a config: `--set`, `--seeds`, a run in its place.

Also the choices that `--set` makes for a download.
"""

import argparse
import difflib
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellsignal.common.errors import InputError

if TYPE_CHECKING:
    from cellsignal.config.schema import Config

RUNS = Path("runs")
YAML = (".yaml", ".yml")
Command = Callable[[argparse.Namespace], str | int | None]


class CommandParser(argparse.ArgumentParser):
    """Parser of one command, which refuses what it does not know with its own usage."""

    def parse_known_args(self, args=None, namespace=None):
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown


def command_group(parser: argparse.ArgumentParser, metavar: str, required: bool = True) -> Callable:
    """Return a function (name, command, text) that adds a command under a parser.

    A command is called with the parsed arguments, and returns the command to give next, if any,
    or an exit status.

    Args:
        required: One of the commands must be given.
    """
    subparsers = parser.add_subparsers(
        required=required, metavar=metavar, parser_class=CommandParser
    )

    def add(name: str, command: Command | None, text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text)
        if command is not None:
            sub.set_defaults(run=command)
        return sub

    return add


def add_config_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the config of one experiment, and the options that change it."""
    parser.add_argument("config", help="YAML of the experiment, or the name of its run")
    return add_changes(parser)


def add_sources(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add one or several configs, runs or predictions files, and the options of configs."""
    parser.add_argument(
        "sources", nargs="+", help="configs (.yaml), runs' names, or predictions files (.npz)"
    )
    return add_changes(parser)


def add_changes(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add `--set` and `--seeds`."""
    add_set(parser, "change a key of the config, e.g. stages.0.epochs=3")
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="N", help="these seeds (default: the config's)"
    )
    return parser


def add_set(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--set KEY=VALUE`, which may be given several times."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def add_budget(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add `--max-hours`."""
    parser.add_argument(
        "--max-hours",
        metavar="H",
        help="stop in time, save, and end with status 75; the same command goes on",
    )
    return parser


def parse_pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """Read KEY=VALUE words as a dict."""
    for word in words:
        if "=" not in word:
            raise InputError(f"{option} {word}: write NAME=VALUE")
    return dict(word.split("=", 1) for word in words)


def read_configs(
    word: str, changes: Sequence[str] = (), seeds: Sequence[int] | None = None
) -> list["Config"]:
    """Read the config of a file or run, once for each seed.

    A run's name stands for all seeds that it has, unless `seeds` names some.

    Raises:
        InputError: no such config or run, or one that cannot be read.
    """
    from cellsignal.config.load import load_config

    paths = find_configs(word)
    if seeds is None:
        return [load_config(path, list(changes)) for path in paths]
    by_folder = {path.parent.name: path for path in paths}
    return [
        load_config(by_folder.get(f"seed{seed}", paths[0]), [*changes, f"seed={seed}"])
        for seed in seeds
    ]


def configs_of(arguments: argparse.Namespace) -> list["Config"]:
    """Read the configs that `add_config_options` asked for, one for each seed."""
    return read_configs(arguments.config, arguments.set, arguments.seeds)


def config_file_of(arguments: argparse.Namespace, folder: Path) -> Path:
    """Return the config as one file: a changed one is written into `folder`."""
    from cellsignal.config.load import dump_config

    if not arguments.set:
        return find_configs(arguments.config)[0]
    path = folder / "config.yaml"
    path.write_text(dump_config(configs_of(arguments)[0]), encoding="utf-8")
    return path


def config_of(arguments: argparse.Namespace) -> "Config":
    """Read the config of a command that takes one seed at a time.

    Raises:
        InputError: Several seeds are given.
    """
    if arguments.seeds and len(arguments.seeds) > 1:
        raise InputError(f"--seeds {' '.join(map(str, arguments.seeds))}: give one at a time here")
    return configs_of(arguments)[0]


def next_command(verb: str, arguments: argparse.Namespace) -> str:
    """Return the command that does `verb` with the config and the options of these arguments."""
    sources = vars(arguments).get("sources") or [arguments.config]
    words = ["cellsignal", *verb.split(), *sources]
    words += [word for change in arguments.set for word in ("--set", change)]
    if arguments.seeds:
        words += ["--seeds", *map(str, arguments.seeds)]
    return shlex.join(words)


def refuse_below_one(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse options that are not a number of 1 or more, or a list of such.

    Raises:
        InputError: names the option and what was given.
    """
    for name in names:
        given = getattr(arguments, name)
        for value in given if isinstance(given, list) else [given]:
            if not 1 <= value < float("inf"):
                raise InputError(f"--{name.replace('_', '-')} {value:g}: give 1 or more")


def refuse_repeated_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds of which one is given twice: the same training is no further evidence.

    Raises:
        InputError: names them all.
    """
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {' '.join(map(str, seeds))}: one is given twice")


def is_file(word: str) -> bool:
    """Return whether a word names a file rather than a run."""
    return Path(word).suffix in (*YAML, ".npz") or Path(word).is_file()


def find_configs(word: str, runs: Path = RUNS) -> list[Path]:
    """Return the config file that a word names, or those of the seeds of a run.

    Args:
        word: A YAML file, the name of a run in `runs`, or the folder of a run or of one seed.

    Raises:
        InputError: There is no such run; names the nearest.
    """
    if is_file(word):
        return [Path(word)]
    for folder in (runs / word, Path(word)):
        if (folder / "config.yaml").is_file():
            return [folder / "config.yaml"]
        paths = sorted(folder.glob("seed*/config.yaml"), key=_seed_number)
        if paths:
            return paths
    names = run_names(runs)
    near = difflib.get_close_matches(word, names, 3, cutoff=0.4) or names[:3]
    hint = f"the nearest runs are {', '.join(near)}" if near else f"{runs} holds no run"
    raise InputError(f"{word}: is not a config (.yaml) and no run in {runs}; {hint}")


def run_names(runs: Path = RUNS) -> list[str]:
    """Return the names of the runs in a folder, sorted."""
    return sorted({path.parent.parent.name for path in runs.glob("*/seed*/config.yaml")})


def _seed_number(path: Path) -> tuple[int, str]:
    number = path.parent.name.removeprefix("seed")
    return int(number) if number.isdigit() else -1, number


# choices of a download
# --------------------------------------------------------------------------------------------------


def texts(word: str) -> tuple[str, ...]:
    """Split "BR1,BR2" into ("BR1", "BR2")."""
    return tuple(part.strip() for part in word.split(",") if part.strip())


def numbers(word: str) -> tuple[int, ...] | None:
    """Split "1,2" into (1, 2); "all" gives None."""
    return None if word == "all" else tuple(int(part) for part in texts(word))


def flag(word: str) -> bool:
    """Read "true" or "false"."""
    return {"true": True, "false": False}[word]


def read_choices(
    competition_id: str, words: Mapping[str, str], kinds: Mapping[str, Callable[[str], Any]]
) -> dict[str, Any]:
    """Return the words as the values that a download takes.

    Raises:
        InputError: a choice that there is not, or a word that is not one of its kind.
    """
    choices = {}
    for name, word in words.items():
        if name not in kinds:
            known = ", ".join(kinds) or "none"
            raise InputError(f"download {competition_id}: no choice {name!r}; there is {known}")
        try:
            choices[name] = kinds[name](word)
        except (ValueError, KeyError):
            raise InputError(
                f"download {competition_id}: {name}={word!r} is not what it takes"
            ) from None
    return choices
