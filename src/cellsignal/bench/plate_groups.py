"""When inferred groups of plates can be trusted: the real training layouts under simulated logits of falling quality.

The default of `submit.least_confidence` comes from here. The published layouts are read; images are not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.competitions import get_competition
from cellsignal.evaluation.assignment import restrict
from cellsignal.evaluation.plate_groups import infer_plate_groups

if TYPE_CHECKING:
    from cellsignal.competitions.base import PlateGroups

SIGNALS = (0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 3.0)  # of the true class, in SDs of the noise of a logit (d')
BIASES = (0.0, 0.3, 1.0)  # SD of what a plate adds to each class, and of what it adds to each group, in the same unit
SURENESS = (
    1.0,
    3.0,
)  # 1: as sure as the signal warrants, were there no bias; 3: overconfident, logits three times as large
THRESHOLDS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1)  # nats a well

MOST_FALSE = 0.005  # of the experiments whose groups are kept, the share that may be wrong


@dataclass(frozen=True)
class _Experiment:
    """The treatment wells of one real experiment."""

    name: str
    label: np.ndarray  # (N,)
    plate: np.ndarray  # (N,) names
    held: dict[tuple[str, str], int]


def bench_plate_groups(root: Path | str, seeds: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Choose a threshold of confidence on every other training experiment and measure it on the rest.

    Args:
        root: folder of RxRx1's CSV files.
        seeds: draws of the noise for each experiment and condition.

    Returns:
        On the first half, one row a threshold; on the other half, one row a condition, at the smallest threshold of which no more
        than `MOST_FALSE` of the kept experiments were wrong. Columns: n experiments; `plain`, accuracy by well of the argmax;
        inferred_right and refused, shares of the experiments; wrong and `false` (wrong and not refused), counts; false_of_kept;
        lost, the share of the rightly inferred that is refused; `after`, accuracy by well within the groups that are kept.
    """
    competition = get_competition("rxrx1")
    samples = competition.samples(Path(root))
    groups = competition.plate_groups(samples)
    wells = samples[(samples.split == "train") & (samples.role == "treatment")].drop_duplicates("target_id")
    halves: list[list[tuple]] = [[], []]
    for number, (name, rows) in enumerate(wells.groupby("experiment")):
        held = {plate: group for plate, group in groups.plate_group.items() if plate[0] == name}
        real = _Experiment(str(name), rows.label.to_numpy(int), rows.plate.to_numpy(str), held)
        for seed in range(seeds):
            halves[number % 2] += _outcomes(real, groups, np.random.default_rng([seed, number]))
    columns = ["bias", "sureness", "signal", "plain", "within", "right", "confidence"]
    choosing, reporting = (pd.DataFrame(half, columns=columns) for half in halves)
    thresholds = pd.DataFrame([_at(choosing, threshold) for threshold in THRESHOLDS])
    safe = thresholds.threshold[thresholds.false_of_kept <= MOST_FALSE]
    chosen = float(safe.min()) if len(safe) else max(THRESHOLDS)
    conditions = [
        dict(zip(columns[:3], key, strict=True)) | _at(rows, chosen) for key, rows in reporting.groupby(columns[:3])
    ]
    return thresholds, pd.DataFrame(conditions)


def _outcomes(real: _Experiment, groups: "PlateGroups", rng: np.random.Generator) -> Iterator[tuple]:
    """One simulated prediction of an experiment in each condition, and how its inference went."""
    wells, names = np.arange(len(real.label)), np.full(len(real.label), real.name)
    plate = np.unique(real.plate, return_inverse=True)[1]
    noise = rng.standard_normal((len(wells), len(groups.class_group)), dtype=np.float32)
    shift = rng.standard_normal((plate.max() + 1, len(groups.class_group)), dtype=np.float32)
    shift += rng.standard_normal((plate.max() + 1, groups.n_groups), dtype=np.float32)[:, groups.class_group]
    for bias in BIASES:
        for signal in SIGNALS:
            logits = noise + bias * shift[plate]
            logits[wells, real.label] += signal
            plain = float((logits.argmax(axis=1) == real.label).mean())
            for sureness in SURENESS:
                inferred = infer_plate_groups(sureness * signal * logits, names, real.plate, groups)
                within = restrict(logits, names, real.plate, groups.class_group, inferred.plate_group)
                yield (bias, sureness, signal, plain, float((within == real.label).mean()), inferred.plate_group == real.held,
                       inferred.confidence[real.name])  # fmt: skip


def plate_groups_text(thresholds: pd.DataFrame, conditions: pd.DataFrame) -> str:
    """Both tables for a terminal."""

    def text(frame: pd.DataFrame) -> str:
        return frame.to_string(index=False, float_format=lambda x: f"{x:.3f}")

    chosen = conditions.threshold.iloc[0]
    rest = conditions.drop(columns="threshold")
    return f"thresholds, half of the experiments\n{text(thresholds)}\n\nthe other half at {chosen:g} nats a well\n{text(rest)}"


def _at(outcomes: pd.DataFrame, threshold: float) -> dict[str, float]:
    """What a threshold does to simulated experiments: counts and shares of them, and mean accuracies by well."""
    kept, right = outcomes.confidence >= threshold, outcomes.right.astype(bool)
    return {
        "threshold": threshold,
        "n": len(outcomes),
        "plain": outcomes.plain.mean(),
        "inferred_right": right.mean(),
        "refused": (~kept).mean(),
        "wrong": int((~right).sum()),
        "false": int((kept & ~right).sum()),
        "false_of_kept": float((kept & ~right).sum() / max(kept.sum(), 1)),
        "lost": float((~kept & right).sum() / max(right.sum(), 1)),
        "after": outcomes.within.where(kept, outcomes.plain).mean(),
    }
