"""What each verb of the command line does: from parsed arguments to the functions of the rooms.

Every verb imports what it needs when it runs, so that `cellsignal --help` and scoring start at
once.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellsignal.common.errors import InputError

if TYPE_CHECKING:
    from cellsignal.config import Config


def pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """KEY=VALUE words as a dict."""
    wrong = [word for word in words if "=" not in word]
    if wrong:
        raise InputError(f"{option} {wrong[0]}: write NAME=VALUE")
    return dict(word.split("=", 1) for word in words)


def configs(arguments: argparse.Namespace) -> list["Config"]:
    """The config of a verb, once for each seed asked for."""
    from cellsignal.config import load_config

    seeds = arguments.seeds
    return [
        load_config(arguments.config, [*arguments.set, *extra])
        for extra in ([[f"seed={s}"] for s in seeds] if seeds else [[]])
    ]


def verbs_of(
    parser: argparse.ArgumentParser, metavar: str
) -> Callable[..., argparse.ArgumentParser]:
    """Makes the verbs under a parser, one of which must be given: (name, function, text) -> the
    verb's own parser.
    """
    subparsers = parser.add_subparsers(required=True, metavar=metavar)

    def verb(
        name: str, function: Callable[[argparse.Namespace], None] | None, text: str
    ) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.set_defaults(run=function)
        return sub

    return verb


def config_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The arguments of a verb that takes a config."""
    parser.add_argument("config", type=Path, help="YAML of the experiment")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, e.g. stages.0.epochs=3",
    )
    return parser


def competitions(arguments: argparse.Namespace) -> None:
    from cellsignal.competitions import competition_ids, get_competition

    for name in competition_ids():
        c = get_competition(name)
        print(
            f"{name}\n  {c.title}\n  channels {', '.join(c.channels)}; {c.metric}; {c.licence}\n  "
            f"{c.citation}\n  {c.homepage}"
        )
        for protocol in c.protocols():
            print(f"  protocol {protocol.id}: {protocol.title}. {protocol.summary}")


def download(arguments: argparse.Namespace) -> None:
    from cellsignal.competitions import get_competition

    out = arguments.out or Path("data") / arguments.competition
    get_competition(arguments.competition).download(out, **pairs(arguments.set, "--set"))


def simulate(arguments: argparse.Namespace) -> None:
    from cellsignal.competitions import get_competition
    from cellsignal.competitions.base import answers_path

    competition = get_competition(arguments.competition)
    kind = "quick" if arguments.quick else "simulated"
    out = arguments.out or Path("data") / f"{competition.id}_{kind}"
    default_seed = 1 if arguments.quick else 0
    seed = default_seed if arguments.seed is None else arguments.seed
    size = dict(competition.quick_simulation) if arguments.quick else {}
    for name in ("size", "classes"):
        if getattr(arguments, name) is not None:
            size[name] = getattr(arguments, name)
    try:
        size |= {name: int(value) for name, value in pairs(arguments.set, "--set").items()}
    except ValueError as error:
        raise InputError(f"--set: a whole number is needed ({error})") from None
    if reserved := sorted({"out", "seed", "competition"} & set(size)):
        raise InputError(
            f"--set {reserved[0]}: is no parameter of the simulation; see `cellsignal simulate "
            "--help`"
        )
    competition.simulate(out, seed, **size)
    print(f"simulated {competition.id} in {out}, answers in {answers_path(out)}")


def verify(arguments: argparse.Namespace) -> None:
    from cellsignal.competitions import get_competition
    from cellsignal.data.verify import format_problems
    from cellsignal.data.verify import verify as find_problems

    problems = find_problems(
        get_competition(arguments.competition), arguments.root, workers=arguments.workers
    )
    print(format_problems(problems))
    errors = sum(problem.is_error for problem in problems)
    if errors:
        raise InputError(
            f"{arguments.root}: {errors} error{'' if errors == 1 else 's'}, listed above"
        )


