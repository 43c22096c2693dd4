"""Ways to deal images to training and validation where the classes are balanced by random copies:
before the split, as a course did it, or after.

`oversampling` measures what each does to a figure.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import cv2
import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.ties import draw_one, tied_best
from cellsignal.metrics.accuracy import clustered_interval, wilson_interval
from cellsignal.profiles.image_features import image_features
from cellsignal.studies.split_audit import fit_discriminant

ORDERS = {
    "before": "oversampled, then split by image",
    "after": "split by image, then oversampled",
    "by well": "wells held out, the rest oversampled",
    "by plate": "plates held out, the rest oversampled",
}


@dataclass(frozen=True)
class Deal:
    """One way to train and validate: `order` (a key of `ORDERS`), positions in the samples, (T,)
    with repeats, and (V,), with repeats in "before".
    """

    order: str
    train: np.ndarray
    valid: np.ndarray


def top_classes(samples: pd.DataFrame, classes: int | None) -> pd.DataFrame:
    """The labelled training rows (treatments and controls) of the classes with most images, ties by
    label; all classes with None.

    Classes with one image stay out: they cannot be split.

    Raises:
        InputError: fewer than two classes are left.
    """
    chosen = samples[(samples.split == "train") & samples.label.notna()]
    counts = chosen.label.astype(int).value_counts()
    counts = counts[counts > 1].sort_index().sort_values(ascending=False, kind="stable")
    kept = counts.index[:classes]
    if len(kept) < 2:
        raise InputError(
            "oversampling audit: needs two classes with two or more labelled images each"
        )
    return chosen[chosen.label.isin(kept)].reset_index(drop=True)


def oversample(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions that bring every class to the number of the largest: each once, then random copies
    (as imblearn's RandomOverSampler).

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
    """The orders that the samples allow: by well where a class has two wells, by plate where there
    are two plates.

    A validation row whose class is not in train is left out.

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
    """Positions to train and to validate on, every class in its share in both (scikit-learn's
    train_test_split, as the course's).
    """
    from sklearn.model_selection import train_test_split

    try:
        train, valid = train_test_split(
            positions, test_size=share, stratify=labels, random_state=int(rng.integers(2**31))
        )
    except ValueError:
        number = f"{len(np.unique(positions))} images of {len(np.unique(labels))} classes"
        raise InputError(
            f"oversampling audit: {number} are too few for a stratified split"
        ) from None
    return train, valid


def _some_wells(samples: pd.DataFrame, share: float, rng: np.random.Generator) -> list[str]:
    """A share of the wells of each class, at least one and never all; none of a class with one
    well.
    """
    chosen: list[str] = []
    for _, rows in samples.groupby("label", sort=True):
        wells = np.sort(rows.well_id.unique().astype(str))
        if len(wells) > 1:
            chosen += rng.permutation(wells)[
                : max(1, min(round(share * len(wells)), len(wells) - 1))
            ].tolist()
    return chosen


SIDE = 32  # pixels to which images are shrunk for the nearest neighbour, and of the noise


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class OversamplingAudit:
    """What one classifier scored in one order, the validation rows of all rounds taken together.

    Attributes:
        order: a key of `ORDERS`.
        data: "images", "noise" or "position".
        classifier: its name.
        accuracy: share of the validation rows that are right.
        balanced: the mean over the classes of that share.
        rows, wells, classes: how many were validated on.
        chance: one over the number of classes in train, the balanced accuracy of guessing.
        largest: accuracy of always naming the largest class.
        copies: share of the validation rows whose exact image is in train.
        same_well: share of the validation rows whose well is in train.
    """

    order: str
    data: str
    classifier: str
    accuracy: Estimate
    balanced: Estimate
    rows: int
    wells: int
    classes: int
    chance: float
    largest: float
    copies: float
    same_well: float


