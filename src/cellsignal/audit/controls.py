"""Trivial models that must score as guessing does: noise, shuffled labels, the well's address.

Noise in place of the images, and labels that were exchanged between wells, go through the audited
parts themselves. They fail where copies, or wells, lie on both sides. The address alone may score
more where layouts are repeated: that warns.
"""

import numpy as np
import pandas as pd

from cellsignal.audit.findings import Finding, not_applicable, passed
from cellsignal.audit.measures import accuracy_of, guessing, nearest, permuted, texts
from cellsignal.audit.parts import Part
from cellsignal.metrics.accuracy import Accuracy

NAMES = ("control: noise images", "control: shuffled labels")
ROUNDS = 5
ALARM = 1e-5  # chance that a control of a clean part fails
_NOISE_FEATURES = 20


def run_controls(
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


def position_alone(all_samples: pd.DataFrame, part: Part) -> Finding:
    """Score what the well's address alone says: the commonest training class of that address."""
    from scipy.stats import binom

    check = "position alone"
    wells = all_samples[["well_id", "well", "label"]]
    sides = [wells.iloc[np.unique(rows)] for rows in (part.train, part.held)]
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
