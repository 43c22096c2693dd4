"""Two processes, one of which dies: the command ends, soon and with nothing left running, and the
same command goes on to the same weights.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from tiny import make_config, stage

from cellsignal.cloud.plan import rendezvous
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.plan import jobs_of

in_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are found in /proc"
)
PATIENCE = 12  # seconds that a process waits for another that says nothing
SOON = 150  # seconds in which a command must have ended
STAGE = {
    "epochs": 3,
    "batches": {"unit": "plate"},
    "schedule": {"name": "cosine"},
    "ema": 0.8,
    "checkpoint_minutes": 1e-9,
}
ONE_MACHINE = ["--standalone", "--nproc_per_node", "2"]


def config(plates: Path, folder: Path):
    """The config and its file; it saves after each epoch and each eighth step."""
    made = make_config(plates, folder / "runs", [stage(**STAGE)])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(made.model_dump(mode="json")))
    return made


def start(folder: Path, words: list[str]) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "cellsignal.cloud.torchrun",
        *words,
        "-m",
        "cellsignal",
        "-q",
        "train",
        "config.yaml",
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CELLSIGNAL_PATIENCE_MINUTES": str(PATIENCE / 60)}
    with (folder / "stderr").open("a") as errors:
        return subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=errors
        )


def ended(process: subprocess.Popen, folder: Path) -> int:
    try:
        return process.wait(SOON)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail((folder / "stderr").read_text()[-3000:])


def ranks_of(torchrun: subprocess.Popen) -> dict[int, int]:
    """rank -> process id, of the processes that a torchrun started."""
    found = {}
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split():
            words = dict(
                word.split("=", 1)
                for word in Path(f"/proc/{child}/environ").read_text().split("\0")
                if "=" in word
            )
            if "RANK" in words:
                found[int(words["RANK"])] = int(child)
    return found


def wait_for(what: Callable[[], bool], folder: Path) -> None:
    until = time.monotonic() + SOON
    while not what():
        assert time.monotonic() < until, (folder / "stderr").read_text()[-3000:]
        time.sleep(0.01)


def killed_in_an_epoch(made) -> dict:
    """The checkpoint that was left, of the middle of an epoch."""
    progress = load_checkpoint(jobs_of(made)[0].folder / "last.pt")["progress"]
    assert not progress["finished"] and progress["updates"] > 0, progress
    return progress


def same_weights(one, other) -> bool:
    a, b = (load_checkpoint(jobs_of(made)[0].folder / "last.pt") for made in (one, other))
    assert a["progress"]["finished"] and b["progress"]["finished"]
    return all(
        torch.equal(value, b[part][name])
        for part in ("model", "averaged")
        for name, value in a[part].items()
    )


@pytest.fixture(scope="module")
def undisturbed(plates, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    made = config(plates, folder)
    assert ended(start(folder, ONE_MACHINE), folder) == 0, (folder / "stderr").read_text()[-3000:]
    return made


@in_proc
@pytest.mark.torture
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_command_which_then_goes_on(rank, plates, undisturbed, tmp_path):
    made = config(plates, tmp_path)
    running = start(tmp_path, ONE_MACHINE)
    wait_for((jobs_of(made)[0].folder / "last.pt").exists, tmp_path)
    ranks = ranks_of(running)
    os.kill(ranks[rank], signal.SIGKILL)
    assert ended(running, tmp_path) not in (0, 2, 75)
    assert not any(Path(f"/proc/{process}").exists() for process in ranks.values())
    killed_in_an_epoch(made)
    assert ended(start(tmp_path, ONE_MACHINE), tmp_path) == 0, (tmp_path / "stderr").read_text()[
        -3000:
    ]
    assert same_weights(made, undisturbed)


@in_proc
@pytest.mark.torture
@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.parametrize("which", ["where all meet", "the other"])
def test_a_machine_that_is_lost_ends_the_other_which_then_goes_on(
    how, which, plates, undisturbed, tmp_path
):
    """Two torchruns as on two machines. One is gone at once (its connections close), or says
    nothing more (as when its network is cut).
    """
    made = config(plates, tmp_path)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = rendezvous("2", "1", f"localhost:{port}", "1").split()

    def answers():
        with suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
            return True
        return False

    first = start(tmp_path, words)
    wait_for(answers, tmp_path)
    second = start(tmp_path, words)
    lost, kept = (first, second) if which == "where all meet" else (second, first)
    wait_for((jobs_of(made)[0].folder / "last.pt").exists, tmp_path)
    [process] = ranks_of(lost).values()
    for number in (lost.pid, process):
        os.kill(number, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    try:
        assert ended(kept, tmp_path) not in (0, 2, 75)
    finally:
        for number in (lost.pid, process):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        lost.wait()
    killed_in_an_epoch(made)
    again = [start(tmp_path, words) for _ in range(2)]
    assert [ended(one, tmp_path) for one in again] == [0, 0], (tmp_path / "stderr").read_text()[
        -3000:
    ]
    assert same_weights(made, undisturbed)
