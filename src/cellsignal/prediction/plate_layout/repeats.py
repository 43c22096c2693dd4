"""Find test experiments that repeat the plate layout of a training experiment.

They are found in the predictions, with a stated false-alarm rate. Layouts are meant to be drawn
anew for every experiment. Where one was used twice, the labels of the first tell those of the
second: in RxRx1 one test experiment repeats a training one, well for well, some plates on. Nothing
here knows which.

A well agrees if, among the classes of the layout's group there, its likeliest class is the
layout's. If the two layouts are unrelated, each plate of the labelled one is as good as shuffled:
the number of agreeing wells H over P plates then has factorial moments of at most P^h (those of a
Poisson variable of mean P; a class can agree in as many wells as are predicted to be it, and equal
numbers are the worst case), and so P(H >= h) <= E[C(H, h)] <= P^h / h!. That holds for any
predictions, however biased. Bonferroni over all comparisons of the call. With 18 experiments of
four plates against 33, 19 agreeing wells of 1,100 are an alarm at 1 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import lgamma, log

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.prediction.plate_layout.layouts import plate_order

# of a repeat's wells, the largest share that is ever taken to hold what its layout says
MOST = 0.95


@dataclass(frozen=True)
class Repeat:
    """A layout met again.

    Attributes:
        test: the experiment that repeats.
        train: the labelled experiment that it repeats.
        offset: the i-th plate of `test` is the (i + offset)-th of `train`, counted round.
        agree: wells whose predicted class is the one in that place of `train`.
        wells: wells that both have.
        p: upper bound of the chance that unrelated layouts agree so often in any comparison made.
    """

    test: str
    train: str
    offset: int
    agree: int
    wells: int
    p: float

    @property
    def share(self) -> float:
        return self.agree / self.wells

    def __str__(self) -> str:
        p = f"p < {max(self.p, 1e-300):.0e}"
        agree = f"{self.agree} of {self.wells} wells agree"
        return f"{self.test} repeats {self.train}, plates +{self.offset}: {agree}, {p}"


def find_repeats(
    scores: np.ndarray,
    wells: pd.DataFrame,
    train: pd.DataFrame,
    class_group: np.ndarray,
    alarm: float = 0.01,
) -> list[Repeat]:
    """Compare each experiment's predictions with the layout of every other labelled one.

    In every rotation of its plates; see the module for the bound.

    Args:
        scores: (N, K) float, higher is likelier.
        wells: N rows with experiment, plate, well; of the rows of one well the first counts.
        train: labelled wells: experiment, plate, well, label; a class at most once on a plate.
        alarm: the chance that a call reports anything where nothing repeats.

    Returns:
        Those whose p is at most `alarm`, by test experiment, surest first.

    Raises:
        InputError: shapes that do not fit, or a score that is not finite.
    """
    if scores.shape != (len(wells), len(class_group)):
        expected = f"{len(wells)} wells and {len(class_group)} classes"
        raise InputError(f"{expected}, but scores are {scores.shape}")
    wells = wells[["experiment", "plate", "well"]].reset_index(drop=True)
    _refuse_not_finite(scores, wells)
    first = wells.drop_duplicates()
    address = {name: number for number, name in enumerate(sorted({*first.well, *train.well}))}
    layouts = {
        name: _grids(rows, rows.label.to_numpy(int)[None], address)[0]
        for name, rows in train.groupby("experiment")
    }
    class_group = np.asarray(class_group)
    comparisons = []
    for test, rows in first.groupby("experiment"):
        best = _best_of_group(scores, rows.index.to_numpy(), class_group)  # (n, G)
        predicted = _grids(rows, best.T, address)  # (G, P, W)
        for name, labels in layouts.items():
            if name == test or labels.shape != predicted.shape[1:]:
                continue
            for offset in range(len(labels)):
                rotated = np.roll(labels, -offset, axis=0)
                counts = _count_agreeing(predicted, rotated, class_group)
                p = _tail(counts[0], len(labels))
                comparisons.append(Repeat(str(test), str(name), offset, *counts, p))
    repeats = [replace(r, p=min(1.0, r.p * len(comparisons))) for r in comparisons]
    repeats = [repeat for repeat in repeats if repeat.p <= alarm]
    return sorted(repeats, key=lambda repeat: (repeat.test, repeat.p, -repeat.agree))


def _count_agreeing(
    predicted: np.ndarray, layout: np.ndarray, class_group: np.ndarray
) -> tuple[int, int]:
    """Count the wells whose prediction agrees with a layout, and the wells in both.

    Args:
        predicted: (G, P, W) the likeliest class of each group, -1 where there is no well.
        layout: (P, W) classes, -1 where there is no well.
    """
    both = (layout >= 0) & (predicted[0] >= 0)
    plate, well = np.nonzero(both)
    agrees = predicted[class_group[layout[both]], plate, well] == layout[both]
    return int(agrees.sum()), int(both.sum())


def add_evidence(
    scores: np.ndarray,
    wells: pd.DataFrame,
    train: pd.DataFrame,
    repeats: Sequence[Repeat],
    temperature: Mapping[str, float] = {},
) -> np.ndarray:
    """Add what the repeated layouts say to the scores, as log-likelihoods.

    A well is taken to hold what its layout says with chance r, else any class of that plate alike;
    so the layout's class gains log(1 + n r / (1 - r)) nats among the plate's n classes. r is
    estimated for each plate from its predictions by maximum likelihood (EM), at most `MOST`: a
    plate that agrees no more than by chance gains next to nothing.

    Args:
        scores: (N, K) float, logits but for `temperature`.
        wells, train: as in `find_repeats`.
        repeats: the first of each test experiment is used.
        temperature: experiment -> what its scores are divided by to be calibrated logits; else 1.

    Returns:
        (N, K), a copy of the type of `scores`.

    Raises:
        InputError: a score that is not finite.
    """
    _refuse_not_finite(scores, wells)
    scores = scores.copy()
    layout = {
        key: rows.set_index("well").label.astype(int)
        for key, rows in train.groupby(["experiment", "plate"])
    }
    wells = wells.reset_index(drop=True)
    for test, repeat in {r.test: r for r in reversed(repeats)}.items():
        mine = wells[wells.experiment == test]
        theirs = plate_order(train.plate[train.experiment == repeat.train])
        for index, plate in enumerate(plate_order(mine.plate)):
            labels = layout[repeat.train, theirs[(index + repeat.offset) % len(theirs)]]
            shared = mine[(mine.plate == plate) & mine.well.isin(labels.index)]
            if len(shared):
                rows, label = shared.index.to_numpy(), labels.loc[shared.well].to_numpy()
                unit = temperature.get(str(test), 1.0)
                gain = _gain(
                    scores[np.ix_(rows, labels.to_numpy())] / unit, scores[rows, label] / unit
                )
                scores[rows, label] += unit * gain
    return scores


def _refuse_not_finite(scores: np.ndarray, wells: pd.DataFrame) -> None:
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        well = wells.iloc[row]
        raise InputError(
            f"{well.experiment} plate {well.plate} well {well.well}: the scores of row {row} are "
            "not all finite"
        )


def _grids(rows: pd.DataFrame, values: np.ndarray, address: dict[str, int]) -> np.ndarray:
    """Arrange (G, n) values by plate in order and well, (G, P, W); -1 where a well is missing."""
    place = {name: number for number, name in enumerate(plate_order(rows.plate))}
    grids = np.full((len(values), len(place), len(address)), -1)
    plates = [place[name] for name in rows.plate.tolist()]
    wells = [address[name] for name in rows.well.tolist()]
    grids[:, plates, wells] = values
    return grids


def _best_of_group(scores: np.ndarray, rows: np.ndarray, class_group: np.ndarray) -> np.ndarray:
    """(n, G) the likeliest class of each group in these rows."""
    block = scores[rows]
    members = [np.flatnonzero(class_group == group) for group in range(class_group.max() + 1)]
    return np.stack([classes[block[:, classes].argmax(axis=1)] for classes in members], axis=1)


def _tail(agree: int, plates: int) -> float:
    """Bound the chance that so many wells agree on unrelated plates; it may exceed 1."""
    return float(np.exp(agree * log(plates) - lgamma(agree + 1)))


def _gain(block: np.ndarray, of_layout: np.ndarray) -> float:
    """Return the nats that the layout's class gains on one plate.

    Args:
        block: (n, m) scores of the plate's classes.
        of_layout: (n,) scores of the classes that the layout names.
    """
    classes = block.shape[1]
    top = block.max(axis=1)
    mass = np.exp(block - top[:, None], dtype=np.float64).sum(axis=1)
    # how much likelier the layout's class is than any
    lift = classes * np.exp(of_layout - top, dtype=np.float64) / mass
    share = 0.5
    for _ in range(200):
        share = float((share * lift / (share * lift + 1 - share)).mean())
        if share >= MOST:
            break
    share = min(share, MOST)
    return log(1 + classes * share / (1 - share))
