"""Run a step in a kernel: copy the previous output, run the commands, write `chain.json`.

The top of this module, and of all that it imports there, needs the standard library alone: what
Kaggle's image lacks is installed here.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cellsignal
from cellsignal.common.errors import OUT_OF_TIME, InputError
from cellsignal.common.files import atomic_path, sha256
from cellsignal.kaggle import status as chains
from cellsignal.kaggle.status import CHAIN, UNLISTED, Status, check_files
from cellsignal.kaggle.wheels import install, missing

GRACE_S = 120.0  # after the deadline; a command that still runs then gets SIGTERM, and saves
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)


@dataclass(frozen=True)
class Kernel:
    """Where this kernel's things are.

    Attributes:
        spec: what `build` wrote of it.
        scratch: a folder outside of the output, with the unpacked package.
        inputs, working: Kaggle's folders; the first is read only, the second becomes the output.
        started, deadline: seconds since the epoch.
    """

    spec: dict[str, Any]
    scratch: Path
    inputs: Path
    working: Path
    started: float
    deadline: float

    @property
    def name(self) -> str:
        return f"{self.spec['job']} {self.spec['step']} {self.spec['link']}"

    @property
    def predicts_code(self) -> bool:
        """Whether it predicts for a code competition."""
        return "code" in self.spec["verbs"]

    def hours(self) -> float:
        return (time.time() - self.started) / 3600


def main(scratch: Path) -> int:
    """Run a kernel; return 0 if its step is done or will continue, so Kaggle keeps the output."""
    kernel = Kernel(
        json.loads((scratch / "spec.json").read_text(encoding="utf-8")),
        scratch,
        Path(os.environ.get("CELLSIGNAL_KAGGLE_INPUT", "/kaggle/input")),
        Path(os.environ.get("CELLSIGNAL_KAGGLE_WORKING", "/kaggle/working")),
        float(os.environ.get("CELLSIGNAL_KERNEL_STARTED", time.time())),
        float(os.environ["CELLSIGNAL_DEADLINE"]),
    )
    assert Path(cellsignal.__file__).is_relative_to(scratch), (
        "the package that travelled is not the one that runs"
    )
    kernel.working.mkdir(parents=True, exist_ok=True)
    try:
        _install(kernel)
        _say(
            f"{kernel.name}: package {kernel.spec['package'][:12]}, Python "
            f"{sys.version.split()[0]}, {(kernel.deadline - time.time()) / 3600:.2f} h"
        )
        _take_up(kernel)
        status, reason = _run_verbs(kernel, _write_config(kernel))
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 2
    _finish(kernel, status, reason)
    # what a code competition's kernel has begun stays outside of its output
    goes_on = status == OUT_OF_TIME and not kernel.predicts_code
    return 0 if goes_on else status


def find(kernel: Kernel, path: str) -> Path:
    """Return a path in the input folder: at its top, or in folders by kind and owner."""
    first, _, rest = path.partition("/")
    for pattern in ("", "*/", "*/*/"):
        for place in sorted(kernel.inputs.glob(f"{pattern}{first}")):
            if (place / rest).exists():
                return place / rest
    attached = sorted(kernel.inputs.iterdir()) if kernel.inputs.is_dir() else []
    names = ", ".join(entry.name for entry in attached[:8]) or "nothing"
    raise InputError(f"{kernel.inputs / path}: is not attached; there is {names}")


def _say(text: str) -> None:
    print(text, flush=True)


def _install(kernel: Kernel) -> None:
    wheels = missing()
    if not wheels:
        return
    names = ", ".join(wheel.name for wheel in wheels)
    if kernel.spec["wheels"] is None:
        raise InputError(
            f"this image lacks {names}: make a dataset by `cellsignal kaggle wheels` and name it "
            "in the job as `wheels`"
        )
    install(wheels, find(kernel, kernel.spec["wheels"]), kernel.scratch / "wheels")
    _say(f"installed {names}")


def _take_up(kernel: Kernel) -> None:
    """Copy the output of the previous kernel of this step, and of the earlier steps."""
    if kernel.spec["before"] is not None:
        _take_link(kernel, kernel.spec["before"])
    for step, name in kernel.spec["needs"].items():
        folder = find(kernel, name)
        status = _status_of(folder, kernel.spec["job"], step)
        if not status.done:
            raise InputError(
                f"{folder}: {step} is not done ({status.reason}); attach its last link"
            )
        if step != "prepare":
            _take_results(kernel, folder, status)


def _take_link(kernel: Kernel, name: str) -> None:
    spec, folder = kernel.spec, find(kernel, name)
    status = _status_of(folder, spec["job"], spec["step"])
    link = spec["link"] - 1
    if status.link != link:
        raise InputError(f"{folder / CHAIN}: is of link {status.link}, link {link} is wanted")
    if status.package != spec["package"]:
        commits = f"({status.commit}, now {spec['commit']})"
        print(
            f"warning: the package is another than the kernel's before {commits}", file=sys.stderr
        )
    check_files(folder, status)
    _copy(folder, kernel.working, status.files)
    unlisted = [path for path in (folder / UNLISTED).glob("*") if path.is_file()]
    _copy(folder, kernel.working, [f"{UNLISTED}{path.name}" for path in unlisted])
    _say(f"goes on from {name}: {len(status.files)} files, {status.reason}")


def _take_results(kernel: Kernel, folder: Path, status: Status) -> None:
    """Copy a trained step's predictions into the output.

    For a code competition copy its weights, outside of the output.
    """
    runs = [name for name in status.files if name.startswith("runs/")]
    if kernel.predicts_code:
        kind, names = "weights", [name for name in runs if name.endswith("/last.pt")]
    else:
        kind, names = "predictions", [name for name in runs if "/predictions/" in name]
    if not names:
        raise InputError(f"{folder}: holds no {kind} of {status.step}")
    check_files(folder, status, names)
    _copy(folder, kernel.scratch if kernel.predicts_code else kernel.working, names)


def _status_of(folder: Path, job: str, step: str) -> Status:
    status = chains.read_status(folder)
    if (status.job, status.step) != (job, step):
        raise InputError(
            f"{folder / CHAIN}: is of {status.job} {status.step}, this kernel wants {job} {step}"
        )
    return status


def _copy(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy files that are not there yet: whole, or not at all."""
    for name in names:
        if not (target / name).exists():
            with atomic_path(target / name) as temporary:
                shutil.copyfile(source / name, temporary)


