"""The verbs that measure: audits of a protocol, speed, and what parts of a recipe are worth."""

import argparse
from pathlib import Path


def audit(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.pipeline import oversampling_audit, split_audit

    config = load_config(arguments.config, arguments.set)
    if arguments.oversampling:
        print(oversampling_audit(config, arguments.classes, arguments.rounds))
    else:
        print(split_audit(config))


def baseline(arguments: argparse.Namespace) -> None:
    from cellsignal.baseline import baseline as measure
    from cellsignal.config import load_config

    print(measure(load_config(arguments.config, arguments.set), arguments.answers))


def oversampling(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.oversampling import bench_oversampling
    from cellsignal.config import load_config
    from cellsignal.evaluation.oversampling import oversampling_text

    config = load_config(arguments.config, arguments.set)
    found = bench_oversampling(config, epochs=arguments.epochs, classes=arguments.classes)
    _show(oversampling_text(found) + "\n", arguments.out)


def warm_up(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.warm_up import bench_warm_up, warm_up_text

    print(warm_up_text(bench_warm_up(arguments.seeds, arguments.epochs)))


def postprocess(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.postprocess import bench_plate_assignment, postprocess_text
    from cellsignal.bench.postprocess import bench_postprocess as measure

    print(postprocess_text(measure(arguments.views), bench_plate_assignment()))


def speed(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.speed import bench_speed as measure

    _show(measure(arguments.root, arguments.workers), arguments.out)


def step(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.speed import machine
    from cellsignal.bench.step import bench_step as measure
    from cellsignal.bench.step import step_text
    from cellsignal.config.schema import Model

    a, tables = arguments, []
    for name in a.backbones:
        tables.append(f"## {name}\n\n{step_text(measure(Model(backbone=name), a.sizes, a.batch, compiled=a.compile))}")
    _show("\n\n".join([f"{machine()}.", *tables]) + "\n", a.out)


def batch_size(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.batch_size import batch_size_text
    from cellsignal.bench.batch_size import bench_batch_size as measure
    from cellsignal.config import load_config

    print(batch_size_text(measure(load_config(arguments.config, arguments.set), arguments.most)))


def profile(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.profile import bench_profile as measure
    from cellsignal.config import load_config

    print(measure(load_config(arguments.config, arguments.set), arguments.rows))


def plate_groups(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.plate_groups import bench_plate_groups as measure
    from cellsignal.bench.plate_groups import plate_groups_text

    print(plate_groups_text(*measure(arguments.root, arguments.seeds)))


def two_stage(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.two_stage import Bench, summary_text
    from cellsignal.bench.two_stage import bench_two_stage as measure

    a = arguments
    print(summary_text(measure(Bench(a.root, a.store, a.answers, a.runs, tuple(a.epochs), a.backbone), a.seeds)))


def ablation(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.ablation import Runs, train_and_predict, wanted_runs
    from cellsignal.bench.ablation_table import table

    runs = Runs(arguments.config, arguments.answers)
    train_and_predict(runs, wanted_runs(), arguments.processes)
    _show(table(runs), arguments.out)


def timelapse(arguments: argparse.Namespace) -> None:
    from cellsignal.bench.timelapse import Timelapse
    from cellsignal.bench.timelapse_table import timelapse_tables

    runs = Timelapse(arguments.config, arguments.answers, arguments.seeds, arguments.processes)
    runs.train()
    _show(timelapse_tables(runs), arguments.out)


def torture(arguments: argparse.Namespace) -> None:
    import tempfile

    from cellsignal.bench.torture import bench_torture, torture_text

    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="cellsignal-torture-"))
    _show(torture_text(bench_torture(folder, arguments.kills, arguments.fills, arguments.seed)) + "\n", arguments.out)


def _show(text: str, out: Path | None) -> None:
    """Print a page, and write it where asked to."""
    from cellsignal.files import write_text

    if out is not None:
        write_text(out, text)
    print(text, end="")
