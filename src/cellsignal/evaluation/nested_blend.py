"""Measure blends honestly: chosen on some units, measured on the others, in turn over all.

Weights that are scored on the targets they were chosen on win even among members of pure noise.
Here the units are dealt to parts; the temperatures and weights for a part are chosen on the other
parts alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.evaluation.blend_members import Members, unit_interval, unit_losses, unit_scores
from cellsignal.evaluation.blend_weights import (
    METHODS,
    Blend,
    Choose,
    best_member,
    calibrated_weights,
    equal_weights,
    hill_climb,
    stack,
)

PARTS = 10
WAYS: dict[str, Choose] = {
    "equal weights": equal_weights,
    "best member": best_member,
    "calibrated, equal weights": calibrated_weights,
    "hill climbing": hill_climb,
    "stacking": stack,
}
NAMES = {
    "stack": "stacking",
    "hill": "hill climbing",
    "calibrate": "calibrated, equal weights",
    "equal": "equal weights",
}


@dataclass(frozen=True)
class Change:
    """A score or loss, and by how much it is above another's on the same targets.

    Attributes:
        value: the score or the log-loss.
        change: value - that of the other.
        low, high: the 95 % interval of the change over units; NaN if there is none.
    """

    value: float
    change: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """A way to blend: its nested score and log-loss, and what they gain over equal weights.

    Attributes:
        naive: the gain in score that the same targets promise that the weights were chosen on.
    """

    name: str
    score: Change
    loss: Change
    naive: float


@dataclass(frozen=True)
class NestedBlend:
    """What blending members is worth.

    Attributes:
        rows: the ways to blend, equal weights first.
        blend: the blend by the method that was asked for, chosen on all targets.
        method: its key in `METHODS`.
        spread: (M,) the standard deviation of each weight over the parts.
        alone: each member alone: score and what it is above equal weights.
        value: what each member adds to the blend: nested, with it minus without it; empty for one
            member alone.
        correlation: (M, M) of the members' residuals.
        parts: how many parts the units were dealt to.
    """

    rows: tuple[Row, ...]
    blend: Blend
    method: str
    spread: np.ndarray
    alone: tuple[Row, ...]
    value: tuple[Row, ...]
    correlation: np.ndarray
    parts: int

    def row(self, name: str) -> Row:
        """Return the row of a way."""
        return next(row for row in self.rows if row.name == name)

    @property
    def gain(self) -> Row:
        """The row of the blend's method."""
        return self.row(NAMES[self.method])


def nest_blend(
    members: Members, method: str = "stack", parts: int = PARTS, seed: int = 0, values: bool = True
) -> NestedBlend:
    """Choose a blend, and measure every way to blend on units that did not choose.

    Args:
        method: the key of `METHODS` for the blend itself.
        parts: how many parts units are dealt to, at most one a unit.
        values: measure what each member adds, which takes as many more blends.

    Raises:
        InputError: one unit alone.
    """
    if members.units < 2:
        raise InputError("all targets are of one unit: weights need others to be measured on")
    part = deal_units(members, parts, seed)
    fits = cross_fit(members, WAYS, part)
    equal, ours = fits["equal weights"].scores, fits[NAMES[method]]
    few = members.fewer()
    rows = [
        _row(members, name, fit.scores, equal, _naive_gain(few, WAYS[name]))
        for name, fit in fits.items()
    ]
    temperatures = fits["calibrated, equal weights"].temperatures(part)
    alone = [
        _row(members, name, scores / temperature[:, None], equal)
        for name, scores, temperature in zip(
            members.names, members.scores, temperatures, strict=True
        )
    ]
    values = _values(members, METHODS[method], part, ours.scores) if values else ()
    return NestedBlend(
        rows=tuple(rows),
        blend=METHODS[method](few),
        method=method,
        spread=np.std([blend.weights for blend in ours.blends], axis=0),
        alone=tuple(alone),
        value=tuple(values),
        correlation=residual_correlation(members),
        parts=int(part.max()) + 1,
    )


def deal_units(members: Members, parts: int, seed: int) -> np.ndarray:
    """Return the part of each target, (T,): units are dealt at random, none is split."""
    codes = np.unique(members.unit, return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(members.units)
    return (order % min(parts, members.units))[codes]


@dataclass(frozen=True)
class CrossFit:
    """Targets blended by what was chosen on the other parts.

    Attributes:
        scores: (T, K).
        blends: of each part.
    """

    scores: np.ndarray
    blends: tuple[Blend, ...]

    def temperatures(self, part: np.ndarray) -> np.ndarray:
        """Return the temperature of each member for each target, (M, T)."""
        return np.array([blend.temperatures for blend in self.blends])[part].T


def cross_fit(
    members: Members, ways: Mapping[str, Choose], part: np.ndarray
) -> dict[str, CrossFit]:
    """Blend the targets of each part by what each way chooses on the others.

    Args:
        part: (T,) int.
    """
    merged = {name: np.zeros(members.scores.shape[1:], np.float32) for name in ways}
    blends: dict[str, list[Blend]] = {name: [] for name in ways}
    for number in range(int(part.max()) + 1):
        inside = part == number
        others, scores = members.rows(~inside).fewer(), members.scores[:, inside]
        for name, choose in ways.items():
            blends[name].append(choose(others))
            merged[name][inside] = blends[name][-1].merge(scores)
    return {name: CrossFit(merged[name], tuple(blends[name])) for name in ways}


def compare(ours: np.ndarray, others: np.ndarray) -> Change:
    """Compare what units give, (J,) each, by the mean over units."""
    difference = ours - others
    return Change(float(ours.mean()), float(difference.mean()), *unit_interval(difference))


def residual_correlation(members: Members) -> np.ndarray:
    """Return the correlation of the members' residuals over targets and classes, (M, M).

    A residual is the calibrated probability of a class minus 1 if it is true: two members with
    the same residuals make the same errors, and gain nothing from each other.
    """
    few = members.fewer()
    residuals = [
        few.losses(scores / temperature)[1].ravel()
        for scores, temperature in zip(few.scores, few.temperatures, strict=True)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_2d(np.corrcoef(residuals))


def _row(
    members: Members, name: str, merged: np.ndarray, other: np.ndarray, naive: float = np.nan
) -> Row:
    score = compare(unit_scores(members, merged), unit_scores(members, other))
    loss = compare(unit_losses(members, merged), unit_losses(members, other))
    return Row(name, score, loss, naive)


def _naive_gain(members: Members, choose: Choose) -> float:
    """Return the gain over equal weights on the very targets that chose."""
    scores = choose(members).merge(members.scores)
    equal = equal_weights(members).merge(members.scores)
    return members.quick_score(scores) - members.quick_score(equal)


def _values(members: Members, choose: Choose, part: np.ndarray, ours: np.ndarray) -> Iterator[Row]:
    """Yield what the blend of all has above the blend without each member."""
    count = len(members.names)
    if count < 2:
        return
    for number in range(count):
        others = members.members([m for m in range(count) if m != number])
        without = cross_fit(others, {"": choose}, part)[""].scores
        yield _row(members, members.names[number], ours, without)
