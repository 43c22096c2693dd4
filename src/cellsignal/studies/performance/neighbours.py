"""Time the training steps of runs that share a machine: `cellsignal study neighbours`.

A child process trains a ResNet on one batch for some seconds. Alone or two side by side, with
OpenMP's own way of waiting (threads spin) and with ours (`common.threads`: they soon sleep), and
with one thread each. All cases take turns.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.threads import SPINS, usable_cores

SPIN, SLEEP, SINGLE = "threads spin", "threads soon sleep (default)", "one thread each"
_SET = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")
_POLL_S = 0.1


def bench_neighbours(seconds: float = 10, rounds: int = 3) -> pd.DataFrame:
    """Time runs alone and side by side.

    Args:
        seconds: that each child trains.
        rounds: of all cases, in turn.

    Returns:
        A row a way of waiting: way, alone and together (images/s, medians over the rounds; together
        is the sum of both runs), and ratio (together / the fastest way alone).

    Raises:
        InputError: a child ended with an error; names its last line.
    """
    threads = usable_cores()
    ways = {
        SPIN: {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": str(threads)},
        SLEEP: {"GOMP_SPINCOUNT": SPINS, "OMP_NUM_THREADS": str(threads)},
        SINGLE: {"GOMP_SPINCOUNT": SPINS, "OMP_NUM_THREADS": "1"},
    }
    rates = [
        {(way, count): _run(ways[way], count, seconds) for way in ways for count in (1, 2)}
        for _ in range(rounds)
    ]
    medians = pd.DataFrame(rates).median()
    best = max(medians[way, 1] for way in ways)
    rows = [(way, medians[way, 1], medians[way, 2], medians[way, 2] / best) for way in ways]
    return pd.DataFrame(rows, columns=["way", "alone", "together", "ratio"])


def _run(environment: dict[str, str], count: int, seconds: float) -> float:
    """Return the images/s of `count` children at once, together."""
    clean = {name: value for name, value in os.environ.items() if name not in _SET}
    words = [sys.executable, "-m", __name__, str(seconds)]
    with ExitStack() as stack:
        children, outputs, errors = [], [], []
        for _ in range(count):
            outputs.append(stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")))
            errors.append(stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")))
            child = subprocess.Popen(
                words, env=clean | environment, stdout=outputs[-1], stderr=errors[-1]
            )
            children.append(child)
            stack.callback(_stop, child)
        _wait_for_all(children, errors)
        return sum(json.loads(_text(output)) for output in outputs)


def _wait_for_all(children: Sequence[subprocess.Popen], errors: Sequence[IO[str]]) -> None:
    """Wait until all children have ended; the first that fails ends the wait."""
    while True:
        statuses = [child.poll() for child in children]
        for status, error in zip(statuses, errors, strict=True):
            if status:
                lines = _text(error).splitlines() or ["it printed nothing"]
                raise InputError(f"neighbours: a training ended with status {status}: {lines[-1]}")
        if None not in statuses:
            return
        time.sleep(_POLL_S)


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip()


def _stop(child: subprocess.Popen) -> None:
    if child.poll() is None:
        child.kill()
    child.wait()


def train_for(seconds: float) -> float:
    """Train a small ResNet on one batch of 64 px images; return images/s."""
    import torch

    from cellsignal.config.schema import Model
    from cellsignal.models.backbones import build_model

    torch.manual_seed(0)
    model = build_model(Model(backbone="resnet10t"), 6, 48, 64)
    optimiser = torch.optim.AdamW(model.parameters())
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(32, 6, 64, 64)))
    images, labels = images.float(), torch.arange(32) % 48
    steps, started = -2, time.perf_counter()
    while steps < 1 or time.perf_counter() - started < seconds:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
        steps += 1
        if steps == 0:  # two steps warm up
            started = time.perf_counter()
    return steps * len(images) / (time.perf_counter() - started)


def main(words: Sequence[str]) -> None:
    print(json.dumps(train_for(float(words[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
