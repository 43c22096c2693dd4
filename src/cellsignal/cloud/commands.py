"""`cellsignal cloud`: task files for rented and shared machines, and what a recipe costs there."""

import argparse
import shlex
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.config.options import (
    add_changes,
    add_config_options,
    add_set,
    command_group,
    find_configs,
    is_file,
    parse_pairs,
    read_configs,
)


def add_cloud_commands(parser: argparse.ArgumentParser) -> None:
    """Add the parsers of the commands."""
    add = command_group(parser, "what")
    text = "write SkyPilot task files, one a fold, and a script that launches them"
    _add_tasks(_add_work(add("tasks", tasks, text)))
    text = "write a Slurm job array, a task a fold, that requeues itself until it is done"
    _add_slurm(_add_work(add("slurm", slurm, text)))
    text = "print the script that each of several machines starts"
    sub = _add_work(add("torchrun", torchrun, text))
    sub.add_argument("--nodes", type=int, default=2)
    text = "on each machine: its GPUs (default 8)"
    sub.add_argument("--processes", type=int, default=8, help=text)
    text = "the machine where they meet"
    sub.add_argument("--endpoint", required=True, metavar="HOST[:PORT]", help=text)
    sub.add_argument("--python", default="python")
    sub = add("scale", scale, "what large machines and data sets need: arithmetic, docs/scale.md")
    add_set(sub, "an assumption, e.g. utilisation=0.3; the page lists them")
    sub.add_argument("--out", type=Path, help="file of the page")
    _add_cost(add("cost", cost, "compute hours and price of configs on common GPUs"))


def _add_work(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    add_config_options(parser)
    folds = "these alone (default: the config's, and its full model)"
    parser.add_argument("--folds", type=int, nargs="+", help=folds)
    return parser


def _add_tasks(parser: argparse.ArgumentParser) -> None:
    bucket = "folder of an object storage, s3://NAME/FOLDER: has or gets raw/, store/, runs/"
    parser.add_argument("--bucket", required=True, metavar="URL", help=bucket)
    gpu = "NAME:NUMBER, several with commas: any of them (default L4:1)"
    parser.add_argument("--gpu", default="L4:1", help=gpu)
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
    hours = "end each start of a job after these hours, saved, and start it anew"
    parser.add_argument("--hours", type=float, help=hours)
    git = "check this out there (default: the working tree is sent)"
    parser.add_argument("--git", metavar="URL[@REF]", help=git)
    parser.add_argument("--out", type=Path, required=True, help="folder of the task files")


def _add_slurm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=1, help="on each node (default 1)")
    parser.add_argument("--cpus", type=int, default=8, help="on each node (default 8)")
    parser.add_argument("--time", default="08:00:00", help="limit of one start (default 08:00:00)")
    notice = "seconds before it in which to save (default 300)"
    parser.add_argument("--notice", type=int, default=300, help=notice)
    parser.add_argument("--partition")
    parser.add_argument("--account")
    parser.add_argument("--python", default=".venv/bin/python", help="as all nodes see it")
    text = "pack the store first, in so many parts of whole plates, one a task"
    parser.add_argument("--pack", type=int, metavar="PARTS", help=text)
    parser.add_argument("--out", type=Path, required=True, help="folder of the scripts")


def _add_cost(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", nargs="+", help="YAML of experiments, or names of runs")
    add_changes(parser)
    share = "share of the vendor's peak that is assumed (default 0.2)"
    parser.add_argument("--utilisation", type=float, default=0.2, help=share)
    parser.add_argument(
        "--gpu",
        action="append",
        default=[],
        metavar="NAME[=TFLOPS]",
        help="this card alone, again for more: of the table, or any with its dense float16 peak "
        "(and /float32) in TFLOP/s",
    )
    parser.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="GPU=USD",
        help="an hour of it, in place of the table's",
    )
    cores = "CPU cores that read images (default: of the machine in the table)"
    parser.add_argument("--cores", type=int, help=cores)
    parser.add_argument(
        "--measured",
        action="append",
        default=[],
        metavar="GPU=IMAGES_PER_S",
        help="of the first stage, as a run's log says it",
    )


