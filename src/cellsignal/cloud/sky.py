"""Write SkyPilot task files: one managed job per fold, restarted when its machine is lost.

What must outlive a machine lies in a bucket: the store (packed once), the runs (checkpoints,
predictions, the submission) and the raw data's tables. A job links them to the places that the
config names, so every verb runs with the config as it is.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from cellsignal.cloud.plan import Fold, Work
from cellsignal.common.errors import OUT_OF_TIME, InputError
from cellsignal.common.files import write_text

Mode = Literal["COPY", "MOUNT", "MOUNT_CACHED"]
_BUCKET = re.compile(
    r"(s3|gs|r2|nebius|cw|oci)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*/?"
)
_GPU = re.compile(r"([A-Za-z0-9-]+)(?::([1-9][0-9]?))?")
_RESTARTS = 3  # after a failure that is neither a lost machine nor time that is up
_SIGTERM = 128 + 15
_SETUP = """\
set -e
command -v uv > /dev/null || python3 -m pip install --quiet uv
[ -x .venv/bin/python ] || uv venv --python 3.12 .venv
uv pip install --quiet --python .venv/bin/python -r requirements.txt  # torch's wheel of the public index is the CUDA build
"""


@dataclass(frozen=True)
class Machines:
    """What is rented and from where.

    Attributes:
        bucket: URL of a folder in object storage; it gets store/, runs/ and raw/.
        gpus: name -> how many, any of these; one number for all, as a run resumes with as many
            processes only.
        store: how the store comes to the machine. COPY: whole, to its disk, before the job starts.
        disk: GB.
        max_hours: after which a job ends, saved, and SkyPilot starts it anew; None: never.
        git: URL[@REF] of the checkout; None: the working tree is sent.
    """

    bucket: str
    gpus: dict[str, int]
    spot: bool = True
    store: Mode = "COPY"
    disk: int = 256
    cpus: str = "8+"
    max_hours: float | None = None
    git: str | None = None

    def __post_init__(self) -> None:
        if not _BUCKET.fullmatch(self.bucket):
            raise InputError(
                f"--bucket {self.bucket}: write s3://NAME or s3://NAME/FOLDER (or gs://, r2://, "
                "nebius://, cw://, oci://)"
            )
        if len(set(self.gpus.values())) > 1:
            raise InputError(
                f"--gpu {','.join(f'{k}:{n}' for k, n in self.gpus.items())}: a run goes on with "
                "as many processes only; ask for one number"
            )
        if self.max_hours is not None and self.max_hours <= 0:
            raise InputError(f"--max-hours {self.max_hours:g}: more than 0")

    @property
    def processes(self) -> int:
        return next(iter(self.gpus.values()))


def parse_gpus(text: str) -> dict[str, int]:
    """Read "L4:1,A100:1" as {"L4": 1, "A100": 1}."""
    gpus = {}
    for word in text.split(","):
        match = _GPU.fullmatch(word.strip())
        if match is None:
            raise InputError(
                f"--gpu {text}: write NAME:NUMBER, with a comma between those that will do, such "
                "as L4:1,A100:1"
            )
        gpus[match[1]] = int(match[2] or 1)
    return gpus


def write_tasks(work: Work, machines: Machines, out: Path) -> list[Path]:
    """Write prepare.yaml, one YAML a fold, submit.yaml and launch.sh; return their paths."""
    check_portable(work)
    tasks = {"prepare": prepare_task(work, machines)}
    tasks |= {fold.name: fold_task(work, fold, machines) for fold in work.folds}
    tasks["submit"] = submit_task(work, machines)
    head = f"# Made by `cellsignal cloud tasks {work.path}`: make it again rather than change it.\n"
    for name, task in tasks.items():
        write_text(out / f"{name}.yaml", head + to_yaml(task))
    script = out / "launch.sh"
    write_text(script, launch_script(work))
    script.chmod(0o755)
    return [*(out / f"{name}.yaml" for name in tasks), script]


def check_portable(work: Work) -> None:
    """Raise if the config, or a path that it names, lies outside the repository.

    Raises:
        InputError: the config, or a place that it names, is not under the repository.
    """
    config = work.config
    places = {
        "the config": work.path,
        "data.root": config.data.root,
        "data.store": config.data.store,
        "runs": config.runs,
        "folds.file": config.folds.file,
    }
    for key, place in places.items():
        if not isinstance(place, Path) or place.is_absolute() or ".." in place.parts:
            raise InputError(
                f"{work.path}: another machine has only the repository; {key}: give a relative "
                f"path in it, not {place}"
            )


def fold_task(work: Work, fold: Fold, machines: Machines) -> dict[str, Any]:
    """Return the managed job that trains and predicts one fold."""
    program = "cellsignal"
    if machines.processes > 1:
        options = f"--standalone --nproc_per_node {machines.processes} --max_restarts 0"
        program = f"cellsignal.cloud.torchrun {options} -m cellsignal"
    check = 'import torch; assert torch.cuda.is_available(), "torch sees no GPU"'
    lines = [f".venv/bin/python -c '{check}'"]
    if machines.max_hours is not None:  # one budget for both
        seconds = round(3600 * machines.max_hours)
        lines.append(f"export CELLSIGNAL_DEADLINE=$(($(date +%s) + {seconds}))")
    lines += [_command(program, work.words(verb, fold)) for verb in ("train", "predict")]
    resources = _rented(machines, accelerators=machines.gpus)
    modes = {"store": machines.store, "runs": "MOUNT_CACHED"}
    return _task(work, machines, fold.name, resources, modes, lines)


def prepare_task(work: Work, machines: Machines) -> dict[str, Any]:
    """Return the managed job that packs raw/ into store/, on a machine without a GPU."""
    sets = [word for text in work.sets for word in ("--set", text)]
    lines = [_command("cellsignal", ["prepare", work.path.as_posix(), *sets])]
    resources = _rented(machines, cpus=machines.cpus)
    modes = {"raw": "COPY", "store": "MOUNT_CACHED"}
    return _task(work, machines, "prepare", resources, modes, lines)


def submit_task(work: Work, machines: Machines) -> dict[str, Any]:
    """Return the job that merges all predictions into a submission, without a GPU."""
    words = ["submit", work.path.as_posix(), "--root", str(work.config.data.root)]
    lines = [_command("cellsignal", [*words, "--out", work.submission.as_posix()])]
    resources = {"cpus": machines.cpus, "use_spot": False}
    modes = {"raw": "MOUNT", "runs": "MOUNT_CACHED"}
    return _task(work, machines, "submit", resources, modes, lines)


def _command(program: str, words: list[str]) -> str:
    return f".venv/bin/python -m {program} {shlex.join(words)}"


def _rented(machines: Machines, **kind: Any) -> dict[str, Any]:
    recovery = {
        "strategy": "EAGER_NEXT_REGION",
        "max_restarts_on_errors": _RESTARTS,
        "recover_on_exit_codes": [OUT_OF_TIME, _SIGTERM],  # saved, and resumed as often as it takes
    }
    rest = {"use_spot": machines.spot, "disk_size": machines.disk, "job_recovery": recovery}
    return kind | rest


def _task(
    work: Work,
    machines: Machines,
    step: str,
    resources: dict[str, Any],
    modes: dict[str, str],
    lines: list[str],
) -> dict[str, Any]:
    """Return a task that mounts folders of the bucket, links them into the checkout, and runs.

    Args:
        modes: folder of the bucket (raw, store, runs) -> how it is mounted. The runs need the
            cache: they are appended to and renamed.
    """
    config, bucket = work.config, machines.bucket.rstrip("/")
    places = {"store": config.data.store, "raw": config.data.root, "runs": config.runs}
    # by the config's own name where configs differ
    folders = {name: f"{name}/{places[name].name}" for name in ("store", "raw")} | {"runs": "runs"}
    mounts = {
        f"~/{name}": {"source": f"{bucket}/{folders[name]}", "mode": mode}
        for name, mode in modes.items()
    }
    links = [line for name in modes for line in _link(name, PurePosixPath(places[name]))]
    return {
        "name": job_name(work, step),
        "resources": resources,
        "workdir": _checkout(machines.git),
        "file_mounts": mounts,
        "envs": {"CELLSIGNAL_PATIENCE_MINUTES": "10", "OMP_NUM_THREADS": "1"},
        "setup": _SETUP,
        "run": "\n".join(["set -euo pipefail", *links, *lines]) + "\n",
    }


def _link(name: str, place: PurePosixPath) -> list[str]:
    """Return commands that make `place` in the checkout a link to the mounted ~/name."""
    quoted = shlex.quote(str(place))
    return [
        f"mkdir -p ~/{name} {shlex.quote(str(place.parent))}",
        f"[ -L {quoted} ] || ln -sT ~/{name} {quoted}",
    ]


def _checkout(git: str | None) -> str | dict[str, str]:
    if git is None:
        return "."
    url, at, ref = git.rpartition("@")
    has_ref = at and "/" not in ref.partition(":")[0] and "://" in url
    return {"url": url, "ref": ref} if has_ref else {"url": git}


def job_name(work: Work, step: str) -> str:
    """Return a name such as rxrx1-one-hour-fold0: letters, digits and dashes."""
    name = f"{work.config.name}-seed{work.config.seed}-{step}"
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def launch_script(work: Work) -> str:
    """Return a bash script that starts jobs, each of them once."""
    folds = " ".join(fold.name for fold in work.folds)
    return f"""#!/usr/bin/env bash
