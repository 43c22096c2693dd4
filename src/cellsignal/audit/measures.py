"""Cheap models and the intervals of what they score, for adversarial validation and the ladder."""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from cellsignal.metrics.accuracy import Accuracy
from cellsignal.metrics.intervals import mean_interval

SPLITS = 3
# training features, training labels, features -> predicted labels
Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def store_features(
    mean: np.ndarray, sd: np.ndarray, channels: tuple[str, ...]
) -> tuple[np.ndarray, list[str]]:
    """Return log mean and log SD of each channel, (N, 2 C), and their names."""
    features = np.log1p(np.concatenate([mean, sd], axis=1).astype(float))
    return features, [f"{what} of {name}" for what in ("mean", "SD") for name in channels]


def texts(names: pd.Series) -> np.ndarray:
    """Return a column as an array of text, whole names where some are missing."""
    return np.array([str(name) for name in names])


def grouped_folds(group: np.ndarray, splits: int, seed: int) -> Iterator[tuple]:
    """Yield (train, held) positions; whole groups are held out, dealt at random."""
    names, code = np.unique(group, return_inverse=True)
    number = np.random.default_rng(seed).permutation(len(names)) % min(splits, len(names))
    for fold in range(int(number.max()) + 1):
        held = number[code] == fold
        yield np.flatnonzero(~held), np.flatnonzero(held)


def discriminant(train: np.ndarray, label: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Predict by a linear discriminant with a shrunken covariance; features are standardised."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    names, code = np.unique(label, return_inverse=True)
    if len(names) == 1 or len(label) <= len(names):
        return nearest(train, label, held)
    middle, scale = train.mean(axis=0), train.std(axis=0) + 1e-6
    model = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=0.1, priors=np.full(len(names), 1 / len(names))
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only one sample available", UserWarning)
        model.fit((train - middle) / scale, code)
    return names[model.predict((held - middle) / scale)]


def nearest(train: np.ndarray, label: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Predict by the nearest training row: whatever can memorise finds a copy."""
    from sklearn.neighbors import KNeighborsClassifier

    scale = train.std(axis=0) + 1e-6
    model = KNeighborsClassifier(1, algorithm="brute").fit(train / scale, label)
    return model.predict(held / scale)


def accuracy_of(right: np.ndarray, unit: np.ndarray) -> tuple[Accuracy, str]:
    """Return the accuracy of some rows with its 95 % interval over units, and its text.

    Where there are too few units, or all are alike, Wilson's interval of as many predictions as
    there are units.
    """
    low, high = mean_interval(right, unit)
    units = len(pd.unique(pd.Series(unit)))
    value = float(right.mean())
    if not low < high:
        wilson = Accuracy.of(round(value * units), units)
        low, high = min(wilson.low, value), max(wilson.high, value)
    score = Accuracy(value, low, high, len(right), correct=int(right.sum()))
    return score, score.format()


def guessing(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the accuracy that these predictions would have if they knew nothing of the truth."""
    shares = [pd.Series(values).value_counts(normalize=True) for values in (predicted, true)]
    return float(shares[0].mul(shares[1], fill_value=0).sum())


def area_under_curve(score: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the ROC curve: the chance that a positive scores above a negative."""
    from scipy.stats import rankdata

    positives, negatives = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(score)[positive].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * negatives))


def permuted(values: np.ndarray, unit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exchange values between whole units: the rows of a unit keep one value, its first."""
    _, first, code = np.unique(unit, return_index=True, return_inverse=True)
    return values[first][rng.permutation(len(first))][code]
