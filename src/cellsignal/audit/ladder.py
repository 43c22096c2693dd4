"""The ladder: one cheap model under ever stricter splits, so that each leak has a price.

Linear discriminants on plain image features are scored on held-out images, wells, plates,
experiments and compounds: the same rows each time, of classes drawn whole. What a rung scores above
the next is what that kind of leak would promise and not keep. Then two controls go through the
audited parts themselves and must score as guessing does: noise in place of the images, and labels
that were exchanged between wells. They fail where copies, or wells, lie on both sides.
"""

import numpy as np
import pandas as pd

from cellsignal.audit.findings import Finding, not_applicable, passed
from cellsignal.audit.images import image_codes
from cellsignal.audit.measures import (
    SPLITS,
    accuracy_of,
    discriminant,
    grouped_folds,
    guessing,
    nearest,
    permuted,
    texts,
)
from cellsignal.audit.parts import Audited, Part
from cellsignal.audit.pictures import Pictures
from cellsignal.audit.units import unit_names
from cellsignal.metrics.accuracy import Accuracy, clustered_interval

RUNGS = ("image", "well", "plate", "experiment", "compound")
COARSEST = ("experiment", "plate", "well_id")  # unit of intervals: the first with several values
ROUNDS = 5
ALARM = 1e-5  # chance that a control of a clean part fails
_NOISE_FEATURES = 20


def ladder_rows(audited: Audited, most: int, seed: int = 0) -> np.ndarray:
    """Choose the labelled training images of the ladder: whole classes, at most about `most`.

    Empty where there is no single label, or there are no two classes.
    """
    used = {int(row) for part in audited.validations for row in (*part.train, *part.held)}
    rows = np.array(sorted(used), int)
    label = audited.samples.label.iloc[rows]
    rows, label = rows[label.notna().to_numpy()], label.dropna().to_numpy(int)
    names = np.random.default_rng(seed).permutation(np.unique(label))
    counts = np.cumsum([(label == name).sum() for name in names])
    chosen = names[: max(int((counts <= most).sum()), 2)]
    return rows[np.isin(label, chosen)] if len(names) > 1 else rows[:0]


def check_ladder(audited: Audited, pictures: Pictures | None, rows: np.ndarray) -> list[Finding]:
    """Climb the ladder, then run the controls through each validation part.

    Args:
        pictures: holds the features of `rows`.
        rows: of `ladder_rows`.
    """
    findings = [_position_alone(audited, part) for part in audited.validations]
    checks = ("ladder", "control: noise images", "control: shuffled labels")
    if audited.store is None or pictures is None:
        return findings + [not_applicable(check, audited.no_store) for check in checks]
    if not len(rows):
        reason = "needs single labels of two classes"
        return findings + [not_applicable(check, reason) for check in checks]
    features = np.stack([pictures.features[int(row)] for row in rows])
    samples = audited.samples.iloc[rows].reset_index(drop=True)
    content = image_codes(audited.store, audited.samples)[0][rows]
    place = pd.Series(np.arange(len(rows)), index=rows)
    sides = {}
    for part in audited.validations:
        both = [place.loc[side[np.isin(side, rows)]].to_numpy(int) for side in _sides(part)]
        if min(map(len, both)):
            sides[part.name] = both
    findings += _climb(samples, features)
    findings.append(_as_split(samples, features, list(sides.values())))
    for name, (train, held) in sides.items():
        findings += _controls(name, samples, features, content, train, held)
    return findings


def _as_split(
    samples: pd.DataFrame, features: np.ndarray, sides: list[list[np.ndarray]]
) -> Finding:
    """Score the ladder's model, and its nearest neighbour, on the audited parts as they are."""
    label, unit = samples.label.to_numpy(int), _interval_unit(samples)
    texts = []
    for title, predict in (("discriminant", discriminant), ("nearest neighbour", nearest)):
        right, units = [], []
        for train, held in sides:
            predicted = predict(features[train], label[train], features[held])
            right.append((predicted == label[held]).astype(float))
            units.append(unit[held])
        if right:
            texts.append(f"{title} {accuracy_of(*map(np.concatenate, (right, units)))[1]}")
    if not texts:
        return not_applicable("ladder", "no part has images of the ladder", "as split")
    held = sum(len(held) for _, held in sides)
    return passed("ladder", "as split", f"the audited parts: {', '.join(texts)}", held)


def _interval_unit(samples: pd.DataFrame) -> np.ndarray:
    """Return the unit of the intervals: the coarsest of which there are several."""
    for name in COARSEST:
        if samples[name].nunique() > 1:
            return texts(samples[name])
    return texts(samples.sample_id)


def _sides(part: Part) -> tuple[np.ndarray, np.ndarray]:
    return part.train, part.held


def _climb(samples: pd.DataFrame, features: np.ndarray) -> list[Finding]:
    label = samples.label.to_numpy(int)
    right: dict[str, np.ndarray] = {}
    findings, names = [], {"image": samples.sample_id}
    names |= {rung: unit_names(samples, f"{rung}s") for rung in RUNGS[1:]}
    interval_unit = _interval_unit(samples)
    for rung in RUNGS:
        reason = _unfit(names[rung], label)
        if reason is None:
            right[rung] = _out_of_fold(features, label, texts(names[rung]))
        else:
            findings.append(not_applicable("ladder", f"{rung}s held out: {reason}", rung))
    rungs = list(right)
    for rung, following in zip(rungs, [*rungs[1:], None], strict=True):
        findings.append(_rung(right, rung, following, label, interval_unit))
    return findings