def oversampling_audit(
    samples: pd.DataFrame,
    read: Callable[[int], np.ndarray],
    *,
    classes: int | None = 50,
    rounds: int = 3,
    metric: Literal["cosine", "euclidean"] = "euclidean",
    seed: int = 0,
) -> list[OversamplingAudit]:
    """Nearest neighbour and linear discriminant analysis in every order, on the images, on noise,
    and on the wells' positions alone.

    Args:
        samples: of a store (columns of the samples table and `row`).
        read: store row -> (C, H, W) uint8.
        classes: so many classes with most images; None: all.
        rounds: how many times everything is dealt anew.
        metric: of the nearest neighbour, on pixels shrunk to 32 x 32.

    Raises:
        InputError: too few labelled images.
    """
    chosen = top_classes(samples, classes)
    rounds_of_deals = [deal_all(chosen, seed + number) for number in range(rounds)]
    rng, found = np.random.default_rng(seed), []
    real = _Data.of((read(int(row)) for row in chosen.row), chosen)
    noise = rng.integers(0, 256, (len(chosen), real.channels, SIDE, SIDE), dtype=np.uint8)
    label = chosen.label.to_numpy(dtype=int)
    for name, data in (("images", real), ("noise", _Data.of(noise, chosen))):
        for classifier, predict in _classifiers(data, label, metric).items():
            found += measure(chosen, rounds_of_deals, predict, name, classifier, data.content)
    address = well_positions(chosen)
    if address is not None:
        found += measure(
            chosen,
            rounds_of_deals,
            lambda deal: nearest_position(address, label, deal),
            "position",
            "nearest well",
            real.content,
        )
    return sorted(found, key=lambda row: list(ORDERS).index(row.order))


def measure(
    samples: pd.DataFrame,
    rounds: Iterable[list[Deal]],
    predict: Callable[[Deal], np.ndarray],
    data: str,
    classifier: str,
    content: np.ndarray,
) -> list[OversamplingAudit]:
    """Predict every deal and score each order over all rounds.

    Args:
        samples: what the deals' positions are of.
        predict: deal -> (V,) predicted labels of `deal.valid`.
        content: (N,) equal where two samples' images are equal.
    """
    label, parts = samples.label.to_numpy(dtype=int), {}
    well = pd.factorize(samples.well_id)[0]
    for deal in (deal for deals in rounds for deal in deals):
        valid, classes = deal.valid, len(np.unique(label[deal.train]))
        copied, known = (np.isin(values[valid], values[deal.train]) for values in (content, well))
        part = (
            label[valid],
            predict(deal) == label[valid],
            well[valid],
            copied,
            known,
            np.full(len(valid), 1 / classes),
        )
        parts.setdefault(deal.order, []).append(part)
    found = []
    for order, part in parts.items():
        true, right, wells, *shares = (np.concatenate(values) for values in zip(*part, strict=True))
        copies, same_well, chance = (float(values.mean()) for values in shares)
        counts = np.unique(true, return_counts=True)[1]
        found.append(
            OversamplingAudit(
                order,
                data,
                classifier,
                *estimates(true, right, wells),
                len(true),
                len(np.unique(wells)),
                len(counts),
                chance,
                float(counts.max() / len(true)),
                copies,
                same_well,
            )
        )
    return found


def estimates(true: np.ndarray, right: np.ndarray, well: np.ndarray) -> tuple[Estimate, Estimate]:
    """Accuracy, with the interval of a bootstrap over wells, and balanced accuracy, over classes.

    Where all wells (classes) are equal, all right say, a bootstrap cannot doubt: the interval is
    then Wilson's, of so many wells (classes).

    Args:
        true: (N,) labels.
        right: (N,) bool.
        well: (N,) the well of each; rows of one well, copies among them, are not independent.
    """
    names, code = np.unique(true, return_inverse=True)
    recall = np.bincount(code, weights=right) / np.bincount(code)
    return _estimate(right, well), _estimate(recall, names)


def _estimate(values: np.ndarray, unit: np.ndarray) -> Estimate:
    low, high = clustered_interval(values, unit, seed=0)
    if not low < high:
        units = len(np.unique(unit))
        low, high = wilson_interval(round(values.mean() * units), units)
    return Estimate(float(values.mean()), low, high)


def well_positions(samples: pd.DataFrame) -> np.ndarray | None:
    """(N, 2) int: row and column of each well, from addresses such as B07 or AF48; None where they
    are written otherwise.
    """
    parts = [re.fullmatch(r"([A-Z]{1,2})(\d{1,2})", well) for well in samples.well]
    if not all(parts):
        return None
    rows = [
        sum((ord(letter) - 64) * 26**at for at, letter in enumerate(reversed(part[1])))
        for part in parts
    ]
    return np.column_stack([rows, [int(part[2]) for part in parts]])


