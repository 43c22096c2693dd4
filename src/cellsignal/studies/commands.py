"""`cellsignal study`: the audits, benchmarks and ablations behind docs/results."""

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING

from cellsignal.common.errors import InputError
from cellsignal.config.options import (
    add_config_options,
    command_group,
    config_file_of,
    config_of,
    next_command,
    refuse_below_one,
)
from cellsignal.studies.pages import add_out, machine, show_page
from cellsignal.studies.parsers import add_studies_of_folders
from cellsignal.studies.profiles.commands import add_profiles_study

if TYPE_CHECKING:
    from cellsignal.config import Config


def add_study_commands(parser: argparse.ArgumentParser) -> None:
    """Add the parsers of the studies."""
    add = command_group(parser, "what")
    _add_audits(add)
    add_studies_of_folders(add)
    _add_ablations(add)
    _add_speed(add)
    _add_postprocessing(add)
    sub = add("coverage", coverage, "how often intervals hold the truth, by simulation")
    sub.add_argument("--simulations", type=int, default=2000, help="of each case")
    sub.add_argument("--seed", type=int, default=0)
    add_out(sub, "tables")
    text = "kill a small run at random times and fill its disk; all must end in the same bytes"
    sub = add("torture", torture, text)
    sub.add_argument("--kills", type=int, default=50)
    sub.add_argument("--fills", type=int, default=20, help="saves that find the disk full")
    sub.add_argument("--seed", type=int, default=0)
    text = "where (default: a temporary folder; a failure is left there)"
    sub.add_argument("--folder", type=Path, help=text)
    add_out(sub, "tables")


def _add_audits(add: Callable) -> None:
    text = "how optimistic a random split of wells is, on a config's store"
    add_config_options(add("split-audit", split_audit, text))
    text = "how optimistic oversampling before the split is, on a config's store and on noise"
    sub = add_config_options(add("oversampling", oversampling, text))
    text = "the most frequent ones, or all (default 50)"
    sub.add_argument("--classes", type=number_or_all, default=50, help=text)
    sub.add_argument("--rounds", type=int, default=3, help="splits (default 3)")
    text = "train the config's network, in place of a discriminant on plain features"
    sub.add_argument("--network", action="store_true", help=text)
    text = "with --network: of each training (default: the stage's)"
    sub.add_argument("--epochs", type=int, help=text)
    add_out(sub, "tables")


def _add_ablations(add: Callable) -> None:
    text = "what each part of the winning recipe is worth on simulated plates"
    sub = add_config_options(add("ablation", ablation, text))
    text = "the final recipe and what came after it, alone"
    sub.add_argument("--final", action="store_true", help=text)
    text = "what pretraining, time and metric losses are worth on simulated films"
    films = add_config_options(add("timelapse", timelapse, text))
    for parser in (sub, films):
        text = "the truth, for scoring alone"
        parser.add_argument("--answers", type=Path, required=True, help=text)
        text = "trainings at a time, one thread each"
        parser.add_argument("--processes", type=int, default=2, help=text)
        add_out(parser, "tables")
    sub = add("two-stage", two_stage, "two-stage training by a flawed protocol and a right one")
    for name in ("--root", "--store", "--answers"):
        sub.add_argument(name, type=Path, required=True, help="of a simulated copy that is packed")
    sub.add_argument("--runs", type=Path, default=Path("runs/two_stage"), help="folder of the runs")
    sub.add_argument("--backbone", default="resnet10t")
    sub.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    sub.add_argument("--epochs", type=int, nargs=2, default=[10, 5], metavar=("FIRST", "SECOND"))
    sub = add("warm-up", warm_up, "a small CNN on scikit-learn's digits, several seeds")
    sub.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    sub.add_argument("--epochs", type=int, default=30)


def _add_speed(add: Callable) -> None:
    sub = add("speed", speed, "all speed figures in one run, as ratios")
    sub.add_argument("--root", type=Path, help="RxRx1's folder (default: simulated sites)")
    sub.add_argument("--workers", type=int, default=2)
    add_out(sub, "tables")
    text = "variants of the training step: memory format, precision, fused, compiled, checkpointed"
    sub = add("step", step, text)
    sub.add_argument("backbones", nargs="+", help="timm's names")
    sub.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="sides in pixels")
    sub.add_argument("--batch", type=int, default=32)
    sub.add_argument("--compile", action="store_true", help="torch.compile too; minutes to start")
    add_out(sub, "tables")
    sub = add_config_options(add("batch-size", batch_size, "which batches fit, and their speed"))
    sub.add_argument("--most", type=int, default=1024, help="largest size to try")
    sub = add_config_options(add("profile", profile, "where the time of a training epoch goes"))
    sub.add_argument("--rows", type=int, default=15, help="operations to list")
    text = "where the CPU time of a whole `cellsignal run` goes; runs it"
    sub = add_config_options(add("run-profile", run_profile, text))
    sub.add_argument("--answers", type=Path, help="true test labels, for scoring alone")
    sub.add_argument("--splits", type=int, help="folds, where the fold table is made")


def _add_postprocessing(add: Callable) -> None:
    text = "time from predictions file to submission, full RxRx1 test set"
    sub = add("postprocess", postprocess, text)
    sub.add_argument("--views", type=int, default=1)
    text = "inferred groups of plates, ours and the 1st place's, on real layouts"
    sub = add("plate-groups", plate_groups, text)
    sub.add_argument("--root", type=Path, required=True, help="folder of RxRx1's CSV files")
    sub.add_argument("--seeds", type=int, default=3, help="draws of the noise")
    text = "predict each EVERY-th training experiment"
    sub.add_argument("--every", type=int, default=3, help=text)
    add_profiles_study(add)


