"""Deal images to training and validation, oversampling before or after the split.

The classes are balanced by random copies: before the split, as a course did it, or after.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError

ORDERS = {
    "before": "oversampled, then split by image",
    "after": "split by image, then oversampled",
    "by well": "wells held out, the rest oversampled",
    "by plate": "plates held out, the rest oversampled",
}


@dataclass(frozen=True)
class Deal:
    """One way to train and validate.

    Attributes:
        order: a key of `ORDERS`.
        train: (T,) positions in the samples, with repeats.
        valid: (V,) positions, with repeats in "before".
    """

    order: str
    train: np.ndarray
    valid: np.ndarray


def top_classes(samples: pd.DataFrame, classes: int | None) -> pd.DataFrame:
    """Choose the labelled training rows (treatments and controls) of the largest classes.

    Ties go by label; None keeps all classes. Classes with one image stay out: they cannot be split.

    Raises:
        InputError: fewer than two classes are left.
    """
    chosen = samples[(samples.split == "train") & samples.label.notna()]
    counts = chosen.label.astype(int).value_counts()
    counts = counts[counts > 1].sort_index().sort_values(ascending=False, kind="stable")
    kept = counts.index[:classes]
    if len(kept) < 2:
        raise InputError("oversampling: needs two classes with two or more labelled images each")
    return chosen[chosen.label.isin(kept)].reset_index(drop=True)


def oversample(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Repeat random rows until every class is as large as the largest.

    As imblearn's RandomOverSampler: each row once, then random copies.

    Args:
        labels: (N,).

    Returns:
        (classes x largest,) positions in `labels`.
    """
    names, counts = np.unique(labels, return_counts=True)
    drawn = [
        rng.choice(np.flatnonzero(labels == name), counts.max() - n)
        for name, n in zip(names, counts, strict=True)
    ]
    return np.concatenate([np.arange(len(labels)), *drawn])


def deal_all(samples: pd.DataFrame, seed: int, share: float = 0.2) -> list[Deal]:
    """Deal the samples in every order that they allow.

    By well where a class has two wells, by plate where there are two plates. A validation row whose
    class is not in train is left out.

    Args:
        samples: of `top_classes`.
        share: of the rows, of each class's wells or of the plates that is validated on.

    Raises:
        InputError: too few images for a stratified split.
    """
    rng, label = np.random.default_rng(seed), samples.label.to_numpy(dtype=int)
    copies = oversample(label, rng)
    before = _stratified(copies, label[copies], share, rng)
    held_out = {"after": _stratified(np.arange(len(label)), label, share, rng)[1]}
    held_out["by well"] = np.flatnonzero(samples.well_id.isin(_some_wells(samples, share, rng)))
    plates = samples.groupby(["experiment", "plate"], sort=True).ngroup().to_numpy()
    if plates.max() > 0:
        chosen = rng.permutation(plates.max() + 1)[: max(1, round(share * (plates.max() + 1)))]
        held_out["by plate"] = np.flatnonzero(np.isin(plates, chosen))
    deals = [Deal("before", *before)]
    for order, valid in held_out.items():
        train = np.setdiff1d(np.arange(len(label)), valid)
        valid = valid[np.isin(label[valid], label[train])]
        if len(valid):
            deals.append(Deal(order, train[oversample(label[train], rng)], valid))
    return deals


def _stratified(
    positions: np.ndarray, labels: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Positions to train and to validate on, by scikit-learn's stratified split, as the course."""
    from sklearn.model_selection import train_test_split

    try:
        train, valid = train_test_split(
            positions, test_size=share, stratify=labels, random_state=int(rng.integers(2**31))
        )
    except ValueError:
        size = f"{len(np.unique(positions))} images of {len(np.unique(labels))} classes"
        raise InputError(f"oversampling: {size} are too few for a stratified split") from None
    return train, valid


def _some_wells(samples: pd.DataFrame, share: float, rng: np.random.Generator) -> list[str]:
    """Choose a share of each class's wells: at least one, never all, none if it has one."""
    chosen: list[str] = []
    for _, rows in samples.groupby("label", sort=True):
        wells = np.sort(rows.well_id.unique().astype(str))
        if len(wells) > 1:
            count = max(1, min(round(share * len(wells)), len(wells) - 1))
            chosen += rng.permutation(wells)[:count].tolist()
    return chosen
