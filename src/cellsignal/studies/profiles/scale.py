"""Time and memory of replicate retrieval on 24 plates of 1,000 features."""

import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd

from cellsignal.evaluation.retrieval import replicate_retrieval
from cellsignal.evaluation.retrieval_null import NULL_SIZE, Null

PLATES, FEATURES, CONTROLS = 24, 1000, 64


def scale_line() -> str:
    """Measure in a process of its own, whose peak memory is read, and say so."""
    wells, queries, seconds, gigabytes = bench_scale()
    return (
        f"{wells:,} wells of {FEATURES:,} features ({PLATES} plates of 384 wells with {CONTROLS} "
        f"controls, four wells a treatment), {queries:,} queries against {NULL_SIZE:,} random "
        f"orders: {seconds:.0f} s and {gigabytes:.2f} GB at most, the whole process with its "
        "imports. Wanted: a minute and 2 GB."
    )


def bench_scale() -> tuple[int, int, float, float]:
    """Return wells, queries, seconds and the peak of memory in GB."""
    program = "from cellsignal.studies.profiles.scale import measure; measure()"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    wells, queries, kilobytes = map(int, done.stdout.split())
    return wells, queries, seconds, kilobytes / 1e6


def measure() -> None:
    """Retrieve replicates of noise, and print wells, queries and the peak memory in KB."""
    number = np.arange(PLATES * 384)
    plate, place = number // 384, number % 384
    treatment = place + 384 * (plate // 4)  # the plates are six sets of four replicates
    wells = pd.DataFrame({"experiment": "one", "plate": plate})
    control = place < CONTROLS
    wells["role"] = np.where(control, "negative_control", "treatment")
    wells["treatment"] = np.where(control, "DMSO", treatment.astype(str))
    x = np.random.default_rng(0).normal(size=(len(wells), FEATURES)).astype(np.float32)
    result = replicate_retrieval(x, wells, Null(NULL_SIZE))
    print(len(wells), result.queries, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
