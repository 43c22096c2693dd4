"""Measure how much a random split inflates scores: docs/results/split_audit.md.

One classifier, three kinds of images that it did not train on: other sites of wells that it trained
on, held-out wells of experiments that it trained on, and experiments that it has never seen. What
the first two scores have over the third is what a random split of images or of wells would promise
and a new experiment not keep. The classifier is linear discriminant analysis on 69 plain image
features (six channels): quick, without chance, and blind to what a large network would find.

Where classes stand several times in an experiment (RxRx1's positive controls, on each plate) a
held-out well has siblings of its class in training and the second score is higher than the third.
Where each class stands once in an experiment (RxRx1's treatments) the held-out well's class is the
one class that its experiment lacks in training: every other class's mean has moved towards that
experiment, its own has not, and the second score can be lower.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned
from cellsignal.metrics.accuracy import Accuracy
from cellsignal.profiles.image_features import image_features

if TYPE_CHECKING:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis


Wells = Literal["positive_control", "treatment"]
KINDS = ("sibling", "seen", "unseen")


@dataclass(frozen=True)
class SplitAudit:
    """Accuracy by image on the three kinds of images, pooled over the rounds.

    Attributes:
        wells: "positive_control" or "treatment".
        standardised: whether each feature was standardised by plate.
        sibling: on other sites of wells in training; None where wells have one site.
        seen: on held-out wells of experiments in training.
        unseen: on wells of experiments that are not.
        chance: one over the number of classes.
    """

    wells: str
    standardised: bool
    sibling: Accuracy | None
    seen: Accuracy
    unseen: Accuracy
    chance: float


def audit_split(
    samples: pd.DataFrame,
    read: Callable[[int], np.ndarray],
    wells: Wells = "positive_control",
    standardised: bool = True,
    rounds: int = 3,
    seed: int = 0,
) -> SplitAudit:
    """Score the same classifiers on siblings, held-out wells and unseen experiments.

    The experiments of each cell type, the wells and the images of each class are dealt to the
    rounds. A round holds out its experiments; of the others its wells; of the other wells its
    images. So an image is scored once as unseen, at most once as seen and as a sibling.

    Args:
        samples: labelled samples of a store (columns of the samples table and `row`).
        read: store row -> (C, H, W) uint8.

    Raises:
        InputError: no such wells, or fewer than two experiments.
    """
    from sklearn.preprocessing import LabelBinarizer

    chosen = samples[(samples.role == wells) & samples.label.notna()].reset_index(drop=True)
    if chosen.experiment.nunique() < 2:
        needed = f"needs labelled {wells} wells of at least two experiments"
        raise InputError(f"audit: {needed}; there are {len(chosen)} samples")
    features = np.stack([image_features(read(int(row))) for row in chosen.row])
    if standardised:
        features = _standardise_by_plate(features, chosen)
    features = np.c_[features, LabelBinarizer().fit_transform(chosen.cell_type)]
    label = chosen.label.to_numpy(dtype=int)
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for train, held_out in _rounds(chosen, rounds, seed):
        n_classes = len(np.unique(label[train]))
        if train.sum() <= n_classes:
            left = f"{int(train.sum())} {wells} images of {n_classes} classes are left to train on"
            raise InputError(f"audit: {left}; more images than classes are needed")
        model = fit_discriminant(features[train], label[train])
        for kind, mask in held_out.items():
            mask = mask & np.isin(label, model.classes_)
            if mask.any():
                right[kind] += list(model.predict(features[mask]) == label[mask])
    if not right["seen"] or not right["unseen"]:
        raise InputError(
            f"audit: the {len(chosen)} {wells} images leave no well of a trained class to hold "
            "out; more wells a class and experiments are needed"
        )
    shares = {kind: Accuracy.of(sum(row), len(row)) if row else None for kind, row in right.items()}
    return SplitAudit(wells, standardised, **shares, chance=1 / len(np.unique(label)))


def _rounds(
    samples: pd.DataFrame, rounds: int, seed: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield the (N,) masks of each round: training rows, and held-out rows by kind.

    A round that holds nothing out is passed over: there are fewer experiments than rounds.
    """
    rng = np.random.default_rng(seed)
    experiment_round = _deal(samples, "cell_type", "experiment", rounds, rng)
    well_round = _deal(samples, "label", "well_id", rounds, rng)
    image_round = _deal(samples, "label", "sample_id", rounds, rng)
    for number in range(rounds):
        unseen = experiment_round == number
        seen = ~unseen & (well_round == number)
        sibling = ~unseen & ~seen & (image_round == number)
        train = ~unseen & ~seen & ~sibling
        sibling &= samples.well_id.isin(set(samples.well_id[train])).to_numpy()
        if unseen.any() and seen.any() and train.any():
            yield train, {"sibling": sibling, "seen": seen, "unseen": unseen}


def _deal(
    samples: pd.DataFrame, by: str, unit: str, rounds: int, rng: np.random.Generator
) -> np.ndarray:
    """Deal the units of each value of `by` to rounds, shuffled, in turn: (N,) round of each row."""
    round_of: dict[str, int] = {}
    for start, (_, rows) in enumerate(samples.groupby(by, sort=True)):
        units = rng.permutation(np.sort(rows[unit].unique().astype(str)))
        round_of |= {name: (start + number) % rounds for number, name in enumerate(units)}
    return samples[unit].astype(str).map(round_of).to_numpy()


def fit_discriminant(features: np.ndarray, label: np.ndarray) -> "LinearDiscriminantAnalysis":
    """Fit a linear discriminant with a shrunken covariance.

    A class of a single sample adds nothing to the covariance.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only one sample available", UserWarning)
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(features, label)


def _standardise_by_plate(features: np.ndarray, samples: pd.DataFrame) -> np.ndarray:
    out = features.copy()
    for rows in samples.groupby(["experiment", "plate"]).indices.values():
        out[rows] = (features[rows] - features[rows].mean(0)) / (features[rows].std(0) + 1e-6)
    return out


def audit_text(audits: list[SplitAudit]) -> str:
    """Format the table for a terminal."""
    header = ("wells", "features", "other site of trained wells", "held-out wells")
    lines = [(*header, "unseen experiments", "chance")]
    for a in audits:
        features = "by plate" if a.standardised else "raw"
        sibling = "" if a.sibling is None else a.sibling.format()
        shares = (sibling, a.seen.format(), a.unseen.format())
        lines.append((a.wells.replace("_", " "), features, *shares, f"{a.chance:.3f}"))
    return aligned(lines, right={5})
