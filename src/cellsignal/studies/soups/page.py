"""Write the page docs/results/soups.md from the records of the seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellsignal.metrics.intervals import mean_interval, plural
from cellsignal.metrics.paired import Paired, compare_means
from cellsignal.studies.pages import machine, text_table
from cellsignal.studies.pretraining.bench import range_of
from cellsignal.studies.pretraining.page import difference_text, told_apart
from cellsignal.studies.soups.rows import APART_ONE, CYCLES, LAST, MEMBERS, ONE, ROWS, WARM_UP, Row

HOWS = {"plain": "accuracy", "assigned": "after plate assignment"}
PAGE = """# What are snapshots and soups of weights worth?

The code is `cellsignal.studies.soups`; the command writes this page. Finished trainings are left
as they are, stopped ones resume.

    cellsignal study soups --seeds {seeds} --epochs {epochs} --out docs/results/soups.md

{machine}; {seconds:.0f} s of CPU time on one thread for all of it.

Simulated RxRx1, drawn anew for every seed: {classes} classes, one 64 px image of a well, four cell
types of three training and three test experiments. One fold is held out: {train} images train,
{valid} validate. Checkpoints are the last; what is chosen (greedy soups) is chosen on the
validation experiments, and every figure is of the {wells} wells of {experiments} test experiments,
which nothing has looked at.

timm's `test_resnet` and the demo's recipe (batches and BatchNorm statistics by plate, one view);
{epochs} epochs from random weights, a cosine after {warm_up} epochs of warm-up, the rate of the
demo's first stage. A fine-tune is the second half of a training: it takes the weights that a first
half of {half} epochs ends with, and has the rate of the demo's second stage. Rates and decays were
written down once and not tuned. *Epochs trained* counts all that is behind a prediction, *networks*
what a prediction runs.

95 % intervals are over the test experiments of all seeds together (`metrics/intervals.py`);
differences are paired by well, and not corrected for the number of rows. Chance is {chance:.3f};
once the groups of the plates are known, {known:.3f}.

{table}

## Against their own members

A mean of predictions or a soup against its members each alone (of the cycles: against the last
snapshot, which nothing had to choose), and a soup against the mean of the same members'
predictions, which costs {members} networks. Before plate assignment.

{own}

A soup of runs that began with different weights is refused, unless `--any-start` forces it; the
scores are of the validation experiments:

    {refused}

## What it says

{says}

## How far it reaches

- One small network, {train} images, {epochs} epochs; {seeds_word}. An interval that holds nought
  cannot show that there is no gain with larger networks, longer trainings, or weights pretrained on
  other images, for which soups were published.
- After plate assignment one run has {assigned:.3f} already: little is left to gain there.
- BatchNorm statistics are taken anew from every plate at prediction (`predict.adapt: plate`), those
  of averaged weights too.
- The fine-tunes differ by seed alone and have a quarter of the first rate, so that they are near
  each other. The published soups also vary rate, losses and augmentation.
- The first snapshots have seen {first} and {second} epochs alone. Published cycles are tens of
  epochs long.
"""


@dataclass(frozen=True)
class Figures:
    """The wells of all seeds.

    Attributes:
        values: row -> "plain" or "assigned" -> (W,) share of the row's networks that are right.
        units: (W,) the experiment of each well, told apart by seed.
    """

    values: Mapping[str, Mapping[str, np.ndarray]]
    units: np.ndarray

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> "Figures":
        """Put the records of `bench.measure` end to end."""
        records = list(records)
        values = {
            name: {how: np.concatenate([r["rows"][name][how] for r in records]) for how in HOWS}
            for name in ROWS
        }
        return cls(values, np.concatenate([record["units"] for record in records]))

    def against(self, name: str, other: str, how: str = "plain") -> Paired:
        """Compare two rows well by well."""
        return compare_means(self.values[name][how], self.values[other][how], self.units)

    def text(self, name: str, how: str) -> str:
        """Write a row's accuracy with its interval."""
        low, high = mean_interval(self.values[name][how], self.units)
        return f"{self.values[name][how].mean():.3f} [{low:.2f}, {high:.2f}]"