def number_or_all(word: str) -> int | None:
    """Read the value of `--classes`: a number, or None for "all"."""
    return None if word == "all" else int(word)


def _one_label_config(arguments: argparse.Namespace, study: str) -> "Config":
    from cellsignal.competitions import get_competition

    config = config_of(arguments)
    get_competition(config.competition).task.require_one_label(study)
    return config


def split_audit(arguments: argparse.Namespace) -> str:
    from cellsignal.data.store import Store
    from cellsignal.studies.split_audit import audit_split, audit_text

    store = Store.open(_one_label_config(arguments, "split-audit").data.store)
    labelled = store.samples[store.samples.label.notna()]
    kinds = [kind for kind in ("positive_control", "treatment") if (labelled.role == kind).any()]
    audits = [
        audit_split(store.samples, store.read, kind, by_plate)
        for kind in kinds
        for by_plate in (False, True)
    ]
    print(audit_text(audits))
    return next_command("train", arguments)


def oversampling(arguments: argparse.Namespace) -> str:
    from cellsignal.data.store import Store
    from cellsignal.studies.oversampling.audit import oversampling_audit, oversampling_text
    from cellsignal.studies.oversampling.networks import bench_oversampling

    config, classes = _one_label_config(arguments, "oversampling"), arguments.classes
    if arguments.network:
        audits = bench_oversampling(config, epochs=arguments.epochs, classes=classes)
    elif arguments.epochs is not None:
        raise InputError("--epochs: only --network trains")
    else:
        store = Store.open(config.data.store)
        audits = oversampling_audit(
            store.samples, store.read, classes=classes, rounds=arguments.rounds, seed=config.seed
        )
    show_page(oversampling_text(audits) + "\n", arguments.out)
    return next_command("train", arguments)


def ablation(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.rxrx1_final import final_runs, final_table
    from cellsignal.studies.rxrx1_simulated import Runs, table, train_and_predict
    from cellsignal.studies.rxrx1_variants import wanted_runs

    refuse_below_one(arguments, "processes")
    if arguments.seeds:
        raise InputError("--seeds: the rows of the ablation have seeds of their own")
    wanted, make_table = (final_runs, final_table) if arguments.final else (wanted_runs, table)
    with TemporaryDirectory() as folder:
        runs = Runs(config_file_of(arguments, Path(folder)), arguments.answers)
        train_and_predict(runs, wanted(), arguments.processes)
        show_page(make_table(runs), arguments.out)


def timelapse(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.mitoreid import Timelapse
    from cellsignal.studies.mitoreid_tables import timelapse_tables

    refuse_below_one(arguments, "processes")
    seeds = arguments.seeds or [0]
    with TemporaryDirectory() as folder:
        path = config_file_of(arguments, Path(folder))
        runs = Timelapse(path, arguments.answers, seeds, arguments.processes)
        runs.train()
        show_page(timelapse_tables(runs), arguments.out)


def two_stage(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.two_stage import Bench, bench_two_stage, summary_text

    paths = (arguments.root, arguments.store, arguments.answers, arguments.runs)
    bench = Bench(*paths, tuple(arguments.epochs), arguments.backbone)
    print(summary_text(bench_two_stage(bench, arguments.seeds)))


def warm_up(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.warm_up import bench_warm_up, warm_up_text

    print(warm_up_text(bench_warm_up(arguments.seeds, arguments.epochs)))


def speed(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.performance.speed import bench_speed

    show_page(bench_speed(arguments.root, arguments.workers), arguments.out)


def step(arguments: argparse.Namespace) -> None:
    from cellsignal.config.schema import Model
    from cellsignal.studies.performance.step import bench_step, step_text

    pages = [f"{machine()}."]
    for name in arguments.backbones:
        table = bench_step(
            Model(backbone=name), arguments.sizes, arguments.batch, compiled=arguments.compile
        )
        pages.append(f"## {name}\n\n{step_text(table)}")
    show_page("\n\n".join(pages) + "\n", arguments.out)


def batch_size(arguments: argparse.Namespace) -> str:
    from cellsignal.studies.performance.batch_size import batch_size_text, bench_batch_size

    print(batch_size_text(bench_batch_size(config_of(arguments), arguments.most)))
    return next_command("train", arguments)


def profile(arguments: argparse.Namespace) -> str:
    from cellsignal.studies.performance.batch_size import bench_profile

    print(bench_profile(config_of(arguments), arguments.rows))
    return next_command("study batch-size", arguments)


def run_profile(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.performance.run_profile import bench_run

    print(bench_run(config_of(arguments), arguments.answers, arguments.splits))


def postprocess(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.performance.postprocess import (
        bench_plate_assignment,
        bench_postprocess,
        postprocess_text,
    )

    print(postprocess_text(bench_postprocess(arguments.views), bench_plate_assignment()))


def plate_groups(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.plate_groups import bench_plate_groups, plate_groups_text

    print(plate_groups_text(bench_plate_groups(arguments.root, arguments.seeds, arguments.every)))


def coverage(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.coverage.page import measured_page

    show_page(measured_page(arguments.simulations, arguments.seed), arguments.out)


def torture(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.torture import bench_torture, torture_text

    folder = arguments.folder or Path(mkdtemp(prefix="cellsignal-torture-"))
    result = bench_torture(folder, arguments.kills, arguments.fills, arguments.seed)
    show_page(torture_text(result) + "\n", arguments.out)
