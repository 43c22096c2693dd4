"""Measure how often the 95 % intervals hold the truth: docs/results/coverage.md.

Units (experiments, compounds) are drawn from a population whose score is known, their wells from
the units, and the interval is computed as everywhere else, from the units' sums. The percentile
bootstrap over the same units stands beside it for comparison.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from scipy.special import expit, logit

from cellsignal.metrics.average_precision import macro_leave_out_scores
from cellsignal.metrics.intervals import influence_interval, jackknife_interval, sign_flip_p

UNITS = (3, 5, 10, 20, 50)
BAND = (0.93, 0.97)  # what coverage should be
BOOTSTRAP_DRAWS = 300
POPULATION = 400_000  # units, where the truth is not given by the drawing
BETWEEN = (0.03, 0.1)  # intra-unit correlation


@dataclass(frozen=True)
class Draws:
    """Simulated units: S simulations of J units.

    Attributes:
        size: (S, J) rows of each unit.
        mean: (S, J) mean of each unit's rows.
        truth: the mean of the population.
    """

    size: np.ndarray
    mean: np.ndarray
    truth: float


@dataclass(frozen=True)
class Coverage:
    """How often intervals held the truth in one case.

    Attributes:
        case, units: what was simulated.
        held: share of the intervals that hold the truth.
        given: share of the simulations that have an interval.
        width: median width of the intervals.
        bootstrap: share of the percentile bootstrap's intervals; NaN where it was not run.
        rejected: share of sign-flip tests with p <= .05; NaN where models are not compared.
    """

    case: str
    units: int
    held: float
    given: float
    width: float
    bootstrap: float = float("nan")
    rejected: float = float("nan")


@dataclass(frozen=True)
class Case:
    """A case: its name, and how S simulations of J units are drawn.

    Attributes:
        bounded: the score lies in 0 .. 1; a difference does not.
        bootstrap: run the percentile bootstrap, too.
    """

    name: str
    draw: Callable[[int, int, np.random.Generator], Draws]
    bounded: bool = True
    bootstrap: bool = False
    units: Sequence[int] = field(default=UNITS)


def unit_chances(mean: float, between: float, shape, rng: np.random.Generator) -> np.ndarray:
    """Draw the chance of each unit: a beta distribution with intra-unit correlation `between`."""
    total = 1 / between - 1
    return rng.beta(mean * total, (1 - mean) * total, shape)


def unit_sizes(least: int, most: int, shape, rng: np.random.Generator) -> np.ndarray:
    """Draw sizes, evenly on the scale of their logarithm."""
    return np.exp(rng.uniform(np.log(least), np.log(most + 1), shape)).astype(int)


def draw_accuracy(
    mean: float, between: float, sizes: tuple[int, int], runs: int, units: int, rng
) -> Draws:
    """Draw wells that are right with their unit's chance."""
    shape = (runs, units)
    size = unit_sizes(*sizes, shape, rng)
    right = rng.binomial(size, unit_chances(mean, between, shape, rng))
    return Draws(size, right / size, mean)


def draw_precision(
    mean: float, between: float, sizes: tuple[int, int], runs: int, units: int, rng
) -> Draws:
    """Draw queries whose average precision has a beta distribution around their unit's mean."""
    shape = (runs, units)
    size = unit_sizes(*sizes, shape, rng)
    centre = np.clip(unit_chances(mean, between, shape, rng), 1e-4, 1 - 1e-4)
    total = np.zeros(shape)
    for query in range(sizes[1]):
        value = rng.beta(1.5 * centre, 1.5 * (1 - centre))
        total += np.where(query < size, value, 0)
    return Draws(size, total / size, mean)


def paired_chances(mean: float, gain: float, shape, rng) -> tuple[np.ndarray, np.ndarray]:
    """Draw the chances of two models in each unit; the second gains on the scale of log-odds.

    The gain differs by unit (SD .3). Without a gain on average, models are exchangeable.
    """
    first = np.clip(unit_chances(mean, 0.08, shape, rng), 1e-6, 1 - 1e-6)
    change = gain + rng.normal(0, 0.3, shape)
    return expit(logit(first) - change / 2), expit(logit(first) + change / 2)


def draw_paired(
    mean: float, gain: float, sizes: tuple[int, int], runs: int, units: int, rng
) -> Draws:
    """Draw the difference of two models that are right on much the same wells."""
    truth = 0.0
    if gain:
        chances = paired_chances(mean, gain, POPULATION, np.random.default_rng(1))
        truth = float((chances[1] - chances[0]).mean())
    shape = (runs, units)
    size = unit_sizes(*sizes, shape, rng)
    first, second = paired_chances(mean, gain, shape, rng)
    both = 0.7 * np.minimum(first, second) + 0.3 * first * second
    outcomes = np.stack([first - both, second - both, 1 - first - second + both], -1)
    counts = rng.multinomial(size, np.maximum(outcomes, 0))
    return Draws(size, (counts[..., 1] - counts[..., 0]) / size, truth)


def _range(sizes: tuple[int, int]) -> str:
    return str(sizes[0]) if sizes[0] == sizes[1] else f"{sizes[0]} to {sizes[1]}"


