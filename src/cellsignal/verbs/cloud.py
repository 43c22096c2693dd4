"""`cellsignal cloud`: task files for rented and shared machines, and what a recipe will cost on
them.
"""

import argparse
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.verbs import verbs_of


def tasks(arguments: argparse.Namespace) -> None:
    from cellsignal.cloud.plan import plan_work
    from cellsignal.cloud.sky import Machines, parse_gpus, write_tasks

    a = arguments
    work = plan_work(a.config, a.set, a.folds)
    machines = Machines(
        a.bucket,
        parse_gpus(a.gpu),
        spot=a.spot,
        store=a.store_mode,
        disk=a.disk,
        max_hours=a.hours,
        git=a.git,
    )
    print("\n".join(map(str, write_tasks(work, machines, a.out))))


def slurm(arguments: argparse.Namespace) -> None:
    from cellsignal.cloud.plan import plan_work
    from cellsignal.cloud.slurm import Cluster, write_slurm

    a = arguments
    work = plan_work(a.config, a.set, a.folds)
    cluster = Cluster(a.nodes, a.gpus, a.cpus, a.time, a.notice, a.partition, a.account, a.python)
    print("\n".join(map(str, write_slurm(work, cluster, a.out))))


def torchrun(arguments: argparse.Namespace) -> None:
    from cellsignal.cloud.plan import plan_work, torchrun_script

    a = arguments
    print(
        torchrun_script(
            plan_work(a.config, a.set, a.folds), a.nodes, a.processes, a.endpoint, a.python
        ),
        end="",
    )


def cost(arguments: argparse.Namespace) -> None:
    from cellsignal.cloud.cost import cost_of
    from cellsignal.cloud.cost_table import cost_text, costs_text
    from cellsignal.cloud.gpus import choose_gpus, parse_number
    from cellsignal.config import Config, load_config
    from cellsignal.verbs import pairs

    a = arguments
    if not 0 < a.utilisation <= 1:
        raise InputError(
            f"--utilisation {a.utilisation:g}: a share of the peak, above 0 and up to 1"
        )
    rates = pairs(a.measured, "--measured")
    measured = {gpu: parse_number(rate, f"--measured {gpu}={rate}") for gpu, rate in rates.items()}
    gpus = choose_gpus(a.gpu, pairs(a.price, "--price"), a.cores)
    configs: dict[str, Config] = {}
    for path in a.configs:
        config = load_config(path, a.set)
        if config.name in configs:
            raise InputError(
                f"{path}: another of the configs is named {config.name!r}, too; give each `name` "
                "once"
            )
        configs[config.name] = config
    costs = {name: cost_of(config) for name, config in configs.items()}
    if len(costs) == 1:
        [(name, one)] = costs.items()
        print(cost_text(name, one, utilisation=a.utilisation, measured=measured, gpus=gpus))
    elif measured:
        raise InputError("--measured: is of one config; give it alone")
    else:
        print(costs_text(costs, utilisation=a.utilisation, gpus=gpus))


def add_cloud_arguments(parser: argparse.ArgumentParser) -> None:
    """The parsers of `cellsignal cloud`'s verbs."""
    verb = verbs_of(parser, "what")
    _tasks(
        _work(
            verb(
                "tasks",
                tasks,
                "write SkyPilot task files, one a fold, and a script that launches them",
            )
        )
    )
    _slurm(
        _work(
            verb(
                "slurm",
                slurm,
                "write a Slurm job array, a task a fold, that requeues itself until it is done",
            )
        )
    )
    several = _work(
        verb("torchrun", torchrun, "print the script that each of several machines starts")
    )
    several.add_argument("--nodes", type=int, default=2)
    several.add_argument(
        "--processes", type=int, default=8, help="on each machine: its GPUs (default 8)"
    )
    several.add_argument(
        "--endpoint", required=True, metavar="HOST[:PORT]", help="the machine where they meet"
    )
    several.add_argument("--python", default="python")
    _cost(verb("cost", cost, "compute hours and price of configs on common GPUs"))


def _work(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("config", type=Path, help="YAML of the experiment, in the repository")
    _set(parser)
    parser.add_argument(
        "--folds",
        type=int,
        nargs="+",
        help="these alone (default: the config's, and its full model)",
    )
    return parser


def _set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, e.g. stages.0.epochs=3",
    )


def _tasks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bucket",
        required=True,
        metavar="URL",
        help="folder of an object storage, s3://NAME/FOLDER: has or gets raw/, store/, runs/",
    )
    parser.add_argument(
        "--gpu", default="L4:1", help="NAME:NUMBER, several with commas: any of them (default L4:1)"
    )
    parser.add_argument(
        "--spot",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="machines that may be taken away (default: yes)",
    )
    parser.add_argument(
        "--store-mode",
        choices=["COPY", "MOUNT", "MOUNT_CACHED"],
        default="COPY",
        help="how the store comes to a machine (default COPY)",
    )
    parser.add_argument("--disk", type=int, default=256, help="GB (default 256)")
    parser.add_argument(
        "--hours",
        type=float,
        help="end each start of a job after these hours, saved, and start it anew",
    )
    parser.add_argument(
        "--git",
        metavar="URL[@REF]",
        help="check this out there (default: the working tree is sent)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the task files")


def _slurm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=1, help="on each node (default 1)")
    parser.add_argument("--cpus", type=int, default=8, help="on each node (default 8)")
    parser.add_argument("--time", default="08:00:00", help="limit of one start (default 08:00:00)")
    parser.add_argument(
        "--notice", type=int, default=300, help="seconds before it in which to save (default 300)"
    )
    parser.add_argument("--partition")
    parser.add_argument("--account")
    parser.add_argument("--python", default=".venv/bin/python", help="as all nodes see it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the scripts")


def _cost(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", type=Path, nargs="+")
    _set(parser)
    parser.add_argument(
        "--utilisation",
        type=float,
        default=0.2,
        help="share of the vendor's peak that is assumed (default 0.2)",
    )
    parser.add_argument(
        "--gpu",
        action="append",
        default=[],
        metavar="NAME[=TFLOPS]",
        help="this card alone, again for more: of the table, or any with its dense float16 peak (and /float32) in TFLOP/s",
    )
    parser.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="GPU=USD",
        help="an hour of it, in place of the table's",
    )
    parser.add_argument(
        "--cores",
        type=int,
        help="CPU cores that read images (default: of the machine in the table)",
    )
    parser.add_argument(
        "--measured",
        action="append",
        default=[],
        metavar="GPU=IMAGES_PER_S",
        help="of the first stage, as a run's log says it",
    )
