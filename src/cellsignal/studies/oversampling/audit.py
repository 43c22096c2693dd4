"""Measure what oversampling before the split does to a figure: docs/results/oversampling.md.

A course's protocol balances the classes by random copies and then splits at random, so that copies
of one image are in both parts and whatever can memorise is right. Here the same classifiers are
run on the same images dealt in other orders, on noise under the same labels, where every figure
above chance is the protocol's own, and on the wells' positions alone. A classifier that sees
nothing but row and column of the well shows what position gives away: where a class has one well,
class and position are one, and where a layout is repeated from plate to plate a new plate does not
part them either.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from cellsignal.common.tables import aligned
from cellsignal.metrics.accuracy import wilson_interval
from cellsignal.metrics.intervals import mean_interval
from cellsignal.studies.oversampling.classifiers import (
    SIDE,
    ImageData,
    Predict,
    image_classifiers,
    nearest_position,
    well_positions,
)
from cellsignal.studies.oversampling.deals import ORDERS, Deal, deal_all, top_classes


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
    """Score of one classifier in one order of the steps, over the validation rows of all rounds.

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
    """Score nearest neighbour and discriminant analysis in every order.

    On the images, on noise, and on the wells' positions alone.

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
    rng = np.random.default_rng(seed)
    real = ImageData.of((read(int(row)) for row in chosen.row), chosen)
    noise = rng.integers(0, 256, (len(chosen), real.channels, SIDE, SIDE), dtype=np.uint8)
    audits = []
    for name, data in (("images", real), ("noise", ImageData.of(noise, chosen))):
        for classifier, predict in image_classifiers(data, chosen, metric).items():
            what = (name, classifier)
            audits += measure(chosen, rounds_of_deals, predict, *what, data.content)
    audits += measure_positions(chosen, rounds_of_deals, real.content)
    return in_order(audits)


def in_order(audits: list[OversamplingAudit]) -> list[OversamplingAudit]:
    """Sort audits as `ORDERS` is."""
    return sorted(audits, key=lambda audit: list(ORDERS).index(audit.order))


def measure(
    samples: pd.DataFrame,
    rounds: Iterable[list[Deal]],
    predict: Predict,
    data: str,
    classifier: str,
    content: np.ndarray,
) -> list[OversamplingAudit]:
    """Predict every deal and score each order over all rounds.

    Args:
        samples: what the deals' positions are of.
        content: (N,) equal where two samples' images are equal.
    """
    label, well = samples.label.to_numpy(dtype=int), pd.factorize(samples.well_id)[0]
    parts: dict[str, list[pd.DataFrame]] = {}
    for deal in (deal for deals in rounds for deal in deals):
        valid, train = deal.valid, deal.train
        part = {
            "label": label[valid],
            "right": predict(deal) == label[valid],
            "well": well[valid],
            "copied": np.isin(content[valid], content[train]),
            "same_well": np.isin(well[valid], well[train]),
            "chance": 1 / len(np.unique(label[train])),
        }
        parts.setdefault(deal.order, []).append(pd.DataFrame(part))
    audits = []
    for order, tables in parts.items():
        rows = pd.concat(tables, ignore_index=True)
        counts = rows.label.value_counts()
        audits.append(
            OversamplingAudit(
                order,
                data,
                classifier,
                *estimates(rows.label.to_numpy(), rows.right.to_numpy(), rows.well.to_numpy()),
                rows=len(rows),
                wells=rows.well.nunique(),
                classes=len(counts),
                chance=float(rows.chance.to_numpy().mean()),
                largest=float(counts.max() / len(rows)),
                copies=float(rows.copied.to_numpy().mean()),
                same_well=float(rows.same_well.to_numpy().mean()),
            )
        )
    return audits


def estimates(true: np.ndarray, right: np.ndarray, well: np.ndarray) -> tuple[Estimate, Estimate]:
    """Return accuracy (bootstrap over wells) and balanced accuracy (over classes).

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
    low, high = mean_interval(values, unit)
    if not low < high:
        units = len(np.unique(unit))
        low, high = wilson_interval(round(values.mean() * units), units)
    return Estimate(float(values.mean()), low, high)


def measure_positions(
    samples: pd.DataFrame, rounds: Iterable[list[Deal]], content: np.ndarray
) -> list[OversamplingAudit]:
    """Score the wells' positions alone; return nothing if addresses are not such as A01."""
    address, label = well_positions(samples), samples.label.to_numpy(dtype=int)
    if address is None:
        return []

    def predict(deal: Deal) -> np.ndarray:
        return nearest_position(address, label, deal)

    return measure(samples, rounds, predict, "position", "nearest well", content)


def oversampling_text(audits: list[OversamplingAudit]) -> str:
    """Format the table for a terminal, with a line on what leaks in each order."""
    header = ("order", "data", "classifier", "accuracy", "balanced", "copy in train")
    lines = [(*header, "well in train", "largest class", "validated on")]
    for a in audits:
        size = f"{a.rows:,} rows, {a.wells} wells, {a.classes} classes"
        figures = (str(a.accuracy), str(a.balanced), f"{a.copies:.0%}", f"{a.same_well:.0%}")
        lines.append((a.order, a.data, a.classifier, *figures, f"{a.largest:.3f}", size))
    orders = list(dict.fromkeys(a.order for a in audits))
    width = max(map(len, orders))
    text = [aligned(lines, right={5, 6, 7}), ""]
    for order in orders:
        words = verdict([a for a in audits if a.order == order])
        text.append(f"{order:{width}}  {ORDERS[order]}: {words}")
    return "\n".join(text)


def verdict(audits: list[OversamplingAudit]) -> str:
    """Say whether an order's figures can be believed.

    Args:
        audits: the rows of one order.
    """
    first = audits[0]
    noise = [a.balanced.value for a in audits if a.data == "noise"]
    end = ""
    if noise:
        end = f"; noise scores {max(noise):.2f} balanced (chance {first.chance:.2f})"
    if first.copies > 0:
        return f"not honest, {first.copies:.0%} of the validation images are in train{end}"
    if first.same_well > 0:
        share = f"{first.same_well:.0%} of the validation images are of wells in train"
        return f"not honest, {share}{end}"
    position = [a.balanced.value for a in audits if a.data == "position"]
    if position:
        scored = f"position alone scores {position[0]:.2f} balanced"
        end = f"; {scored}, only what exceeds that is the cells'{end}"
    return f"honest, no image of these wells is in train{end}"
