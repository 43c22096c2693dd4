"""Correct embeddings after the network, and name wells by a linear classifier on them."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from cellsignal.baselines.classifiers import linear_classifier_scores
from cellsignal.profiles.batch_effects import centre, tvn
from cellsignal.profiles.optional_steps import harmony

ROUNDS = 30  # of ComBat's iteration
# (rows of asked batches) -> (n, K) scores of each
Scorer = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def scorer_of(how: str, x: np.ndarray, table: pd.DataFrame) -> Scorer:
    """Return the function that scores asked batches by embeddings corrected in one way.

    Args:
        how: "standardise_controls" or "tvn", by the plate's control wells; "standardise_asked",
            "combat" or "harmony", by the batch that is asked.
        x: (N, D) embeddings or features of all wells.
        table: N rows, as `simulated_plates.Wells`.
    """
    treated = np.flatnonzero(~table.is_test & (table.role == "treatment"))
    labels = table.label.to_numpy()[treated]
    classes = int(table.label.max()) + 1
    if how in ("standardise_controls", "tvn"):
        if how == "tvn":
            corrected = tvn(x, table, "plate", "controls")
        else:
            corrected = centre(x, table, "plate", "controls", scale=True)

        def score_by_controls(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
            rows, places = np.unique(np.concatenate(batches), return_inverse=True)
            scores = linear_classifier_scores(corrected[treated], labels, corrected[rows], classes)
            return _split(scores[places], batches)

        return score_by_controls
    if how == "harmony":
        return _harmony_scorer(x, table, treated, labels, classes)
    correct = {"standardise_asked": standardise_batch, "combat": ComBat(x, table, treated)}[how]
    trained = np.empty((len(treated), x.shape[1]))
    for places in table.iloc[treated].groupby(["experiment", "plate"]).indices.values():
        trained[places] = correct(x[treated[places]])

    def score_by_batch(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
        asked = np.concatenate([correct(x[rows]) for rows in batches])
        return _split(linear_classifier_scores(trained, labels, asked, classes), batches)

    return score_by_batch


def standardise_batch(x: np.ndarray) -> np.ndarray:
    """Return a batch's embeddings over its own mean and SD; what does not vary is centred."""
    sd = x.std(0)
    return (x - x.mean(0)) / np.where(sd < 1e-6, 1.0, sd)


class ComBat:
    """Correct batches towards the training plates by empirical Bayes: ComBat with a reference.

    Embeddings are standardised by the training wells' mean and their SD within plates. A batch's
    mean and variance of each feature are then shrunk towards what all features have in common, and
    taken out. Source: Johnson, Li & Rabinovic 2007, equations 3 and 4; the reference as in Zhang et
    al. 2018. Labels are not looked at.
    """

    def __init__(self, x: np.ndarray, table: pd.DataFrame, rows: np.ndarray):
        self.mean = x[rows].mean(0)
        units = table.iloc[rows].groupby(["experiment", "plate"]).indices.values()
        within = np.concatenate([x[rows[u]] - x[rows[u]].mean(0) for u in units])
        self.sd = np.maximum(within.std(0), 1e-6)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        z = (x - self.mean) / self.sd
        n, shift, spread = len(z), z.mean(0), z.var(0, ddof=1)
        mean, variance = shift.mean(), shift.var(ddof=1)
        centre, width = spread.mean(), max(spread.var(ddof=1), 1e-12)
        shape = 2 + centre**2 / width
        scale = centre * (1 + centre**2 / width)
        delta = spread
        for _ in range(ROUNDS):
            gamma = (n * variance * shift + delta * mean) / (n * variance + delta + 1e-12)
            squares = ((z - gamma) ** 2).sum(0)
            delta = (scale + squares / 2) / (n / 2 + shape - 1)
        return (z - gamma) / np.sqrt(np.maximum(delta, 1e-12))


def _harmony_scorer(
    x: np.ndarray, table: pd.DataFrame, treated: np.ndarray, labels: np.ndarray, classes: int
) -> Scorer:
    """Each batch is aligned with the training plates anew, and a classifier trained on it."""

    def score(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
        scores = []
        for rows in batches:
            wells = pd.concat([table.iloc[treated], table.iloc[rows]], ignore_index=True)
            corrected = harmony(x[np.concatenate([treated, rows])], wells, "plate")
            trained, asked = np.split(corrected, [len(treated)])
            scores.append(linear_classifier_scores(trained, labels, asked, classes))
        return scores

    return score


def _split(scores: np.ndarray, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(scores, np.cumsum([len(rows) for rows in batches])[:-1])
