"""Checks that pass, fail, hang, die and flood, for the tests of the runner."""

import os
import signal
import subprocess
import sys
import time

from cellsignal.studies.gpu_check.room import CheckFailed, Skipped


def good(room):
    return {"folder": str(room.folder), "kind": room.kind, "process": os.getpid()}


def wrong(room):
    raise CheckFailed("pixels are 3 grey levels off")


def broken(room):
    raise RuntimeError("CUDA error: an illegal\n memory access")


def absent(room):
    raise Skipped("one GPU")


def hang(room):
    """With a process of its own, which must not outlive it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (room.own("hang") / "child").write_text(str(child.pid))
    time.sleep(600)


def die(room):
    print("out of memory", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def leave(room):
    os._exit(3)
