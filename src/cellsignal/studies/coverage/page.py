"""Write docs/results/coverage.md from measured coverages."""

import math
import platform
from collections.abc import Sequence
from time import perf_counter

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.metrics.intervals import LEAST_UNITS
from cellsignal.studies.coverage.assigned_probabilities import assigned_probabilities
from cellsignal.studies.coverage.simulated_units import (
    BAND,
    BOOTSTRAP_DRAWS,
    UNITS,
    Coverage,
    measure_coverage,
)
from cellsignal.studies.pages import machine, table

HEAD = """# How often the 95 % intervals hold the truth

The code is `cellsignal.studies.coverage`; the method is told in [statistics.md](../statistics.md).

    cellsignal study coverage --simulations {runs} --seed {seed} --out docs/results/coverage.md

{runs:,} simulations a cell, seed {seed}; a cell's standard error is {error:.1f} percentage points
at 95 %, so of {cells} cells some leave 93 .. 97 % by chance. {seconds:.0f} s on {machine}
({system}). Cells outside 93 .. 97 % are **bold**. A unit is an experiment, a plate or a
compound. *Correlation* is the intra-unit correlation: .1 at accuracy .8 is an SD of .13 between
experiments. Fewer than {least} units get no interval.
"""


ASSIGNED = """## Probabilities after plate assignment

`submit --probabilities` states them. *right*: share of the labels (each class once a plate) that
are right; beside each way, the mean probability that it states for these labels and its expected
calibration error, of which *floor* would be there without any fault. *propagation* sums over
assignments by belief propagation; *fitted* also has the second temperature, fitted on other plates.
Shared errors: SD of what all wells of a plate add to a class, in SDs of a well's own noise.
"""


def measured_page(runs: int, seed: int) -> str:
    """Measure every case and return the page.

    Raises:
        InputError: no simulation is asked for.
    """
    if runs < 1:
        raise InputError(f"--simulations: {runs} is not above 0")
    start = perf_counter()
    rows, assigned = measure_coverage(runs, seed), assigned_probabilities(seed)
    page = coverage_page(rows, runs, seed, perf_counter() - start)
    return f"{page}\n{ASSIGNED}\n{table(assigned)}\n"


def coverage_page(rows: Sequence[Coverage], runs: int, seed: int, seconds: float) -> str:
    """Return the page as Markdown."""
    words = {
        "runs": runs,
        "seed": seed,
        "error": 100 * math.sqrt(0.95 * 0.05 / runs),
        "cells": len(rows),
        "seconds": seconds,
        "machine": machine(),
        "system": platform.system(),
        "least": LEAST_UNITS,
    }
    parts = [HEAD.format(**words), "## Coverage\n", _table(rows, "held", "%")]
    parts.append(_given_text(rows))
    outside = [row for row in rows if not BAND[0] <= row.held <= BAND[1]]
    parts += ["## Where it could not be had\n", _outside_text(rows, outside)]
    bootstrap = [row for row in rows if not math.isnan(row.bootstrap)]
    note = f"The same units, {BOOTSTRAP_DRAWS} draws each. It is no longer used.\n"
    parts += ["## The percentile bootstrap over units, for comparison\n", note]
    parts.append(_table(bootstrap, "bootstrap", "%"))
    tests = [row for row in rows if not math.isnan(row.rejected)]
    note = (
        "Share of paired tests with p at most .05 (at most 500 simulations a cell): the error of\n"
        "the first kind where there is no gain, the power where there is one. Up to 5 units no\n"
        "p-value can be so small.\n"
    )
    parts += ["## Sign-flip tests over units\n", note, _table(tests, "rejected", "%", False)]
    parts += ["## Median width of the intervals\n", _table(rows, "width", "")]
    return "\n".join(parts).rstrip("\n") + "\n"


def _table(rows: Sequence[Coverage], name: str, unit: str, marked: bool = True) -> str:
    """Return one row a case, one column a number of units."""
    cases: dict[str, dict[int, float]] = {}
    for row in rows:
        cases.setdefault(row.case, {})[row.units] = getattr(row, name)
    body = [
        (case, *(_cell(values.get(count), unit, marked) for count in UNITS))
        for case, values in cases.items()
    ]
    columns = ["case", *(f"{count} units" for count in UNITS)]
    return table(pd.DataFrame(body, columns=columns)) + "\n"


def _given_text(rows: Sequence[Coverage]) -> str:
    """Say where intervals were not given in more than one of a hundred simulations."""
    rare = [row for row in rows if row.given < 0.99]
    cells = [f"{row.case}: {row.units} units {100 * row.given:.0f} %" for row in rare]
    why = "Differences that are the same in every unit have no interval, nor have too few units."
    return "\n".join([f"{why} Given in less than 99 %:\n", *(f"- {cell}" for cell in cells), ""])


def _cell(value: float | None, unit: str, marked: bool) -> str:
    if value is None:
        return ""
    if not unit:
        return f"{value:.3f}"
    text = f"{100 * value:.1f}"
    return f"**{text}**" if marked and not BAND[0] <= value <= BAND[1] else text


def _outside_text(rows: Sequence[Coverage], outside: Sequence[Coverage]) -> str:
    low = [row for row in outside if row.held < BAND[0]]
    high = [row for row in outside if row.held > BAND[1]]
    lines = [
        f"{len(rows) - len(outside)} of {len(rows)} cells lie within 93 .. 97 %; {len(low)} lie "
        f"below, {len(high)} above.",
        "",
    ]
    for kind, chosen in (("Too narrow", low), ("Too wide", high)):
        names: dict[str, list[str]] = {}
        for row in chosen:
            names.setdefault(row.case, []).append(f"{row.units} units {100 * row.held:.1f} %")
        lines += [f"- {kind}: {case}: {', '.join(cells)}." for case, cells in names.items()]
    return "\n".join(lines) + "\n"
