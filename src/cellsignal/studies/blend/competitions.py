"""Measure what blends are worth over simulated competitions: docs/results/blend.md.

Logits of eight models are drawn, no network is trained: three families of architectures whose
errors correlate, hard targets that all miss, effects of whole units, models of different quality
and calibration. So the truth is known: the same models on hundreds of fresh units.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cellsignal.evaluation.blend_members import Members, unit_losses, unit_scores
from cellsignal.evaluation.blend_weights import Blend, equal_weights
from cellsignal.evaluation.nested_blend import WAYS, NestedBlend, nest_blend

MODELS = 8
FAMILIES = np.array([0, 0, 0, 0, 1, 1, 1, 2])
FRESH_UNITS = 200
COMPETITIONS = 20
PREVALENCE = 0.2  # of each class, where several may be true
LOG_ODDS = np.log(1 / PREVALENCE - 1)
LOSS = {True: "binary_cross_entropy", False: "cross_entropy"}
METRIC = {True: "average_precision", False: "accuracy"}


@dataclass(frozen=True)
class Design:
    """What is drawn once for a competition.

    Attributes:
        several: several classes may be true of a target.
        units, classes: their numbers.
        signal: (M,) how far each model's logit of a true class is raised.
        scale: (M,) what a model's logits are multiplied by.
        common, family: shares of the noise's variance that all models, and a family, have in
            common.
        batch: SD of the effect of a unit on a class, half of its variance common to all models.
    """

    several: bool
    units: int
    classes: int
    signal: np.ndarray
    scale: np.ndarray
    common: float
    family: float
    batch: float


@dataclass(frozen=True)
class Outcome:
    """What blending was worth in one competition.

    Attributes:
        design: what was drawn.
        targets: their number.
        nested: what the targets at hand say.
        fresh: by the name of a way, the true gain in score and in log-loss: on fresh units.
    """

    design: Design
    targets: int
    nested: NestedBlend
    fresh: dict[str, tuple[float, float]]


def draw_design(generator: np.random.Generator, several: bool) -> Design:
    """Draw a competition."""
    spread = generator.uniform(0, 0.5)
    signal = generator.uniform(1.2, 2.2) * np.exp(spread * generator.normal(size=MODELS))
    if generator.random() < 1 / 3:
        signal[generator.integers(MODELS)] = 0.1  # a broken model
    return Design(
        several=several,
        units=int(generator.integers(8, 31)),
        classes=int(generator.choice([6, 12] if several else [6, 12, 24, 48])),
        signal=signal,
        scale=np.exp(generator.uniform(0, 0.8) * generator.normal(size=MODELS)),
        common=generator.uniform(0.1, 0.4),
        family=generator.uniform(0.2, 0.5),
        batch=generator.uniform(0, 0.6),
    )


def draw_members(design: Design, units: int, generator: np.random.Generator) -> Members:
    """Draw the targets of some units, and the logits of the eight models."""
    size = generator.integers(15, 60, units)
    unit = np.repeat(np.arange(units), size)
    shape = (len(unit), design.classes)
    truth = generator.integers(0, design.classes, len(unit))
    raised = np.eye(design.classes)[truth]
    if design.several:
        raised = (generator.random(shape) < PREVALENCE).astype(float)
        truth = raised
    common = generator.normal(size=shape) * np.sqrt(design.common)
    batch = generator.normal(size=(units, design.classes)) * np.sqrt(0.5)
    families = generator.normal(size=(FAMILIES.max() + 1, *shape)) * np.sqrt(design.family)
    scores = np.empty((MODELS, *shape), np.float32)
    for model in range(MODELS):
        own = generator.normal(size=shape) * np.sqrt(1 - design.common - design.family)
        effect = batch + generator.normal(size=batch.shape) * np.sqrt(0.5)
        noise = common + families[FAMILIES[model]] + own + design.batch * effect[unit]
        strength = design.signal[model]
        threshold = strength / 2 + LOG_ODDS / max(strength, 0.5) if design.several else 0
        scores[model] = design.scale[model] * (strength * raised + noise - threshold)
    return Members(
        names=tuple(f"model {number + 1}" for number in range(MODELS)),
        scores=scores,
        truth=truth,
        unit=unit,
        equal=np.full(MODELS, 1 / MODELS),
        loss=LOSS[design.several],
        metric=METRIC[design.several],
    )


def bench_blends(competitions: int = COMPETITIONS, seed: int = 0) -> Iterator[Outcome]:
    """Blend the models of each competition; every fourth has several classes a target."""
    for number in range(competitions):
        generator = np.random.default_rng([seed, number])
        design = draw_design(generator, several=number % 4 == 3)
        yield measure(design, generator)


def bench_noise(competitions: int = COMPETITIONS, seed: int = 0) -> Iterator[Outcome]:
    """The same with eight models that know nothing, and the same scale: nothing can be gained."""
    for number in range(competitions):
        generator = np.random.default_rng([seed, number, 1])
        drawn = draw_design(generator, several=False)
        nothing = np.zeros(MODELS)
        fields = vars(drawn) | {"signal": nothing, "scale": nothing + 1, "classes": 6}
        yield measure(Design(**fields), generator)


def measure(design: Design, generator: np.random.Generator) -> Outcome:
    """Blend drawn targets by every way, and score the blends on fresh units."""
    members = draw_members(design, design.units, generator)
    fresh = draw_members(design, FRESH_UNITS, generator)
    nested = nest_blend(members, values=False)
    gains = {name: fresh_gain(fresh, choose(members)) for name, choose in WAYS.items()}
    return Outcome(design, len(members.unit), nested, gains)


def fresh_gain(fresh: Members, blend: Blend) -> tuple[float, float]:
    """Return what a blend gains over equal weights in score and in log-loss."""
    ours, equal = blend.merge(fresh.scores), equal_weights(fresh).merge(fresh.scores)
    score = unit_scores(fresh, ours).mean() - unit_scores(fresh, equal).mean()
    loss = unit_losses(fresh, ours).mean() - unit_losses(fresh, equal).mean()
    return float(score), float(loss)


@dataclass(frozen=True)
class Summary:
    """How often a way to blend won over many competitions.

    Attributes:
        total: number of competitions.
        better, worse: with a nested gain above 0; with an interval wholly above, wholly below 0.
        truly_better: with a gain on fresh units.
        held: whose interval held the gain on fresh units.
        nested, naive, fresh: mean gains: measured on units that did not choose, on those that did,
            and on fresh ones.
    """

    total: int
    better: int
    surely_better: int
    surely_worse: int
    truly_better: int
    held: int
    nested: float
    naive: float
    fresh: float


def summarise(outcomes: Sequence[Outcome], way: str) -> Summary:
    """Count the wins of a way to blend."""
    rows = [outcome.nested.row(way) for outcome in outcomes]
    fresh = [outcome.fresh[way][0] for outcome in outcomes]
    scores = [row.score for row in rows]
    return Summary(
        total=len(rows),
        better=sum(score.change > 0 for score in scores),
        surely_better=sum(score.low > 0 for score in scores),
        surely_worse=sum(score.high < 0 for score in scores),
        truly_better=sum(gain > 0 for gain in fresh),
        held=sum(
            score.low <= gain <= score.high for score, gain in zip(scores, fresh, strict=True)
        ),
        nested=float(np.mean([score.change for score in scores])),
        naive=float(np.mean([row.naive for row in rows])),
        fresh=float(np.mean(fresh)),
    )
