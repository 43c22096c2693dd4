"""Check what takes processes of its own: a killed training, and processes that train together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch

from cellsignal.studies.gpu_check.room import Figures, Room, Skipped, require
from cellsignal.studies.gpu_check.steps import (
    backward,
    build_stepper,
    distance,
    exact_float32,
    gradients,
    learnable_batch,
)
from cellsignal.studies.gpu_check.table import one_line
from cellsignal.studies.gpu_check.tiny import tiny_config, tiny_stage, write_config

_POLL = 0.005  # seconds


def exact_resume(room: Room) -> Figures:
    """Kill a training while it runs and resume it; the weights are those of one left alone."""
    stage = tiny_stage(epochs=6, batch_size=8, ema=0.9, checkpoint_minutes=1e-4)
    runs = {}
    for name in ("undisturbed", "killed"):
        config = tiny_config(room, f"resume_{name}", [stage])
        file = write_config(config, room.own(f"resume_{name}") / "config.yaml")
        runs[name] = (file, config.run_folder / "fold0" / "all" / "all" / "last.pt")
    alone = _start(room, runs["undisturbed"][0])
    file, last = runs["killed"]
    killed = _start(room, file)
    until = time.monotonic() + room.seconds
    while not last.exists() and killed.poll() is None and time.monotonic() < until:
        time.sleep(_POLL)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    require(last.exists(), f"it ended before its first checkpoint: {_said(file)}")
    progress = _read(last)["progress"]
    require(not progress["finished"], "it ended before it could be killed")
    _finish(_start(room, file), file)
    _finish(alone, runs["undisturbed"][0])
    wanted, got = _read(runs["undisturbed"][1]), _read(last)
    different = []
    for part in ("model", "averaged"):
        for name, value in wanted[part].items():
            if not torch.equal(value, got[part][name]):
                different.append(f"{part}.{name}")
    require(
        not different,
        f"{len(different)} tensors differ after a kill in epoch {progress['epoch'] + 1} at batch "
        f"{progress['batch']}, first {different[:1]}",
    )
    warned = [line for line in _lines(file) if "deterministic" in line]
    where = {"epoch": progress["epoch"] + 1, "batch": progress["batch"]}
    return {"killed_in": where, "warnings": sorted(set(map(one_line, warned)))[:3]}


def _start(room: Room, file: Path, *launcher: str) -> subprocess.Popen:
    """Start `cellsignal train`; the output goes into a file beside the config."""
    command = [sys.executable, *launcher, "-m", "cellsignal", "train", str(file)]
    environment = {
        **os.environ,
        "CELLSIGNAL_DETERMINISTIC": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "OMP_NUM_THREADS": "1",
    }
    if room.dry:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with open(file.with_suffix(".log"), "a", encoding="utf-8") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def _finish(process: subprocess.Popen, file: Path) -> None:
    status = process.wait()
    require(status == 0, f"{file.parent.name}: training ended with status {status}: {_said(file)}")


def _lines(file: Path) -> list[str]:
    text = file.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    return text.replace("\r", "\n").splitlines()


def _said(file: Path) -> str:
    lines = [line for line in _lines(file) if line.strip()]
    return one_line(lines[-1], 200) if lines else "it said nothing"


def _read(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)


# several processes
# --------------------------------------------------------------------------------------------------


def collectives(room: Room) -> Figures:
    """Open a group of one process, as torchrun would; exchange what the training exchanges."""
    from datetime import timedelta

    from accelerate import PartialState
    from torch.nn.parallel import DistributedDataParallel

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= places | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    patience = timedelta(seconds=room.seconds)
    if room.dry:
        PartialState(cpu=True, backend="gloo", timeout=patience)
    else:
        torch.cuda.set_device(room.device)
        PartialState(backend="nccl", timeout=patience, device_id=room.device)
    for dtype in (torch.float32, torch.float64, torch.uint8, torch.int64):
        sent = torch.arange(1000, device=room.device).to(dtype)
        received = [torch.zeros_like(sent)]
        torch.distributed.all_gather(received, sent)
        require(bool(torch.equal(received[0], sent)), f"all_gather of {dtype} gives other values")
        summed = sent.clone()
        torch.distributed.all_reduce(summed)
        require(bool(torch.equal(summed, sent)), f"all_reduce of {dtype} gives other values")
    PartialState().wait_for_everyone()
    batch = learnable_batch(room, 16, 32)
    with exact_float32():
        plain, wrapped = (build_stepper(room, 32, amp="off") for _ in range(2))
        wrapped.forward = DistributedDataParallel(
            wrapped.forward,
            device_ids=None if room.dry else [room.device],
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )
        for stepper in (plain, wrapped):
            backward(stepper, batch)
    off = distance(gradients(wrapped), gradients(plain))
    require(off < 1e-5, f"gradients through the group differ by {off:.2g} of their length")
    backend = torch.distributed.get_backend()
    torch.distributed.destroy_process_group()
    return {"backend": backend, "gradients_off": off}


def two_processes(room: Room) -> Figures:
    """Train in two processes, and in one with twice the accumulation: the same training."""
    if not room.dry and torch.cuda.device_count() < 2:
        raise Skipped("one GPU: NCCL takes one process a GPU")
    changes = {"amp": "off", "optimizer": {"name": "sgd", "lr": 0.01}}
    pair = tiny_config(room, "two_processes", [tiny_stage(**changes)])
    single = tiny_config(room, "one_process", [tiny_stage(accumulation=2, **changes)])
    files = [
        write_config(config, room.own(config.name) / "config.yaml") for config in (pair, single)
    ]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    _finish(_start(room, files[0], *launcher), files[0])
    _finish(_start(room, files[1]), files[1])
    states = [_read(c.run_folder / "fold0" / "all" / "all" / "last.pt") for c in (pair, single)]
    # BatchNorm's running statistics are averaged over processes, and follow batches in one
    both = [torch.cat(_parameters(state["model"])) for state in states]
    off = distance(*both)
    require(off < 1e-2, f"weights differ by {off:.2g} of their length")
    return {"backend": "gloo" if room.dry else "nccl", "weights_off": off}


def _parameters(state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return [v.double().flatten() for name, v in state.items() if not name.endswith(buffers)]