def soups_page(records: Sequence[Mapping[str, Any]], seeds: Sequence[int], epochs: int) -> str:
    """Return the page of the records of `bench.measure`, one for each seed."""
    figures, first = Figures.of(records), records[0]
    warm_up = min(WARM_UP, epochs // 2)
    few = {1: "a single seed", 2: "two seeds"}.get(len(seeds), f"{len(seeds)} seeds")
    return PAGE.format(
        seeds=" ".join(map(str, seeds)),
        seeds_word=f"{few}, {plural('experiment', len(np.unique(figures.units)))}",
        epochs=epochs,
        half=epochs // 2,
        first=warm_up + (epochs - warm_up) // CYCLES,
        second=warm_up + 2 * (epochs - warm_up) // CYCLES,
        warm_up=warm_up,
        machine=machine(),
        seconds=sum(record["seconds"] for record in records),
        classes=first["classes"],
        train=range_of([record["images"]["train"] for record in records]),
        valid=range_of([record["images"]["valid"] for record in records]),
        wells=len(figures.units),
        experiments=len(np.unique(figures.units)),
        chance=1 / first["classes"],
        known=4 / first["classes"],
        members=MEMBERS,
        table=_table(figures, epochs),
        own=_own_table(figures),
        refused=first["refused"],
        assigned=float(figures.values[ONE]["assigned"].mean()),
        says=says(figures),
    )


def _table(figures: Figures, epochs: int) -> str:
    over = "over one run"
    lines = [("what", "epochs trained", "trainings", "networks")]
    lines[0] += tuple(word for title in HOWS.values() for word in (title, over))
    for name, row in ROWS.items():
        cells = [row.title, f"{row.trained * epochs:g}", row.trainings, str(row.networks)]
        for how in HOWS:
            gain = "" if name == ONE else difference_text(figures.against(name, ONE, how))
            cells += [figures.text(name, how), gain]
        lines.append(tuple(cells))
    return text_table(lines)


def _own_table(figures: Figures) -> str:
    lines = [("what", "networks", "over its members alone", "over the mean of their predictions")]
    for name, row in ROWS.items():
        if row.alone:
            others = [row.alone, row.mean]
            cells = [difference_text(figures.against(name, o)) if o else "" for o in others]
            lines.append((row.title, str(row.networks), *cells))
    return text_table(lines)


def says(figures: Figures) -> str:
    """Return the page's conclusions, each from the figures."""
    lines = []
    for name, row in ROWS.items():
        if name == ONE:
            continue
        words = [_beside(figures.against(name, ONE, how)) for how in HOWS]
        text = f"{words[0]} one run"
        text += "" if words[0] == words[1] else f", after plate assignment {words[1]} it"
        if row.alone and row.alone != ONE:
            text += f"; {_beside(figures.against(name, row.alone))} {_members(row)}"
        if row.mean:
            text += f"; {_beside(figures.against(name, row.mean))} the mean of predictions"
        lines.append(f"- {row.title}: {text}.")
    cheap = [name for name, row in ROWS.items() if row.networks == 1 and row.trained == 1]
    best = max((n for n in cheap if n != APART_ONE), key=lambda n: _mean(figures, n))
    every = max(ROWS, key=lambda n: _mean(figures, n))
    lines.append(f"- Highest of all: {ROWS[every].title} ({_mean(figures, every):.3f}).")
    lines.append(
        f"- Highest at the cost of one run, in training and in prediction: {ROWS[best].title} "
        f"({_mean(figures, best):.3f})."
    )
    return "\n".join(lines)


def _beside(paired: Paired) -> str:
    """Say where a difference lies; two rows may be the same predictions."""
    same = paired.differing == 0 and paired.difference == 0
    return "the same as" if same else told_apart(paired)


def _members(row: Row) -> str:
    return "the last snapshot" if row.alone == LAST else "its members alone"


def _mean(figures: Figures, name: str) -> float:
    return float(figures.values[name]["plain"].mean())
