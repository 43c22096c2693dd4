"""Run the study and write the page docs/results/channels.md."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cellsignal.common.files import write_text
from cellsignal.metrics.intervals import mean_interval, plural
from cellsignal.studies.pages import machine, row_text

log = logging.getLogger(__name__)
BASELINE = "cnn"
# case -> data set, the stains that are looked at (None: all)
CASES: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "RxRx1, all 6": ("rxrx1", None),
    "RxRx1, dna and actin": ("rxrx1", ("dna", "actin")),
    "BBBC021, all 3": ("bbbc021", None),
    "BBBC021, dna and actin": ("bbbc021", ("dna", "actin")),
}
PAGE = """# Is one network of stains worth as much as a network for each data set?

The code is `cellsignal.studies.channels`; the command writes this page.

    cellsignal study channels --seeds {seeds} --epochs {epochs} --out docs/results/channels.md

{machine}; {seconds:.0f} s of CPU time on one thread.

Two simulated data sets, anew for every seed: RxRx1 (dna, er, actin, rna, mito, golgi; {rxrx1}) and
BBBC021 (actin, tubulin, dna; {bbbc021}). They share two stains, no class and no image. Whole
experiments and whole compounds are held out: {held}. Every channel of an image is standardised by
itself; 40 px; every network sees the images of a set {epochs} times, from scratch, and predicts the
mean of four views. Accuracy by image with 95 % intervals over the held-out units of all seeds
together (`metrics/intervals.py`); chance is {chance}.

**dna and actin**: the other channels are missing at prediction. No network saw these two alone in
training but by chance (channel dropout). A network that takes all channels at once gets zeros, the
mean of each image, in their place; a network of stains gets the two.

## Accuracy

{accuracy}

## Against a network of its own for each set ({baseline})

Paired by image; a positive figure is better than the baseline of the same case.

{paired}

Rows worse than the baseline beyond their interval: {lost}.

## What it says

{says}
"""


def measure(seed: int, epochs: int, work: Path) -> dict:
    """Return what every method names rightly, by case; methods that are done are read.

    Returns:
        method -> case -> list of 0 and 1 by held-out image; and "units", "classes", "images",
        "seconds".
    """
    import torch

    from cellsignal.studies.channels.images import simulated_sets
    from cellsignal.studies.channels.training import METHODS, train_method

    path = work / f"epochs{epochs}_seed{seed}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    missing = [name for name in METHODS if name not in record.get("right", {})]
    if not missing:
        return record
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sets = simulated_sets(work, seed)
    record.setdefault("right", {})
    record["units"] = {k: [f"{seed}/{u}" for u in v.unit[v.held_out]] for k, v in sets.items()}
    record["classes"] = {name: images.classes for name, images in sets.items()}
    record["images"] = {k: int((~images.held_out).sum()) for k, images in sets.items()}
    for name in missing:
        start = time.process_time()
        trained = train_method(METHODS[name], sets, seed, epochs)
        right = {}
        for case, (key, stains) in CASES.items():
            seen = None if stains is None else [sets[key].stains.index(s) for s in stains]
            right[case] = trained.right(key, sets[key], seen).int().tolist()
        seconds = time.process_time() - start
        record["right"][name] = right
        record["seconds"] = record.get("seconds", 0.0) + seconds
        write_text(path, json.dumps(record))
        figures = ", ".join(f"{case} {np.mean(values):.3f}" for case, values in right.items())
        log.info("seed %d, %s: %s (%.0f s)", seed, name, figures, seconds)
    torch.set_num_threads(threads)
    return record


def channels_page(records: Sequence[Mapping], seeds: Sequence[int], epochs: int) -> str:
    """Return the page of the records of `measure`, one for each seed."""
    from cellsignal.studies.channels.images import SETS
    from cellsignal.studies.channels.training import METHODS

    first, names = records[0], list(METHODS)
    paired = {name: _paired(records, name) for name in names if name != BASELINE}
    lost = [
        f"{METHODS[name].title} ({case})"
        for name, cases in paired.items()
        for case, (_, _, high) in cases.items()
        if high < 0
    ]
    units = {name: len({u for r in records for u in r["units"][name]}) for name in SETS}
    held = ", ".join(plural(SETS[name][1], units[name]) for name in SETS)
    sizes = {name: f"{first['images'][name]} training images" for name in SETS}
    return PAGE.format(
        seeds=" ".join(map(str, seeds)),
        epochs=epochs,
        machine=machine(),
        seconds=sum(record["seconds"] for record in records),
        held=held,
        chance=", ".join(f"{1 / first['classes'][name]:.3f} ({name})" for name in SETS),
        accuracy=_table(names, lambda name: [_accuracy(records, name, case) for case in CASES]),
        paired=_table(list(paired), lambda name: [_range(*x) for x in paired[name].values()]),
        baseline=METHODS[BASELINE].title,
        lost="; ".join(lost) or "none",
        says=says(records, paired),
        **sizes,
    )


def says(records: Sequence[Mapping], paired: Mapping) -> str:
    """Return the page's conclusions, each from the figures."""
    from cellsignal.studies.channels.training import METHODS

    lines = []
    for case in CASES:
        means = {name: _values(records, name, case).mean() for name in METHODS}
        best = max(means, key=means.get)
        text = f"- {case}: best is {METHODS[best].title} ({means[best]:.3f}"
        if best != BASELINE:
            text += f"; {_range(*paired[best][case])} against {METHODS[BASELINE].title}"
        lines.append(text + ").")
    return "\n".join(lines)


def _values(records: Sequence[Mapping], name: str, case: str) -> np.ndarray:
    return np.concatenate([record["right"][name][case] for record in records]).astype(float)


def _units(records: Sequence[Mapping], case: str) -> list[str]:
    return [unit for record in records for unit in record["units"][CASES[case][0]]]


def _accuracy(records: Sequence[Mapping], name: str, case: str) -> str:
    values = _values(records, name, case)
    low, high = mean_interval(values, _units(records, case))
    return f"{values.mean():.3f} [{low:.2f}, {high:.2f}]"


def _paired(records: Sequence[Mapping], name: str) -> dict[str, tuple[float, float, float]]:
    """Return case -> difference from the baseline, and its interval."""
    result = {}
    for case in CASES:
        difference = _values(records, name, case) - _values(records, BASELINE, case)
        interval = mean_interval(difference, _units(records, case), bounded=False)
        result[case] = (float(difference.mean()), *interval)
    return result


def _range(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} [{low:+.2f}, {high:+.2f}]"


def _table(names: Sequence[str], cells: Callable[[str], list[str]]) -> str:
    from cellsignal.studies.channels.training import METHODS

    lines = [f"| | {' | '.join(CASES)} |", f"|{'---|' * (len(CASES) + 1)}"]
    lines += [row_text((METHODS[name].title, *cells(name))) for name in names]
    return "\n".join(lines)