CASES = (
    *(
        Case(
            f"accuracy {mean}, correlation {between}, {_range(sizes)} wells a unit",
            partial(draw_accuracy, mean, between, sizes),
            bootstrap=sizes == (40, 300),
        )
        for mean in (0.2, 0.5, 0.8, 0.95)
        for between in BETWEEN
        for sizes in ((300, 300), (40, 300), (4, 30))
    ),
    *(
        Case(
            f"mAP {mean}, correlation {between}, {_range(sizes)} queries a unit",
            partial(draw_precision, mean, between, sizes),
            bootstrap=between == BETWEEN[1],
        )
        for mean in (0.3, 0.7)
        for between in BETWEEN
        for sizes in ((2, 6), (10, 40))
    ),
    *(
        Case(
            f"difference, accuracy about {mean}, {words}, {_range(sizes)} wells a unit",
            partial(draw_paired, mean, gain, sizes),
            bounded=False,
            bootstrap=sizes == (40, 300),
        )
        for mean in (0.5, 0.8, 0.95)
        for gain, words in ((0.0, "no gain"), (0.3, "a gain"))
        for sizes in ((300, 300), (40, 300))
    ),
)


def measure_case(case: Case, units: int, runs: int, seed: int) -> Coverage:
    """Simulate a case with so many units and count the intervals that hold the truth."""
    rng = np.random.default_rng([seed, units, *case.name.encode()])
    draws = case.draw(runs, units, rng)
    share = draws.size / draws.size.sum(axis=1, keepdims=True)
    value = (share * draws.mean).sum(axis=1)
    influence = share * (draws.mean - value[:, None])
    ends = np.array(
        [
            influence_interval(float(v), i, s, bounded=case.bounded)
            for v, i, s in zip(value, influence, share, strict=True)
        ]
    )
    bootstrap = rejected = float("nan")
    if case.bootstrap:
        bootstrap = of_ends(bootstrap_ends(draws, rng), draws.truth)[0]
    if not case.bounded:
        parts = share * draws.mean
        rejected = float(np.mean([sign_flip_p(row) <= 0.05 for row in parts[: min(runs, 500)]]))
    return Coverage(case.name, units, *of_ends(ends, draws.truth), bootstrap, rejected)


def bootstrap_ends(draws: Draws, rng: np.random.Generator) -> np.ndarray:
    """Return the (S, 2) ends of percentile bootstraps over units."""
    total, units = draws.mean * draws.size, draws.size.shape[1]
    ends = np.empty((len(total), 2))
    for run in range(len(total)):
        drawn = rng.integers(units, size=(BOOTSTRAP_DRAWS, units))
        means = total[run][drawn].sum(axis=1) / draws.size[run][drawn].sum(axis=1)
        ends[run] = np.percentile(means, [2.5, 97.5])
    return ends


def of_ends(ends: np.ndarray, truth: float) -> tuple[float, float, float]:
    """Return the share of intervals that hold the truth, the share given, the median width.

    Args:
        ends: (S, 2), NaN where there is no interval.
    """
    given = ~np.isnan(ends[:, 0])
    low, high = ends[given].T
    holds = (low <= truth) & (truth <= high)
    return float(holds.mean()), float(given.mean()), float(np.median(high - low))


# macro average precision of several labels, over compounds
# --------------------------------------------------------------------------------------------------


def draw_labels(units: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Draw labels, the scores of two models and the compound of each well.

    Six classes; a compound has four wells, and each class with a chance of .3. It shifts the scores
    of its wells, much the same for both models, of which the second separates the classes better.
    """
    wells, classes = 4, 6
    compound = np.repeat(np.arange(units), wells)
    labels = rng.random((units, classes)) < 0.3
    shift, noise = rng.normal(size=(units, classes)), rng.normal(size=(2, units * wells, classes))
    truth = labels[compound]
    own = rng.normal(0, 0.5, (2, units, classes))
    scores = [
        gain * truth + shift[compound] + own[model][compound] + 0.7 * noise[model]
        for model, gain in enumerate((1.0, 1.4))
    ]
    return truth, *scores, compound


def measure_macro(units: int, runs: int, seed: int) -> list[Coverage]:
    """Simulate macro average precision and a paired difference of it.

    Their truth is the mean over the simulations, as average precision depends on how many compounds
    there are.
    """
    rng = np.random.default_rng([seed, units])
    figures: dict[str, list] = {"macro AP": [], "difference, macro AP": []}
    for _ in range(runs):
        truth, first, second, compound = draw_labels(units, rng)
        a, b = (macro_leave_out_scores(truth, scores, compound) for scores in (first, second))
        figures["macro AP"].append((a[0], *jackknife_interval(*a)))
        ends = jackknife_interval(b[0] - a[0], b[1] - a[1], a[2], bounded=False)
        figures["difference, macro AP"].append((b[0] - a[0], *ends))
    rows = []
    for name, values in figures.items():
        table = np.array(values)
        figures_of_case = of_ends(table[:, 1:], table[:, 0].mean())
        rows.append(Coverage(f"{name} of 6 classes, 4 wells a compound", units, *figures_of_case))
    return rows


def measure_coverage(runs: int, seed: int) -> list[Coverage]:
    """Measure every case with every number of units."""
    rows = [measure_case(case, units, runs, seed) for case in CASES for units in case.units]
    for units in UNITS[1:]:
        rows += measure_macro(units, runs, seed)
    return rows
