"""Measure what knowing the plates' groups is worth: docs/results/plate_groups.md.

Ours and the 1st place's way, on the real training layouts. Logits are simulated; the published
layouts are read, images are not. The layout of an experiment is the truth that its predictions are
scored with; candidates for it come from the other experiments.
"""

from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.competitions import get_competition
from cellsignal.prediction.plate_layout.assignment import assign, restrict
from cellsignal.prediction.plate_layout.groups import infer_plate_groups, plates_of
from cellsignal.prediction.plate_layout.layouts import Plate, plate_order

if TYPE_CHECKING:
    from cellsignal.competitions.base import PlateGroups

SIGNALS = (0.75, 1.0, 1.3, 1.95, 2.75, 4.0)  # of the true class, in SDs of the noise of a logit
# SD of what a plate adds to each class, and of what it adds to each group, in the same unit
EFFECT = 0.3
SURENESS = {"calibrated": 1.0, "over-sure": 3.0, "under-sure": 1 / 3, "x 100": 100.0, "/ 100": 0.01}
LEAST_Z = 3.0  # the default of `submit.least_confidence`


def bench_plate_groups(root: Path | str, seeds: int = 3, every: int = 3) -> pd.DataFrame:
    """Compare predictions by our plate groups, by the 1st place's rule, and without any.

    A well's logits are normal noise of SD 1 plus `signal` on the true class, times `signal`: so
    they are as sure as they may be. "over-sure", "under-sure" and the rescaled ones are these times
    a number. In "plate effects" each plate adds a constant to each class and each group. In "labels
    only" all is 0 but the likeliest class's 1.

    Args:
        root: folder of RxRx1's CSV files.
        seeds: draws of the noise.
        every: of the training experiments by name each `every`-th is predicted; all tell the
        candidate layouts.

    Returns:
        One row a signal and kind of logits. Accuracies by well: argmax (no layout); first and ours,
        with each class once a plate; first_argmax and ours_argmax, the argmax within the layout;
        best and best_argmax, ours with the likeliest layout in place of the mixture. Shares of
        plates whose group is reported rightly and wrongly, or is not: right, wrong, unsure;
        first_right, of the 1st place's rule, which reports all.
    """
    competition = get_competition("rxrx1")
    samples = competition.samples(Path(root))
    groups = competition.plate_groups(samples)
    wells = samples[(samples.split == "train") & (samples.role == "treatment")].drop_duplicates(
        "target_id"
    )
    wells = wells[wells.experiment.isin(sorted(wells.experiment.unique())[::every])]
    rows = [
        row
        for number, signal in enumerate(SIGNALS)
        for seed in range(seeds)
        for row in _one_draw(wells, groups, signal, np.random.default_rng([seed, number]))
    ]
    table = pd.DataFrame(rows).groupby(["signal", "logits"], sort=False).mean()
    return table.reset_index()


def _one_draw(
    wells: pd.DataFrame, groups: "PlateGroups", signal: float, rng: np.random.Generator
) -> list[dict]:
    """Return the measures of one draw of the noise, one dict per kind of logits."""
    label = wells.label.to_numpy(int)
    names = wells.experiment.to_numpy(object).astype(str), wells.plate.to_numpy(object).astype(str)
    noise = rng.standard_normal((len(label), len(groups.class_group)), dtype=np.float32)
    noise[np.arange(len(label)), label] += signal
    noise *= signal
    plain = _rule_measures(noise, *names, groups, label)
    rows = []
    for kind, factor in SURENESS.items():  # a factor of all logits does not change the rule
        ours = _our_measures(noise * np.float32(factor), *names, groups, label)
        rows.append({"signal": signal, "logits": kind} | plain | ours)
    labels_only = (noise == noise.max(axis=1, keepdims=True)).astype(np.float32)
    plate = pd.factorize(pd.MultiIndex.from_arrays(names))[0]
    n_plates = plate.max() + 1
    shift = rng.standard_normal((n_plates, len(groups.class_group)), dtype=np.float32)
    by_group = rng.standard_normal((n_plates, groups.n_groups), dtype=np.float32)
    shift += by_group[:, groups.class_group]
    noise += np.float32(signal * EFFECT) * shift[plate]
    for kind, logits in (("labels only", labels_only), ("plate effects", noise)):
        rule = _rule_measures(logits, *names, groups, label)
        ours = _our_measures(logits, *names, groups, label)
        rows.append({"signal": signal, "logits": kind} | rule | ours)
    return rows


