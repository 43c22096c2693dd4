"""Measure where the CPU time of a whole `cellsignal run` goes: docs/results/performance.md."""

import cProfile
import os
import pstats
import time
from pathlib import Path

import pandas as pd

from cellsignal.config import Config
from cellsignal.pipeline import run_all
from cellsignal.studies.pages import table

# step -> file and function whose CPU time, callees included, it is; none of them calls another
STEPS = {
    "folds": ("data/folds.py", "bring_folds_up_to_date"),
    "prepare": ("cellsignal/pipeline.py", "prepare"),
    "train: build": ("training/trainer.py", "__init__"),
    "train: epochs": ("training/trainer.py", "train_epoch"),
    "train: validate": ("training/trainer.py", "validate"),
    "train: checkpoints": ("training/checkpoints.py", "save_checkpoint"),
    "predict": ("prediction/predict.py", "predict"),
    "submit and score": ("cellsignal/pipeline.py", "_submit_run"),
    "baselines": ("cellsignal/pipeline.py", "_print_baselines"),
    "pictures": ("report/run_report.py", "write_report"),
    "HTML page": ("html/writer.py", "write_html_report"),
}


def bench_run(config: Config, answers: Path | None, splits: int | None) -> str:
    """Run a config from prepare to report under Python's profiler, and return a table.

    Seconds are CPU seconds of this process, all threads together; those of the processes that pack
    are a row of their own. The profiler makes steps of many small calls dearer, up to four times
    (the page, the pictures): compare a row with itself in another run. What is up to date is not
    made anew: remove it before.
    """
    profiler = cProfile.Profile(time.process_time)
    started, children, wall = time.process_time(), _children(), time.monotonic()
    profiler.enable()
    try:
        run_all(config, answers, splits=splits)
    finally:
        profiler.disable()
    total = time.process_time() - started
    rows = cumulative_seconds(pstats.Stats(profiler))
    rows["rest, imports among it"] = total - sum(rows.values())
    rows["processes that pack"] = _children() - children
    rows["all"] = total + rows["processes that pack"]
    rows["all, by the clock"] = time.monotonic() - wall
    frame = pd.DataFrame({"step": rows.keys(), "CPU s": [round(s, 1) for s in rows.values()]})
    return table(frame)


def cumulative_seconds(stats: pstats.Stats) -> dict[str, float]:
    """Return the CPU seconds of each of `STEPS` that was called."""
    seconds = {}
    for step, (module, name) in STEPS.items():
        found = [
            cumulative
            for (file, _, function), (_, _, _, cumulative, _) in stats.stats.items()
            if function == name and Path(file).as_posix().endswith(module)
        ]
        if found:
            seconds[step] = sum(found)
    return seconds


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system