def tasks(arguments: argparse.Namespace) -> str:
    from cellsignal.cloud.plan import plan_work
    from cellsignal.cloud.sky import Machines, parse_gpus, write_tasks

    if not is_file(arguments.config):
        raise InputError(
            f"{arguments.config}: another machine has no runs; give the config's file (.yaml)"
        )
    work = plan_work(arguments.config, arguments.set, arguments.folds, arguments.seeds)
    machines = Machines(
        arguments.bucket,
        parse_gpus(arguments.gpu),
        spot=arguments.spot,
        store=arguments.store_mode,
        disk=arguments.disk,
        max_hours=arguments.hours,
        git=arguments.git,
    )
    print("\n".join(map(str, write_tasks(work, machines, arguments.out))))
    return f"{_launcher(arguments.out)} prepare"


def slurm(arguments: argparse.Namespace) -> str:
    from cellsignal.cloud.plan import plan_work
    from cellsignal.cloud.slurm import Cluster, write_slurm
    from cellsignal.cloud.slurm_pack import write_packing

    path = find_configs(arguments.config)[0]
    work = plan_work(path, arguments.set, arguments.folds, arguments.seeds)
    cluster = Cluster(
        arguments.nodes,
        arguments.gpus,
        arguments.cpus,
        arguments.time,
        arguments.notice,
        arguments.partition,
        arguments.account,
        arguments.python,
    )
    paths = write_slurm(work, cluster, arguments.out)
    if arguments.pack is not None:
        paths += write_packing(work, cluster, arguments.pack, arguments.out)
    print("\n".join(map(str, dict.fromkeys(paths))))
    return _launcher(arguments.out)


def _launcher(folder: Path) -> str:
    """Return the command that launches what was written: with a slash, or a shell looks in PATH."""
    path = folder / "launch.sh"
    return shlex.quote(str(path) if "/" in str(path) else f"./{path}")


def torchrun(arguments: argparse.Namespace) -> None:
    from cellsignal.cloud.plan import plan_work, torchrun_script

    path = find_configs(arguments.config)[0]
    work = plan_work(path, arguments.set, arguments.folds, arguments.seeds)
    nodes, processes = arguments.nodes, arguments.processes
    print(torchrun_script(work, nodes, processes, arguments.endpoint, arguments.python), end="")


def scale(arguments: argparse.Namespace) -> None:
    from cellsignal.cloud.scale import read_assumptions, scale_page
    from cellsignal.common.files import write_text

    page = scale_page(read_assumptions(arguments.set))
    if arguments.out is not None:
        write_text(arguments.out, page)
    print(page, end="")


def cost(arguments: argparse.Namespace) -> str:
    from cellsignal.cloud.cost import cost_of
    from cellsignal.cloud.cost_table import cost_text, costs_text
    from cellsignal.cloud.machines import choose_gpus, parse_number

    share = arguments.utilisation
    if not 0 < share <= 1:
        raise InputError(f"--utilisation {share:g}: a share of the peak, above 0 and up to 1")
    rates = parse_pairs(arguments.measured, "--measured")
    measured = {gpu: parse_number(rate, f"--measured {gpu}={rate}") for gpu, rate in rates.items()}
    prices = parse_pairs(arguments.price, "--price")
    gpus = choose_gpus(arguments.gpu, prices, arguments.cores)
    costs = {name: cost_of(config) for name, config in _named_configs(arguments).items()}
    if len(costs) == 1:
        [(name, only)] = costs.items()
        print(cost_text(name, only, utilisation=share, measured=measured, gpus=gpus))
    elif measured:
        raise InputError("--measured: is of one config; give it alone")
    else:
        print(costs_text(costs, utilisation=share, gpus=gpus))
    return f"cellsignal cloud tasks {arguments.configs[0]} --bucket s3://BUCKET --out build/cloud"


def _named_configs(arguments: argparse.Namespace) -> dict:
    """Return the configs by name, and by seed where several are given."""
    configs = {}
    for word in arguments.configs:
        seeds = arguments.seeds
        for config in read_configs(word, arguments.set, seeds)[: len(seeds or [0])]:
            name = f"{config.name}, seed {config.seed}" if seeds else config.name
            if name in configs:
                raise InputError(
                    f"{word}: another of the configs is named {name!r}, too; give each `name` once"
                )
            configs[name] = config
    return configs
