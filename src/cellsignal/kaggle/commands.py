"""`cellsignal kaggle`: a config as a chain of kernels, and the data set of wheels they need."""

import argparse
import json
import shlex
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.config.options import command_group, parse_pairs

KERNELS = Path("kernels/build")
WHEELS = Path("build/wheels")


def add_kaggle_commands(parser: argparse.ArgumentParser) -> None:
    """Add the parsers of the commands."""
    add = command_group(parser, "what")
    text = "a whole job: builds, pushes, waits, pulls; stop it and give it again at any time"
    job = add("run", run, text)
    job.add_argument("job", type=Path, help="YAML of the job")
    parallel = "kernels at a time (default 2, what Kaggle gives one user's GPUs)"
    job.add_argument("--parallel", type=int, default=2, help=parallel)
    keep = "fetch every step's whole output, weights too"
    job.add_argument("--keep", action="store_true", help=keep)
    status_parser = add("status", status, "how far a job (its YAML) or one kernel (user/name) is")
    status_parser.add_argument("what")
    data = add("wheels", wheels, "make the data set of what Kaggle's image lacks")
    data.add_argument("dataset", help="OWNER/SLUG")
    data.add_argument("--out", type=Path, default=WHEELS)
    data.add_argument("--pythons", nargs="+", default=["3.11", "3.12"])
    _add_build(add("build", build, "write the kernels of a job"))
    sub = add("push", push, "push a built kernel, or the folder of a data set")
    sub.add_argument("folder", type=Path)
    text = "fetch the output and log of a kernel, checked against its chain.json"
    fetch = add("pull", pull, text)
    fetch.add_argument("slug", help="user/name")
    only = "these files of the output (default: all)"
    fetch.add_argument("--only", nargs="+", metavar="FILE", help=only)
    fetch.add_argument("--wait", action="store_true", help="until the kernel has ended")
    fetch.add_argument("--out", type=Path, help="folder (default kernels/build/<name>/output)")
    every = "how often Kaggle is asked (default 60)"
    for sub in (fetch, job):
        sub.add_argument("--every", type=float, default=60.0, metavar="SECONDS", help=every)
    for sub in (status_parser, job):
        sub.add_argument("--out", type=Path, default=KERNELS, help=f"folder of jobs ({KERNELS})")


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", type=Path, help="YAML of the job")
    parser.add_argument("--step", help="this step alone: prepare, fold0, ..., submit")
    link = "which kernel of the step's chain (default the first)"
    parser.add_argument("--link", type=int, default=1, help=link)
    user = "your name on Kaggle (default: the job's `owner`, then the credentials')"
    parser.add_argument("--user", help=user)
    parser.add_argument(
        "--after",
        action="append",
        default=[],
        metavar="STEP=LINK",
        help="last link of a step that this one needs (default 1)",
    )
    folder = f"where `kaggle wheels` made the job's data set (default {WHEELS})"
    parser.add_argument("--wheels", type=Path, default=WHEELS, metavar="FOLDER", help=folder)
    parser.add_argument("--out", type=Path, default=KERNELS)


def build(arguments: argparse.Namespace) -> str:
    from cellsignal.kaggle.build import build_kernels
    from cellsignal.kaggle.job import fill_owner, find_owner, load_job, step_named
    from cellsignal.kaggle.wheels import describe_wheels

    after = parse_pairs(arguments.after, "--after")
    last = {step: _link(step, number) for step, number in after.items()}
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
    print("To push, each when those that it needs are done (`cellsignal kaggle run` does it all):")
    for folder in folders:
        print(f"  cellsignal kaggle push {shlex.quote(str(folder))}{_needs(folder)}")
    return f"cellsignal kaggle run {shlex.quote(str(arguments.job))}"


def _link(step: str, number: str) -> int:
    if not number.isdigit() or not 1 <= int(number) <= 99:
        raise InputError(f"--after {step}={number}: a link is 1 to 99")
    return int(number)


def _needs(folder: Path) -> str:
    """Return a comment that names the kernels that must be done before the one in `folder`."""
    metadata = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
    names = [source.partition("/")[2] for source in metadata["kernel_sources"]]
    return f"  # after {', '.join(names)}" if names else ""


def wheels(arguments: argparse.Namespace) -> str:
    from cellsignal.kaggle.wheels import build_wheels

    for path in build_wheels(arguments.out, arguments.dataset, arguments.pythons):
        print(path)
    return f"cellsignal kaggle push {shlex.quote(str(arguments.out))}"


def push(arguments: argparse.Namespace) -> str:
    from cellsignal.kaggle.api import Kaggle
    from cellsignal.kaggle.push import push as push_folder
    from cellsignal.kaggle.push import slug_of

    slug = slug_of(arguments.folder)  # before signing in
    print(push_folder(Kaggle(), arguments.folder))
    return f"cellsignal kaggle status {slug}"


def status(arguments: argparse.Namespace) -> str:
    from cellsignal.kaggle.api import Kaggle
    from cellsignal.kaggle.job import load_job
    from cellsignal.kaggle.push import check_slug
    from cellsignal.kaggle.work import report

    if Path(arguments.what).suffix in (".yaml", ".yml"):
        job = load_job(arguments.what)
        print(report(job, arguments.out / job.name, Kaggle()))
        return f"cellsignal kaggle run {shlex.quote(arguments.what)}"
    slug = check_slug(arguments.what)
    session = Kaggle().session(slug)
    print(f"{slug}: {session.state}{f': {session.failure}' if session.failure else ''}")
    return f"cellsignal kaggle pull {slug} --wait"


def pull(arguments: argparse.Namespace) -> None:
    from cellsignal.kaggle.api import Kaggle
    from cellsignal.kaggle.push import check_slug, wait
    from cellsignal.kaggle.push import pull as pull_output

    slug = check_slug(arguments.slug)
    out = arguments.out or KERNELS / slug.partition("/")[2] / "output"
    kaggle = Kaggle()
    if arguments.wait:
        wait(kaggle, slug, arguments.every)
    chain = pull_output(kaggle, slug, out, arguments.only)
    if chain is None:
        print(out)
        return
    state = "done" if chain.done else f"not done: {chain.reason}"
    print(f"{out}: {chain.step}, link {chain.link}, {state}")


def run(arguments: argparse.Namespace) -> str:
    from cellsignal.kaggle.api import Kaggle
    from cellsignal.kaggle.job import load_job
    from cellsignal.kaggle.work import OUTPUT, kernel_folder, report, work

    if arguments.parallel < 1 or not arguments.every > 0:
        raise InputError("--parallel: at least 1; --every: more than 0 seconds")
    job = load_job(arguments.job)
    folder = arguments.out / job.name
    places = work(
        Kaggle(),
        job,
        folder,
        every=arguments.every,
        parallel=arguments.parallel,
        keep=arguments.keep,
    )
    print(report(job, folder))
    last = list(places)[-1]
    output = kernel_folder(folder, job, last, places[last].link) / OUTPUT
    for path in sorted(output.rglob("*.csv")):
        print(path)
    return "cellsignal leaderboard"