def _unfit(names: pd.Series, label: np.ndarray) -> str | None:
    """Say why a rung cannot be climbed: one unit alone, or classes that one unit holds."""
    if names.isna().any():
        return "some have no name"
    if names.nunique() < 2:
        return "there is one"
    units_of_class = pd.Series(texts(names)).groupby(label).nunique()
    single = float((units_of_class == 1).mean())
    return f"{single:.0%} of the classes are of one" if single > 0.5 else None


def _out_of_fold(features: np.ndarray, label: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return (N,) 1 where the held-out prediction is right, NaN where training lacks the class."""
    right = np.full(len(label), np.nan)
    for train, held in grouped_folds(unit, SPLITS, seed=0):
        known = held[np.isin(label[held], label[train])]
        if len(known):
            predicted = discriminant(features[train], label[train], features[known])
            right[known] = predicted == label[known]
    return right


def _rung(
    right: dict[str, np.ndarray],
    rung: str,
    following: str | None,
    label: np.ndarray,
    unit: np.ndarray,
) -> Finding:
    scored = np.isfinite(right[rung])
    _, text = accuracy_of(right[rung][scored], unit[scored])
    message = f"{rung}s held out: accuracy {text}; chance {1 / len(np.unique(label)):.3f}"
    if following is not None:
        both = scored & np.isfinite(right[following])
        difference = right[rung][both] - right[following][both]
        low, high = clustered_interval(difference, unit[both], seed=0)
        message += f"; {difference.mean():+.3f} [{low:.2f}, {high:.2f}] over {following}s held out"
    return passed("ladder", rung, message, int(scored.sum()))


def _controls(
    name: str,
    samples: pd.DataFrame,
    features: np.ndarray,
    content: np.ndarray,
    train: np.ndarray,
    held: np.ndarray,
) -> list[Finding]:
    """Run noise and shuffled labels through one part, `ROUNDS` times each."""
    label, well = samples.label.to_numpy(int), texts(samples.well_id)
    findings = []
    for check, advice in (
        ("control: noise images", "copies of images lie on both sides: see the checks above"),
        ("control: shuffled labels", "images of one well lie on both sides: hold whole wells out"),
    ):
        true, predicted = [], []
        for seed in range(ROUNDS):
            rng = np.random.default_rng(seed)
            x, y = features, label
            if check.endswith("images"):
                x = rng.normal(size=(content.max() + 1, _NOISE_FEATURES))[content]
            else:
                y = permuted(label, well, rng)
            true.append(y[held])
            predicted.append(nearest(x[train], y[train], x[held]))
        findings.append(
            _judge_control(check, name, *map(np.concatenate, (true, predicted)), well[held], advice)
        )
    return findings


def _judge_control(
    check: str, name: str, true: np.ndarray, predicted: np.ndarray, well: np.ndarray, advice: str
) -> Finding:
    """Fail a control that scores more than guessing, counted in wells, not in images."""
    from scipy.stats import binom

    right, chance = (true == predicted).astype(float), guessing(predicted, true)
    units = len(np.unique(well)) * ROUNDS
    _, text = accuracy_of(right, np.tile(well, ROUNDS))
    message = f"scores {text}, guessing {chance:.3f} ({ROUNDS} rounds)"
    if binom.sf(round(right.mean() * units) - 1, units, min(chance, 1.0)) > ALARM:
        return passed(check, name, message, len(true))
    message += ": the split itself gives labels away"
    return Finding(check, name, "fail", int(right.sum()), message, (), advice)


def _position_alone(audited: Audited, part: Part) -> Finding:
    """Score what the well's address alone says: the commonest training class of that address."""
    from scipy.stats import binom

    check = "position alone"
    wells = audited.samples[["well_id", "well", "label"]]
    sides = [wells.iloc[np.unique(rows)] for rows in _sides(part)]
    train, held = (side.dropna(subset=["label"]).drop_duplicates("well_id") for side in sides)
    if not len(held) or not train.well.isin(set(held.well)).any():
        return not_applicable(
            check, "no labelled held-out well has a training one's address", part.name
        )
    most = train.groupby("well").label.agg(lambda labels: labels.astype(int).mode().iloc[0])
    commonest = train.label.astype(int).mode().iloc[0]
    predicted = held.well.map(most).fillna(commonest).to_numpy(int)
    true = held.label.to_numpy(int)
    right, chance = (predicted == true).astype(float), guessing(predicted, true)
    text = Accuracy.of(int(right.sum()), len(right)).format()
    message = f"scores {text}, guessing {chance:.3f}: the commonest training class of the address"
    p = binom.sf(int(right.sum()) - 1, len(held), min(chance, 1.0))
    if p > 1e-4 or right.mean() < 1.5 * chance:
        return passed(check, part.name, message, len(held))
    advice = "report this beside the score; only what exceeds it is the cells'"
    return Finding(check, part.name, "warn", int(right.sum()), message, (), advice)
