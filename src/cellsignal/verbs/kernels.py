"""The verbs of `cellsignal kernel`: jobs on Kaggle."""

import argparse
import json
import shlex
from pathlib import Path

from cellsignal.verbs import verbs_of

KERNELS = Path("kernels/build")
WHEELS = Path("build/wheels")


def build(arguments: argparse.Namespace) -> None:
    from cellsignal.kaggle.build import build_kernels
    from cellsignal.kaggle.job import load_job
    from cellsignal.kaggle.owner import fill_owner, find_owner
    from cellsignal.kaggle.plan import step_named
    from cellsignal.kaggle.wheels import describe_wheels
    from cellsignal.verbs import pairs

    last = {step: _link(step, number) for step, number in pairs(arguments.after, "--after").items()}
    job = load_job(arguments.job)
    for step in last:
        step_named(job, step)
    owner = find_owner(job, arguments.user)
    job = fill_owner(job, owner)
    wheels_line = describe_wheels(job.wheels, arguments.wheels)
    folders = build_kernels(
        job, arguments.out, step=arguments.step, link=arguments.link, user=owner, last=last
    )
    print("\n".join(map(str, folders)))
    print(wheels_line)
    print(
        "To push, each when those that it needs are done (`cellsignal kernel run` does all of it):"
    )
    for folder in folders:
        print(f"  cellsignal kernel push {shlex.quote(str(folder))}{_needs(folder)}")


def _needs(folder: Path) -> str:
    """A comment that names the kernels that must be done before the one in `folder`."""
    sources = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))[
        "kernel_sources"
    ]
    return (
        f"  # after {', '.join(source.partition('/')[2] for source in sources)}" if sources else ""
    )


def wheels(arguments: argparse.Namespace) -> None:
    from cellsignal.kaggle.wheels import build_wheels

    for path in build_wheels(arguments.out, arguments.dataset, arguments.pythons):
        print(path)


def _link(step: str, number: str) -> int:
    from cellsignal.common.errors import InputError

    if not number.isdigit() or not 1 <= int(number) <= 99:
        raise InputError(f"--after {step}={number}: a link is 1 to 99")
    return int(number)


def push(arguments: argparse.Namespace) -> None:
    from cellsignal.kaggle.api import Kaggle
    from cellsignal.kaggle.push import push as push_folder
    from cellsignal.kaggle.push import slug_of

    slug_of(arguments.folder)  # before signing in
    print(push_folder(Kaggle(), arguments.folder))


def status(arguments: argparse.Namespace) -> None:
    from cellsignal.kaggle.api import Kaggle
    from cellsignal.kaggle.job import load_job
    from cellsignal.kaggle.push import check_slug
    from cellsignal.kaggle.work import report

    if Path(arguments.what).suffix in (".yaml", ".yml"):
        job = load_job(arguments.what)
        print(report(job, arguments.out / job.name, Kaggle()))
        return
    slug = check_slug(arguments.what)
    session = Kaggle().session(slug)
    print(f"{slug}: {session.state}{f': {session.failure}' if session.failure else ''}")


def pull(arguments: argparse.Namespace) -> None:
    from cellsignal.kaggle.api import Kaggle
    from cellsignal.kaggle.push import check_slug, wait
    from cellsignal.kaggle.push import pull as pull_output

    slug = check_slug(arguments.slug)
    out = arguments.out or KERNELS / slug.partition("/")[2] / "output"
    kaggle = Kaggle()
    if arguments.wait:
        wait(kaggle, slug, arguments.every)
    found = pull_output(kaggle, slug, out, arguments.only)
    said = (
        f": {found.step}, link {found.link}, "
        f"{'done' if found.done else f'not done: {found.reason}'}"
        if found
        else ""
    )
    print(f"{out}{said}")


def work(arguments: argparse.Namespace) -> None:
    from cellsignal.common.errors import InputError
    from cellsignal.kaggle.api import Kaggle
    from cellsignal.kaggle.job import load_job
    from cellsignal.kaggle.work import OUTPUT, kernel_folder, report
    from cellsignal.kaggle.work import work as do

    if arguments.parallel < 1 or not arguments.every > 0:
        raise InputError("--parallel: at least 1; --every: more than 0 seconds")
    job = load_job(arguments.job)
    folder = arguments.out / job.name
    places = do(
        Kaggle(),
        job,
        folder,
        every=arguments.every,
        parallel=arguments.parallel,
        keep=arguments.keep,
    )
    print(report(job, folder))
    last = list(places)[-1]
    for path in sorted(
        (kernel_folder(folder, job, last, places[last].link) / OUTPUT).rglob("*.csv")
    ):
        print(path)


def add_kernel_arguments(parser: argparse.ArgumentParser) -> None:
    """The parsers of `cellsignal kernel`'s verbs."""
    kind = verbs_of(parser, "what")

    one = kind("build", build, "write a job's kernels")
    one.add_argument("job", type=Path, help="YAML of the job")
    one.add_argument("--step", help="this step alone: prepare, fold0, ..., submit (default: all)")
    one.add_argument(
        "--link", type=int, default=1, help="which kernel of the step's chain (default the first)"
    )
    one.add_argument(
        "--user", help="your name on Kaggle (default: the job's `owner`, then the credentials')"
    )
    one.add_argument(
        "--after",
        action="append",
        default=[],
        metavar="STEP=LINK",
        help="last link of a step that this one needs (default 1)",
    )
    one.add_argument(
        "--wheels",
        type=Path,
        default=WHEELS,
        metavar="FOLDER",
        help=f"where `kernel wheels` made the job's data set (default {WHEELS})",
    )
    one.add_argument("--out", type=Path, default=KERNELS)
    data = kind("wheels", wheels, "make the data set of what Kaggle's image lacks")
    data.add_argument("dataset", help="OWNER/SLUG")
    data.add_argument("--out", type=Path, default=WHEELS)
    data.add_argument("--pythons", nargs="+", default=["3.11", "3.12"])
    send = kind("push", push, "push a built kernel, or a data set's folder, to Kaggle")
    send.add_argument("folder", type=Path)
    told = kind("status", status, "how far a job (its YAML) or one kernel (user/name) is")
    told.add_argument("what")
    fetch = kind("pull", pull, "fetch a kernel's output and log, checked against its chain.json")
    fetch.add_argument("slug", help="user/name")
    fetch.add_argument(
        "--only", nargs="+", metavar="FILE", help="these files of the output (default: all)"
    )
    fetch.add_argument("--wait", action="store_true", help="until the kernel has ended")
    fetch.add_argument("--out", type=Path, help="folder (default kernels/build/<name>/output)")
    job = kind(
        "run",
        work,
        "a whole job: builds, pushes, waits, pulls; stop it and give it again at any time",
    )
    job.add_argument("job", type=Path, help="YAML of the job")
    job.add_argument(
        "--parallel",
        type=int,
        default=2,
        help="kernels at a time (default 2, what Kaggle gives one user's GPUs)",
    )
    job.add_argument(
        "--keep", action="store_true", help="fetch every step's whole output, weights too"
    )
    for sub in (fetch, job):
        sub.add_argument(
            "--every",
            type=float,
            default=60.0,
            metavar="SECONDS",
            help="how often Kaggle is asked (default 60)",
        )
    for sub in (told, job):
        sub.add_argument(
            "--out", type=Path, default=KERNELS, help=f"folder of jobs (default {KERNELS})"
        )
