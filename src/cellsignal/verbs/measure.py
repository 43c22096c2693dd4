"""The verbs that measure: audits of a protocol, speed, and what parts of a recipe are worth."""

import argparse
from pathlib import Path

from cellsignal.verbs import config_arguments, verbs_of


def audit(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.pipeline import oversampling_audit, split_audit

    config = load_config(arguments.config, arguments.set)
    if arguments.oversampling:
        print(oversampling_audit(config, arguments.classes, arguments.rounds))
    else:
        print(split_audit(config))


def baseline(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.profiles.clip_classifiers import baseline as measure

    print(measure(load_config(arguments.config, arguments.set), arguments.answers))


def oversampling(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.studies.oversampling.audit import oversampling_text
    from cellsignal.studies.oversampling.networks import bench_oversampling

    config = load_config(arguments.config, arguments.set)
    found = bench_oversampling(config, epochs=arguments.epochs, classes=arguments.classes)
    _show(oversampling_text(found) + "\n", arguments.out)


def warm_up(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.warm_up import bench_warm_up, warm_up_text

    print(warm_up_text(bench_warm_up(arguments.seeds, arguments.epochs)))


def postprocess(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.performance.postprocess import bench_plate_assignment, postprocess_text
    from cellsignal.studies.performance.postprocess import bench_postprocess as measure

    print(postprocess_text(measure(arguments.views), bench_plate_assignment()))


def speed(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.performance.speed import bench_speed as measure

    _show(measure(arguments.root, arguments.workers), arguments.out)


def step(arguments: argparse.Namespace) -> None:
    from cellsignal.config.schema import Model
    from cellsignal.studies.performance.speed import machine
    from cellsignal.studies.performance.step import bench_step as measure
    from cellsignal.studies.performance.step import step_text

    a, tables = arguments, []
    for name in a.backbones:
        tables.append(
            "## "
            f"{name}\n\n{step_text(measure(Model(backbone=name), a.sizes, a.batch, compiled=a.compile))}"
        )
    _show("\n\n".join([f"{machine()}.", *tables]) + "\n", a.out)


def batch_size(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.studies.performance.batch_size import batch_size_text
    from cellsignal.studies.performance.batch_size import bench_batch_size as measure

    print(batch_size_text(measure(load_config(arguments.config, arguments.set), arguments.most)))


def profile(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.studies.performance.batch_size import bench_profile as measure

    print(measure(load_config(arguments.config, arguments.set), arguments.rows))


def plate_groups(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.plate_groups import bench_plate_groups as measure
    from cellsignal.studies.plate_groups import plate_groups_text

    print(plate_groups_text(measure(arguments.root, arguments.seeds, arguments.every)))


def two_stage(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.two_stage import Bench, summary_text
    from cellsignal.studies.two_stage import bench_two_stage as measure

    a = arguments
    print(
        summary_text(
            measure(Bench(a.root, a.store, a.answers, a.runs, tuple(a.epochs), a.backbone), a.seeds)
        )
    )


def ablation(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.rxrx1_simulated import Runs, table, train_and_predict, wanted_runs

    runs = Runs(arguments.config, arguments.answers)
    train_and_predict(runs, wanted_runs(), arguments.processes)
    _show(table(runs), arguments.out)


def timelapse(arguments: argparse.Namespace) -> None:
    from cellsignal.studies.mitoreid import Timelapse, timelapse_tables

    runs = Timelapse(arguments.config, arguments.answers, arguments.seeds, arguments.processes)
    runs.train()
    _show(timelapse_tables(runs), arguments.out)


def torture(arguments: argparse.Namespace) -> None:
    import tempfile

    from cellsignal.studies.torture import bench_torture, torture_text

    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="cellsignal-torture-"))
    _show(
        torture_text(bench_torture(folder, arguments.kills, arguments.fills, arguments.seed))
        + "\n",
        arguments.out,
    )


def _show(text: str, out: Path | None) -> None:
    """Print a page, and write it where asked to."""
    from cellsignal.common.files import write_text

    if out is not None:
        write_text(out, text)
    print(text, end="")


def number_or_all(word: str) -> int | None:
    """The value of `--classes`."""
    return None if word == "all" else int(word)


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """The parsers of `cellsignal bench`'s verbs."""
    kind = verbs_of(parser, "what")

    bench = kind("postprocess", postprocess, "predictions file to submission, full RxRx1 test set")
    bench.add_argument("--views", type=int, default=1)
    bench = kind("speed", speed, "all speed figures in one run, as ratios of what takes turns")
    bench.add_argument("--root", type=Path, help="RxRx1's folder (default: simulated sites)")
    bench.add_argument("--workers", type=int, default=2)
    bench.add_argument("--out", type=Path, help="file for the tables (Markdown)")
    bench = kind(
        "oversampling",
        oversampling,
        "train a config's network with oversampling before and after the split, on images and on "
        "noise",
    )
    config_arguments(bench)
    bench.add_argument("--epochs", type=int, help="of each training (default: the stage's)")
    bench.add_argument(
        "--classes",
        type=number_or_all,
        default=50,
        help="the most frequent ones, or all (default 50)",
    )
    bench.add_argument("--out", type=Path, help="file for the table")
    bench = kind("warm-up", warm_up, "a small CNN on scikit-learn's digits, several seeds")
    bench.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    bench.add_argument("--epochs", type=int, default=30)
    bench = kind(
        "step",
        step,
        "variants of the training step: memory format, precision, fused, compiled, checkpointed",
    )
    bench.add_argument("backbones", nargs="+", help="timm's names")
    bench.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="sides in pixels")
    bench.add_argument("--batch", type=int, default=32)
    bench.add_argument(
        "--compile", action="store_true", help="torch.compile too, which takes minutes to start"
    )
    bench.add_argument("--out", type=Path, help="file for the tables (Markdown)")
    bench = kind(
        "batch-size",
        batch_size,
        "which batch sizes of a config's stages fit here, and how fast they are",
    )
    config_arguments(bench)
    bench.add_argument("--most", type=int, default=1024, help="largest size to try")
    bench = kind("profile", profile, "where the time of a config's training epoch goes")
    config_arguments(bench)
    bench.add_argument("--rows", type=int, default=15, help="operations to list")
    bench = kind(
        "plate-groups",
        plate_groups,
        "predictions by inferred groups of plates, ours and the 1st place's, on real layouts",
    )
    bench.add_argument("--root", type=Path, required=True, help="folder of RxRx1's CSV files")
    bench.add_argument("--seeds", type=int, default=3, help="draws of the noise")
    bench.add_argument(
        "--every", type=int, default=3, help="predict each EVERY-th training experiment"
    )
    bench = kind(
        "two-stage", two_stage, "two-stage training by a flawed protocol and by the right one"
    )
    for name in ("--root", "--store", "--answers"):
        bench.add_argument(
            name, type=Path, required=True, help="of a simulated copy that is packed"
        )
    bench.add_argument(
        "--runs", type=Path, default=Path("runs/two_stage"), help="folder of the runs"
    )
    bench.add_argument("--backbone", default="resnet10t")
    bench.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    bench.add_argument("--epochs", type=int, nargs=2, default=[10, 5], metavar=("FIRST", "SECOND"))
    bench = kind(
        "ablation", ablation, "what each part of the winning recipe is worth on simulated plates"
    )
    bench.add_argument("config", type=Path, help="YAML of the reference")
    bench.add_argument(
        "--answers", type=Path, required=True, help="true test labels, for scoring alone"
    )
    bench.add_argument(
        "--processes", type=int, default=2, help="trainings at a time, one thread each"
    )
    bench.add_argument("--out", type=Path, help="file for the tables (Markdown)")
    bench = kind(
        "timelapse",
        timelapse,
        "what pretraining, time and metric losses are worth on simulated films, beside hand-made "
        "features",
    )
    bench.add_argument("config", type=Path, help="YAML of the reference")
    bench.add_argument(
        "--answers", type=Path, required=True, help="truth of the queries, for scoring alone"
    )
    bench.add_argument("--seeds", type=int, nargs="+", default=[0])
    bench.add_argument(
        "--processes", type=int, default=2, help="trainings at a time, one thread each"
    )
    bench.add_argument("--out", type=Path, help="file for the tables (Markdown)")
    bench = kind(
        "torture",
        torture,
        "kill a small whole run at random times and fill its disk; all must end in the same bytes",
    )
    bench.add_argument("--kills", type=int, default=50)
    bench.add_argument("--fills", type=int, default=20, help="saves that find the disk full")
    bench.add_argument("--seed", type=int, default=0)
    bench.add_argument(
        "--folder", type=Path, help="where (default: a temporary folder; a failure is left there)"
    )
    bench.add_argument("--out", type=Path, help="file for the result")
