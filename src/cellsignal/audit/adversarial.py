"""Adversarial validation: can a cheap model tell the held-out rows from the training rows?

A linear classifier (ridge) on log mean and SD of each channel, and their squares, is
cross-validated by whole units: those that were dealt to the parts. What it scores is compared with
what it scores when the units are dealt anew at random. A clear difference is no leak: it says that
the held-out rows come from elsewhere, and that validation need not foretell the test.
"""

from math import comb

import numpy as np

from cellsignal.audit.findings import Finding, not_applicable, passed
from cellsignal.audit.measures import (
    SPLITS,
    area_under_curve,
    grouped_folds,
    permuted,
    store_features,
    texts,
)
from cellsignal.audit.parts import Audited, Part, without_repeats
from cellsignal.metrics.intervals import jackknife, jackknife_interval

LEAST_AREA = 0.7  # below it the parts differ too little to matter
DRAWS = 999  # random deals, none of which may score as much: p at most 1/1000
LEAST_UNITS = 3  # of each side
RIDGE = 0.01
_MOST_ROWS = 1000  # of each side


def check_adversarial(audited: Audited, seed: int = 0) -> list[Finding]:
    """Try to tell each part's two sides apart by the store's pixel statistics."""
    check = "adversarial validation"
    if audited.store is None:
        return [not_applicable(check, audited.no_store)]
    rows = audited.samples["row"].to_numpy()
    store = audited.store
    channels = store.channels
    features, names = store_features(store.mean[rows], store.sd[rows], channels)
    parts = [part for part in audited.parts if part.kind != "selection"]
    return [_tell_apart(audited, without_repeats(part), features, names, seed) for part in parts]


def _unit_of(audited: Audited, part: Part) -> tuple[str, np.ndarray] | None:
    """Return the unit that was dealt to the sides, and each sample's; None where too few were.

    In a fold it is the group; else the coarsest that no two sides share. Finer ones would not do:
    plates of one experiment are alike.
    """
    samples = audited.samples
    columns = ["experiment", "plate", "well_id"]
    if part.kind == "validation" and audited.folds is not None:
        columns = [audited.folds.group]
    for column in columns:
        names = samples[column].astype(str)
        if column == "plate":
            names = samples.experiment.astype(str) + " " + names
        sides = [set(names.iloc[rows]) for rows in (part.train, part.held)]
        if not sides[0] & sides[1]:
            return (column, texts(names)) if min(map(len, sides)) >= LEAST_UNITS else None
    return None


def _tell_apart(
    audited: Audited,
    part: Part,
    features: np.ndarray,
    names: list[str],
    seed: int,
) -> Finding:
    check = "adversarial validation"
    unit = _unit_of(audited, part)
    if unit is None:
        reason = f"needs {LEAST_UNITS} units (what folds deal; experiments, plates or wells) a side"
        return not_applicable(check, reason, part.name)
    column, units = unit
    rng = np.random.default_rng(seed)
    rows = np.concatenate([_some(part.train, rng), _some(part.held, rng)])
    held = np.isin(rows, part.held)
    x, group = features[rows], np.unique(units[rows], return_inverse=True)[1]
    area, score = _cross_validated(x, held, group, seed)
    _, without = jackknife(
        lambda chosen: _area_or_half(score[chosen], held[chosen]), group, len(group)
    )
    share = np.full(len(without), 1 / len(without))
    low, high = jackknife_interval(area, without, share)
    single = [area_under_curve(column_, held) for column_ in x.T]
    telling = sorted(range(len(single)), key=lambda k: -abs(single[k] - 0.5))[:3]
    words = "; ".join(f"{names[k]} {max(single[k], 1 - single[k]):.2f}" for k in telling)
    text = f"AUC {area:.2f} [{low:.2f}, {high:.2f}] over {len(set(group))} values of {column}"
    if area < LEAST_AREA:
        return passed(check, part.name, f"{text}; most telling: {words}", len(rows))
    sides = [len(set(group[side])) for side in (held, ~held)]
    if comb(sum(sides), sides[0]) <= DRAWS:
        reason = f"{text}; {sides[0]} against {sides[1]} are too few to say whether that is chance"
        return not_applicable(check, reason, part.name)
    for _ in range(DRAWS):
        if _cross_validated(x, permuted(held, group, rng), group, seed)[0] >= area:
            words = f"{text}; a random deal scores as much; most telling: {words}"
            return passed(check, part.name, words, len(rows))
    message = f"{text} (p <= {1 / (DRAWS + 1):g} against random deals): held-out rows look "
    message += "otherwise"
    examples = tuple(words.split("; "))
    advice = "standardise by plate (`normalization.by: plate`), and expect another score on the "
    advice += "test than out of fold; ask how these rows came to be held out"
    return Finding(check, part.name, "warn", len(rows), message, examples, advice)


def _some(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= _MOST_ROWS else rng.choice(rows, _MOST_ROWS, replace=False)


def _area_or_half(score: np.ndarray, held: np.ndarray) -> float:
    return area_under_curve(score, held) if 0 < held.sum() < len(held) else 0.5


def _cross_validated(
    x: np.ndarray, held: np.ndarray, group: np.ndarray, seed: int
) -> tuple[float, np.ndarray]:
    """Return the area under the curve of scores out of fold, and these scores.

    Units of either side are dealt to folds apart, so that each fold has both.
    """
    score, number = np.zeros(len(x)), np.zeros(len(x), int)
    for side in (held, ~held):
        members = np.flatnonzero(side)
        for k, (_, inside) in enumerate(grouped_folds(group[members], SPLITS, seed)):
            number[members[inside]] = k
    for k in range(SPLITS):
        train, test = number != k, number == k
        middle, scale = x[train].mean(axis=0), x[train].std(axis=0) + 1e-9
        z = (x - middle) / scale
        z = np.concatenate([z, np.clip(np.square(z), 0, 25), np.ones((len(z), 1))], axis=1)
        score[test] = z[test] @ _fit(z[train], held[train])
    return area_under_curve(score, held), score


def _fit(z: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Return the weights of a ridge regression of the sides, which weigh alike."""
    weight = np.where(held, 0.5 / held.sum(), 0.5 / (~held).sum())[:, None]
    penalty = RIDGE * np.eye(z.shape[1])
    return np.linalg.solve(z.T @ (weight * z) + penalty, z.T @ (weight[:, 0] * (2.0 * held - 1)))