# launch.sh            train and predict {folds}: a managed job each, side by side
# launch.sh prepare    before that, once: pack <bucket>/raw into <bucket>/store
# launch.sh submit     after that: merge the predictions into a submission
# launch.sh all        one after another; waits for each
# Start it from the repository. A job that is still in SkyPilot's queue is not started a second time: two must not write one run.
set -euo pipefail
here=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
[ -f requirements.txt ] && [ -f {shlex.quote(work.path.as_posix())} ] || {{ echo "error: start $0 from the repository" >&2; exit 2; }}
name={job_name(work, "")}
queue=$(sky jobs queue --all --skip-finished --output json)
running() {{ grep -qF "\\"$name-$1\\"" <<< "$queue"; }}
launch() {{
    if running "$1"; then
        echo "$name-$1 is in the queue already"
    else
        sky jobs launch -n "$name-$1" -y "${{@:2}}" "$here/$1.yaml"
    fi
}}
folds() {{
    local pids=() fold status=0
    for fold in {folds}; do
        launch "$fold" "$@" &
        pids+=($!)
    done
    for pid in "${{pids[@]}}"; do
        wait "$pid" || status=$?
    done
    return $status
}}
case "${{1:-folds}}" in
    prepare) launch prepare ;;
    folds) folds --detach-run ;;
    submit) launch submit ;;
    all)
        for step in prepare {folds} submit; do
            if running "$step"; then echo "error: $name-$step is in the queue; wait for it, then go on step by step" >&2; exit 2; fi
        done
        launch prepare && folds && launch submit
        ;;
    *) echo "error: $1: write prepare, folds, submit or all" >&2; exit 2 ;;
esac
"""


class _Dumper(yaml.SafeDumper):
    """Writes several lines as a block that can be read, and nothing twice by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(task: dict[str, Any]) -> str:
    """Return a task as YAML."""
    return yaml.dump(task, Dumper=_Dumper, sort_keys=False, width=1000)