def nearest_position(address: np.ndarray, label: np.ndarray, deal: Deal) -> np.ndarray:
    """(V,) the most frequent label among the training images of the nearest wells, whatever their
    plate.

    Of equally frequent labels one is drawn, with a seed, for each position.
    """
    places, at = np.unique(address[deal.train], axis=0, return_inverse=True)
    names, code = np.unique(label[deal.train], return_inverse=True)
    counts = np.zeros((len(places), len(names)))
    np.add.at(counts, (at.reshape(-1), code), 1)
    asked, back = np.unique(address[deal.valid], axis=0, return_inverse=True)
    distance = ((asked[:, None] - places[None]) ** 2).sum(axis=2)
    nearest = distance == distance.min(axis=1, keepdims=True)
    return names[draw_one(tied_best(nearest @ counts))][back.reshape(-1)]


def oversampling_text(audits: list[OversamplingAudit]) -> str:
    """The table for a terminal, and a line on each order: what it lets through."""
    from cellsignal.common.tables import aligned

    lines = [
        (
            "order",
            "data",
            "classifier",
            "accuracy",
            "balanced",
            "copy in train",
            "well in train",
            "largest class",
            "validated on",
        )
    ]
    for a in audits:
        on = f"{a.rows:,} rows, {a.wells} wells, {a.classes} classes"
        lines.append(
            (
                a.order,
                a.data,
                a.classifier,
                str(a.accuracy),
                str(a.balanced),
                f"{a.copies:.0%}",
                f"{a.same_well:.0%}",
                f"{a.largest:.3f}",
                on,
            )
        )
    orders = {a.order: verdict([b for b in audits if b.order == a.order]) for a in audits}
    width = max(map(len, orders))
    return "\n".join(
        [
            aligned(lines, right={5, 6, 7}),
            "",
            *(f"{order:{width}}  {ORDERS[order]}: {text}" for order, text in orders.items()),
        ]
    )


def verdict(audits: list[OversamplingAudit]) -> str:
    """Whether an order's figures can be believed, in words.

    Args:
        audits: the rows of one order.
    """
    first = audits[0]
    noise = max((a.balanced.value for a in audits if a.data == "noise"), default=None)
    on_noise = (
        "" if noise is None else f"; noise scores {noise:.2f} balanced (chance {first.chance:.2f})"
    )
    if first.copies > 0:
        return f"not honest, {first.copies:.0%} of the validation images are in train{on_noise}"
    if first.same_well > 0:
        return f"not honest, {first.same_well:.0%} of the validation images are of wells in train{on_noise}"
    position = [a.balanced.value for a in audits if a.data == "position"]
    beside = (
        f"; position alone scores {position[0]:.2f} balanced, only what exceeds that is the cells'"
        if position
        else ""
    )
    return f"honest, no image of these wells is in train{beside}{on_noise}"


@dataclass(frozen=True)
class _Data:
    """What classifiers see: (N, C x 32 x 32) float32 `pixels`, (N, F) float32 `features`
    standardised by plate; (N,) `content`, a hash of each image.
    """

    pixels: np.ndarray
    features: np.ndarray
    content: np.ndarray
    channels: int

    @classmethod
    def of(cls, images: Iterable[np.ndarray], samples: pd.DataFrame) -> "_Data":
        small, features, content = [], [], []
        for image in images:
            small.append(
                [
                    cv2.resize(channel, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                    for channel in image
                ]
            )
            features.append(image_features(image))
            content.append(blake2b(np.ascontiguousarray(image), digest_size=8).hexdigest())
        pixels = np.asarray(small, np.float32)
        own = pd.DataFrame(np.asarray(features))
        by_plate = own.groupby([samples.experiment.to_numpy(), samples.plate.to_numpy()])
        standard = (own - by_plate.transform("mean")) / (by_plate.transform("std", ddof=0) + 1e-6)
        return cls(
            pixels.reshape(len(pixels), -1),
            standard.to_numpy(np.float32),
            np.array(content),
            pixels.shape[1],
        )


def _classifiers(
    data: _Data, label: np.ndarray, metric: str
) -> dict[str, Callable[[Deal], np.ndarray]]:
    """What predicts the validation rows of a deal, by name."""
    from sklearn.neighbors import KNeighborsClassifier

    def neighbour(deal: Deal) -> np.ndarray:
        # a copy is no nearer than its original
        train, (valid, back) = np.unique(deal.train), np.unique(deal.valid, return_inverse=True)
        model = KNeighborsClassifier(1, algorithm="brute", metric=metric).fit(
            data.pixels[train], label[train]
        )
        return model.predict(data.pixels[valid])[back]

    def discriminant(deal: Deal) -> np.ndarray:
        model = fit_discriminant(data.features[deal.train], label[deal.train])
        return model.predict(data.features[deal.valid])

    return {"nearest neighbour": neighbour, "discriminant analysis": discriminant}