def _our_measures(
    logits: np.ndarray, experiment, plate, groups: "PlateGroups", label: np.ndarray
) -> dict[str, float]:
    inferred = infer_plate_groups(logits, experiment, plate, groups, least_confidence=LEAST_Z)
    best = infer_plate_groups(logits, experiment, plate, groups).plate_group
    measures = {}
    for name, layout in (("ours", inferred.beliefs), ("best", best)):
        given = (logits, experiment, plate, groups.class_group, layout)
        measures |= {
            name: float((assign(*given) == label).mean()),
            f"{name}_argmax": float((restrict(*given) == label).mean()),
        }
    right = sum(groups.plate_group[key] == group for key, group in inferred.plate_group.items())
    reported = len(inferred.plate_group)
    return measures | {
        "right": right / len(best),
        "wrong": (reported - right) / len(best),
        "unsure": 1 - reported / len(best),
    }


def _rule_measures(
    logits: np.ndarray, experiment, plate, groups: "PlateGroups", label: np.ndarray
) -> dict[str, float]:
    layout = first_place_groups(logits, experiment, plate, groups.class_group)
    given = (logits, experiment, plate, groups.class_group, layout)
    return {
        "argmax": float((logits.argmax(axis=1) == label).mean()),
        "first": float((assign(*given) == label).mean()),
        "first_argmax": float((restrict(*given) == label).mean()),
        "first_right": float(
            np.mean([groups.plate_group[key] == group for key, group in layout.items()])
        ),
    }


def first_place_groups(
    scores: np.ndarray, experiment, plate, class_group: np.ndarray
) -> Mapping[Plate, int]:
    """Return the groups of plates by the rule of RxRx1's 1st place, which never refuses.

    Argmax classes are counted plate by group, each group's column divided by its sum, and the
    permutation of the groups with the highest sum taken for each experiment (the first of equal
    ones).

    Args:
        scores: (N, K) float.
        experiment, plate: (N,) names; no experiment has more plates than there are groups.
        class_group: (K,) int.
    """
    n_groups = int(class_group.max()) + 1
    hits: dict[str, dict[str, np.ndarray]] = {}
    for (batch, name), rows in plates_of(experiment, plate):
        hits.setdefault(batch, {})[name] = np.bincount(
            class_group[scores[rows].argmax(axis=1)], minlength=n_groups
        )
    layout = {}
    for batch, by_plate in hits.items():
        plates = plate_order(by_plate)
        counts = np.stack([by_plate[name] for name in plates]).astype(float)
        counts /= np.maximum(counts.sum(axis=0), 1)
        options = list(permutations(range(n_groups), len(plates)))
        sums = counts[np.arange(len(plates)), np.array(options)].sum(axis=1)
        layout |= {
            (batch, name): group
            for name, group in zip(plates, options[int(sums.argmax())], strict=True)
        }
    return layout


def plate_groups_text(table: pd.DataFrame) -> str:
    """Return the table for a terminal, and the share of the reported groups that are wrong."""
    reported = float((table.right + table.wrong).sum())
    wrong = float(table.wrong.sum())
    names = "signal logits argmax first ours best first_argmax ours_argmax best_argmax"
    columns = [*names.split(), "first_right", "right", "wrong", "unsure"]
    text = table[columns].to_string(index=False, float_format=lambda x: f"{x:.4f}")
    return f"{text}\n\nwrong of the reported groups, all rows: {wrong / max(reported, 1e-12):.4f}"
