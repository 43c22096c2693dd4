"""What each verb of the command line does: from parsed arguments to the functions of the rooms.

Every verb imports what it needs when it runs, so that `cellsignal --help` and scoring start at once.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellsignal.errors import InputError

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


def competitions(arguments: argparse.Namespace) -> None:
    from cellsignal.competitions import competition_ids, get_competition

    for name in competition_ids():
        c = get_competition(name)
        print(
            f"{name}\n  {c.title}\n  channels {', '.join(c.channels)}; {c.metric}; {c.licence}\n  {c.citation}\n  {c.homepage}"
        )
        for protocol in c.protocols():
            print(f"  protocol {protocol.id}: {protocol.title}. {protocol.summary}")


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


def embed(arguments: argparse.Namespace) -> None:
    from cellsignal.prediction.embeddings import embed as embed_config

    for config in configs(arguments):
        for path in embed_config(config):
            print(path)


def classify(arguments: argparse.Namespace) -> None:
    from cellsignal.pipeline import out_of_fold_table
    from cellsignal.prediction.container import load_predictions
    from cellsignal.prediction.embeddings import Nearest
    from cellsignal.prediction.embeddings import classify as classify_config

    options = ("method", "metric", "k", "normalise", "by", "reference")
    given = {name: getattr(arguments, name) for name in options if getattr(arguments, name) is not None}
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


def audit(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.pipeline import split_audit

    print(split_audit(load_config(arguments.config, arguments.set)))


def protocol(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.pipeline import protocol_table

    print(protocol_table(load_config(arguments.config, arguments.set), arguments.answers))


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
        "assignment": arguments.assignment,
        "groups": arguments.groups,
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


def bench_postprocess(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.postprocess import bench_plate_assignment, postprocess_text
    from cellsignal.bench.postprocess import bench_postprocess as measure

    print(postprocess_text(measure(arguments.views), bench_plate_assignment()))


def bench_speed(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.speed import bench_speed as measure

    _show(measure(arguments.root, arguments.workers), arguments.out)


def bench_step(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.speed import machine
    from cellsignal.bench.step import bench_step as measure
    from cellsignal.bench.step import step_text
    from cellsignal.config.schema import Model

    a, tables = arguments, []
    for name in a.backbones:
        tables.append(f"## {name}\n\n{step_text(measure(Model(backbone=name), a.sizes, a.batch, compiled=a.compile))}")
    _show("\n\n".join([f"{machine()}.", *tables]) + "\n", a.out)


def bench_batch_size(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.batch_size import batch_size_text
    from cellsignal.bench.batch_size import bench_batch_size as measure
    from cellsignal.config import load_config

    print(batch_size_text(measure(load_config(arguments.config, arguments.set), arguments.most)))


def bench_profile(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.profile import bench_profile as measure
    from cellsignal.config import load_config

    print(measure(load_config(arguments.config, arguments.set), arguments.rows))


def bench_plate_groups(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.plate_groups import bench_plate_groups as measure
    from cellsignal.bench.plate_groups import plate_groups_text

    print(plate_groups_text(*measure(arguments.root, arguments.seeds)))


def bench_two_stage(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.two_stage import Bench, summary_text
    from cellsignal.bench.two_stage import bench_two_stage as measure

    a = arguments
    print(summary_text(measure(Bench(a.root, a.store, a.answers, a.runs, tuple(a.epochs), a.backbone), a.seeds)))


def bench_ablation(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.ablation import Runs, train_and_predict, wanted_runs
    from cellsignal.bench.ablation_table import table

    runs = Runs(arguments.config, arguments.answers)
    train_and_predict(runs, wanted_runs(), arguments.processes)
    _show(table(runs), arguments.out)


def _show(text: str, out: Path | None) -> None:
    """Print a page, and write it where asked to."""
    from cellsignal.files import write_text

    if out is not None:
        write_text(out, text)
    print(text, end="")


def run(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.pipeline import run_all

    run_all(load_config(arguments.config, arguments.set), arguments.answers, splits=arguments.splits)
