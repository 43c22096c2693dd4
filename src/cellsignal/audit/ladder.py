"""The ladder: one cheap model under ever stricter splits, so that each leak has a price.

Linear discriminants on plain image features are scored on held-out images, wells, plates,
experiments and compounds: the same rows each time, of classes drawn whole. What a rung scores above
the next is what that kind of leak would promise and not keep. Then the audited parts are scored as
they are, by the same model and a nearest neighbour, and held to what the competition's own folds
promise: the price of their leaks, if they have any.
"""

import numpy as np
import pandas as pd

from cellsignal.audit.controls import NAMES, position_alone, run_controls
from cellsignal.audit.findings import Finding, not_applicable, passed
from cellsignal.audit.images import image_codes
from cellsignal.audit.measures import (
    SPLITS,
    Predict,
    accuracy_of,
    discriminant,
    grouped_folds,
    nearest,
    texts,
)
from cellsignal.audit.parts import Audited
from cellsignal.audit.pictures import Pictures
from cellsignal.audit.units import unit_names
from cellsignal.metrics.intervals import mean_interval, range_text

RUNGS = ("image", "well", "plate", "experiment", "compound")
COARSEST = ("experiment", "plate", "well_id")  # unit of intervals: the first with several values
# samples column that the competition's folds hold out -> rung
PROMISED = {"experiment": "experiment", "plate": "plate", "compound": "compound"}


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
    findings = [position_alone(audited.samples, part) for part in audited.validations]
    checks = ("ladder", *NAMES)
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
        both = [
            place.loc[side[np.isin(side, rows)]].to_numpy(int) for side in (part.train, part.held)
        ]
        if min(map(len, both)):
            sides[part.name] = both
    findings += _climb(samples, features)
    promised = PROMISED.get(audited.default_group, "well")
    findings.append(_as_split(samples, features, list(sides.values()), promised))
    for name, (train, held) in sides.items():
        findings += run_controls(name, samples, features, content, train, held)
    return findings


def _as_split(
    samples: pd.DataFrame,
    features: np.ndarray,
    sides: list[list[np.ndarray]],
    promised: str,
) -> Finding:
    """Score two models on the audited parts as they are, and on the same rows as is promised.

    Args:
        sides: training and held-out rows of each part, with repeats.
        promised: the rung that the competition's own folds stand on.
    """
    label, unit = samples.label.to_numpy(int), _interval_unit(samples)
    sides = [(train, held[np.isin(label[held], label[train])]) for train, held in sides]
    rows = np.concatenate([held for _, held in sides]) if sides else np.empty(0, int)
    if not len(rows):
        return not_applicable("ladder", "no part has images of the ladder", "as split")
    names = _rung_names(samples, promised)
    unfit, words = _unfit(names, label), []
    for title, predict in (("discriminant", discriminant), ("nearest neighbour", nearest)):
        right = np.concatenate(
            [
                predict(features[train], label[train], features[held]) == label[held]
                for train, held in sides
                if len(held)
            ]
        ).astype(float)
        text = f"{title} {accuracy_of(right, unit[rows])[1]}"
        if unfit is None:
            kept = _out_of_fold(features, label, texts(names), predict)[rows]
            text += _difference(right, kept, unit[rows], promised)
        words.append(text)
    return passed("ladder", "as split", f"the audited parts: {'; '.join(words)}", len(rows))


def _difference(right: np.ndarray, other: np.ndarray, unit: np.ndarray, rung: str) -> str:
    """Say what is scored above another rung on the same rows: the price, with its interval."""
    both = np.isfinite(right) & np.isfinite(other)
    if len(set(unit[both])) < 2:
        return ""
    difference = right[both] - other[both]
    ends = range_text(*mean_interval(difference, unit[both], bounded=False), 2)
    interval = f" [{ends.replace(' .. ', ', ')}]" if ends else ""
    return f", {difference.mean():+.3f}{interval} over {rung}s held out"


def _rung_names(samples: pd.DataFrame, rung: str) -> pd.Series:
    return samples.sample_id if rung == "image" else unit_names(samples, f"{rung}s")


def _interval_unit(samples: pd.DataFrame) -> np.ndarray:
    """Return the unit of the intervals: the coarsest of which there are several."""
    for name in COARSEST:
        if samples[name].nunique() > 1:
            return texts(samples[name])
    return texts(samples.sample_id)


def _climb(samples: pd.DataFrame, features: np.ndarray) -> list[Finding]:
    label = samples.label.to_numpy(int)
    right: dict[str, np.ndarray] = {}
    findings = []
    interval_unit = _interval_unit(samples)
    for rung in RUNGS:
        names = _rung_names(samples, rung)
        reason = _unfit(names, label)
        if reason is None:
            right[rung] = _out_of_fold(features, label, texts(names))
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


def _out_of_fold(
    features: np.ndarray, label: np.ndarray, unit: np.ndarray, predict: Predict = discriminant
) -> np.ndarray:
    """Return (N,) 1 where the held-out prediction is right, NaN where training lacks the class."""
    right = np.full(len(label), np.nan)
    for train, held in grouped_folds(unit, SPLITS, seed=0):
        known = held[np.isin(label[held], label[train])]
        if len(known):
            predicted = predict(features[train], label[train], features[known])
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
        message += _difference(right[rung], right[following], unit, following)
    return passed("ladder", rung, message, int(scored.sum()))
