"""The command line: parsers only. Every verb imports what it needs when it runs, so that `cellsignal --help` and scoring start at once."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellsignal import __version__
from cellsignal.errors import InputError

if TYPE_CHECKING:
    from cellsignal.config import Config

LEADERBOARD = Path("submissions/leaderboard.csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns 0; 2 for bad input, with one line on stderr; 128 + signal when stopped with everything saved."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.WARNING if arguments.quiet else logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    try:
        arguments.run(arguments)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print("stopped; finished work is kept", file=sys.stderr)
        return 130
    except Exception as error:
        status = getattr(error, "status", None)  # training.stopping.Interrupted, without importing torch here
        if status is None:
            raise
        print(str(error), file=sys.stderr)
        return status
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="cellsignal", description="Train, submit and score on microscopy competitions."
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("-q", "--quiet", action="store_true", help="only warnings")
    verbs = parser.add_subparsers(required=True, metavar="verb")

    def verb(name: str, function, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(run=function)
        return sub

    verb("competitions", competitions, "list the competitions")
    _download(verb("download", download, "fetch a competition's data"))
    _simulate(verb("simulate", simulate, "write a simulated copy of a competition, answers in a file apart"))
    _root(verb("verify", verify, "read every image and row; list everything that is wrong"))
    _config(verb("prepare", prepare, "pack a config's images into its store"))
    _folds(verb("folds", folds, "make a fold table"))
    _seeds(verb("train", train, "train every fold and stage of a config; goes on where it was"))
    _seeds(verb("predict", predict, "predict out-of-fold and test samples of a trained config"))
    _config(verb("audit", audit, "measure by how much a random split of wells flatters on a config's store"))
    _oof(verb("oof", oof, "print out-of-fold accuracy of every seed and of all merged"))
    add_submit_arguments(verb("submit", submit, "merge predictions into a submission"))
    add_score_arguments(verb("score", score, "score a submission and note it on the leaderboard"))
    _leaderboard(verb("leaderboard", leaderboard, "print the local leaderboard"))
    _bench(verb("bench", bench, "measure speed and memory"))
    _run(verb("run", run, "all of it: prepare, folds, train, predict, submit, score, report"))
    return parser


# arguments -------------------------------------------------------------------------------------------------------------------------------


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML of the experiment")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, e.g. stages.0.epochs=3"
    )


def _seeds(parser: argparse.ArgumentParser) -> None:
    _config(parser)
    parser.add_argument("--seeds", type=int, nargs="+", help="one run for each of these seeds (default: the config's)")


def _root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("competition", help="its id")
    parser.add_argument("--root", type=Path, required=True, help="folder of the raw data")
    parser.add_argument("--workers", type=int, default=2)


def _download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("competition")
    parser.add_argument("--out", type=Path, help="folder (default data/<competition>)")


def _simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("competition")
    parser.add_argument("--out", type=Path, help="folder (default data/<competition>_simulated)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, help="side of an image in pixels")
    parser.add_argument("--classes", type=int, help="number of treatments")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other parameter of the simulation"
    )


def _folds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("competition")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="CSV (default folds/<competition>.csv)")
    parser.add_argument("--group", help="what a fold must not split (default: the competition's first)")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--named", help="a published table instead, e.g. first_place")
    parser.add_argument("--seed", type=int, default=0)


def _oof(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", type=Path, help="configs (.yaml) or predictions files (.npz)")
    parser.add_argument("--root", type=Path, help="folder of the raw data, if not where it was")


def add_submit_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `submit`, shared with `python -m inference.make_submission`."""
    parser.add_argument("sources", nargs="+", type=Path, help="configs (.yaml) or predictions files (.npz)")
    parser.add_argument("--out", type=Path, help="CSV (default submissions/<runs>.csv)")
    parser.add_argument(
        "--weight", action="append", default=[], metavar="RUN=NUMBER", help="weight of a run in the mean (default 1)"
    )
    parser.add_argument("--root", type=Path, help="folder of the raw data, if not where it was")
    parser.add_argument(
        "--merge", choices=["logits", "probabilities", "geometric"], help="how views, sites and models are averaged"
    )
    parser.add_argument("--pool", choices=["target", "well"], help="what shares one prediction")
    parser.add_argument("--no-assignment", action="store_true", help="skip plate groups and linear assignment")


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `score`, shared with `python -m inference.score`."""
    parser.add_argument("submission", type=Path)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--competition", help="its id (default: told by the columns)")
    parser.add_argument("--root", type=Path, help="folder of the raw data: scores its sample submission as a control")
    parser.add_argument("--name", help="name on the leaderboard (default: the file's)")
    parser.add_argument("--leaderboard", type=Path, default=LEADERBOARD)


def _leaderboard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("competition", nargs="?")
    parser.add_argument("--leaderboard", type=Path, default=LEADERBOARD)


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=["postprocess"], help="postprocess: predictions file to submission, full RxRx1 test set"
    )
    parser.add_argument("--views", type=int, default=1)


def _run(parser: argparse.ArgumentParser) -> None:
    _config(parser)
    parser.add_argument("--answers", type=Path, help="true test labels, for scoring alone")
    parser.add_argument("--splits", type=int, default=3, help="folds, where the fold table is made")


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


# verbs -----------------------------------------------------------------------------------------------------------------------------------


def competitions(arguments: argparse.Namespace) -> None:
    from cellsignal.competitions import competition_ids, get_competition

    for name in competition_ids():
        c = get_competition(name)
        print(
            f"{name}\n  {c.title}\n  channels {', '.join(c.channels)}; {c.metric}; {c.licence}\n  {c.citation}\n  {c.homepage}"
        )
        for protocol in c.protocols():
            print(f"  protocol {protocol.id}: {protocol.title}. {protocol.note}")


def download(arguments: argparse.Namespace) -> None:
    from cellsignal.competitions import get_competition

    get_competition(arguments.competition).download(arguments.out or Path("data") / arguments.competition)


def simulate(arguments: argparse.Namespace) -> None:
    from cellsignal.competitions import get_competition
    from cellsignal.competitions.base import answers_path

    out = arguments.out or Path("data") / f"{arguments.competition}_simulated"
    size = {name: getattr(arguments, name) for name in ("size", "classes") if getattr(arguments, name) is not None}
    try:
        size |= {name: int(value) for name, value in pairs(arguments.set, "--set").items()}
    except ValueError as error:
        raise InputError(f"--set: a whole number is needed ({error})") from None
    competition = get_competition(arguments.competition)
    try:
        competition.simulate(out, arguments.seed, **size)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise InputError(
            f"simulate {arguments.competition}: no parameter {str(error).split('argument')[-1].strip()}"
        ) from None
    print(f"simulated {arguments.competition} in {out}, answers in {answers_path(out)}")


def verify(arguments: argparse.Namespace) -> None:
    from cellsignal.competitions import get_competition
    from cellsignal.data.verify import format_problems
    from cellsignal.data.verify import verify as find_problems

    problems = find_problems(get_competition(arguments.competition), arguments.root, workers=arguments.workers)
    print(format_problems(problems))
    if any(problem.is_error for problem in problems):
        raise InputError(f"{arguments.root}: {sum(problem.is_error for problem in problems)} errors, listed above")


def prepare(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.pipeline import prepare as pack

    pack(load_config(arguments.config, arguments.set))


def folds(arguments: argparse.Namespace) -> None:
    from cellsignal.pipeline import make_folds_file

    out = arguments.out or Path("folds") / f"{arguments.competition}.csv"
    table = make_folds_file(arguments.competition, arguments.root, out, group=arguments.group, splits=arguments.splits, seed=arguments.seed,
                            named=arguments.named)  # fmt: skip
    print(f"{table.to_string(index=False)}\n{out}")


def train(arguments: argparse.Namespace) -> None:
    from cellsignal.training.run import train as train_config

    for config in configs(arguments):
        train_config(config)


def predict(arguments: argparse.Namespace) -> None:
    from cellsignal.prediction.predict import predict as predict_config

    for config in configs(arguments):
        for path in predict_config(config):
            print(path)


def audit(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.pipeline import split_audit

    print(split_audit(load_config(arguments.config, arguments.set)))


def oof(arguments: argparse.Namespace) -> None:
    from cellsignal.pipeline import out_of_fold_table

    print(out_of_fold_table(arguments.sources, arguments.root))


def submit(arguments: argparse.Namespace) -> None:
    from cellsignal import pipeline
    from cellsignal.evaluation.ladder import ladder_text

    try:
        weights = {run: float(number) for run, number in pairs(arguments.weight, "--weight").items()}
    except ValueError as error:
        raise InputError(f"--weight: {error}") from None
    changed = {
        "merge": arguments.merge,
        "pool": arguments.pool,
        "assignment": False if arguments.no_assignment else None,
    }
    out, steps = pipeline.submit(
        arguments.sources, arguments.out, weights=weights, root=arguments.root, changed=changed
    )
    print(f"{ladder_text(steps)}\n\n{out}" if steps else out)


def score(arguments: argparse.Namespace) -> None:
    from cellsignal import pipeline

    table = pipeline.score(arguments.submission, arguments.answers, arguments.competition, leaderboard=arguments.leaderboard,
                           root=arguments.root, name=arguments.name)  # fmt: skip
    print(pipeline.format_scores(table))


def leaderboard(arguments: argparse.Namespace) -> None:
    from cellsignal.pipeline import show_leaderboard

    print(show_leaderboard(arguments.competition, arguments.leaderboard))


def bench(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.postprocess import bench_postprocess

    print(bench_postprocess(arguments.views).to_string(index=False, float_format=lambda x: f"{x:.3f}", na_rep=""))


def run(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.pipeline import run_all

    run_all(load_config(arguments.config, arguments.set), arguments.answers, splits=arguments.splits)


if __name__ == "__main__":
    sys.exit(main())