def prepare(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.pipeline import prepare as pack

    pack(load_config(arguments.config, arguments.set))


def folds(arguments: argparse.Namespace) -> None:
    from cellsignal.competitions import get_competition
    from cellsignal.data.folds import default_folds_file, make_folds_file

    competition = get_competition(arguments.competition)
    out = arguments.out or default_folds_file(arguments.competition, arguments.root)
    table = make_folds_file(
        arguments.competition,
        arguments.root,
        out,
        group=arguments.group,
        splits=arguments.splits,
        seed=arguments.seed,
        named=arguments.named,
        force=arguments.force,
    )
    print(f"{table.to_string(index=False)}\n{out}")
    if competition.multilabel:
        print(f"\n{competition.balance_table(table, arguments.root)}")


def train(arguments: argparse.Namespace) -> None:
    from cellsignal.training.run import train as train_config

    for config in configs(arguments):
        train_config(config)


def predict(arguments: argparse.Namespace) -> None:
    from cellsignal.prediction.predict import predict as predict_config

    for config in configs(arguments):
        for path in predict_config(config):
            print(path)


def embed(arguments: argparse.Namespace) -> None:
    from cellsignal.prediction.embeddings import embed as embed_config
    from cellsignal.report.run_report import embedding_picture

    for config in configs(arguments):
        for path in embed_config(config):
            print(f"{path}\npicture: {embedding_picture(config, path)}")


def classify(arguments: argparse.Namespace) -> None:
    from cellsignal.pipeline import out_of_fold_table
    from cellsignal.prediction.container import load_predictions
    from cellsignal.prediction.embeddings import Nearest
    from cellsignal.prediction.embeddings import classify as classify_config

    options = ("method", "metric", "k", "normalise", "by", "reference")
    given = {
        name: getattr(arguments, name) for name in options if getattr(arguments, name) is not None
    }
    if given["method"] != "knn" and "k" in given:
        raise InputError("--k: only --method knn has neighbours")
    if given["normalise"] == "none" and given.keys() & {"by", "reference"}:
        raise InputError("--by and --reference say how to normalise, and --normalise is none")
    if given.get("k", 1) < 1:
        raise InputError(f"--k: at least 1, not {given['k']}")
    files, root = [], None
    for config in configs(arguments):
        files, root = files + classify_config(config, Nearest(**given)), config.data.root
    print("\n".join(map(str, files)))
    held_out = [path for path in files if (load_predictions(path).ids["part"] == "oof").any()]
    if held_out:
        print(f"\n{out_of_fold_table(held_out, root)}")


def protocol(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.pipeline import protocol_table

    print(protocol_table(load_config(arguments.config, arguments.set), arguments.answers))


def oof(arguments: argparse.Namespace) -> None:
    from cellsignal.pipeline import out_of_fold_table

    print(out_of_fold_table(arguments.sources, arguments.root))


def submit(arguments: argparse.Namespace) -> None:
    import yaml

    from cellsignal import pipeline
    from cellsignal.common.stopping import Stop
    from cellsignal.evaluation.ladder import ladder_text

    Stop().check("submit", saved="predictions")
    try:
        weights = {
            run: float(number) for run, number in pairs(arguments.weight, "--weight").items()
        }
    except ValueError as error:
        raise InputError(f"--weight: {error}") from None
    changed: dict[str, object] = {}
    for key, value in pairs(arguments.set, "--set").items():
        try:
            changed[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set {key}: {value!r} is no YAML value") from None
    for key in ("merge", "pool", "assignment", "groups"):
        if getattr(arguments, key) is not None:
            changed[key] = getattr(arguments, key)
    out, steps = pipeline.submit(
        arguments.sources,
        arguments.out,
        weights=weights,
        root=arguments.root,
        changed=changed,
        leaderboard=arguments.leaderboard,
        force=arguments.force,
    )
    print(f"{ladder_text(steps)}\n\n{out}" if steps else out)


def score(arguments: argparse.Namespace) -> None:
    from cellsignal import pipeline

    table = pipeline.score(
        arguments.submission,
        arguments.answers,
        arguments.competition,
        leaderboard=arguments.leaderboard,
        root=arguments.root,
        name=arguments.name,
    )
    print(pipeline.format_scores(table))


def leaderboard(arguments: argparse.Namespace) -> None:
    from cellsignal.pipeline import show_leaderboard

    print(show_leaderboard(arguments.competition, arguments.leaderboard))


def run(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.pipeline import run_all

    run_all(
        load_config(arguments.config, arguments.set), arguments.answers, splits=arguments.splits
    )
