"""Measure how long a command takes to start: its --help, beside a bare Python."""

import resource
import statistics
import subprocess
import sys

import pandas as pd

ROUNDS = 5
HELP = (
    "",
    "simulate",
    "train",
    "run",
    "predict",
    "report",
    "profiles retrieve",
    "study speed",
    "kaggle run",
    "cloud tasks",
)


def bench_starting(rounds: int = ROUNDS) -> pd.DataFrame:
    """Return the median CPU seconds of processes that do nothing but start.

    What is compared takes turns in every round.
    """
    programs = {
        "python -c pass": ["-c", "pass"],
        "python -c 'import pandas'": ["-c", "import pandas"],
        "python -c 'import cellsignal.cli'": ["-c", "import cellsignal.cli"],
    }
    for words in HELP:
        name = " ".join(["cellsignal", *words.split(), "--help"])
        programs[name] = ["-m", "cellsignal", *words.split(), "--help"]
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, words in programs.items():
            seconds[name].append(_cpu_seconds(words))
    rows = [(name, statistics.median(values)) for name, values in seconds.items()]
    return pd.DataFrame(rows, columns=["process", "CPU s"])


def _cpu_seconds(words: list[str]) -> float:
    before = _children()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
