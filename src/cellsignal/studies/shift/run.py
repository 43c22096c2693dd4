"""Run the shift bench network by network; what is done is kept, so that it resumes."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, write_json
from cellsignal.studies.shift.methods import METHODS, Bench, measure_network
from cellsignal.studies.shift.networks import CONTEXT, RECIPES, standardise_pixels, train_network
from cellsignal.studies.shift.simulated_plates import Design, ask_batches, draw_wells

log = logging.getLogger(__name__)


def run_bench(
    folder: Path,
    seeds: Sequence[int],
    networks: Sequence[str],
    design: Design,
    finished: bool = False,
) -> pd.DataFrame:
    """Measure every method of some networks for each seed; finished files are read again.

    Args:
        finished: train nothing, and leave out what is not finished.

    Returns:
        Columns seed, method, experiment, alpha, size, accuracy and skipped; and in `attrs` the
        CPU seconds of all.

    Raises:
        InputError: `finished`, and nothing is.
    """
    rows, seconds = [], 0.0
    for seed in seeds:
        bench = None
        for name in networks:
            path = folder / f"seed{seed}_{name}.json"
            made_from = digest([vars(design), vars(RECIPES[name]), CONTEXT, _methods_of(name)])
            kept = _read(path, made_from)
            if kept is None and finished:
                continue
            if kept is None:
                started = time.process_time()
                bench = bench or make_bench(seed, design)
                recipe = RECIPES[name]
                model = train_network(bench.images, bench.table, recipe, seed)
                trained = time.process_time() - started
                measured = list(measure_network(bench, model, name))
                spent = time.process_time() - started
                kept = {"made_from": made_from, "cpu_s": spent, "rows": measured}
                write_json(path, kept)
                log.info(
                    "seed %d %s: trained %.0f s, all %.0f s of CPU", seed, name, trained, spent
                )
            seconds += kept["cpu_s"]
            rows += [{"seed": seed, **row} for row in kept["rows"]]
    if not rows:
        raise InputError(f"{folder}: no part of the shift bench is finished; leave --finished out")
    columns = ("seed", "method", "experiment", "alpha", "size", "accuracy")
    skipped = ("skipped",) if any("skipped" in row for row in rows) else ()
    frame = pd.DataFrame(rows, columns=[*columns, *skipped])
    frame.attrs["cpu_s"] = seconds
    return frame


def _methods_of(network: str) -> list[dict]:
    return [vars(method) for method in METHODS if method.network == network]


def _read(path: Path, made_from: str) -> dict | None:
    """Read what was measured before; None if it is missing, damaged, or of another design."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if kept.get("made_from") == made_from else None


def make_bench(seed: int, design: Design) -> Bench:
    """Draw a seed's wells and its asked batches."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    wells = draw_wells(seed, design)
    images = standardise_pixels(wells.images, wells.table.is_test.to_numpy())
    return Bench(wells, images, tuple(ask_batches(wells.table, seed)))