def _write_config(kernel: Kernel) -> Path:
    """Write the packed config with this kernel's paths, and the one fold that it trains."""
    import yaml  # of the image, or just installed

    spec, package = kernel.spec, kernel.scratch / "package"
    tree = yaml.safe_load((package / "config.yaml").read_text(encoding="utf-8"))
    tree["data"]["root"] = str(find(kernel, spec["root"]))
    if kernel.predicts_code:
        tree["data"]["store"] = str(kernel.scratch / "store")
        tree["runs"] = str(kernel.scratch / "runs")
    elif spec["store"] is not None:
        tree["data"]["store"] = str(find(kernel, spec["store"]))
    elif "prepare" in spec["needs"]:
        tree["data"]["store"] = str(find(kernel, f"{spec['needs']['prepare']}/store"))
    if spec["weights"] is not None and spec["verbs"][0] in ("train", "code"):
        tree["model"]["weights"] = str(find(kernel, spec["weights"]))
    # named alike in every link, for a run is held to its config
    for name in ("folds.csv", "groups.csv"):
        if (package / name).is_file():
            shutil.copyfile(package / name, kernel.working / name)
    if spec["verbs"][0] == "train":
        fold = spec["fold"]
        tree["folds"] |= {"use": [] if fold is None else [fold], "full": fold is None}
    path = kernel.scratch / "config.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def _run_verbs(kernel: Kernel, config: Path) -> tuple[int, str]:
    """Run the step's commands as long as there is time; return the last status and its reason."""
    for verb in kernel.spec["verbs"]:
        if time.time() >= kernel.deadline:
            return OUT_OF_TIME, f"out of time before {verb}"
        status, last_line = _run(kernel, verb, config)
        if status in STOPPED and time.time() >= kernel.deadline:
            status = OUT_OF_TIME
        if status == OUT_OF_TIME:
            return status, f"out of time in {verb}: {last_line}"
        if status:
            return status, f"status {status} of {verb}: {last_line}"
    return 0, "done"


def _command(kernel: Kernel, verb: str, config: Path) -> list[str]:
    if verb == "code":
        return [sys.executable, "-m", "cellsignal.kaggle.code", str(config)]
    words = ["-m", "cellsignal", verb, str(config)]
    if verb == "submit":
        words += ["--root", str(find(kernel, kernel.spec["root"])), "--out", "submission.csv"]
    processes = kernel.spec["processes"]
    if processes > 1 and verb in ("train", "predict"):
        launcher = ["-m", "cellsignal.cloud.torchrun", "--standalone"]
        words = [*launcher, "--nproc_per_node", str(processes), *words]
    return [sys.executable, *words]


def _run(kernel: Kernel, verb: str, config: Path) -> tuple[int, str]:
    """Run one command in the working folder; return its status and its last line on stderr.

    SIGTERM is handed on, and sent where the deadline is long past.
    """
    process = subprocess.Popen(
        _command(kernel, verb, config),
        cwd=kernel.working,
        env=os.environ | {"CELLSIGNAL_DEADLINE": str(kernel.deadline)},
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    signals = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.signal(n, lambda n, frame: process.send_signal(n)) for n in signals]
    late = threading.Timer(max(0.0, kernel.deadline + GRACE_S - time.time()), process.terminate)
    late.daemon = True
    late.start()
    last = ""
    with process.stderr as lines:
        for line in lines:
            sys.stderr.write(line)
            sys.stderr.flush()
            last = line.strip() or last
    status = process.wait()
    late.cancel()
    for number, handler in zip(signals, handlers, strict=True):
        signal.signal(number, handler)
    return (status if status >= 0 else 128 - status), last


def _finish(kernel: Kernel, status: int, reason: str) -> None:
    """Write `chain.json`, last of all."""
    spec = kernel.spec
    chain = Status(
        job=spec["job"],
        step=spec["step"],
        link=spec["link"],
        done=status == 0,
        status=status,
        reason=reason,
        hours=round(kernel.hours(), 4),
        config=sha256(kernel.scratch / "package" / "config.yaml"),
        package=spec["package"],
        commit=spec["commit"],
        files=chains.list_files(kernel.working),
    )
    chains.write_status(kernel.working, chain)
    _say(f"{kernel.name}: {reason} ({kernel.hours():.2f} h)")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
