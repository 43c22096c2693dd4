"""Time the training steps of runs that share a machine: `cellsignal study neighbours`.

A child process trains a ResNet on one batch for some seconds. Alone or two side by side, with
OpenMP's own way of waiting (threads spin) and with ours (`common.threads`: they soon sleep), and
with one thread each. All cases take turns.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cellsignal.common.threads import SPINS, usable_cores

SPIN, SLEEP, SINGLE = "threads spin", "threads soon sleep (default)", "one thread each"
_SET = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")


def bench_neighbours(seconds: float = 10, rounds: int = 3) -> pd.DataFrame:
    """Time runs alone and side by side.

    Args:
        seconds: that each child trains.
        rounds: of all cases, in turn.

    Returns:
        A row a way of waiting: way, alone and together (images/s, medians over the rounds; together
        is the sum of both runs), and ratio (together / the fastest way alone).
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
    children = [
        subprocess.Popen(words, env=clean | environment, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError("a child of the benchmark failed")
    return sum(json.loads(output) for output in outputs)


def train_for(seconds: float) -> float:
    """Train a small ResNet on one batch of 64 px images; return images/s."""
    import time

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
